//! What became of every trial, night after night, in one file. `docs/history.md` says what is in it.
//!
//! A [`History`] is kept small: 500 nights of 10,000 trials are held at once. [`History::runs`] gives
//! whole runs of it, and [`History::of`] one trial's nights.

pub mod file;
mod line;
pub mod show;

use crate::name::TrialName;
use crate::past::{PastFigure, PastRun, PastTrial, Verdict};
use crate::repeats::Repeats;
use anyhow::{Result, bail, ensure};
use line::{RunLine, TrialLine};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The history's name in the harness's directory.
pub const FILE: &str = "history.jsonl";

/// The version of the file's lines. It goes up when an older reader would misread them.
pub const SCHEMA: u32 = 1;

/// The nights that a file holds.
#[derive(Debug, Default)]
pub struct History {
    /// Names of trials, and all other texts, by their number.
    texts: Vec<String>,
    numbers: HashMap<String, u32>,
    nights: Vec<Night>,
    /// The index of the night whose trials follow.
    current: usize,
}

/// A run of the history.
#[derive(Debug)]
pub struct Night {
    /// The run, without its trials.
    pub run: PastRun,
    /// How many trials it has, where all of them were written.
    planned: usize,
    records: Vec<Record>,
}

/// A trial of a night.
#[derive(Debug)]
struct Record {
    trial: u32,
    verdict: Verdict,
    sometimes: bool,
    repeats: Option<Box<Repeats>>,
    cause: Option<u32>,
    seconds: f32,
    cpu_seconds: Option<f32>,
    figures: Box<[FigureRecord]>,
}

/// A figure of a record: the numbers of what was measured and of the unit, the value, and the cost.
#[derive(Debug, Clone, Copy)]
struct FigureRecord {
    what: u32,
    unit: u32,
    value: f64,
    cost: Option<f64>,
}

impl Night {
    /// Whether each of its trials is in the file: writing it was not cut off.
    pub fn is_whole(&self) -> bool {
        self.records.len() == self.planned
    }

    /// Whether `run`, which is the same, has come further since: it may have been added while it went on.
    fn is_behind(&self, run: &PastRun) -> bool {
        let has_verdict = |verdict| !matches!(verdict, Verdict::Cut | Verdict::NotRun);
        let here = self.records.iter().map(|record| record.verdict);
        let there = run.trials.values().map(|trial| trial.verdict);
        run.ended && !self.run.ended
            || there.filter(|verdict| has_verdict(*verdict)).count()
                > here.filter(|verdict| has_verdict(*verdict)).count()
    }
}

impl History {
    /// Its nights, the oldest first.
    pub fn nights(&self) -> impl Iterator<Item = &Night> {
        self.nights.iter()
    }

    /// The night of that run, if it is here.
    pub fn night_of(&self, run: &PastRun) -> Option<&Night> {
        self.nights.iter().find(|night| night.run.is_same(run))
    }

    /// The runs of the newest `most` nights that `wanted` picks, with their trials, the newest first. A shard of
    /// three counts as a third of a night.
    pub fn runs(&self, most: usize, wanted: impl Fn(&PastRun) -> bool) -> Vec<PastRun> {
        let nights = self.nights.iter().rev();
        let nights = nights.filter(|night| wanted(&night.run));
        let mut taken = 0.0;
        let newest = nights.take_while(|night| {
            // Thirds do not add up to a whole exactly.
            let wants_more = taken + 1e-6 < most as f64;
            taken += night
                .run
                .shard()
                .map_or(1.0, |shard| 1.0 / f64::from(shard.n));
            wants_more
        });
        newest.map(|night| self.whole(night)).collect()
    }

    fn whole(&self, night: &Night) -> PastRun {
        let trials = (night.records.iter()).map(|record| {
            let name = self.texts[record.trial as usize].clone();
            (name, self.trial(record))
        });
        PastRun {
            trials: trials.collect(),
            ..night.run.clone()
        }
    }

    /// A trial's nights, the oldest first; empty where no night has it.
    pub fn of(&self, trial: &str) -> Vec<(&PastRun, PastTrial)> {
        let Some(&number) = self.numbers.get(trial) else {
            return Vec::new();
        };
        let records = self.nights.iter().filter_map(|night| {
            let record = night.records.iter().find(|record| record.trial == number)?;
            Some((&night.run, self.trial(record)))
        });
        records.collect()
    }

