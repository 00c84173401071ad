//! What trials have measured, compared.

pub mod against;
pub mod show;
pub mod stats;

#[cfg(test)]
mod tests;
