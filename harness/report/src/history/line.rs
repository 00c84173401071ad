//! The lines of a history: a run, then its trials, and each text before the first line that means it.

use super::{FigureRecord, Record, SCHEMA};
use crate::flags::Only;
use crate::identity::Identity;
use crate::past::{PastRun, Verdict};
use crate::repeats::Repeats;
use crate::text::{clean, one_line};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// How a run's line begins.
pub const RUN_START: &[u8] = b"{\"history\":";
/// How a text's line begins.
pub const TEXT_START: &[u8] = b"{\"text\":";

/// A run.
#[derive(Serialize, Deserialize)]
pub struct RunLine {
    /// The version of the lines.
    history: u32,
    run: String,
    time: f64,
    #[serde(default)]
    seconds: Option<f64>,
    #[serde(default)]
    ended: bool,
    #[serde(default)]
    faults: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    booted: bool,
    /// Which trials of its plan were asked for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    only: BTreeMap<String, Value>,
    /// How many trials follow.
    pub trials: usize,
    #[serde(default)]
    identity: Option<Identity>,
    #[serde(default)]
    properties: BTreeMap<String, String>,
    #[serde(default)]
    labs: BTreeSet<String>,
}

/// What every version's run line has.
#[derive(Deserialize)]
pub struct Version {
    pub history: u32,
}

/// A text; its number is that of the texts before it.
#[derive(Serialize, Deserialize)]
pub struct TextLine {
    pub text: String,
}

/// A trial of the run before it.
#[derive(Serialize, Deserialize)]
pub struct TrialLine {
    /// The number of its name.
    #[serde(rename = "t")]
    pub trial: u32,
    #[serde(rename = "v")]
    verdict: Letter,
    /// Seconds of wall time.
    #[serde(rename = "s", default, skip_serializing_if = "is_zero")]
    seconds: f32,
    /// Seconds of processor time.
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    cpu_seconds: Option<f32>,
    /// The number of its cause.
    #[serde(rename = "w", default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<u32>,
    /// Whether it fails only now and then.
    #[serde(rename = "o", default, skip_serializing_if = "std::ops::Not::not")]
    sometimes: bool,
    /// Repeats of its failure: how many failed, passed and came to no verdict.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    repeats: Option<(u32, u32, u32)>,
    /// Figures: the numbers of what and unit, and the value.
    #[serde(rename = "g", default, skip_serializing_if = "Vec::is_empty")]
    pub figures: Vec<(u32, u32, f64)>,
    /// What each of them cost.
    #[serde(rename = "gc", default, skip_serializing_if = "Vec::is_empty")]
    costs: Vec<Option<f64>>,
}

fn is_zero(seconds: &f32) -> bool {
    *seconds == 0.0
}

/// A verdict as one letter.
#[derive(Clone, Copy)]
struct Letter(Verdict);

/// The letter of each verdict.
const LETTERS: [(Verdict, char); 9] = [
    (Verdict::Passed, 'p'),
    (Verdict::Fixed, 'x'),
    (Verdict::Flaky, 'y'),
    (Verdict::Failed, 'f'),
    (Verdict::Known, 'k'),
    (Verdict::Broken, 'b'),
    (Verdict::Skipped, 's'),
    (Verdict::Cut, 'c'),
    (Verdict::NotRun, 'n'),
];

impl Serialize for Letter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let letter = LETTERS.iter().find(|(verdict, _)| *verdict == self.0);
        serializer.serialize_char(letter.expect("each verdict has one").1)
    }
}

impl<'de> Deserialize<'de> for Letter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Letter, D::Error> {
        let letter = char::deserialize(deserializer)?;
        let known = LETTERS.iter().find(|(_, other)| *other == letter);
        known.map(|(verdict, _)| Letter(*verdict)).ok_or_else(|| {
            let letters = LETTERS.map(|(_, letter)| letter.to_string());
            let words = letters.iter().map(String::as_str);
            serde::de::Error::custom(crate::words::unknown("verdict", &letter.to_string(), words))
        })
    }
}

impl RunLine {
    pub fn of(run: &PastRun) -> RunLine {
        RunLine {
            history: SCHEMA,
            run: run.name.clone(),
            time: run.time,
            seconds: run.seconds,
            ended: run.ended,
            faults: run.faults,
            booted: run.booted,
            // Lists of names: they have a JSON form.
            only: run.only.recorded().unwrap_or_default(),
            trials: run.trials.len(),
            identity: run.identity.clone(),
            properties: run.properties.clone(),
            labs: run.labs.clone(),
        }
    }

    /// The run without its trials.
    pub fn into_run(self) -> PastRun {
        let properties = self.properties.iter();
        PastRun {
            name: one_line(&clean(&self.run)),
            time: self.time,
            seconds: self.seconds,
            ended: self.ended,
            faults: self.faults,
            booted: self.booted,
            only: Only::of_recorded(&self.only),
            identity: self.identity.as_ref().map(Identity::cleaned),
            properties: properties.map(|(k, v)| (clean(k), clean(v))).collect(),
            labs: self.labs.iter().map(|lab| clean(lab)).collect(),
            trials: BTreeMap::new(),
        }
    }
}

impl TrialLine {
    pub fn of(record: &Record) -> TrialLine {
        let figures = record.figures.iter();
        let costs: Vec<Option<f64>> = figures.clone().map(|figure| figure.cost).collect();
        let has_costs = costs.iter().any(Option::is_some);
        TrialLine {
            trial: record.trial,
            verdict: Letter(record.verdict),
            seconds: record.seconds,
            cpu_seconds: record.cpu_seconds,
            cause: record.cause,
            sometimes: record.sometimes,
            repeats: (record.repeats.as_ref()).map(|of| (of.failed, of.passed, of.undecided)),
            figures: figures.map(|of| (of.what, of.unit, of.value)).collect(),
            costs: if has_costs { costs } else { Vec::new() },
        }
    }

    pub fn into_record(self) -> Record {
        let costs = self.costs.into_iter().chain(std::iter::repeat(None));
        let figures = self.figures.into_iter().zip(costs);
        let figures = figures.map(|((what, unit, value), cost)| FigureRecord {
            what,
            unit,
            value,
            cost,
        });
        Record {
            trial: self.trial,
            verdict: self.verdict.0,
            sometimes: self.sometimes,
            cause: self.cause,
            seconds: self.seconds,
            cpu_seconds: self.cpu_seconds,
            repeats: self.repeats.map(|(failed, passed, undecided)| {
                Box::new(Repeats {
                    failed,
                    passed,
                    undecided,
                })
            }),
            figures: figures.collect(),
        }
    }
}
