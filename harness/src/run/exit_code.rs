//! What the trials of this process have come to: its exit code. Under nextest the event log is shared
//! by the processes of a run, so it cannot be asked.

use report::events::Outcome;
use report::exit_code::{self, BROKEN, worse};
use std::collections::BTreeSet;

/// The verdicts so far.
pub struct Verdicts {
    /// Selected trials whose end is not in the event log yet.
    owed: BTreeSet<String>,
    flaky_fails: bool,
    worst: u8,
}

impl Verdicts {
    /// Of a run that has yet to give a verdict on each of `trials`; `flaky_fails` says whether a flaky one
    /// makes it fail.
    pub fn owing<'a>(trials: impl IntoIterator<Item = &'a str>, flaky_fails: bool) -> Verdicts {
        Verdicts {
            owed: trials.into_iter().map(str::to_owned).collect(),
            flaky_fails,
            worst: 0,
        }
    }

    /// Takes the verdict on `trial`; `recorded` says whether it is in the event log.
    pub fn take(&mut self, trial: &str, outcome: &Outcome, recorded: bool) {
        if recorded {
            self.owed.remove(trial);
        }
        self.worst = worse(self.worst, exit_code::of(outcome, self.flaky_fails));
    }

    /// The trials without a recorded verdict.
    pub fn lost(&self) -> impl Iterator<Item = &str> {
        self.owed.iter().map(String::as_str)
    }

    /// The exit code: a trial without a recorded verdict could not be run, whatever the reason.
    pub fn code(&self) -> u8 {
        match self.owed.is_empty() {
            true => self.worst,
            false => worse(self.worst, BROKEN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed() -> Outcome {
        Outcome::Failed {
            message: String::new(),
        }
    }

    fn broken() -> Outcome {
        Outcome::Broken {
            message: String::new(),
        }
    }

    #[test]
    fn the_worst_verdict_gives_the_code_and_a_failed_nic_outweighs_the_rest() {
        let code = |outcomes: &[Outcome]| {
            let mut verdicts = Verdicts::owing([], false);
            for outcome in outcomes {
                verdicts.take("a", outcome, true);
            }
            verdicts.code()
        };
        assert_eq!(code(&[]), 0);
        assert_eq!(code(&[Outcome::Passed]), 0);
        assert_eq!(code(&[Outcome::Passed, broken()]), 3);
        assert_eq!(code(&[broken(), failed(), Outcome::Passed]), 1);
        assert_eq!(code(&[failed(), broken()]), 1);
        assert_eq!(code(&[Outcome::Interrupted]), 3);
        let known = Outcome::Known {
            message: String::new(),
            reason: String::new(),
            link: None,
        };
        assert_eq!(code(&[Outcome::Passed, known]), 0);
        let flaky = Outcome::Flaky {
            failures: Vec::new(),
        };
        assert_eq!(code(std::slice::from_ref(&flaky)), 0);
        let mut strict = Verdicts::owing([], true);
        strict.take("a", &flaky, true);
        assert_eq!(strict.code(), 1);
    }

    #[test]
    fn a_verdict_that_is_lost_is_never_green() {
        let mut verdicts = Verdicts::owing(["a", "b"], false);
        verdicts.take("a", &Outcome::Passed, true);
        assert_eq!((verdicts.code(), verdicts.lost().next()), (3, Some("b")));
        verdicts.take("b", &Outcome::Passed, false);
        assert_eq!(verdicts.code(), 3, "it is not in the event log");
        verdicts.take("b", &Outcome::Passed, true);
        assert_eq!((verdicts.code(), verdicts.lost().next()), (0, None));

        let mut verdicts = Verdicts::owing(["a", "b"], false);
        verdicts.take("a", &failed(), true);
        assert_eq!(verdicts.code(), 1);
    }
}
