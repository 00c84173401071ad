//! The events of a log, put together by trial: each try may have been logged by another process.

use crate::events::{Outcome, TrialEnded};
use crate::expectation::Expectation;
use crate::name::TrialName;
use crate::text::clean;
use crate::trial::Trial;
use std::collections::HashMap;

/// Trials in the order in which the log first names them.
#[derive(Default)]
pub struct Seen {
    trials: Vec<SeenTrial>,
    index: HashMap<String, usize>,
}

/// A trial, and its tries so far.
pub struct SeenTrial {
    trial: String,
    name: TrialName,
    /// Items of the manual plan; empty if unknown.
    pub plan_item: String,
    /// Tries begun.
    pub starts: u32,
    /// Tries that ended, with clean strings.
    pub ends: Vec<TrialEnded>,
}

impl Seen {
    /// The trial of that name.
    pub fn trial(&mut self, trial: &str, name: &TrialName) -> &mut SeenTrial {
        let index = *self.index.entry(trial.to_owned()).or_insert_with(|| {
            self.trials.push(SeenTrial {
                trial: clean(trial),
                name: cleaned_name(name),
                plan_item: String::new(),
                starts: 0,
                ends: Vec::new(),
            });
            self.trials.len() - 1
        });
        &mut self.trials[index]
    }

    /// The trials with their results.
    pub fn trials(self) -> Vec<Trial> {
        self.trials.into_iter().map(SeenTrial::end).collect()
    }
}

impl SeenTrial {
    fn end(self) -> Trial {
        let end = merged(self.ends, self.starts).unwrap_or_else(|| TrialEnded {
            attempts: self.starts,
            ..TrialEnded::unmeasured(self.trial, Outcome::Interrupted)
        });
        Trial {
            plan_item: self.plan_item,
            end: TrialEnded {
                name: self.name,
                ..end
            },
        }
    }
}

/// One end for a trial that several processes tried: that of the last try with a verdict, but a pass
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
            Outcome::Passed | Outcome::Known { .. } | Outcome::Skipped { .. } => {}
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

fn cleaned_name(name: &TrialName) -> TrialName {
    TrialName {
        case: clean(&name.case),
        variant: name.variant.as_deref().map(clean),
        fault: name.fault.as_deref().map(clean),
        nic: clean(&name.nic),
        guest: clean(&name.guest),
        backend: clean(&name.backend),
        qemu: name.qemu.as_deref().map(clean),
    }
}

/// The same with every string clean.
pub fn cleaned(end: &TrialEnded) -> TrialEnded {
    let outcome = match &end.outcome {
        Outcome::Passed => Outcome::Passed,
        Outcome::Flaky { failures } => Outcome::Flaky {
            failures: failures.iter().map(|f| clean(f)).collect(),
        },
        Outcome::Failed { message } => Outcome::Failed {
            message: clean(message),
        },
        Outcome::Known {
            message,
            reason,
            link,
        } => Outcome::Known {
            message: clean(message),
            reason: clean(reason),
            link: link.as_deref().map(clean),
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
        name: cleaned_name(&end.name),
        outcome,
        expectation: end.expectation.as_ref().map(Expectation::cleaned),
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
