//! A verdict, held against what the matrix file expects.

use crate::matrix::known::{Day, Expectation};
use crate::plan::known::Known;
use report::events::Outcome;
use report::expectation::{self, State};
use time::OffsetDateTime;

/// A verdict, and what became of the expectation that applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) outcome: Outcome,
    pub(super) expectation: Option<expectation::Expectation>,
}

/// This day, in UTC.
pub(super) fn today() -> Day {
    let date = OffsetDateTime::now_utc().date();
    Day {
        // Of a clock that is off by millennia every date has come.
        year: u16::try_from(date.year()).unwrap_or(u16::MAX),
        month: date.month().into(),
        day: date.day(),
    }
}

/// Holds a trial's `outcome` against what is `known` of it, on a kernel of that release. With `strict`, a
/// pass where a failure was expected each time is a failure.
///
/// What the harness could not run, and what was skipped, says nothing of an expectation.
pub(super) fn held(
    known: &Known,
    release: Option<&str>,
    today: Day,
    strict: bool,
    outcome: Outcome,
) -> Held {
    let applying: Vec<&Expectation> = known.expected(release).collect();
    let told = |one: &Expectation, state| Some(record(one, state, today));
    let plain = |outcome| Held {
        outcome,
        expectation: None,
    };
    let Some(first) = applying.first() else {
        return plain(outcome);
    };
    match outcome {
        Outcome::Failed { message } => {
            match applying.iter().find(|one| message.contains(&one.message)) {
                Some(met) => Held {
                    outcome: Outcome::Known {
                        message,
                        reason: met.reason.clone(),
                        link: met.link.clone(),
                    },
                    expectation: told(met, State::Met),
                },
                None => Held {
                    outcome: Outcome::Failed {
                        message: message + &other_words(&applying),
                    },
                    expectation: told(first, State::OtherWords),
                },
            }
        }
        outcome @ (Outcome::Passed | Outcome::Flaky { .. }) => {
            match applying.iter().find(|one| !one.sometimes) {
                None => Held {
                    outcome,
                    expectation: told(first, State::NotNow),
                },
                Some(fixed) => Held {
                    outcome: match strict {
                        true => Outcome::Failed {
                            message: too_good(fixed),
                        },
                        false => outcome,
                    },
                    expectation: told(fixed, State::Fixed),
                },
            }
        }
        outcome @ (Outcome::Known { .. }
        | Outcome::Broken { .. }
        | Outcome::Skipped { .. }
        | Outcome::Interrupted) => plain(outcome),
    }
}

fn record(one: &Expectation, state: State, today: Day) -> expectation::Expectation {
    expectation::Expectation {
        state,
        message: one.message.clone(),
        reason: one.reason.clone(),
        link: one.link.clone(),
        sometimes: one.sometimes,
        until: one.until.map(|day| day.to_string()),
        due: one.until.is_some_and(|day| today >= day),
    }
}

/// What follows a failure's own words.
fn other_words(applying: &[&Expectation]) -> String {
    applying
        .iter()
        .map(|one| {
            let line = one.scope.line;
            format!(
                "\nThe matrix file expects another failure here (line {line}), one that says {one}"
            )
        })
        .collect()
}

