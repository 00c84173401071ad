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

/// How deep below a directory runs are looked for: an unpacked artifact has a directory a job, and in it
/// the runs' directory as it was.
const DEPTH: u32 = 5;

/// The directories of runs in and below `directory`, in the order of their names.
///
/// # Errors
/// A directory that is not there, or holds no run.
pub fn below(directory: &Path) -> Result<Vec<PathBuf>> {
    let shown = directory.display();
    if directory.is_file() {
        bail!(BadInput(format!(
            "{shown} is a file, expected a directory; an archive must be unpacked first"
        )));
    }
    if !directory.is_dir() {
        bail!(BadInput(format!("there is no directory {shown}")));
    }
    let mut found = Vec::new();
    collect(directory, DEPTH, &mut found);
    if found.is_empty() {
        bail!(BadInput(format!(
            "{shown} holds no run: there is no {} in it or below it",
            log::FILE
        )));
    }
    Ok(found)
}

fn collect(directory: &Path, depth: u32, found: &mut Vec<PathBuf>) {
    if directory.join(log::FILE).is_file() {
        found.push(directory.to_owned());
        return;
    }
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    // `latest` is a link to one of the others.
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut directories: Vec<PathBuf> = directories.map(|entry| entry.path()).collect();
    directories.sort();
    for directory in directories.iter().filter(|_| depth > 0) {
        collect(directory, depth - 1, found);
    }
}

/// The event log of the one run that the user means by `text`.
///
/// # Errors
/// [`BadInput`]: as [`locate_all`]; several runs.
pub fn locate(workspace: &Workspace, text: &Path) -> Result<PathBuf> {
    let mut all = locate_all(workspace, text)?;
    match (all.pop(), all.is_empty()) {
        (Some(one), true) => Ok(one),
        (last, _) => {
            all.extend(last);
            let names: Vec<String> = (all.iter().filter_map(|log| log.parent()))
                .map(|run| workspace.show(run).to_string())
                .take(SUGGESTIONS)
                .collect();
            bail!(BadInput(format!(
                "{} holds {} runs, name one: {}",
                text.display(),
                all.len(),
                names.join(", ")
            )))
        }
    }
}

/// The event logs of the runs that the user means by `text`: an event log, the name of a kept run, or a
/// directory with runs in or below it.
///
/// # Errors
/// [`BadInput`]: nothing of that name, or no run there.
pub fn locate_all(workspace: &Workspace, text: &Path) -> Result<Vec<PathBuf>> {
    let here = workspace.cwd.join(text);
    let path = if here.exists() {
        here
    } else {
        dir(workspace).join(text)
    };
    if !path.exists() {
        bail!(BadInput(unknown(workspace, text)));
    }
    if path.is_file() {
        if path.extension().is_some_and(|extension| extension == "zip") {
            bail!(BadInput(format!("{}: unpack it first", text.display())));
        }
        return Ok(vec![path]);
    }
    let runs = below(&path)?.into_iter();
    Ok(runs.map(|run| run.join(log::FILE)).collect())
}

/// What the user gave for past runs.
pub enum Past {
    /// One run, or those of a directory.
    Runs(Vec<PastRun>),
    /// A history.
    History(History),
}

/// The past runs that the user means by `text`: what [`locate`] takes, a directory with runs in it, or a history.
pub fn past(workspace: &Workspace, text: &Path) -> Result<Past> {
    let mut logs = locate_all(workspace, text)?;
    if let [log] = &logs[..] {
        let mut begin = [0; 16];
        let length = File::open(log).and_then(|mut file| file.read(&mut begin));
        if file::is_history(&begin[..length.unwrap_or(0)]) {
            return Ok(Past::History(history(log)?));
        }
    } else {
        // A run that was killed at once has an empty log.
        logs.retain(|log| log.metadata().is_ok_and(|log| log.len() > 0));
    }
    let runs = logs.iter().map(|log| past_run(log));
    Ok(Past::Runs(runs.collect::<Result<_>>()?))
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
