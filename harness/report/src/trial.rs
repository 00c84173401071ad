//! A trial of a run, and what became of it.

use crate::events::{Outcome, TrialEnded};
use crate::expectation::State;
use crate::name::TrialName;
use crate::text::first_line;

/// A trial and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// Items of the manual plan; empty if unknown.
    pub plan_item: String,
    /// How it went; [`Outcome::Interrupted`] if it never ended, after no attempt if it never began.
    pub end: TrialEnded,
}

impl Trial {
    /// Its full name.
    pub fn name(&self) -> &str {
        &self.end.trial
    }

    /// The parts of its name.
    pub fn parts(&self) -> &TrialName {
        &self.end.name
    }

    /// Whether it passed although the matrix file expects it to fail each time.
    pub fn is_fixed(&self) -> bool {
        let expectation = self.end.expectation.as_ref();
        expectation.is_some_and(|expected| expected.state == State::Fixed)
            && self.end.outcome == Outcome::Passed
    }

    /// The verdict in a word, as in a table.
    pub(crate) fn word(&self, faults: bool) -> &'static str {
        match self.is_fixed() {
            true => "fixed",
            false => self.end.outcome.word(faults),
        }
    }

    /// Whether it was decided without running it.
    pub fn is_skipped(&self) -> bool {
        matches!(self.end.outcome, Outcome::Skipped { .. })
    }

    /// Its verdict.
    pub fn outcome(&self) -> &Outcome {
        &self.end.outcome
    }

    /// All there is to say of the verdict; empty for a pass.
    pub fn message(&self) -> String {
        match &self.end.outcome {
            Outcome::Passed => String::new(),
            Outcome::Flaky { failures } => {
                let failures: String = (1..)
                    .zip(failures)
                    .map(|(n, failure)| format!("\n\nFailed try {n}: {failure}"))
                    .collect();
                self.cause() + &failures
            }
            Outcome::Failed { message }
            | Outcome::Known { message, .. }
            | Outcome::Broken { message } => message.clone(),
            Outcome::Skipped { reason } => reason.clone(),
            Outcome::Interrupted => self.cause(),
        }
    }

    /// The verdict's reason on one line; empty for a pass.
    pub fn cause(&self) -> String {
        match &self.end.outcome {
            Outcome::Flaky { failures } if let Some(repeats) = self.end.repeats => format!(
                "{}: {}",
                repeats.rate(),
                first_line(failures.first().map_or("", String::as_str))
            ),
            Outcome::Flaky { failures } => format!(
                "passed at try {}, after: {}",
                self.end.attempts,
                first_line(failures.last().map_or("", String::as_str))
            ),
            Outcome::Interrupted if self.end.attempts == 0 => {
                "the run was cut off before this trial began".into()
            }
            Outcome::Interrupted => "the run was cut off while this trial ran".into(),
            outcome => outcome.cause(),
        }
    }
}
