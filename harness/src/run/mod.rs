//! The harness: what `cargo test --test matrix` runs.

pub mod artifacts;
pub mod events;
pub mod settings;

use std::process::ExitCode;

/// Entry point of the test binary.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
