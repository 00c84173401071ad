//! A run that is over, as another one is compared with it: its events and a line of the history give the same.

use crate::Results;
use crate::events::{Event, Figure, Line, Outcome};
use crate::expectation::State;
use crate::flags::Only;
use crate::identity::{Identity, Shard};
use crate::name::TrialName;
use crate::repeats::Repeats;
use crate::text::{clean, one_line, shortened};
use crate::trial::Trial;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub mod date;
pub mod facts;
pub mod night;
#[cfg(test)]
pub(crate) mod sample;
pub mod series;

/// A run and what became of its trials. Every string is clean, as in [`Results`].
#[derive(Debug, Clone, PartialEq)]
pub struct PastRun {
    /// The name of its directory.
    pub name: String,
    /// When it began, seconds since the epoch.
    pub time: f64,
    /// Wall time, seconds; none if it was killed.
    pub seconds: Option<f64>,
    /// Whether it came to its end: neither killed nor interrupted.
    pub ended: bool,
    /// Whether cases ran under their faults.
    pub faults: bool,
    /// Whether every guest was booted (`--boot`).
    pub booted: bool,
    /// Which trials of its plan were asked for.
    pub only: Only,
    /// What was run, on what and where; none in logs before schema 1.
    pub identity: Option<Identity>,
    /// What else its first event says.
    pub properties: BTreeMap<String, String>,
    /// The labs that trials ran in, as "Linux 6.1.0-56-amd64".
    pub labs: BTreeSet<String>,
    /// The trials that it planned, by name.
    pub trials: BTreeMap<String, PastTrial>,
}

/// What the trials of a run ask: those of runs of another mode are not held against each other. Shown as "profile
/// smoke under faults".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode<'r> {
    /// The profile; empty in logs that do not say.
    pub profile: &'r str,
    /// Whether cases run under their faults.
    pub faults: bool,
    /// Whether every guest is booted (`--boot`).
    pub booted: bool,
}

impl fmt::Display for Mode<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.profile {
            "" => f.write_str("an unknown profile")?,
            profile => write!(f, "profile {profile}")?,
        }
        f.write_str(if self.faults { " under faults" } else { "" })?;
        f.write_str(if self.booted { " with --boot" } else { "" })
    }
}

/// A trial and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct PastTrial {
    /// The parts of its name.
    pub name: TrialName,
    /// How it ended.
    pub verdict: Verdict,
    /// The verdict's reason, one line of 2 KiB at most and what was left out; empty for a verdict without one.
    pub cause: String,
    /// Whether the matrix file says that it fails only now and then.
    pub sometimes: bool,
    /// How it ended when it ran again after its failure (`--confirm`); none where it did not.
    pub repeats: Option<Repeats>,
    /// Wall time, seconds, to the hundredth.
    pub seconds: f64,
    /// Processor time, seconds, to the hundredth; none where it was not measured.
    pub cpu_seconds: Option<f64>,
    /// What was measured while no other trial ran.
    pub figures: Vec<PastFigure>,
    /// Command that runs it again; empty where only the history tells of it.
    pub reproduce: String,
}

/// So many bytes of a cause are kept: a history keeps each for good.
const CAUSE: usize = 2048;

/// How a trial ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Every check held.
    Passed,
    /// Every check held, though the matrix file expects a failure each time.
    Fixed,
    /// Failed and passed in the same run.
    Flaky,
    /// A check did not hold; under a fault: the case saw nothing.
    Failed,
    /// A check did not hold, as the matrix file expects.
    Known,
    /// The harness failed.
    Broken,
    /// Not run, for a reason.
    Skipped,
    /// Begun, and cut off.
    Cut,
    /// Planned, and not begun when the run was cut off.
    NotRun,
}

impl Verdict {
    /// Every one.
    pub const ALL: [Verdict; 9] = [
        Verdict::Passed,
        Verdict::Fixed,
        Verdict::Flaky,
        Verdict::Failed,
        Verdict::Known,
        Verdict::Broken,
        Verdict::Skipped,
        Verdict::Cut,
        Verdict::NotRun,
    ];

    /// The verdict in words.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Passed => "passed",
            Verdict::Fixed => "fixed",
            Verdict::Flaky => "flaky",
            Verdict::Failed => "failed",
            Verdict::Known => "known",
            Verdict::Broken => "broken",
            Verdict::Skipped => "skipped",
            Verdict::Cut => "cut off",
            Verdict::NotRun => "not run",
        }
    }

    /// Whether the NIC did all that was asked of it.
    pub fn is_green(self) -> bool {
        matches!(self, Verdict::Passed | Verdict::Fixed)
    }

    /// Whether the NIC failed each time.
    pub fn is_red(self) -> bool {
        matches!(self, Verdict::Failed | Verdict::Known)
    }

    /// Whether it says anything of the NIC.
    pub fn is_judged(self) -> bool {
        self.is_green() || self.is_red() || self == Verdict::Flaky
    }
}

/// A figure, without what differs from run to run.
#[derive(Debug, Clone, PartialEq)]
pub struct PastFigure {
    /// What was measured, as "TCP_STREAM, 16384 bytes, host to guest".
    pub what: String,
    /// "10^6bits/s" or "Trans/s".
    pub unit: String,
    /// How much.
    pub value: f64,
    /// What a stream cost: processor seconds of QEMU and vhost a GiB, to the thousandth; none where it was
    /// not measured.
    pub cost: Option<f64>,
}

