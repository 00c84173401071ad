//! How close a run came to the least time that any schedule could take.

use crate::{Results, text};
use std::fmt;

/// The least wall time of a run on so many processors.
#[derive(Debug, Clone, PartialEq)]
pub struct Bound {
    /// Wall time of the run, seconds.
    pub wall: f64,
    /// The bound, seconds: what ran alone, and beside it the longest trial, or the processor time
    /// shared out over all processors.
    pub seconds: f64,
    why: String,
}

impl Bound {
    /// The wall time divided by the bound; 1 cannot be beaten.
    pub fn ratio(&self) -> f64 {
        self.wall / self.seconds
    }
}

impl fmt::Display for Bound {
    /// `wall 312 s, 1.08 x the bound of 289 s (CPU 578 s on 2 processors; longest trial 35 s)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bound { wall, seconds, why } = self;
        let ratio = self.ratio();
        write!(
            f,
            "wall {wall:.0} s, {ratio:.2} x the bound of {seconds:.0} s ({why})"
        )
    }
}

impl Results {
    /// None where it says nothing: one trial, a log of an earlier version, or a run that was cut off,
    /// whose children were not all waited for.
    pub fn bound(&self) -> Option<Bound> {
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
        // Trials that measure run alone, whatever the schedule.
        let seconds_alone: f64 = alone.iter().map(|end| end.seconds).sum();
        let seconds = seconds_alone + longest.max((cpu - of_alone) / processors as f64);
        let mut why = format!(
            "CPU {cpu:.0} s on {}; longest trial {longest:.0} s",
            text::counted(processors, "processor")
        );
        if !alone.is_empty() {
            let count = text::counted(alone.len(), "trial");
            why += &format!("; beside {count} alone, {seconds_alone:.0} s");
        }
        Some(Bound { wall, seconds, why })
    }
}
