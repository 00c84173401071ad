//! The events of a run, and the reports that are made of them.
//!
//! A run leaves `events.jsonl` ([`log`], of [`events`]); every report is made of it alone, at the run's
//! end or long after: [`results`] puts the events in order, and [`junit`], [`markdown`] and [`terminal`]
//! show them; [`html`] is a page for a browser. [`progress`] shows a run while it goes on. [`past`] is what
//! is left of a run that is over: [`history`] keeps many of them in one file, [`compare`] says what became of
//! each trial since, and [`figures`] which of two QEMUs measured more. [`shards`] splits a plan over machines
//! by [`durations`], and [`merge`] joins their runs.

pub mod bound;
pub mod colour;
pub mod compare;
pub mod durations;
pub mod events;
pub mod exit_code;
pub mod expectation;
pub mod figures;
pub mod flags;
mod grid;
mod headline;
pub mod history;
pub mod html;
pub mod identity;
pub mod junit;
pub mod log;
pub mod markdown;
pub mod merge;
pub mod name;
pub mod out;
pub mod past;
pub mod progress;
pub mod repeats;
pub mod results;
pub mod shards;
pub mod signals;
pub mod signature;
mod stats;
pub mod terminal;
pub mod text;
mod trial;
mod tries;
pub mod words;

use anyhow::{Context, Result};
pub use results::{Counts, Results};
use std::path::Path;
pub use trial::Trial;

/// The property of a run that lists its stand-in guests, for example "rhel6, rhel9"; absent where
/// there are none.
pub const STAND_INS: &str = "stand_ins";

/// The property of a run that names the machine it ran on.
pub const HOST: &str = "host";

/// Writes what the caller asks for: the JUnit file, with paths relative to the workspace's `root`,
/// and Markdown at the end of `$GITHUB_STEP_SUMMARY`'s file.
pub fn write_all(
    results: &mut Results,
    junit: Option<&Path>,
    step_summary: Option<&Path>,
    root: &Path,
) -> Result<()> {
    if let Some(path) = junit {
        junit::write(results, path, root)?;
        results.junit = Some(path.to_owned());
    }
    if let Some(path) = step_summary {
        markdown::append(results, path)
            .with_context(|| format!("cannot append the summary to {}", path.display()))?;
    }
    Ok(())
}

/// The results in a run's event log so far.
pub fn read(events_path: &Path) -> Result<Results> {
    Ok(Results::from_events(
        log::read(events_path)?.iter().map(|line| &line.event),
    ))
}

#[cfg(test)]
mod tests;
