//! The exit code that verdicts ask for.

use crate::Results;
use crate::events::Outcome;

/// For a NIC that failed; under faults, for a case that is blind.
pub const FAILED: u8 = 1;
/// For what the harness could not run: it says nothing of a NIC.
pub const BROKEN: u8 = 3;

/// The exit code that one verdict asks for.
pub fn of(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Failed { .. } => FAILED,
        Outcome::Broken { .. } | Outcome::Interrupted => BROKEN,
        Outcome::Passed
        | Outcome::Known { .. }
        | Outcome::Flaky { .. }
        | Outcome::Skipped { .. } => 0,
    }
}

/// A failed NIC outweighs what could not be run.
pub fn worse(one: u8, other: u8) -> u8 {
    match (one, other) {
        (FAILED, _) | (_, FAILED) => FAILED,
        _ => one.max(other),
    }
}

impl Results {
    /// The exit code that its verdicts ask for.
    pub fn exit_code(&self) -> u8 {
        let codes = self.trials.iter().map(|trial| of(trial.outcome()));
        codes.fold(0, worse)
    }
}
