//! The exit code that verdicts ask for.

use crate::events::Outcome;
use crate::{Results, Trial};

/// For a NIC that failed; under faults, for a case that is blind.
pub const FAILED: u8 = 1;
/// For what the harness could not run: it says nothing of a NIC.
pub const BROKEN: u8 = 3;

/// The exit code that one verdict asks for; `flaky_fails` says whether a flaky trial makes a run fail.
pub fn of(outcome: &Outcome, flaky_fails: bool) -> u8 {
    match outcome {
        Outcome::Failed { .. } => FAILED,
        Outcome::Flaky { .. } if flaky_fails => FAILED,
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
    /// The exit code that its verdicts ask for. A flaky trial makes it fail where it failed first and was then
    /// repeated, as it does in a run without `--flaky-result`.
    pub fn exit_code(&self) -> u8 {
        let code = |trial: &Trial| of(trial.outcome(), trial.end.repeats.is_some());
        let codes = self.trials.iter().map(code);
        codes.fold(0, worse)
    }
}
