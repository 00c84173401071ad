//! A run's events, put in order.

use crate::events::{Event, Outcome};
use crate::text::clean;
use crate::trial::Trial;
use crate::tries::{Seen, cleaned};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A run, as its events tell it. Every string is clean: printable on a terminal and legal in XML.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Results {
    /// QEMU version, accelerator, kernels, host …
    pub properties: BTreeMap<String, String>,
    /// Whether cases ran under their faults.
    pub faults: bool,
    /// Whether every guest was booted (`--boot`).
    pub booted: bool,
    /// When it began, seconds since the epoch.
    pub unix_time: Option<u64>,
    /// Wall time, seconds; none if it was killed.
    pub seconds: Option<f64>,
    /// Processor time, seconds; none if it was killed.
    pub cpu_seconds: Option<f64>,
    /// Of that, the harness's own threads, seconds.
    pub harness_cpu_seconds: Option<f64>,
    /// Of that, the labs with their trials, seconds.
    pub labs_cpu_seconds: Option<f64>,
    /// Processors that it could use.
    pub processors: Option<usize>,
    /// Peak resident memory of the harness, KiB, of the largest process; none if it was killed.
    pub harness_peak_kib: Option<u64>,
    /// Whether a signal ended it.
    pub interrupted: bool,
    /// Its trials, in the plan's order, each once.
    pub trials: Vec<Trial>,
    /// Where the JUnit file was written.
    pub junit: Option<PathBuf>,
    /// Where the page for a browser was written.
    pub html: Option<PathBuf>,
}

/// How many trials ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Plainly passed, as expected.
    pub passed: usize,
    /// Passed on a later try.
    pub flaky: usize,
    /// Passed, though the matrix file expects a failure.
    pub fixed: usize,
    /// The NIC failed as the matrix file expects.
    pub known: usize,
    /// The NIC failed; in a faults run: the case is blind.
    pub failed: usize,
    /// The harness failed.
    pub broken: usize,
    /// Skipped, with a reason.
    pub skipped: usize,
    /// Not ended.
    pub interrupted: usize,
}

impl Results {
    /// Puts events in order. Lenient towards several processes writing one log: what they tell
    /// twice counts once, and a trial that ended more than once (nextest's retries) was flaky if
    /// it passed in the end.
    pub fn from_events<'e>(events: impl IntoIterator<Item = &'e Event>) -> Results {
        let mut results = Results::default();
        let mut latest_start = 0;
        let mut seen = Seen::default();
        for event in events {
            match event {
                Event::RunStarted {
                    unix_time,
                    properties,
                    faults,
                    settings,
                    ..
                } => {
                    results.unix_time.get_or_insert(*unix_time);
                    latest_start = *unix_time;
                    results.faults |= faults;
                    let boot = settings.as_ref().and_then(|settings| settings.get("boot"));
                    results.booted |= boot == Some(&true.into());
                    let cleaned = properties.iter().map(|(k, v)| (clean(k), clean(v)));
                    results.properties.extend(cleaned);
                }
                Event::Planned {
                    trial,
                    name,
                    plan_item,
                } => seen.trial(trial, name).plan_item = clean(plan_item),
                Event::TrialStarted { trial, name } => seen.trial(trial, name).starts += 1,
                Event::TrialEnded(end) => {
                    seen.trial(&end.trial, &end.name).ends.push(cleaned(end));
                }
                Event::Unknown => {}
                Event::RunEnded {
                    seconds,
                    interrupted,
                    cpu_seconds,
                    harness_cpu_seconds,
                    labs_cpu_seconds,
                    processors,
                    harness_peak_kib,
                } => {
                    let earlier = latest_start.saturating_sub(results.unix_time.unwrap_or(0));
                    results.seconds = Some(earlier as f64 + seconds);
                    results.interrupted |= interrupted;
                    results.harness_peak_kib =
                        results.harness_peak_kib.max(Some(*harness_peak_kib));
                    for (sum, more) in [
                        (&mut results.cpu_seconds, cpu_seconds),
                        (&mut results.harness_cpu_seconds, harness_cpu_seconds),
                        (&mut results.labs_cpu_seconds, labs_cpu_seconds),
                    ] {
                        if let Some(more) = more {
                            *sum.get_or_insert(0.0) += more;
                        }
                    }
                    results.processors = results.processors.or(*processors);
                }
            }
        }
        results.trials = seen.trials();
        results
    }

    /// How many trials ended how.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for trial in &self.trials {
            *match trial.outcome() {
                Outcome::Passed if trial.is_fixed() => &mut counts.fixed,
                Outcome::Passed => &mut counts.passed,
                Outcome::Known { .. } => &mut counts.known,
                Outcome::Flaky { .. } => &mut counts.flaky,
                Outcome::Failed { .. } => &mut counts.failed,
                Outcome::Broken { .. } => &mut counts.broken,
                Outcome::Skipped { .. } => &mut counts.skipped,
                Outcome::Interrupted => &mut counts.interrupted,
            } += 1;
        }
        counts
    }

    /// What wants looking at: failed, then broken, then flaky, then begun but not ended.
    pub(crate) fn alarming(&self) -> Vec<&Trial> {
        let rank = |trial: &&Trial| match trial.outcome() {
            Outcome::Failed { .. } => Some(0),
            Outcome::Broken { .. } => Some(1),
            Outcome::Flaky { .. } => Some(2),
            Outcome::Interrupted if trial.end.attempts > 0 => Some(3),
            _ => None,
        };
        let mut trials: Vec<_> = self.trials.iter().filter(|t| rank(t).is_some()).collect();
        trials.sort_by_key(|trial| rank(trial));
        trials
    }
}
