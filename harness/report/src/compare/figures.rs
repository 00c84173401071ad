//! Figures that are not what they were. They decide nothing: one start each is too few to say.

use crate::past::{PastFigure, PastRun, facts};

/// What is said of each figure here.
pub const TOO_FEW: &str = "one start each: too few to say";

/// The least change that is reported, as a share of the base's value.
const LEAST: f64 = 0.03;

/// A figure of a trial that is not what it was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FigureChange<'r> {
    /// The trial's name.
    pub trial: &'r str,
    /// The figure before.
    pub base: &'r PastFigure,
    /// The figure now.
    pub head: &'r PastFigure,
    /// Head by base.
    pub ratio: f64,
}

/// The figures that differ by 3 % or more, the most first, and a sentence where none may be compared.
pub fn changes<'r>(
    base: &'r PastRun,
    head: &'r PastRun,
) -> (Vec<FigureChange<'r>>, Option<String>) {
    let mut changes = Vec::new();
    let mut compared = 0;
    for (trial, now) in &head.trials {
        let Some(before) = base.trials.get(trial) else {
            continue;
        };
        for figure in &now.figures {
            let same =
                |other: &&PastFigure| (&other.what, &other.unit) == (&figure.what, &figure.unit);
            let Some(earlier) = before.figures.iter().find(same) else {
                continue;
            };
            compared += 1;
            let ratio = figure.value / earlier.value;
            if ratio.is_finite() && (ratio - 1.0).abs() >= LEAST {
                changes.push(FigureChange {
                    trial,
                    base: earlier,
                    head: figure,
                    ratio,
                });
            }
        }
    }
    if compared > 0 && !facts::is_same_kind_of_host(base, head) {
        let note = "figures are not compared: the hosts are not known to be of the same kind";
        return (Vec::new(), Some(note.into()));
    }
    // Half as much is as far from the same as twice as much.
    let distance = |change: &FigureChange| change.ratio.ln().abs();
    changes.sort_by(|a, b| distance(b).total_cmp(&distance(a)));
    (changes, None)
}
