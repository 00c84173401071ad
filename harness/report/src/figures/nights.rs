//! Figures night after night: whether the latest change is larger than those before.
//!
//! A night has one start of each VM, so that its values cannot be tested against each other. What can be told is
//! how much a figure changes from night to night where nothing happened.

use super::against::{COST_UNIT, LEAST_EFFECT, Quantity};
use crate::past::{PastFigure, PastRun, facts};
use crate::stats;
use serde::Serialize;

/// With fewer earlier nights it is not known yet how much a figure changes.
pub const FEWEST_NIGHTS: usize = 10;
/// So many of the latest changes say what is usual.
const CHANGES: usize = 30;

/// What is said of a figure's latest change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Larger than is usual, for the worse.
    Worse,
    /// Larger than is usual, for the better.
    Better,
    /// There are fewer than [`FEWEST_NIGHTS`].
    Learning,
    /// As large as is usual, or too small for a word.
    Usual,
}

/// A figure of a night, held against the nights before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged<'r> {
    /// The trial's name.
    pub trial: &'r str,
    /// What was measured, as "TCP_STREAM, 16384 bytes, host to guest".
    pub what: &'r str,
    /// What of it.
    pub quantity: Quantity,
    /// Of the values.
    pub unit: &'r str,
    /// The value of the last night before that has one.
    pub before: f64,
    /// The value of the night.
    pub value: f64,
    /// How many nights before have a value.
    pub nights: usize,
    /// The largest change that is usual, as a share of the value before; none while learning.
    pub usual: Option<f64>,
    /// What is said of it.
    pub verdict: Verdict,
}

impl Judged<'_> {
    /// The value by the one before.
    pub fn ratio(&self) -> f64 {
        self.value / self.before
    }
}

/// Every figure of `head` that a night before has as well, in the order of trials. `earlier` are the nights
/// before, the oldest first; those of another kind of host say nothing.
pub fn judge<'r>(head: &'r PastRun, earlier: &[&PastRun]) -> Vec<Judged<'r>> {
    let earlier: Vec<&PastRun> = (earlier.iter().copied())
        .filter(|run| facts::is_same_kind_of_host(run, head))
        .collect();
    let mut all = Vec::new();
    for (trial, record) in &head.trials {
        for figure in &record.figures {
            for quantity in [Quantity::Throughput, Quantity::Cost] {
                let Some(value) = of(figure, quantity) else {
                    continue;
                };
                let values = earlier.iter().filter_map(|run| {
                    let figures = &run.trials.get(trial)?.figures;
                    of(
                        figures.iter().find(|other| other.is_same(figure))?,
                        quantity,
                    )
                });
                let values: Vec<f64> = values.filter(|value| *value > 0.0).collect();
                let Some(&before) = values.last() else {
                    continue;
                };
                let usual = usual(&values);
                all.push(Judged {
                    trial,
                    what: &figure.what,
                    quantity,
                    unit: match quantity {
                        Quantity::Throughput => &figure.unit,
                        Quantity::Cost => COST_UNIT,
                    },
                    before,
                    value,
                    nights: values.len(),
                    usual,
                    verdict: verdict(value / before - 1.0, usual, quantity),
                });
            }
        }
    }
    all
}

fn of(figure: &PastFigure, quantity: Quantity) -> Option<f64> {
    match quantity {
        Quantity::Throughput => Some(figure.value),
        Quantity::Cost => figure.cost,
    }
}

/// The largest change that is usual after these values: the third quartile of the latest changes plus three
/// times their interquartile range, and no less than is worth a word; none of too few values.
fn usual(values: &[f64]) -> Option<f64> {
    let changes: Vec<f64> = (values.windows(2))
        .map(|pair| (pair[1] / pair[0] - 1.0).abs())
        .collect();
    let latest = &changes[changes.len().saturating_sub(CHANGES)..];
    let first = stats::quantile(latest, 0.25)?;
    let third = stats::quantile(latest, 0.75)?;
    (values.len() >= FEWEST_NIGHTS).then(|| (third + 3.0 * (third - first)).max(LEAST_EFFECT))
}

