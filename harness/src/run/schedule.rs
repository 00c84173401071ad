//! In which order trials run, and what each needs: by what it took the last time, else by what its
//! case says of itself.
//!
//! The last times are kept in `schedule.json` beside what else was learned of the host. It is a
//! guess that costs nothing to lose: damaged, it is as good as absent, and the next run writes it
//! anew.

use crate::base::error::OrCannotRun;
use crate::base::json;
use crate::base::need::{Need, PROCESSOR};
use crate::cases::Load;
use crate::host::place::Host;
use crate::plan::{Action, PlannedTrial};
use report::Results;
use report::events::Outcome;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const FILE: &str = "schedule.json";

/// Trials remembered at most; some 100 bytes each.
const KEPT: usize = 20_000;

/// What a QEMU takes beyond its guest's memory, MiB: a trial's peak is 110 MiB above it, under TCG
/// with four processors.
const QEMU_MIB: u64 = 160;

/// Threads and processes that a trial has at once, this process's included.
const TASKS: u32 = 64;

/// Descriptors of this process that a trial has at once.
const DESCRIPTORS: u32 = 64;

/// Of both, what a trial in a lab has outside: a thread that listens.
const OUTSIDE: u32 = 4;

/// The least that is taken, of a processor: a guest that waits still has a clock.
pub const LEAST: u32 = PROCESSOR / 10;

/// What a trial took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Took {
    seconds: f64,
    /// Seconds on a processor, or ready for one. As the latter count, trials that crowded each other
    /// seem to need more, not less, and get more room in the next run.
    wanted_seconds: Option<f64>,
}

/// What trials took the last time they ran to a verdict.
#[derive(Debug, Default)]
pub struct History {
    /// None where nothing is remembered.
    file: Option<PathBuf>,
    profile: String,
    /// By profile and name.
    took: BTreeMap<String, Took>,
}

impl History {
    /// From `dir`, for trials of `profile`.
    pub fn read(dir: &Path, profile: &str) -> History {
        let file = dir.join(FILE);
        History {
            took: read(&file),
            profile: profile.to_owned(),
            file: Some(file),
        }
    }

    fn took(&self, trial: &PlannedTrial) -> Option<Took> {
        self.took.get(&key(&self.profile, &trial.name)).copied()
    }

    /// How long `trial` will take, about.
    pub fn seconds(&self, trial: &PlannedTrial) -> f64 {
        let guess = match (trial.host, trial.load) {
            (Host::Lab, _) => 60.0,
            (Host::Direct, Load::Waits) => 10.0,
            (Host::Direct, Load::Busy | Load::Alone) => 5.0,
        };
        self.took(trial).map_or(guess, |took| took.seconds)
    }

    /// What `trial` takes while it runs.
    pub fn need(&self, trial: &PlannedTrial) -> Need {
        let measured = self
            .took(trial)
            .and_then(|took| Some(took.wanted_seconds? / took.seconds))
            .map(|share| ((share * f64::from(PROCESSOR)) as u32).max(LEAST));
        let processors = match (trial.host, trial.load, trial.fault) {
            (_, Load::Alone, _) => return Need::ALL,
            // A lab's own kernel is emulated as well, where there is no KVM.
            (Host::Lab, _, _) => measured.unwrap_or(PROCESSOR / 2),
            // Most of a fault's time is waiting for what does not come.
            (_, _, Some(_)) => measured.unwrap_or(PROCESSOR / 2).min(PROCESSOR / 2),
            (_, Load::Busy, None) => measured.unwrap_or(PROCESSOR),
            (_, Load::Waits, None) => measured.unwrap_or(PROCESSOR / 2),
        };
        let memory_mib = match trial.host {
            Host::Direct => u64::from(trial.cell.guest.memory_mib) + QEMU_MIB,
            // The lab's, which has its own already.
            Host::Lab => 0,
        };
        let (tasks, descriptors) = match trial.host {
            Host::Direct => (TASKS, DESCRIPTORS),
            Host::Lab => (OUTSIDE, OUTSIDE),
        };
        Need {
            processors,
            memory_mib,
            tasks,
            descriptors,
        }
    }

    /// The order to run in: those that take everything, so that nothing has to end for them; then
    /// the longest, which would else be waited for in the end. Skips come last.
    pub fn longest_first(&self, trials: &mut [PlannedTrial]) {
        trials.sort_by_cached_key(|trial| {
            let runs = trial.action == Action::Run;
            let alone = trial.load == Load::Alone;
            let millis = (self.seconds(trial) * 1000.0) as u64;
            Reverse((runs, alone, millis))
        });
    }