impl PastRun {
    /// The run that `lines` are the events of; `name` is its directory's. None where no run began.
    pub fn from_lines(name: &str, lines: &[Line]) -> Option<PastRun> {
        let started = lines.iter().find_map(|line| match &line.event {
            Event::RunStarted {
                unix_time,
                identity,
                only,
                ..
            } => Some((line.time.unwrap_or(*unix_time as f64), identity, only)),
            _ => None,
        });
        let (time, identity, only) = started?;
        let results = Results::from_events(lines.iter().map(|line| &line.event));
        let labs = results.trials.iter().filter_map(lab);
        Some(PastRun {
            name: one_line(&clean(name)),
            time,
            seconds: results.seconds.map(hundredths),
            ended: results.seconds.is_some() && !results.interrupted,
            faults: results.faults,
            booted: results.booted,
            only: Only::of_recorded(only),
            identity: identity.as_deref().map(Identity::cleaned),
            labs: labs.collect(),
            properties: results.properties,
            trials: (results.trials.iter())
                .map(|trial| (one_line(trial.name()), PastTrial::of(trial)))
                .collect(),
        })
    }

    /// The profile; empty in logs that do not say.
    pub fn profile(&self) -> &str {
        self.properties.get("profile").map_or("", String::as_str)
    }

    /// The part of its plan that it was given; none for the whole.
    pub fn shard(&self) -> Option<&Shard> {
        self.identity.as_ref()?.shard.as_ref()
    }

    /// Its commit, if known.
    pub fn commit(&self) -> Option<&str> {
        self.identity.as_ref()?.commit.as_deref()
    }

    /// The digest of its plan, if known.
    pub fn plan_digest(&self) -> Option<&str> {
        Some(self.identity.as_ref()?.plan_digest.as_str())
    }

    /// Whether `other` is the same run, wherever either was read from: a directory may have been renamed.
    pub fn is_same(&self, other: &PastRun) -> bool {
        self.time == other.time
            && self.plan_digest() == other.plan_digest()
            && self.shard() == other.shard()
    }

    /// What its trials ask.
    pub fn mode(&self) -> Mode<'_> {
        Mode {
            profile: self.profile(),
            faults: self.faults,
            booted: self.booted,
        }
    }

    /// Whether trials of the two may be held against each other.
    pub fn is_like(&self, other: &PastRun) -> bool {
        self.mode() == other.mode()
    }

    /// How many of its trials ended with `verdict`.
    pub fn count(&self, verdict: Verdict) -> usize {
        let trials = self.trials.values();
        trials.filter(|trial| trial.verdict == verdict).count()
    }

    /// Its name, when it began, and its commit: "r1 (2026-11-26 03:02 UTC, commit 743f3233)".
    pub fn title(&self) -> String {
        let commit = self.commit().map_or_else(String::new, |commit| {
            format!(", commit {}", facts::short(commit))
        });
        let shard = self.shard().map_or_else(String::new, |shard| {
            format!(", shard {} of {}", shard.k, shard.n)
        });
        format!(
            "{} ({} UTC{commit}{shard})",
            self.name,
            date::minute(self.time)
        )
    }
}

impl PastTrial {
    fn of(trial: &Trial) -> PastTrial {
        let end = &trial.end;
        let state = end.expectation.as_ref().map(|expected| expected.state);
        let verdict = match &end.outcome {
            // With --strict a trial that is fixed counts as failed; the NIC did not.
            Outcome::Passed | Outcome::Failed { .. } if state == Some(State::Fixed) => {
                Verdict::Fixed
            }
            Outcome::Passed => Verdict::Passed,
            Outcome::Flaky { .. } => Verdict::Flaky,
            Outcome::Failed { .. } => Verdict::Failed,
            Outcome::Known { .. } => Verdict::Known,
            Outcome::Broken { .. } => Verdict::Broken,
            Outcome::Skipped { .. } => Verdict::Skipped,
            Outcome::Interrupted if end.attempts > 0 => Verdict::Cut,
            Outcome::Interrupted => Verdict::NotRun,
        };
        PastTrial {
            name: end.name.clone(),
            verdict,
            cause: match verdict {
                Verdict::Fixed => String::new(),
                _ => shortened(&end.outcome.cause(), CAUSE).into_owned(),
            },
            sometimes: end.expectation.as_ref().is_some_and(|e| e.sometimes),
            repeats: end.repeats,
            seconds: hundredths(end.seconds),
            cpu_seconds: end.cpu_seconds.map(hundredths),
            figures: (end.figures.iter().filter(|figure| figure.alone))
                .map(PastFigure::of)
                .collect(),
            reproduce: one_line(&end.reproduce),
        }
    }
}

impl PastFigure {
    /// Whether `other` measured the same.
    pub fn is_same(&self, other: &PastFigure) -> bool {
        (&self.what, &self.unit) == (&other.what, &other.unit)
    }

    fn of(figure: &Figure) -> PastFigure {
        PastFigure {
            what: one_line(&clean(&figure.what())),
            unit: one_line(&clean(&figure.unit)),
            value: figure.value,
            cost: figure.cost_of_stream().map(thousandths),
        }
    }
}

/// The lab that `trial` ran in. What differs from trial to trial of one lab comes after the kernel.
fn lab(trial: &Trial) -> Option<String> {
    let inside = trial.end.host.as_deref()?.strip_prefix("lab, ")?;
    Some(one_line(inside.split(',').next()?))
}

fn thousandths(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

fn hundredths(seconds: f64) -> f64 {
    (seconds * 100.0).round() / 100.0
}