    /// The names of all trials of all nights, sorted.
    pub fn trials(&self) -> Vec<&str> {
        let numbers: BTreeSet<u32> = (self.nights.iter())
            .flat_map(|night| night.records.iter().map(|record| record.trial))
            .collect();
        let mut names: Vec<&str> = (numbers.iter())
            .map(|number| self.texts[*number as usize].as_str())
            .collect();
        names.sort_unstable();
        names
    }

    /// Each trial's nights of runs like the newest run that has it, the oldest first: verdicts and wall times.
    fn series(&self) -> BTreeMap<&str, Vec<(&PastRun, Verdict, f64)>> {
        let mut all: HashMap<u32, Vec<(&PastRun, Verdict, f64)>> = HashMap::new();
        for night in self.nights.iter().rev() {
            for record in &night.records {
                let series = all.entry(record.trial).or_default();
                if series
                    .first()
                    .is_none_or(|(newest, ..)| newest.is_like(&night.run))
                {
                    series.push((&night.run, record.verdict, hundredths(record.seconds)));
                }
            }
        }
        let named = all.into_iter().map(|(number, mut series)| {
            series.reverse();
            (self.texts[number as usize].as_str(), series)
        });
        named.collect()
    }

    fn trial(&self, record: &Record) -> PastTrial {
        let text = |number: u32| self.texts[number as usize].clone();
        PastTrial {
            name: TrialName::parse_or_case(&self.texts[record.trial as usize]),
            verdict: record.verdict,
            cause: record.cause.map(text).unwrap_or_default(),
            sometimes: record.sometimes,
            seconds: hundredths(record.seconds),
            cpu_seconds: record.cpu_seconds.map(hundredths),
            repeats: record.repeats.as_deref().copied(),
            figures: (record.figures.iter())
                .map(|figure| PastFigure {
                    what: text(figure.what),
                    unit: text(figure.unit),
                    value: figure.value,
                    cost: figure.cost,
                })
                .collect(),
            reproduce: String::new(),
        }
    }

    /// The number of `text`, and whether it is new.
    fn number(&mut self, text: &str) -> (u32, bool) {
        if let Some(&number) = self.numbers.get(text) {
            return (number, false);
        }
        let number = u32::try_from(self.texts.len()).expect("a file has fewer texts");
        self.texts.push(text.to_owned());
        self.numbers.insert(text.to_owned(), number);
        (number, true)
    }

    /// Takes in a line; `Err` says what is wrong with it.
    fn take(&mut self, line: &[u8]) -> Result<()> {
        if line.starts_with(line::RUN_START) {
            let line: RunLine = serde_json::from_slice(line)?;
            let planned = line.trials;
            // What is added again was cut off before.
            let run = line.into_run();
            self.nights.retain(|night| !night.run.is_same(&run));
            let night = Night {
                run,
                planned,
                records: Vec::new(),
            };
            // Runs may be added in any order.
            let at = (self.nights).partition_point(|earlier| earlier.run.time <= night.run.time);
            self.nights.insert(at, night);
            self.current = at;
            return Ok(());
        }
        if line.starts_with(line::TEXT_START) {
            let line: line::TextLine = serde_json::from_slice(line)?;
            let (_, new) = self.number(&crate::text::one_line(&crate::text::clean(&line.text)));
            ensure!(new, "the text is in the file already");
            return Ok(());
        }
        let line: TrialLine = serde_json::from_slice(line)?;
        let known = self.texts.len();
        let numbers = [Some(line.trial), line.cause].into_iter().flatten();
        let of_figures = line
            .figures
            .iter()
            .flat_map(|&(what, unit, _)| [what, unit]);
        for number in numbers.chain(of_figures) {
            ensure!(
                (number as usize) < known,
                "the file has no text number {number}"
            );
        }
        let night = self.nights.get_mut(self.current);
        let Some(night) = night else {
            bail!("a trial before the first run");
        };
        night.records.push(line.into_record());
        Ok(())
    }
}

fn hundredths(seconds: f32) -> f64 {
    (f64::from(seconds) * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests;
