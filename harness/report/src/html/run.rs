//! A run with what only its page shows: when each trial ran, and where the artifacts are.

use crate::events::{Event, Line};
use crate::identity::Identity;
use crate::past::date;
use crate::text::clean;
use crate::{Results, Trial};
use std::collections::HashMap;
use std::path::PathBuf;

/// A run, read for its page.
pub struct Run {
    /// How it went.
    pub results: Results,
    /// That of each process that wrote the log, each once.
    pub(super) identities: Vec<Identity>,
    /// When trials ran, by name. A trial of several tries has the last one's.
    spans: HashMap<String, Span>,
    /// The time of the first and the last line.
    pub(super) times: Option<(f64, f64)>,
    /// The log's directory.
    pub(super) dir: PathBuf,
}

/// When a trial ran, seconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Span {
    pub begin: f64,
    /// None where it was cut off.
    pub end: Option<f64>,
}

impl Run {
    /// The run whose event log has these lines and lies in `dir`.
    pub fn new(lines: &[Line], dir: PathBuf) -> Run {
        let mut spans = HashMap::new();
        let mut identities = Vec::new();
        for Line { event, time } in lines {
            match (event, time) {
                (Event::RunStarted { identity, .. }, _) => {
                    let new = identity.as_deref().filter(|i| !identities.contains(*i));
                    identities.extend(new.cloned());
                }
                (Event::TrialStarted { trial, .. }, Some(begin)) => {
                    let (begin, end) = (*begin, None);
                    spans.insert(clean(trial), Span { begin, end });
                }
                (Event::TrialEnded(end), Some(time)) => {
                    if let Some(span) = spans.get_mut(&clean(&end.trial)) {
                        span.end = Some(*time);
                    }
                }
                _ => {}
            }
        }
        let times = lines.iter().filter_map(|line| line.time);
        let (first, last) = (times.clone().reduce(f64::min), times.reduce(f64::max));
        Run {
            results: Results::from_events(lines.iter().map(|line| &line.event)),
            identities,
            spans,
            times: first.zip(last),
            dir,
        }
    }

    /// When the trial ran, where the log tells.
    pub(super) fn span(&self, trial: &Trial) -> Option<Span> {
        self.spans.get(trial.name()).copied()
    }
}

/// "2026-11-26 03:05 UTC".
pub fn date(unix_time: u64) -> String {
    date::minute(unix_time as f64) + " UTC"
}
