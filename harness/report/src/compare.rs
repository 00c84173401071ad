//! Two runs, trial by trial: what became worse, what became better, and what else is not the same.
//!
//! [`Comparison`] is made of [`PastRun`]s; [`terminal`], [`markdown`] and [`json`] show it.

mod axes;
mod class;
mod figures;
mod findings;
pub mod json;
pub mod markdown;
pub mod terminal;
mod words;

use crate::figures::against;
use crate::figures::nights::{Judged, Verdict as OfFigure};
use crate::past::night::Night;
use crate::past::series::{Flips, Streak, is_settled};
use crate::past::{PastRun, PastTrial, Verdict, facts};
pub use class::Class;
pub use findings::Finding;
use std::collections::BTreeMap;
use std::fmt;

/// What two runs come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conclusion {
    /// Nothing is worse.
    NothingWorse,
    /// Something is worse.
    Worse,
    /// Nothing is worse as far as can be told, but trials that BASE judged have no verdict in HEAD.
    Undecided,
}

impl Conclusion {
    /// The exit code: 0, 1 or 3.
    pub fn exit_code(self) -> u8 {
        match self {
            Conclusion::NothingWorse => 0,
            Conclusion::Worse => 1,
            Conclusion::Undecided => 3,
        }
    }
}

/// Two runs cannot be compared; the text says why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotComparable(String);

impl fmt::Display for NotComparable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotComparable {}

/// The two sides of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Sides {
    /// The night that is compared with.
    pub base: PastRun,
    /// The nights before it, the newest first: they tell of trials that the base did not judge.
    pub earlier: Vec<PastRun>,
    /// The night that is judged.
    pub head: PastRun,
    /// What to know of the sides, a sentence each.
    pub notes: Vec<String>,
}

/// Which of the runs of BASE is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// The one that is there, whenever it ran.
    TheOne,
    /// The newest of those from before the head of its mode.
    NearestBefore,
}

impl Sides {
    /// Of `head`, which is one run or the shards of one, and what it is compared with.
    ///
    /// # Errors
    /// Where none can be compared.
    pub fn choose(
        mut base: Vec<PastRun>,
        pick: Pick,
        head: Vec<PastRun>,
    ) -> Result<Sides, NotComparable> {
        let seen = kinds(&base);
        let title = base.first().map(|run| run.name.clone()).unwrap_or_default();
        if pick == Pick::NearestBefore {
            base.retain(|run| !head.iter().any(|other| other.is_same(run)));
        }
        let Some(of_head) = Night::newest(head) else {
            return Err(NotComparable("HEAD has no run".into()));
        };
        // What is red in one of them is not to be lost.
        if !of_head.others.is_empty() {
            return Err(NotComparable(format!(
                "HEAD holds runs that are no shards of its newest, {}: {}; name one run, or a directory that holds \
                 the shards of one",
                of_head.run.title(),
                listed(&of_head.others)
            )));
        }
        let older_tries = of_head.older_tries;
        let (head, notes_of_head) = (of_head.run, of_head.notes);
        if pick == Pick::NearestBefore {
            base.retain(|run| run.time < head.time && run.is_like(&head));
        }
        if base.is_empty() {
            return Err(NotComparable(format!(
                "BASE has no run of {} from before {}: it has {}",
                head.mode(),
                head.title(),
                if seen.is_empty() { "none" } else { &seen }
            )));
        }
        if let Some(other) = base.iter().find(|run| !run.is_like(&head)) {
            return Err(NotComparable(format!(
                "{} is of {}, and {} of {}: their trials do not ask the same",
                other.name,
                other.mode(),
                head.name,
                head.mode()
            )));
        }
        let of_base = loop {
            let Some(night) = Night::newest(base) else {
                return Err(NotComparable(match pick {
                    Pick::TheOne => format!("{title} and {} have no trial in common", head.name),
                    Pick::NearestBefore => format!(
                        "no run of BASE from before {} has a trial in common with it: BASE has {seen}",
                        head.title()
                    ),
                }));
            };
            let mut trials = night.run.trials.keys();
            if trials.any(|name| head.trials.contains_key(name)) {
                break night;
            }
            // Between two nights there may be a run of a single trial by hand.
            base = night.apart().1;
        };
        let mut notes = [of_base.notes.as_slice(), &notes_of_head].concat();
        if !older_tries.is_empty() {
            notes.push(format!(
                "of shards that HEAD holds more than once the newest run counts, not {}",
                listed(&older_tries)
            ));
        }
        let (base, earlier) = of_base.apart();
        Ok(Sides {
            base,
            earlier,
            head,
            notes,
        })
    }
}

