//! Whether two ways of running come to the same verdicts, and on which trials that is worth trying.

use anyhow::{Result, bail, ensure};
use report::events::Outcome;
use report::{Results, Trial, outln};
use std::collections::{BTreeMap, BTreeSet};

/// The trials of `run` that were judged on this machine itself, without those whose guests booted: booting
/// them again shows nothing.
pub fn restored(run: &Results) -> Results {
    let boots = |trial: &Trial| trial.end.start.as_deref() == Some("boot");
    let trials = run.trials.iter().filter(judged_here);
    Results {
        trials: trials.filter(|trial| !boots(trial)).cloned().collect(),
        ..Results::default()
    }
}

/// Of the trials of `run` that were judged on this machine itself, all if the `whole` is wanted, else a part in which
/// each of the things that `shows` names of a trial occurs at least once, the quickest trials first.
pub fn part<const N: usize>(
    run: Results,
    whole: bool,
    shows: impl Fn(&Trial) -> [String; N],
) -> Results {
    if whole {
        return run;
    }
    let mut trials: Vec<&Trial> = run.trials.iter().filter(judged_here).collect();
    trials.sort_by(|a, b| a.end.seconds.total_cmp(&b.end.seconds));
    let part = cover(trials, |trial| shows(trial));
    Results {
        trials: part.into_iter().cloned().collect(),
        ..Results::default()
    }
}

/// Of `all` those that show something which none before them has shown.
pub fn cover<T, const N: usize>(all: Vec<T>, shows: impl Fn(&T) -> [String; N]) -> Vec<T> {
    let mut seen = BTreeSet::new();
    let mut is_new = |one: &T| {
        let before = seen.len();
        seen.extend(shows(one));
        seen.len() > before
    };
    all.into_iter().filter(|one| is_new(one)).collect()
}

fn judged_here(trial: &&Trial) -> bool {
    !trial.is_skipped() && trial.end.host.is_none()
}

/// A trial's verdict, the same for a known failure that comes now and then as where it does not come.
fn verdict(trial: &Trial) -> &'static str {
    let now_and_then = trial.end.expectation.as_ref().is_some_and(|e| e.sometimes);
    match trial.outcome() {
        Outcome::Passed | Outcome::Known { .. } if now_and_then => "passed or known",
        outcome => outcome.verdict(),
    }
}

