//! What a run tells of itself, and the reports that are made of it.
//!
//! A run leaves `events.jsonl` ([`events`]); every report is made of it alone, at the run's end or
//! long after.

pub mod events;
pub mod flags;
mod grid;
pub mod junit;
pub mod markdown;
pub mod progress;
pub mod summary;
mod text;
pub mod words;

use anyhow::{Context, Result};
use events::{Event, Outcome, TrialEnded};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use text::{clean, first_line};

/// The property of a run that lists its stand-in guests, for example "rhel6, rhel9"; absent where
/// there are none.
pub const STAND_INS: &str = "stand_ins";

/// The property of a run that names the machine it ran on.
pub const HOST: &str = "host";

/// A run, as its events tell it. Every string is clean: printable on a terminal and legal in XML.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Results {
    /// QEMU version, accelerator, kernels, host …
    pub properties: BTreeMap<String, String>,
    /// Whether cases ran under their faults.
    pub faults: bool,
    /// When it began, seconds since the epoch.
    pub unix_time: Option<u64>,
    /// Wall time, seconds; none if it was killed.
    pub seconds: Option<f64>,
    /// Processor time, seconds; none if it was killed.
    pub cpu_seconds: Option<f64>,
    /// Processors that it could use.
    pub processors: Option<usize>,
    /// Whether a signal ended it.
    pub interrupted: bool,
    /// Its trials, in the plan's order, each once.
    pub trials: Vec<Trial>,
    /// Where the JUnit file was written.
    pub junit: Option<PathBuf>,
}

/// A trial and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// Its case, with `!fault` where it ran under one.
    pub case: String,
    /// NIC model.
    pub nic: String,
    /// Guest.
    pub guest: String,
    /// Backend.
    pub backend: String,
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
            Outcome::Failed { message } | Outcome::Broken { message } => message.clone(),
            Outcome::Skipped { reason } => reason.clone(),
            Outcome::Interrupted => self.cause(),
        }
    }

    /// The verdict's reason on one line; empty for a pass.
    pub fn cause(&self) -> String {
        match &self.end.outcome {
            Outcome::Flaky { failures } => format!(
                "passed at try {}, after: {}",
                self.end.attempts,
                first_line(failures.last().map_or("", String::as_str))
            ),
            Outcome::Interrupted if self.end.attempts == 0 => {
                "the run was cut off before this trial began".into()
            }
            Outcome::Interrupted => "the run was cut off while this trial ran".into(),
            outcome => cause(outcome),
        }
    }
}

/// What an outcome alone tells of its reason, on one line.
fn cause(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Passed | Outcome::Interrupted => String::new(),
        Outcome::Flaky { failures } => first_line(failures.last().map_or("", String::as_str)),
        Outcome::Failed { message } | Outcome::Broken { message } => first_line(message),
        Outcome::Skipped { reason } => first_line(reason),
    }
}

/// An outcome in a word, with which a table is readable without colours. Under a fault a pass is
/// `red` (the case saw the breakage) and a failure is `BLIND`.
fn word(outcome: &Outcome, fault: bool) -> &'static str {
    match outcome {
        Outcome::Passed if fault => "red",
        Outcome::Passed => "ok",
        Outcome::Flaky { .. } => "flaky",
        Outcome::Failed { .. } if fault => "BLIND",
        Outcome::Failed { .. } => "FAIL",
        Outcome::Broken { .. } => "BROKEN",
        Outcome::Skipped { .. } => "skip",
        Outcome::Interrupted => "cut",
    }
}