/// So many runs are named where there may be hundreds.
const NAMED: usize = 5;

/// "night1-1, night1-2", by their names.
fn listed(runs: &[PastRun]) -> String {
    let mut names: Vec<String> = (runs.iter().take(NAMED))
        .map(|run| run.name.clone())
        .collect();
    let more = runs.len().saturating_sub(NAMED);
    names.extend((more > 0).then(|| crate::text::counted(more, "more run")));
    names.join(", ")
}

/// "3 runs of profile smoke, 1 run of profile full".
fn kinds(runs: &[PastRun]) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for run in runs {
        *counts.entry(run.mode().to_string()).or_default() += 1;
    }
    let each =
        (counts.iter()).map(|(mode, n)| format!("{} of {mode}", crate::text::counted(*n, "run")));
    each.collect::<Vec<_>>().join(", ")
}

/// A trial, before and now.
#[derive(Debug, Clone)]
pub struct Change<'r> {
    /// Its name.
    pub trial: &'r str,
    /// What became of it.
    pub class: Class,
    /// The nearest earlier record that says something of it, and the run that it is of.
    pub base: Option<(&'r PastTrial, &'r PastRun)>,
    /// Its record in the head; none where it vanished.
    pub head: Option<&'r PastTrial>,
    /// How often it changed between pass and failure, up to the base.
    pub flips: Flips,
    /// Since when it is red, or known, as it is in the head: nights with the head and the first of them.
    pub red: Option<(usize, &'r PastRun)>,
    /// The last run before that in which it was green.
    pub green: Option<&'r PastRun>,
}

impl Change<'_> {
    /// Either record's parts of the name.
    pub fn name(&self) -> &crate::name::TrialName {
        let record = self.head.or(self.base.map(|(record, _)| record));
        &record.expect("a change is of a record").name
    }

    /// What it fails with, or is skipped for; of what is fixed, what it failed with.
    pub fn cause(&self) -> &str {
        let of_base = self.base.map_or("", |(record, _)| record.cause.as_str());
        match self.class {
            Class::Fixed => of_base,
            _ => self.head.map_or("", |record| record.cause.as_str()),
        }
    }
}

/// What became of every trial.
#[derive(Debug)]
pub struct Comparison<'r> {
    /// What was compared.
    pub sides: &'r Sides,
    /// Every trial of either side, by name.
    pub changes: Vec<Change<'r>>,
    /// What else is not the same.
    pub facts: Vec<facts::Changed>,
    /// Figures that are not what they were, the worse first.
    pub figures: Vec<Judged<'r>>,
    /// What to know of the comparison itself, a sentence each.
    pub notes: Vec<String>,
    /// Trials of the base that the head did not select.
    pub unselected: usize,
}

