//! Reading a history, and adding runs to it.

use super::line::{RUN_START, RunLine, TextLine, TrialLine, Version};
use super::{FigureRecord, History, Record, SCHEMA};
use crate::past::{PastRun, PastTrial};
use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

/// What became of a run that was to be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// It was added.
    New,
    /// It was added again, as not all of it was there: it had not been written whole, or was not over yet.
    Again,
    /// It was there already.
    Known,
}

/// Whether `bytes`, the beginning of a file, are a history's.
pub fn is_history(bytes: &[u8]) -> bool {
    bytes.starts_with(RUN_START)
}

/// Reads a history. Its last line is left out where it was cut.
///
/// # Errors
/// A file that cannot be read; a line that is none of a history's; a newer [`SCHEMA`].
pub fn read(path: &Path) -> Result<History> {
    let bytes = std::fs::read(path)
        .with_context(|| format!("cannot read the history {}", path.display()))?;
    of_bytes(&bytes, path)
}

/// As [`read`], of the content of the file at `path`.
///
/// # Errors
/// As [`read`], but for a file that cannot be read.
pub fn of_bytes(bytes: &[u8], path: &Path) -> Result<History> {
    Ok(parse(bytes, path)?.0)
}

/// Adds `runs` that are not there yet, or not as far as they have come since; the file is made where it is
/// missing. Of two processes that add at once, the second waits for the first. A line that was cut is taken
/// away before.
///
/// # Errors
/// As [`read`]; a file that cannot be written.
pub fn add(path: &Path, runs: &[PastRun]) -> Result<Vec<Added>> {
    let what = || format!("cannot add to the history {}", path.display());
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(what)?;
    }
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    let file = options.open(path).with_context(what)?;
    let mut file = Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .with_context(what)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).with_context(what)?;
    let (mut history, end) = parse(&bytes, path)?;
    let mut added = Vec::new();
    let mut text = Vec::new();
    for run in runs {
        let state = match history.night_of(run) {
            Some(night) if night.is_whole() && !night.is_behind(run) => Added::Known,
            Some(_) => Added::Again,
            None => Added::New,
        };
        if state != Added::Known {
            let block = block(&mut history, run)?;
            text.extend(block);
        }
        added.push(state);
    }
    append(&mut file, end, &text).with_context(what)?;
    Ok(added)
}

/// Puts `text` at `end`, where the last whole line ends.
fn append(file: &mut File, end: u64, text: &[u8]) -> std::io::Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    file.set_len(end)?;
    file.seek(SeekFrom::Start(end))?;
    file.write_all(text)?;
    file.sync_data()
}

/// The history, and where its last whole line ends.
fn parse(bytes: &[u8], path: &Path) -> Result<(History, u64)> {
    if !bytes.contains(&b'\n') && !is_history(bytes) && !RUN_START.starts_with(bytes) {
        bail!(
            "{} is no history: it begins with {:?}",
            path.display(),
            String::from_utf8_lossy(&bytes[..bytes.len().min(60)])
        );
    }
    let mut history = History::default();
    let mut end = 0;
    for (index, line) in bytes.split_inclusive(|&b| b == b'\n').enumerate() {
        if !line.ends_with(b"\n") {
            break;
        }
        end += line.len() as u64;
        if let Err(error) = history.take(line) {
            ensure_known(line, path)?;
            bail!(
                "{}:{}: not a line of a history: {error}; the line is: {}",
                path.display(),
                index + 1,
                String::from_utf8_lossy(&line[..line.len().min(200)]).trim_end()
            );
        }
        if line.starts_with(RUN_START) {
            ensure_known(line, path)?;
        }
    }
    Ok((history, end))
}

fn ensure_known(line: &[u8], path: &Path) -> Result<()> {
    match serde_json::from_slice(line) {
        Ok(Version { history }) if history > SCHEMA => bail!(
            "{} has lines of schema {history}, and this version reads up to {SCHEMA}: \
             read it with the version of nicmatrix that wrote it",
            path.display()
        ),
        _ => Ok(()),
    }
}

/// The lines of `run`, which becomes a night of `history`.
pub(super) fn block(history: &mut History, run: &PastRun) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    put(&mut text, &RunLine::of(run))?;
    history.take(&text)?;
    for (name, trial) in &run.trials {
        let mut number = |word: &str| -> Result<u32> {
            let (number, new) = history.number(word);
            if new {
                put(&mut text, &TextLine { text: word.into() })?;
            }
            Ok(number)
        };
        let record = record(name, trial, &mut number)?;
        put(&mut text, &TrialLine::of(&record))?;
        let current = history.current;
        history.nights[current].records.push(record);
    }
    Ok(text)
}

fn record(
    name: &str,
    trial: &PastTrial,
    number: &mut dyn FnMut(&str) -> Result<u32>,
) -> Result<Record> {
    let figures = trial.figures.iter().map(|figure| {
        let (what, unit) = (number(&figure.what)?, number(&figure.unit)?);
        Ok(FigureRecord {
            what,
            unit,
            value: figure.value,
            cost: figure.cost,
        })
    });
    let figures = figures.collect::<Result<Vec<_>>>()?;
    Ok(Record {
        trial: number(name)?,
        verdict: trial.verdict,
        sometimes: trial.sometimes,
        repeats: trial.repeats.map(Box::new),
        cause: match trial.cause.as_str() {
            "" => None,
            cause => Some(number(cause)?),
        },
        seconds: trial.seconds as f32,
        cpu_seconds: trial.cpu_seconds.map(|seconds| seconds as f32),
        figures: figures.into(),
    })
}

fn put(text: &mut Vec<u8>, line: &impl Serialize) -> Result<()> {
    serde_json::to_writer(&mut *text, line)?;
    text.push(b'\n');
    Ok(())
}