/// How many trials ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Plainly passed.
    pub passed: usize,
    /// Passed on a later try.
    pub flaky: usize,
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
    pub fn from_events(events: &[Event]) -> Results {
        let mut results = Results::default();
        let mut latest_start = 0;
        let mut seen = Seen::default();
        for event in events {
            match event {
                Event::RunStarted {
                    unix_time,
                    properties,
                    faults,
                } => {
                    results.unix_time.get_or_insert(*unix_time);
                    latest_start = *unix_time;
                    results.faults |= faults;
                    let cleaned = properties.iter().map(|(k, v)| (clean(k), clean(v)));
                    results.properties.extend(cleaned);
                }
                Event::Planned {
                    trial,
                    case,
                    nic,
                    guest,
                    backend,
                    plan_item,
                } => {
                    let known = seen.trial(trial);
                    known.parts = [case, nic, guest, backend, plan_item].map(|part| clean(part));
                }
                Event::TrialStarted { trial } => seen.trial(trial).starts += 1,
                Event::TrialEnded(end) => seen.trial(&end.trial).ends.push(cleaned(end)),
                Event::RunEnded {
                    seconds,
                    interrupted,
                    cpu_seconds,
                    processors,
                    ..
                } => {
                    let earlier = latest_start.saturating_sub(results.unix_time.unwrap_or(0));
                    results.seconds = Some(earlier as f64 + seconds);
                    results.interrupted |= interrupted;
                    if let Some(more) = cpu_seconds {
                        *results.cpu_seconds.get_or_insert(0.0) += more;
                    }
                    results.processors = results.processors.or(*processors);
                }
            }
        }
        results.trials = seen.trials.into_iter().map(SeenTrial::end).collect();
        results
    }

    /// How many trials ended how.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for trial in &self.trials {
            *match trial.outcome() {
                Outcome::Passed => &mut counts.passed,
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
    fn alarming(&self) -> Vec<&Trial> {
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

    /// `112 passed, 0 failed, 96 skipped in 6 min 12 s`
    fn total(&self) -> String {
        let counts = self.counts();
        let (passed, failed) = match self.faults {
            true => ("red as expected", "BLIND"),
            false => ("passed", "failed"),
        };
        let mut total = format!("{} {passed}", counts.passed);
        for (n, what, always) in [
            (counts.flaky, "flaky", false),
            (counts.failed, failed, true),
            (counts.broken, "broken", false),
            (counts.interrupted, "interrupted", false),
            (counts.skipped, "skipped", true),
        ] {
            if n > 0 || always {
                total += &format!(", {n} {what}");
            }
        }
        total += &match self.seconds.map(text::duration) {
            Some(time) if self.interrupted => format!("; interrupted after {time}"),
            Some(time) => format!(" in {time}"),
            None => "; the run was killed before its end".into(),
        };
        total
    }

    /// `wall 312 s, 1.08 x the bound of 289 s (CPU 578 s on 2 processors; longest trial 35 s)`: how
    /// close the run came to the time in which no schedule can beat it. None where that says
    /// nothing: one trial, or a run that was cut off, whose children were not all waited for.
    fn bound(&self) -> Option<String> {
        let ends = self.trials.iter().map(|trial| &trial.end);
        let ran = ends.filter(|end| end.seconds > 0.0);
        let (alone, beside): (Vec<_>, Vec<_>) =
            ran.partition(|end| end.figures.iter().any(|figure| figure.alone));
        if alone.len() + beside.len() < 2 || self.interrupted {
            return None;
        }
        let (wall, cpu, processors) = (self.seconds?, self.cpu_seconds?, self.processors?);
        let longest = beside.iter().map(|end| end.seconds).fold(0.0, f64::max);
        let of_alone: f64 = alone.iter().filter_map(|end| end.cpu_seconds).sum();
        // What measures must have the machine for itself, whatever the schedule.
        let seconds_alone: f64 = alone.iter().map(|end| end.seconds).sum();
        let bound = seconds_alone + longest.max((cpu - of_alone) / processors as f64);
        let mut why = format!(
            "CPU {cpu:.0} s on {}; longest trial {longest:.0} s",
            text::counted(processors, "processor")
        );
        if !alone.is_empty() {
            let count = text::counted(alone.len(), "trial");
            why += &format!("; beside {count} alone, {seconds_alone:.0} s");
        }
        Some(format!(
            "wall {wall:.0} s, {:.2} x the bound of {bound:.0} s ({why})",
            wall / bound
        ))
    }

    /// A sentence where guests are not what they are called.
    fn stand_ins(&self) -> Option<String> {
        let guests = text::one_line(self.properties.get(STAND_INS)?);
        (!guests.is_empty()).then(|| {
            format!(
                "Stand-in guests: {guests}. The built image spoke their dialects; no real release was tested."
            )
        })
    }
}

/// Trials in the order in which the log first names them.
#[derive(Default)]
struct Seen {
    trials: Vec<SeenTrial>,
    index: HashMap<String, usize>,
}

struct SeenTrial {
    name: String,
    /// Case, NIC, guest, backend, plan item.
    parts: [String; 5],
    starts: u32,
    ends: Vec<TrialEnded>,
}

impl Seen {
    fn trial(&mut self, name: &str) -> &mut SeenTrial {
        let index = *self.index.entry(name.to_owned()).or_insert_with(|| {
            let name = clean(name);
            let mut parts = name.splitn(4, "::");
            let parts = [(); 5].map(|()| parts.next().unwrap_or_default().to_owned());
            self.trials.push(SeenTrial {
                name,
                parts,
                starts: 0,
                ends: Vec::new(),
            });
            self.trials.len() - 1
        });
        &mut self.trials[index]
    }
}

impl SeenTrial {
    fn end(self) -> Trial {
        let SeenTrial {
            name,
            parts: [case, nic, guest, backend, plan_item],
            starts,
            ends,
        } = self;
        let end = match merged(ends, starts) {
            Some(end) => end,
            None => TrialEnded {
                attempts: starts,
                ..TrialEnded::unmeasured(name, Outcome::Interrupted)
            },
        };
        Trial {
            case,
            nic,
            guest,
            backend,
            plan_item,
            end,
        }
    }
}

/// One end of several tries in processes of their own: the last that decided something, but a pass
/// is flaky if a try before it failed or was killed.
fn merged(mut ends: Vec<TrialEnded>, starts: u32) -> Option<TrialEnded> {
    let undecided =
        |end: &TrialEnded| matches!(end.outcome, Outcome::Skipped { .. } | Outcome::Interrupted);
    let last = ends
        .iter()
        .rposition(|end| !undecided(end))
        .or(ends.len().checked_sub(1))?;
    let tries = |end: &TrialEnded| match end.outcome {
        Outcome::Interrupted => end.attempts,
        _ => end.attempts.max(1),
    };
    let attempts: u32 = ends.iter().map(tries).sum();
    let mut end = ends.remove(last);
    let mut failures: Vec<String> = Vec::new();
    for earlier in ends.drain(..last) {
        match earlier.outcome {
            Outcome::Failed { message } | Outcome::Broken { message } => failures.push(message),
            Outcome::Flaky { failures: own } => failures.extend(own),
            Outcome::Interrupted => failures.push("the try was interrupted".into()),
            Outcome::Passed | Outcome::Skipped { .. } => {}
        }
    }
    for _ in attempts..starts {
        failures.push("the try was killed before it gave a verdict".into());
    }
    match &mut end.outcome {
        Outcome::Flaky { failures: own } => own.splice(..0, failures).for_each(drop),
        outcome @ Outcome::Passed if !failures.is_empty() => *outcome = Outcome::Flaky { failures },
        _ => {}
    }
    end.attempts = attempts.max(starts);
    Some(end)
}

fn cleaned(end: &TrialEnded) -> TrialEnded {
    let outcome = match &end.outcome {
        Outcome::Passed => Outcome::Passed,
        Outcome::Flaky { failures } => Outcome::Flaky {
            failures: failures.iter().map(|f| clean(f)).collect(),
        },
        Outcome::Failed { message } => Outcome::Failed {
            message: clean(message),
        },
        Outcome::Broken { message } => Outcome::Broken {
            message: clean(message),
        },
        Outcome::Skipped { reason } => Outcome::Skipped {
            reason: clean(reason),
        },
        Outcome::Interrupted => Outcome::Interrupted,
    };
    TrialEnded {
        trial: clean(&end.trial),
        outcome,
        host: end.host.as_deref().map(clean),
        start: end.start.as_deref().map(clean),
        figures: end.figures.clone(),
        notes: end.notes.iter().map(|note| clean(note)).collect(),
        serial_tail: clean(&end.serial_tail),
        artifacts: clean(&end.artifacts),
        reproduce: clean(&end.reproduce),
        ..*end
    }
}

/// Writes what the caller asks for: the JUnit file, with paths relative to the workspace's `root`,
/// and Markdown at the end of `$GITHUB_STEP_SUMMARY`'s file.
pub fn write_all(
    results: &mut Results,
    junit: Option<&Path>,
    step_summary: Option<&Path>,
    root: &Path,
) -> Result<()> {
    if let Some(path) = junit {
        junit::write(results, path, root)?;
        results.junit = Some(path.to_owned());
    }
    if let Some(path) = step_summary {
        markdown::append(results, path)
            .with_context(|| format!("cannot append the summary to {}", path.display()))?;
    }
    Ok(())
}

/// What a run's event log comes to so far.
pub fn read(events_path: &Path) -> Result<Results> {
    Ok(Results::from_events(&events::read(events_path)?))
}

#[cfg(test)]
mod tests;