impl<'r> Comparison<'r> {
    /// Of two sides.
    pub fn new(sides: &'r Sides) -> Comparison<'r> {
        let Sides {
            base,
            earlier,
            head,
            notes,
        } = sides;
        let nights: Vec<&PastRun> = earlier.iter().rev().chain([base]).collect();
        let mut changes = Vec::with_capacity(head.trials.len());
        for (trial, record) in &head.trials {
            changes.push(change(trial, Some(record), &nights, head));
        }
        let mut notes = notes.clone();
        let absent = base
            .trials
            .keys()
            .filter(|name| !head.trials.contains_key(*name));
        let same_plan = base.plan_digest().is_some() && base.plan_digest() == head.plan_digest();
        let mut unselected = 0;
        for trial in absent {
            // A run that was cut off may not have named all of its plan.
            let asked_for = head.only.takes(trial, &base.trials[trial].name);
            let change = change(trial, None, &nights, head);
            if asked_for && head.shard().is_some() {
                // Whether a missing shard would have run it cannot be told: it may not pass for what was left out.
                changes.push(Change {
                    class: Class::NotRun,
                    ..change
                });
            } else if same_plan || !asked_for || !head.ended {
                unselected += 1;
            } else {
                changes.push(change);
            }
        }
        if unselected > 0 {
            let cut = match head.ended {
                true => "",
                false => ", or it was cut off before it named them",
            };
            notes.push(format!(
                "{} of BASE: HEAD did not select {}{cut}",
                crate::text::counted(unselected, "trial"),
                if unselected == 1 { "it" } else { "them" }
            ));
        }
        if !head.ended {
            notes.push(format!("{} was cut off before its end", head.name));
        }
        let (figures, note) = figures::changes(&nights, head);
        notes.extend(note);
        let worse = figures.iter().any(|of| of.verdict == OfFigure::Worse);
        if worse && !against::decide(&head.properties) {
            notes.push("guests ran under TCG: its figures are reported, and decide nothing".into());
        }
        Comparison {
            changes,
            facts: facts::changed(base, head),
            figures,
            notes,
            unselected,
            sides,
        }
    }

    /// How many trials are of each class; those that none is of are absent.
    pub fn counts(&self) -> BTreeMap<Class, usize> {
        let mut counts = BTreeMap::new();
        for change in &self.changes {
            *counts.entry(change.class).or_default() += 1;
        }
        counts
    }

    /// How many figures are worse, and decide: under TCG none does.
    pub fn worse_figures(&self) -> usize {
        let worse = |of: &&Judged| of.verdict == OfFigure::Worse;
        match against::decide(&self.sides.head.properties) {
            true => self.figures.iter().filter(worse).count(),
            false => 0,
        }
    }

    /// What it comes to.
    pub fn conclusion(&self) -> Conclusion {
        let undecided = |change: &Change| {
            let judged = change
                .base
                .is_some_and(|(record, _)| record.verdict.is_judged());
            matches!(change.class, Class::NotRun | Class::Broken) && judged
        };
        let worse = self.changes.iter().any(|change| change.class.is_worse());
        if worse || self.worse_figures() > 0 {
            Conclusion::Worse
        } else if self.changes.iter().any(undecided)
            || self.unselected > 0 && !self.sides.head.ended
        {
            Conclusion::Undecided
        } else {
            Conclusion::NothingWorse
        }
    }

    /// The changes that are worth a line, by class, and what is the same of several together.
    pub fn findings(&self) -> Vec<Finding<'_>> {
        findings::of(self)
    }
}

/// What became of one trial. `nights` are those before the head, the oldest first.
fn change<'r>(
    trial: &'r str,
    record: Option<&'r PastTrial>,
    nights: &[&'r PastRun],
    head: &'r PastRun,
) -> Change<'r> {
    let records: Vec<(&PastTrial, &PastRun)> = (nights.iter())
        .filter_map(|run| Some((run.trials.get(trial)?, *run)))
        .collect();
    let speaks = |verdict: Verdict| verdict.is_judged() || verdict == Verdict::Skipped;
    // A night of which the harness alone is to blame is no reason to forget the one before.
    let before = (records.iter().rev())
        .find(|(record, _)| speaks(record.verdict))
        .or(records.last())
        .copied();
    let mut verdicts: Vec<Verdict> = records.iter().map(|(record, _)| record.verdict).collect();
    let flips = Flips::of(verdicts.iter().copied());
    let mut class = Class::of(before.map(|(record, _)| record), record);
    let (mut red, mut green) = (None, None);
    if let Some(record) = record {
        verdicts.push(record.verdict);
        let run = |index: usize| records.get(index).map_or(head, |(_, run)| *run);
        if let Some(streak) = Streak::of(&verdicts)
            && record.verdict.is_red()
        {
            red = Some((streak.nights, run(streak.first)));
            let last = verdicts[..streak.first].iter().rposition(|v| v.is_green());
            green = last.map(run);
        }
        if record.sometimes && record.verdict.is_green() && is_settled(&verdicts) {
            class = Class::ExpectationFixed;
        }
    }
    Change {
        trial,
        class,
        base: before,
        head: record,
        flips,
        red,
        green,
    }
}

#[cfg(test)]
mod tests;
