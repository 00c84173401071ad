//! The runs that the harness keeps under `target/nicmatrix/runs`.

use crate::{BadInput, Workspace};
use anyhow::{Result, bail};
use report::history::{History, file};
use report::past::PastRun;
use report::words;
use report::{Results, log};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// The directory of the kept runs.
pub fn dir(workspace: &Workspace) -> PathBuf {
    workspace.harness_dir().join("runs")
}

/// Gives `command`'s run a name of its own, and returns its directory: another run in the same
/// checkout is then never read in its place.
pub fn name(command: &mut Command, workspace: &Workspace) -> PathBuf {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let name = format!(
        "{}-{}",
        now.unwrap_or_default().as_nanos(),
        std::process::id()
    );
    command.env("NICMATRIX_RUN", &name);
    dir(workspace).join(name)
}

/// The results of the run in `directory`.
pub fn read(directory: &Path) -> Result<Results> {
    report::read(&directory.join(log::FILE))
}

/// The results of the run that the user means by `text`: a directory, an event log, or the name of a kept run.
pub fn find(workspace: &Workspace, text: &Path) -> Result<Results> {
    let log = find_log(workspace, text)?;
    report::read(&log).map_err(|error| BadInput(format!("{error:#}")).into())
}

/// The event log of the run that the user means by `text`.
pub fn find_log(workspace: &Workspace, text: &Path) -> Result<PathBuf> {
    let path = place(workspace, text)?;
    Ok(match path.is_dir() {
        true => path.join(log::FILE),
        false => path,
    })
}

/// The file or directory that the user means by `text`, or the kept run of that name.
fn place(workspace: &Workspace, text: &Path) -> Result<PathBuf> {
    let here = workspace.cwd.join(text);
    let path = if here.exists() {
        here
    } else {
        dir(workspace).join(text)
    };
    match path.exists() {
        true => Ok(path),
        false => bail!(BadInput(unknown(workspace, text))),
    }
}

/// What the user gave for past runs.
pub enum Past {
    /// One run, or those of a directory.
    Runs(Vec<PastRun>),
    /// A history.
    History(History),
}

/// The past runs that the user means by `text`: what [`find`] takes, a directory with runs in it, or a history.
pub fn past(workspace: &Workspace, text: &Path) -> Result<Past> {
    let path = place(workspace, text)?;
    if path.is_file() {
        let mut begin = [0; 16];
        let length = File::open(&path).and_then(|mut file| file.read(&mut begin));
        if file::is_history(&begin[..length.unwrap_or(0)]) {
            return Ok(Past::History(history(&path)?));
        }
        return Ok(Past::Runs(vec![past_run(&path)?]));
    }
    if path.join(log::FILE).exists() {
        return Ok(Past::Runs(vec![past_run(&path.join(log::FILE))?]));
    }
    let mut logs = Vec::new();
    logs_below(&path, DEPTH, &mut logs);
    // A run that was killed at once has an empty log.
    logs.retain(|log| log.metadata().is_ok_and(|log| log.len() > 0));
    if logs.is_empty() {
        bail!(BadInput(format!(
            "{} has no {}, and no directory in it has one: no run is there",
            workspace.show(&path),
            log::FILE
        )));
    }
    Ok(Past::Runs(
        logs.iter()
            .map(|log| past_run(log))
            .collect::<Result<_>>()?,
    ))
}

/// The runs that the user means by `text`, which is no history.
pub fn past_runs(workspace: &Workspace, text: &Path) -> Result<Vec<PastRun>> {
    match past(workspace, text)? {
        Past::Runs(runs) => Ok(runs),
        Past::History(_) => bail!(BadInput(format!(
            "{} is a history, where a run is asked for: a run's directory, an {}, a run's name, or a \
             directory of runs",
            text.display(),
            log::FILE
        ))),
    }
}

/// Reads a history that the user gave.
pub fn history(path: &Path) -> Result<History> {
    file::read(path).map_err(|error| BadInput(format!("{error:#}")).into())
}

/// So deep runs are looked for: artifacts of several jobs have a directory each, and runs in it.
const DEPTH: usize = 3;

fn logs_below(dir: &Path, depth: usize, logs: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        // `latest` is a link to a run that is there by its own name.
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let log = entry.path().join(log::FILE);
        match log.exists() {
            true => logs.push(log),
            false if depth > 1 => logs_below(&entry.path(), depth - 1, logs),
            false => {}
        }
    }
}

/// The run of an event log; it has the name of the log's directory.
fn past_run(path: &Path) -> Result<PastRun> {
    let lines = log::read(path).map_err(|error| BadInput(format!("{error:#}")))?;
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = real.parent().and_then(Path::file_name).unwrap_or_default();
    let run = PastRun::from_lines(&name.to_string_lossy(), &lines);
    run.ok_or_else(|| {
        let path = path.display();
        BadInput(format!(
            "{path} has no run: its first event, run_started, is missing"
        ))
        .into()
    })
}

/// How many suggestions are made.
const SUGGESTIONS: usize = 3;

fn unknown(workspace: &Workspace, text: &Path) -> String {
    let text = text.to_string_lossy();
    let dir = dir(workspace);
    let names = names(&dir);
    let near = words::alike(&text, names.iter().map(String::as_str));
    let near: Vec<&str> = near
        .into_iter()
        .map(|(_, name)| name)
        .take(SUGGESTIONS)
        .collect();
    let hint = match (&near[..], &names[..]) {
        ([], []) => "no run is kept there".to_owned(),
        ([], names) => format!("kept are: {}", names.join(", ")),
        (near, _) => format!("nearest: {}", near.join(", ")),
    };
    format!(
        "there is no file or directory {text}, and no run of that name in {}; {hint}",
        workspace.show(&dir)
    )
}

/// The names of the kept runs, the newest first, and `latest`.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().join(log::FILE).exists())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort_by(|a, b| b.cmp(a));
    names
}