/// Fails unless both runs came to the same verdict on each trial that ran on this machine itself;
/// `how` says how the other one ran.
pub fn agree(direct: &Results, other: &Results, how: &str) -> Result<()> {
    // Nextest does not run what is known beforehand to be skipped.
    let verdicts = |run: &Results| -> BTreeMap<String, &str> {
        let verdict = |t: &Trial| (t.name().to_owned(), verdict(t));
        run.trials.iter().filter(judged_here).map(verdict).collect()
    };
    let (direct, other) = (verdicts(direct), verdicts(other));
    ensure!(
        !direct.is_empty(),
        "the direct run judged no trial: there is nothing to compare"
    );
    let word = |verdict: Option<&&'static str>| *verdict.unwrap_or(&"not run");
    let mut names: Vec<&String> = direct.keys().chain(other.keys()).collect();
    names.sort();
    names.dedup();
    let mut differ = names
        .into_iter()
        .filter(|name| direct.get(*name) != other.get(*name))
        .map(|name| {
            let (one, two) = (word(direct.get(name)), word(other.get(name)));
            format!("\n  {name}: {one} directly, {two} {how}")
        })
        .peekable();
    if differ.peek().is_some() {
        bail!("the verdicts differ:{}", differ.collect::<String>());
    }
    outln!("the same verdict for each of {} trials", direct.len());
    Ok(())
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use report::events::TrialEnded;
    use report::expectation::{Expectation, State};

    pub fn run(trials: &[(&str, Outcome)]) -> Results {
        let trial = |(name, outcome): &(&str, Outcome)| Trial {
            plan_item: String::new(),
            end: TrialEnded::unmeasured((*name).to_owned(), outcome.clone()),
        };
        Results {
            trials: trials.iter().map(trial).collect(),
            ..Results::default()
        }
    }

    pub fn skipped() -> Outcome {
        Outcome::Skipped {
            reason: "no vhost_net".into(),
        }
    }

    fn failed() -> Outcome {
        Outcome::Failed {
            message: "no reply".into(),
        }
    }

    #[test]
    fn agreement_is_of_what_was_judged() {
        let direct = run(&[("a", Outcome::Passed), ("b", skipped())]);
        let agree =
            |direct: &Results, other: &Results| super::agree(direct, other, "under nextest");
        agree(&direct, &run(&[("a", Outcome::Passed)])).unwrap();

        let error = agree(&direct, &run(&[("a", failed())]))
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with("a: passed directly, failed under nextest"),
            "{error}"
        );
        let error = agree(&direct, &run(&[])).unwrap_err().to_string();
        assert!(
            error.ends_with("a: passed directly, not run under nextest"),
            "{error}"
        );
        let more = run(&[("a", Outcome::Passed), ("b", Outcome::Passed)]);
        let error = agree(&direct, &more).unwrap_err().to_string();
        assert!(
            error.ends_with("b: not run directly, passed under nextest"),
            "{error}"
        );
        assert!(agree(&run(&[]), &run(&[])).is_err());
    }

    #[test]
    fn what_fails_now_and_then_agrees_with_itself() {
        let known = Outcome::Known {
            message: "no reply".into(),
            reason: "its ring is small".into(),
            link: None,
        };
        let pair = |sometimes, state| {
            let [mut one, mut two] =
                [Outcome::Passed, known.clone()].map(|outcome| run(&[("a", outcome)]));
            for run in [&mut one, &mut two] {
                run.trials[0].end.expectation = Some(Expectation {
                    state,
                    message: "no reply".into(),
                    reason: "its ring is small".into(),
                    link: None,
                    sometimes,
                    until: None,
                    due: false,
                });
            }
            agree(&one, &two, "booted")
        };
        pair(true, State::NotNow).unwrap();
        assert!(pair(false, State::Fixed).is_err());
    }

    #[test]
    fn what_booted_is_not_booted_again() {
        let mut run = run(&[("pxe::a", Outcome::Passed), ("ping::a", Outcome::Passed)]);
        run.trials[0].end.start = Some("boot".into());
        run.trials[1].end.start = Some("warm NIC".into());
        let restored = restored(&run);
        let names: Vec<&str> = restored.trials.iter().map(Trial::name).collect();
        assert_eq!(names, ["ping::a"]);
    }

    #[test]
    fn a_part_shows_each_thing_by_the_quickest_trial_that_has_it() {
        let names = [
            ("ping::virtio::rhel9::tap", 2.0),
            ("ping::e1000::rhel9::tap", 1.0),
            ("driver::virtio::rhel9::tap", 3.0),
            ("driver::e1000::rhel9::tap", 4.0),
            ("driver::e1000::rhel6::tap", 0.1),
        ];
        let mut run = run(&names.map(|(name, _)| (name, Outcome::Passed)));
        for (trial, (_, seconds)) in run.trials.iter_mut().zip(names) {
            trial.end.seconds = seconds;
        }
        run.trials[4].end.outcome = skipped();
        let shows = |t: &Trial| {
            let name = &t.end.name;
            [format!("case {}", name.case), format!("NIC {}", name.nic)]
        };
        let part = part(run, false, shows);
        let names: Vec<&str> = part.trials.iter().map(Trial::name).collect();
        assert_eq!(
            names,
            [
                "ping::e1000::rhel9::tap",
                "ping::virtio::rhel9::tap",
                "driver::virtio::rhel9::tap",
            ]
        );
    }
}
