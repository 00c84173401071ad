//! What trials have measured, compared.

pub mod against;
pub mod nights;
pub mod show;

#[cfg(test)]
mod tests;
