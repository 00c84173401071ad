//! What a run tells `git bisect run`.

use report::Results;
use report::events::Outcome;
use report::exit_code::FAILED;

/// The flag that asks for it.
pub const FLAG: &str = "--bisect-exit";

/// To `git bisect`: this commit cannot be tested.
pub const CANNOT_TELL: u8 = 125;

/// From here on `git bisect` ends, as after an interruption.
const ENDS_BISECT: u8 = 130;

/// The exit code for `git bisect run`, of a run that ended with `code` and has `results`, if any: 0 where a
/// NIC was seen to work and none to fail, 1 where one failed, 125 where nothing is said of a NIC.
pub fn code(code: u8, results: Option<&Results>) -> u8 {
    let passed = |results: &Results| {
        let mut outcomes = results.trials.iter().map(report::Trial::outcome);
        outcomes.any(|outcome| matches!(outcome, Outcome::Passed | Outcome::Flaky { .. }))
    };
    match code {
        0 if results.is_some_and(passed) => 0,
        FAILED => FAILED,
        ENDS_BISECT => ENDS_BISECT,
        _ => CANNOT_TELL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use report::events::{Event, TrialEnded};

    fn run(outcomes: &[Outcome]) -> Results {
        let ended = |(i, outcome): (usize, &Outcome)| {
            Event::TrialEnded(TrialEnded::unmeasured(format!("t{i}"), outcome.clone()))
        };
        let events: Vec<Event> = outcomes.iter().enumerate().map(ended).collect();
        Results::from_events(&events)
    }

    #[test]
    fn only_a_nic_that_was_seen_to_work_is_good_and_only_one_that_failed_is_bad() {
        let message = String::new;
        let passed = Outcome::Passed;
        let failed = Outcome::Failed { message: message() };
        let broken = Outcome::Broken { message: message() };
        let skipped = Outcome::Skipped { reason: message() };
        let known = Outcome::Known {
            message: message(),
            reason: message(),
            link: None,
        };
        let flaky = Outcome::Flaky {
            failures: vec![message()],
        };
        for (outcomes, expected) in [
            (&[passed.clone()][..], 0),
            (&[passed.clone(), skipped.clone(), known.clone()], 0),
            (&[flaky], 0),
            (&[passed.clone(), failed.clone()], 1),
            (&[failed, broken.clone()], 1),
            (&[passed.clone(), broken], 125),
            (std::slice::from_ref(&skipped), 125),
            (std::slice::from_ref(&known), 125),
            (&[skipped.clone(), known.clone()], 125),
            (&[passed.clone(), Outcome::Interrupted], 125),
            (&[], 125),
        ] {
            let results = run(outcomes);
            assert_eq!(
                code(results.exit_code(), Some(&results)),
                expected,
                "{outcomes:?}"
            );
        }
        // Bad input, cannot run, a panic, killed: nothing is said, whatever the log has so far.
        for ended in [2, 3, 101, 137] {
            assert_eq!(
                code(ended, Some(&run(std::slice::from_ref(&passed)))),
                125,
                "{ended}"
            );
        }
        assert_eq!(code(0, None), 125);
        assert_eq!(code(130, None), 130);
    }
}
