//! Debian's packages, fetched by apt and unpacked: what guests and other QEMUs are made of.

pub mod apt;
pub mod folder;
pub mod packages;
pub mod suite;
pub mod tool;
