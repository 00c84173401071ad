//! The event log of a run: `events.jsonl`, appended to while the run goes on, and read after it or
//! meanwhile.

use crate::events::{Event, Line, SCHEMA};
use crate::name::TrialName;
use crate::out;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The event log's name in a run's directory.
pub const FILE: &str = "events.jsonl";

/// The open `events.jsonl` of a run. Threads may share one, and processes may each have their own
/// on the same file.
#[derive(Debug)]
pub struct EventLog {
    file: File,
    path: PathBuf,
    /// The time of day when it was opened, and since when the time of each event is counted from there: a clock
    /// that is set meanwhile puts no event before its cause.
    opened: (f64, Instant),
    /// Whether each line goes to stdout as well.
    echo: bool,
}

impl EventLog {
    /// Opens [`FILE`] in `dir`; the file is made where it is missing.
    ///
    /// # Errors
    /// A directory that cannot be written to.
    pub fn create(dir: &Path) -> io::Result<EventLog> {
        let path = dir.join(FILE);
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        Ok(EventLog {
            file,
            path,
            opened: (now(), Instant::now()),
            echo: false,
        })
    }

    /// With each line on stdout as well, where `echo` is set.
    #[must_use]
    pub fn with_echo(self, echo: bool) -> EventLog {
        EventLog { echo, ..self }
    }

    /// Adds one line, by one write(2): lines of several processes do not mix, and what was
    /// appended outlives a SIGKILL.
    ///
    /// # Errors
    /// A line that was not written, or not all of it.
    pub fn append(&self, event: &Event) -> io::Result<()> {
        let (opened, since) = self.opened;
        let time = ((opened + since.elapsed().as_secs_f64()) * 1000.0).round() / 1000.0;
        let mut line = serde_json::to_vec(&Stamped { event, time })?;
        line.push(b'\n');
        if self.echo {
            out::json(&String::from_utf8_lossy(&line));
        }
        // A file takes less than all of it only where the disk is full.
        match (&self.file).write(&line)? {
            written if written < line.len() => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    /// Where the log is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A [`Line`] to be written.
#[derive(Serialize)]
struct Stamped<'e> {
    #[serde(flatten)]
    event: &'e Event,
    time: f64,
}

/// Seconds since the epoch, to the millisecond.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_millis() as f64 / 1000.0)
}

/// How every line begins. It cannot occur inside a JSON string, whose quotes are escaped.
const LINE_START: &[u8] = b"{\"event\":";

/// Reads an event log.
///
/// A last line that was cut is left out: its writer was killed. So is the beginning of a line
/// that another process's line follows directly, for the same reason. Any other line that is no
/// event is an error that names it. Fields and kinds of events that this version does not know are
/// passed over.
///
/// # Errors
/// A file that cannot be read; a line that is not an event; a log whose schema is newer than [`SCHEMA`].
pub fn read(path: &Path) -> Result<Vec<Line>> {
    let bytes = std::fs::read(path)
        .with_context(|| format!("cannot read events from {}", path.display()))?;
    let mut lines: Vec<Line> = Vec::new();
    for (index, line) in bytes.split_inclusive(|&b| b == b'\n').enumerate() {
        let cut = !line.ends_with(b"\n");
        let last_start = line
            .windows(LINE_START.len())
            .rposition(|window| window == LINE_START);
        let read = serde_json::from_slice::<Line>(line).or_else(|error| match last_start {
            Some(start) if start > 0 => serde_json::from_slice(&line[start..]),
            _ => Err(error),
        });
        match read {
            Ok(line) => {
                if let Event::RunStarted { schema, .. } = line.event {
                    ensure_known(schema, path)?;
                }
                lines.push(line);
            }
            Err(_) if cut => {}
            Err(error) => {
                // A newer `run_started` may have lost a field that this version needs.
                if let Ok(Version { schema }) = serde_json::from_slice(line) {
                    ensure_known(schema, path)?;
                }
                bail!(
                    "{}:{}: not an event: {error}; the line is: {}",
                    path.display(),
                    index + 1,
                    String::from_utf8_lossy(&line[..line.len().min(200)])
                )
            }
        }
    }
    let mut written_by = 0;
    for Line { event, .. } in &mut lines {
        if let Event::RunStarted { schema, .. } = event {
            written_by = *schema;
        }
        // Before schema 1 only `planned` had the parts of the name, and its `case` had variant and fault.
        if let (0, Some((trial, name))) = (written_by, event.trial_mut()) {
            *name = TrialName::parse_or_case(trial);
        }
    }
    Ok(lines)
}

/// What every version's `run_started` has.
#[derive(Deserialize)]
struct Version {
    schema: u32,
}

fn ensure_known(schema: u32, path: &Path) -> Result<()> {
    ensure!(
        schema <= SCHEMA,
        "{} has events of schema {schema}, and this version reads up to {SCHEMA}: \
         read it with the version of nicmatrix that wrote it",
        path.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests;