fn too_good(fixed: &Expectation) -> String {
    let line = fixed.scope.line;
    format!(
        "the trial passed, though the matrix file (line {line}) expects a failure that says {fixed}\n\
         Take the entry out, or give it a bound that leaves out this QEMU or kernel."
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::bound::Bound;
    use crate::matrix::known::Scope;
    use std::sync::Arc;

    const TODAY: Day = Day {
        year: 2026,
        month: 11,
        day: 26,
    };

    fn expectation(change: impl FnOnce(&mut Expectation)) -> Known {
        let mut one = Expectation {
            scope: Scope {
                line: 7,
                ..Scope::default()
            },
            message: "is not \"down\"".into(),
            reason: "set_link is not told".into(),
            link: Some("https://e.org/1".into()),
            until: None,
            sometimes: false,
        };
        change(&mut one);
        Known {
            expectations: vec![Arc::new(one)],
            ..Known::default()
        }
    }

    fn failed(message: &str) -> Outcome {
        Outcome::Failed {
            message: message.into(),
        }
    }

    const RED: &str = "operstate is not \"down\": waited 9 s";

    fn against(known: &Known, outcome: Outcome) -> Held {
        held(known, None, TODAY, false, outcome)
    }

    fn state(held: &Held) -> Option<State> {
        held.expectation.as_ref().map(|e| e.state)
    }

    #[test]
    fn red_with_the_words_is_known() {
        let held = against(&expectation(|_| ()), failed(RED));
        let known = Outcome::Known {
            message: RED.into(),
            reason: "set_link is not told".into(),
            link: Some("https://e.org/1".into()),
        };
        assert_eq!((&held.outcome, state(&held)), (&known, Some(State::Met)));
    }

    #[test]
    fn red_with_other_words_is_red_and_says_what_was_expected() {
        let held = against(&expectation(|_| ()), failed("the guest panicked"));
        let Outcome::Failed { message } = &held.outcome else {
            panic!("{held:?}")
        };
        insta::assert_snapshot!(message, @r#"
        the guest panicked
        The matrix file expects another failure here (line 7), one that says "is not \"down\"": set_link is not told (https://e.org/1)
        "#);
        assert_eq!(state(&held), Some(State::OtherWords));
    }

    #[test]
    fn green_is_fixed_and_with_strict_red() {
        let known = expectation(|_| ());
        let held = against(&known, Outcome::Passed);
        assert_eq!(
            (&held.outcome, state(&held)),
            (&Outcome::Passed, Some(State::Fixed))
        );
        let strict = super::held(&known, None, TODAY, true, Outcome::Passed);
        let Outcome::Failed { message } = &strict.outcome else {
            panic!("{strict:?}")
        };
        insta::assert_snapshot!(message, @r#"
        the trial passed, though the matrix file (line 7) expects a failure that says "is not \"down\"": set_link is not told (https://e.org/1)
        Take the entry out, or give it a bound that leaves out this QEMU or kernel.
        "#);
        assert_eq!(state(&strict), Some(State::Fixed));
        // A known failure is none with `strict` either.
        let met = super::held(&known, None, TODAY, true, failed(RED));
        assert_eq!(state(&met), Some(State::Met));
    }

    #[test]
    fn what_fails_now_and_then_may_pass() {
        let known = expectation(|one| one.sometimes = true);
        let held = super::held(&known, None, TODAY, true, Outcome::Passed);
        assert_eq!(
            (&held.outcome, state(&held)),
            (&Outcome::Passed, Some(State::NotNow))
        );
        assert_eq!(state(&against(&known, failed(RED))), Some(State::Met));
    }

    #[test]
    fn a_bound_that_is_wrong_either_way_is_seen() {
        let bounded =
            |bound: &str| expectation(|one| one.scope.kernel = Some(Bound::parse(bound).unwrap()));
        let on = |known: &Known, release, outcome| {
            let held = super::held(known, Some(release), TODAY, false, outcome);
            (held.outcome.verdict(), state(&held))
        };
        // The defect is in 6.1, and no longer in 6.12.
        let right = bounded("<6.12");
        assert_eq!(
            on(&right, "6.1.0-56-amd64", failed(RED)),
            ("known", Some(State::Met))
        );
        assert_eq!(on(&right, "6.12.118", Outcome::Passed), ("passed", None));
        let too_narrow = bounded("<6.1");
        assert_eq!(
            on(&too_narrow, "6.1.0-56-amd64", failed(RED)),
            ("failed", None)
        );
        let too_wide = bounded("<6.13");
        assert_eq!(
            on(&too_wide, "6.12.118", Outcome::Passed),
            ("passed", Some(State::Fixed))
        );
        // A kernel that is not known is in no bound.
        assert_eq!(state(&against(&right, failed(RED))), None);
    }

    #[test]
    fn what_is_broken_or_skipped_says_nothing_of_an_expectation() {
        for outcome in [
            Outcome::Broken {
                message: RED.into(),
            },
            Outcome::Skipped { reason: RED.into() },
            Outcome::Interrupted,
        ] {
            let held = against(&expectation(|_| ()), outcome.clone());
            assert_eq!((held.outcome, held.expectation), (outcome, None));
        }
        let none = against(&Known::default(), failed(RED));
        assert_eq!((none.outcome, none.expectation), (failed(RED), None));
    }

    #[test]
    fn an_expectation_is_due_from_its_day_on() {
        let due = |day| {
            let known = expectation(|one| one.until = Some(Day { day, ..TODAY }));
            let held = against(&known, failed(RED));
            assert_eq!(held.outcome.verdict(), "known");
            held.expectation.unwrap().due
        };
        assert_eq!([25, 26, 27].map(due), [true, true, false]);
    }

    #[test]
    fn of_two_expectations_the_words_choose() {
        let mut two = expectation(|one| one.message = "a call trace".into());
        two.expectations.extend(expectation(|_| ()).expectations);
        assert_eq!(state(&against(&two, failed(RED))), Some(State::Met));
        let held = against(&two, failed("other"));
        let Outcome::Failed { message } = held.outcome else {
            panic!()
        };
        assert_eq!(message.lines().count(), 3, "{message}");
    }
}
