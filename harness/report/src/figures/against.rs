//! The figures of two QEMUs, of several starts of a VM each: which of them differ.
//!
//! The independent unit is a VM's start, not a second of netperf: a figure of one start is one value.

use crate::events::Figure;
use crate::name::TrialName;
use crate::stats::{self, Shift};
use crate::{Results, Trial};
use serde::Serialize;
use std::collections::BTreeMap;

/// Starts of each QEMU below which nothing is said: of four each, even samples that do not overlap at all
/// happen by chance too often for a comparison of many figures.
pub const FEWEST_STARTS: usize = 5;
/// The part of what is called different that may be so by chance.
pub const FALSE_DISCOVERIES: f64 = 0.05;
/// The smallest relative change that is worth a word.
pub const LEAST_EFFECT: f64 = 0.03;

/// The unit of what a stream costs.
pub const COST_UNIT: &str = "s/GiB";

/// What was measured, where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Key {
    /// The trial's name, without the QEMU.
    pub trial: String,
    /// netperf's test and its size, by which figures are put in order.
    #[serde(skip)]
    pub order: (String, Option<u32>),
    /// As [`Figure`]'s `Display` begins: "UDP_STREAM, 32 bytes, host to guest".
    pub test: String,
    /// What of it.
    pub quantity: Quantity,
    /// Of the values.
    pub unit: String,
}

/// What of a figure is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// What netperf measured: more is better.
    Throughput,
    /// Processor seconds of QEMU and vhost a GiB: less is better.
    Cost,
}

/// What is said of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The second QEMU is worse.
    Worse,
    /// The second QEMU is better.
    Better,
    /// No difference was shown.
    Same,
    /// There were fewer than [`FEWEST_STARTS`] of one.
    TooFew,
}

/// A figure of both QEMUs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Compared {
    /// What it is.
    #[serde(flatten)]
    pub key: Key,
    /// Its values of the first QEMU, one a start.
    pub first: Vec<f64>,
    /// Of the second.
    pub second: Vec<f64>,
    /// The second's median over the first's, less 1, and its interval (95 %); none where a value is 0.
    pub effect: Option<Effect>,
    /// Mann–Whitney's p, adjusted over all figures of the comparison.
    pub p: f64,
    /// What is said of it.
    pub verdict: Verdict,
}

/// A relative change: 0.1 is 10 % more.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Effect {
    /// The estimate.
    pub change: f64,
    /// Its interval; none for small samples.
    pub interval: Option<(f64, f64)>,
}

/// A comparison of two QEMUs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Its figures, those that differ first.
    pub figures: Vec<Compared>,
    /// Whether the figures decide: under TCG they are reported only.
    pub decides: bool,
}

impl Comparison {
    /// Of runs, each of which started every VM once: those of the first QEMU and of the second. Only
    /// figures that were taken alone count.
    pub fn of(first: &[Results], second: &[Results]) -> Comparison {
        let (of_first, of_second) = (values(first), values(second));
        let none = Vec::new();
        let mut keys: Vec<&Key> = of_first.keys().chain(of_second.keys()).collect();
        keys.sort();
        keys.dedup();
        let pairs: Vec<(&Key, &Vec<f64>, &Vec<f64>)> = keys
            .into_iter()
            .map(|key| {
                (
                    key,
                    of_first.get(key).unwrap_or(&none),
                    of_second.get(key).unwrap_or(&none),
                )
            })
            .collect();
        let p_values: Vec<f64> = (pairs.iter())
            .map(|(_, a, b)| stats::mann_whitney(a, b))
            .collect();
        let adjusted = stats::benjamini_hochberg(&p_values);
        let mut figures: Vec<Compared> = (pairs.into_iter().zip(adjusted))
            .map(|((key, a, b), p)| compared(key, a, b, p))
            .collect();
        figures.sort_by(|a, b| (a.verdict, &a.key).cmp(&(b.verdict, &b.key)));
        let mut all = first.iter().chain(second);
        let decides = all.all(|run| decide(&run.properties));
        Comparison { figures, decides }
    }

    /// Whether a figure is worse on the second QEMU, and figures decide here.
    pub fn is_worse(&self) -> bool {
        self.decides && self.having(Verdict::Worse).next().is_some()
    }

    /// The figures of that verdict.
    pub fn having(&self, verdict: Verdict) -> impl Iterator<Item = &Compared> {
        self.figures
            .iter()
            .filter(move |figure| figure.verdict == verdict)
    }
}

fn compared(key: &Key, first: &[f64], second: &[f64], p: f64) -> Compared {
    let effect = stats::shift(first, second).map(|Shift { factor, interval }| Effect {
        change: factor - 1.0,
        interval: interval.map(|(low, high)| (low - 1.0, high - 1.0)),
    });
    // Where a value is 0 there is no quotient of all; where a median is, any change is a large one.
    let change = effect.map_or_else(
        || {
            // Where one measured nothing, there are too few starts for a verdict.
            let medians = stats::median(first).zip(stats::median(second));
            medians.map_or(0.0, |(first, second)| second / first - 1.0)
        },
        |effect| effect.change,
    );
    let more_is_better = key.quantity == Quantity::Throughput;
    let verdict = if first.len().min(second.len()) < FEWEST_STARTS {
        Verdict::TooFew
    } else if p > FALSE_DISCOVERIES || change.abs() < LEAST_EFFECT {
        Verdict::Same
    } else if (change > 0.0) == more_is_better {
        Verdict::Better
    } else {
        Verdict::Worse
    };
    Compared {
        key: key.clone(),
        first: first.to_vec(),
        second: second.to_vec(),
        effect,
        p,
        verdict,
    }
}

/// Whether the figures of a run with these properties decide anything: under TCG they do not.
pub fn decide(properties: &BTreeMap<String, String>) -> bool {
    // That of the default QEMU has no name, that of another is "accelerator NAME".
    let mut accelerators = (properties.iter())
        .filter(|(name, _)| *name == "accelerator" || name.starts_with("accelerator "))
        .peekable();
    accelerators.peek().is_some() && accelerators.all(|(_, value)| value.starts_with("KVM"))
}

/// The values of each figure, one a run.
fn values(runs: &[Results]) -> BTreeMap<Key, Vec<f64>> {
    let mut all: BTreeMap<Key, Vec<f64>> = BTreeMap::new();
    for run in runs {
        let mut of_run: BTreeMap<Key, Vec<f64>> = BTreeMap::new();
        for trial in &run.trials {
            for (key, value) in trial.end.figures.iter().flat_map(|f| of_figure(trial, f)) {
                of_run.entry(key).or_default().push(value);
            }
        }
        for (key, values) in of_run {
            // What one start measured twice is one value still.
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            all.entry(key).or_default().push(mean);
        }
    }
    all
}

fn of_figure(trial: &Trial, figure: &Figure) -> Vec<(Key, f64)> {
    if !figure.alone {
        return Vec::new();
    }
    let name = TrialName {
        qemu: None,
        ..trial.parts().clone()
    };
    let key = |quantity, unit: &str| Key {
        trial: name.to_string(),
        order: (figure.test.clone(), figure.size),
        test: figure.what(),
        quantity,
        unit: unit.to_owned(),
    };
    let throughput = (key(Quantity::Throughput, &figure.unit), figure.value);
    let cost = figure.cost_of_stream();
    let cost = cost.map(|cost| (key(Quantity::Cost, COST_UNIT), cost));
    std::iter::once(throughput).chain(cost).collect()
}