fn verdict(change: f64, usual: Option<f64>, quantity: Quantity) -> Verdict {
    let Some(usual) = usual else {
        return Verdict::Learning;
    };
    let more_is_better = quantity == Quantity::Throughput;
    match change.abs() > usual {
        false => Verdict::Usual,
        true if (change > 0.0) == more_is_better => Verdict::Better,
        true => Verdict::Worse,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::past::sample::Sample;

    const CELL: &str = "netperf::virtio::rhel9::vhost";

    /// A night on which the figure was that, and what it cost, processor seconds.
    fn night(number: u32, value: f64, cpu_seconds: f64) -> Sample {
        let mut night = Sample::night(number).measured(CELL, 16384, value);
        night.of(CELL, "", |end| {
            end.figures[0].cpu_seconds = Some(cpu_seconds);
            end.figures[0].received_bytes = 1 << 30;
        });
        night
    }

    /// Nights whose changes are 2 % at most, so that less than 5 % is usual.
    fn nights(count: u32) -> Vec<PastRun> {
        let values = [1000.0, 1010.0, 990.0, 1000.0];
        let of = |number: u32| night(number, values[number as usize % 4], 4.0).run();
        (1..=count).map(of).collect()
    }

    fn judged(earlier: &[PastRun], head: &PastRun) -> [(Quantity, Verdict); 2] {
        let earlier: Vec<&PastRun> = earlier.iter().collect();
        let all = judge(head, &earlier);
        [0, 1].map(|index| (all[index].quantity, all[index].verdict))
    }

    #[test]
    fn the_bound_is_that_of_the_rule() {
        let values = |changes: &[f64]| {
            let mut values = vec![1000.0];
            for change in changes {
                values.push(values[values.len() - 1] * (1.0 + change));
            }
            values
        };
        // Quartiles of 1, 2, … 9 % are 3 and 7 %.
        let nine: Vec<f64> = (1..=9).map(|n| f64::from(n) / 100.0).collect();
        let bound = usual(&values(&nine)).unwrap();
        assert!((bound - (0.07 + 3.0 * 0.04)).abs() < 1e-9, "{bound}");
        assert_eq!(usual(&values(&nine[..8])), None, "nine nights");
        // Of 31 changes the first does not count; without a change at all, what is worth a word does.
        let mut still = vec![9.0];
        still.extend([0.0; 30]);
        assert_eq!(usual(&values(&still)), Some(LEAST_EFFECT));
    }

    #[test]
    fn a_rate_limit_is_found_and_the_usual_is_not() {
        let (usual, worse) = (Verdict::Usual, Verdict::Worse);
        for (value, cpu_seconds, throughput, cost) in [
            (800.0, 4.0, worse, usual),
            (1030.0, 4.1, usual, usual),
            (1300.0, 3.0, Verdict::Better, Verdict::Better),
            (1000.0, 5.0, usual, worse),
        ] {
            let head = night(31, value, cpu_seconds).run();
            let expected = [(Quantity::Throughput, throughput), (Quantity::Cost, cost)];
            assert_eq!(
                judged(&nights(30), &head),
                expected,
                "{value}, {cpu_seconds}"
            );
        }
        for number in 10..30 {
            let all = nights(number + 1);
            let (head, earlier) = all.split_last().unwrap();
            let expected = [(Quantity::Throughput, usual), (Quantity::Cost, usual)];
            assert_eq!(
                judged(earlier, head),
                expected,
                "night {number} of the same QEMU"
            );
        }
    }

    #[test]
    fn under_ten_nights_of_the_same_kind_of_host_it_is_learning() {
        let head = night(31, 800.0, 9.0).run();
        let learning = [Quantity::Throughput, Quantity::Cost].map(|q| (q, Verdict::Learning));
        assert_eq!(judged(&nights(9), &head), learning);
        assert_eq!(judged(&nights(10), &head)[0].1, Verdict::Worse);
        let mut other = nights(10);
        for run in &mut other {
            run.identity.as_mut().unwrap().host.cores = 64;
        }
        let refs: Vec<&PastRun> = other.iter().collect();
        assert_eq!(judge(&head, &refs), [], "another kind of host");
        let mut beside = night(31, 800.0, 9.0);
        beside.of(CELL, "", |end| end.figures[0].alone = false);
        let all = nights(10);
        assert_eq!(judge(&beside.run(), &all.iter().collect::<Vec<_>>()), []);
    }
}
