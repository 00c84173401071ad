//! What trials have measured, compared.

pub mod against;
pub mod nights;
pub mod show;
pub mod stats;

#[cfg(test)]
mod tests;