    /// Remembers what the trials of a run took. Another run's, written meanwhile, are kept.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn remember(&self, results: &Results) -> anyhow::Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let judged = results.trials.iter().filter(|trial| {
            let outcome = trial.outcome();
            matches!(
                outcome,
                Outcome::Passed
                    | Outcome::Known { .. }
                    | Outcome::Flaky { .. }
                    | Outcome::Failed { .. }
            )
        });
        let mut took: BTreeMap<String, Took> = judged
            .map(|trial| {
                let times = trial.end.cpu_seconds.zip(trial.end.queued_seconds);
                let took = Took {
                    seconds: trial.end.seconds,
                    wanted_seconds: times.map(|(cpu, queued)| cpu + queued),
                };
                (key(&self.profile, trial.name()), took)
            })
            .collect();
        if took.is_empty() {
            return Ok(());
        }
        for (key, earlier) in read(file) {
            if took.len() < KEPT {
                took.entry(key).or_insert(earlier);
            }
        }
        json::write_whole(file, &took).or_cannot_run(|| format!("write {}", file.display()))
    }
}

fn key(profile: &str, trial: &str) -> String {
    format!("{profile} {trial}")
}

fn read(file: &Path) -> BTreeMap<String, Took> {
    let text = std::fs::read(file).unwrap_or_default();
    let mut took: BTreeMap<String, Took> = serde_json::from_slice(&text).unwrap_or_default();
    took.retain(|_, took| {
        took.seconds > 0.0 && took.wanted_seconds.is_none_or(|wanted| wanted >= 0.0)
    });
    took
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::{planned, skipped_and_faulty};
    use report::events::{Event, TrialEnded};

    /// Of what a trial wants, spent in the queue.
    const QUEUED: f64 = 0.125;

    fn ended(name: &str, seconds: f64, wanted_seconds: f64, outcome: Outcome) -> Event {
        Event::TrialEnded(TrialEnded {
            seconds,
            cpu_seconds: Some(wanted_seconds - QUEUED),
            queued_seconds: Some(QUEUED),
            attempts: 1,
            ..TrialEnded::unmeasured(name.into(), outcome)
        })
    }

    /// What is remembered after a run of passing trials of `profile`, then read for `profile`.
    fn after(dir: &Path, profile: &str, trials: &[(&str, f64, f64)]) -> History {
        let events: Vec<Event> = trials
            .iter()
            .map(|(name, seconds, wanted)| ended(name, *seconds, *wanted, Outcome::Passed))
            .collect();
        let history = History::read(dir, profile);
        history.remember(&Results::from_events(&events)).unwrap();
        History::read(dir, profile)
    }

    fn with_load(load: Load, name: &str) -> PlannedTrial {
        let mut trial = planned("driver::e1000::rhel9::tap");
        trial.load = load;
        trial.name = name.into();
        trial
    }

    fn names(trials: &[PlannedTrial]) -> Vec<&str> {
        trials.iter().map(|trial| trial.name.as_str()).collect()
    }

    #[test]
    fn the_longest_run_first_after_those_that_run_alone_and_skips_last() {
        let dir = tempfile::tempdir().unwrap();
        let short_wait = ("short_wait", 1.0, 0.1);
        let history = after(dir.path(), "smoke", &[("long", 30.0, 1.0), short_wait]);
        let skip = skipped_and_faulty();
        let mut trials = [
            skip.clone(),
            with_load(Load::Waits, "short_wait"),
            with_load(Load::Busy, "new"),
            with_load(Load::Waits, "new_wait"),
            with_load(Load::Busy, "long"),
            with_load(Load::Busy, "new_too"),
            with_load(Load::Alone, "figures"),
        ];
        history.longest_first(&mut trials);
        let expected = [
            "figures",
            "long",
            "new_wait",
            "new",
            "new_too",
            "short_wait",
        ];
        assert_eq!(names(&trials)[..6], expected);
        assert_eq!(trials[6].name, skip.name);
    }

    #[test]
    fn what_was_measured_counts_and_else_what_the_case_says() {
        let dir = tempfile::tempdir().unwrap();
        let trials = [
            ("half", 10.0, 5.0),
            ("idle", 10.0, QUEUED),
            ("figures", 10.0, 1.0),
            ("broad", 2.0, 6.0),
        ];
        let history = after(dir.path(), "smoke", &trials);
        let processors = |load, name| history.need(&with_load(load, name)).processors;
        assert_eq!(processors(Load::Busy, "half"), 500);
        assert_eq!(processors(Load::Waits, "broad"), 3000);
        assert_eq!(processors(Load::Waits, "idle"), LEAST);
        assert_eq!(processors(Load::Alone, "figures"), u32::MAX);
        assert!(processors(Load::Waits, "new") < processors(Load::Busy, "new"));
        let memory = history.need(&with_load(Load::Busy, "half")).memory_mib;
        assert_eq!(memory, 256 + QEMU_MIB);
    }

    #[test]
    fn a_trial_in_a_lab_is_long_and_has_the_labs_memory() {
        let history = History::default();
        let in_lab = |load| PlannedTrial {
            host: Host::Lab,
            ..with_load(load, "in_lab")
        };
        for load in [Load::Waits, Load::Busy] {
            let need = history.need(&in_lab(load));
            assert_eq!((need.processors, need.memory_mib), (PROCESSOR / 2, 0));
        }
        assert_eq!(history.need(&in_lab(Load::Alone)), Need::ALL);
        let mut trials = [with_load(Load::Waits, "waits"), in_lab(Load::Busy)];
        history.longest_first(&mut trials);
        assert_eq!(names(&trials), ["in_lab", "waits"]);
    }

    #[test]
    fn under_faults_two_a_processor_run_at_once_or_more() {
        let dir = tempfile::tempdir().unwrap();
        let name = skipped_and_faulty().name;
        for wanted in [QUEUED, 3.0, 9.0] {
            let history = after(dir.path(), "smoke", &[(&name, 9.0, wanted)]);
            let need = history.need(&skipped_and_faulty());
            assert!(2 * need.processors <= PROCESSOR, "{need:?}");
        }
    }

    #[test]
    fn each_profile_has_its_own_times_and_a_later_run_adds_to_them() {
        let dir = tempfile::tempdir().unwrap();
        after(dir.path(), "smoke", &[("a", 1.0, 0.5), ("b", 2.0, 1.0)]);
        after(dir.path(), "full", &[("a", 100.0, 1.0)]);
        let history = after(dir.path(), "smoke", &[("b", 4.0, 1.0)]);
        let seconds = |name| history.seconds(&with_load(Load::Busy, name));
        assert_eq!((seconds("a"), seconds("b")), (1.0, 4.0));
    }

    #[test]
    fn only_verdicts_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let events = [
            ended("cut", 3.0, 1.0, Outcome::Interrupted),
            ended(
                "broken",
                3.0,
                1.0,
                Outcome::Broken {
                    message: "no tun".into(),
                },
            ),
        ];
        let history = History::read(dir.path(), "smoke");
        history.remember(&Results::from_events(&events)).unwrap();
        assert!(!dir.path().join(FILE).exists());
    }

    #[test]
    fn a_damaged_file_is_as_good_as_none_and_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        after(dir.path(), "smoke", &[("a", 7.0, 0.5)]);
        let whole = std::fs::read(&file).unwrap();
        let zero = br#"{"smoke a":{"seconds":0.0,"wanted_seconds":1.0}}"#;
        for damaged in [&whole[..whole.len() / 2], b"", b"[1]", b"\xff\0", zero] {
            std::fs::write(&file, damaged).unwrap();
            let trial = with_load(Load::Busy, "a");
            assert!(History::read(dir.path(), "smoke").took(&trial).is_none());
            let history = after(dir.path(), "smoke", &[("a", 8.0, 0.5)]);
            assert_eq!(history.seconds(&trial), 8.0);
        }
        let left = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 1, "no temporary file is left");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_this_run_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let many: BTreeMap<String, Took> = (0..KEPT)
            .map(|n| {
                let took = Took {
                    seconds: 1.0,
                    wanted_seconds: None,
                };
                (key("smoke", &format!("a{n}")), took)
            })
            .collect();
        json::write_whole(&dir.path().join(FILE), &many).unwrap();
        let history = after(dir.path(), "smoke", &[("z", 9.0, 1.0)]);
        assert_eq!(history.took.len(), KEPT);
        assert_eq!(history.seconds(&with_load(Load::Busy, "z")), 9.0);
    }

    #[test]
    fn nothing_is_read_or_written_without_a_file() {
        let events = [ended("a", 3.0, 1.0, Outcome::Passed)];
        let history = History::default();
        history.remember(&Results::from_events(&events)).unwrap();
        assert!(history.took(&with_load(Load::Busy, "a")).is_none());
    }
}
