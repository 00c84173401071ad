//! What earlier nights tell of a run's trials and figures, as far as the page shows it.

use crate::events::Figure;
use crate::html::shown::Shown;
use maud::{Markup, html};
use std::collections::HashMap;

/// What earlier nights tell; empty where there is no history.
#[derive(Debug, Clone, Default)]
pub struct Earlier {
    /// By the trial's full name.
    pub past: HashMap<String, Past>,
    /// By [`figure_key`].
    pub bands: HashMap<String, Band>,
}

/// A trial's earlier nights.
#[derive(Debug, Clone, Default)]
pub struct Past {
    /// The oldest first.
    pub nights: Vec<PastNight>,
}

/// How a trial ended in an earlier night.
#[derive(Debug, Clone)]
pub struct PastNight {
    /// When the night's run began, seconds since the epoch.
    pub unix_time: u64,
    /// The verdict's word in the events, for example "passed".
    pub verdict: String,
}

/// The values that a figure had in earlier nights; all in the figure's unit.
#[derive(Debug, Clone, Copy)]
pub struct Band {
    /// Below it a value is unusual.
    pub low: f64,
    /// The median.
    pub middle: f64,
    /// Above it a value is unusual.
    pub high: f64,
    /// How many nights it is made of.
    pub nights: usize,
}

/// By what a trial's figure is known from night to night: all of it but what was measured.
pub fn figure_key(trial: &str, figure: &Figure) -> String {
    format!("{trial} {}", what(figure))
}

/// What a figure measures: "UDP_STREAM, 1024 bytes, host to guest".
pub(super) fn what(figure: &Figure) -> String {
    let mut what = figure.test.clone();
    if let Some(size) = figure.size {
        what += &format!(", {size} bytes");
    }
    if let Some((request, response)) = figure.transaction {
        what += &format!(", {request} and {response} bytes");
    }
    what + &format!(", {} to {}", figure.sender, figure.receiver)
}

/// How many nights a strip shows, the last ones.
const NIGHTS: usize = 30;

/// A letter for a verdict.
fn letter(verdict: &str) -> char {
    match verdict {
        "passed" => '·',
        "failed" => 'F',
        "broken" => 'B',
        "flaky" => 'f',
        "known" => 'k',
        "skipped" => 's',
        "interrupted" => 'c',
        _ => '?',
    }
}

/// What [`letter`]'s letters mean.
pub(super) const LEGEND: &str = "A letter a night, the last night on the right: · passed, F failed, f flaky, \
                                 B broken, k known, s skipped, c cut off.";

impl Past {
    fn shown(&self) -> &[PastNight] {
        &self.nights[self.nights.len().saturating_sub(NIGHTS)..]
    }

    /// A letter a night.
    pub(super) fn letters(&self) -> String {
        self.shown().iter().map(|n| letter(&n.verdict)).collect()
    }

    /// The strip with colours, a day for each letter, and a sentence.
    pub(super) fn strip(&self) -> Markup {
        let shown = self.shown();
        let red = shown.iter().filter(|n| letter(&n.verdict) == 'F').count();
        let nights = crate::text::counted(shown.len(), "earlier night");
        html! {
            p.past {
                span.strip {
                    @for night in shown {
                        @let letter = letter(&night.verdict).to_string();
                        span class=[class(&night.verdict)]
                            title=(format!("{}: {}", super::run::date(night.unix_time), super::shown::plain(&night.verdict))) {
                            (Shown(&letter))
                        }
                    }
                }
                " " (nights) ", failed in " (red)
            }
        }
    }
}

/// The style's class of a verdict; what this version does not know has none.
fn class(verdict: &str) -> Option<&'static str> {
    let known = [
        "passed",
        "failed",
        "broken",
        "flaky",
        "known",
        "skipped",
        "interrupted",
    ];
    known.into_iter().find(|known| *known == verdict)
}
