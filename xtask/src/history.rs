//! `cargo xtask history`: what became of every trial, night after night.

use crate::{BadInput, Workspace, runs};
use anyhow::{Result, bail};
use report::history::file::{self, Added};
use report::history::{self, History, show};
use report::past::{PastRun, Verdict};
use report::{out, outln, words};
use std::path::PathBuf;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  cargo xtask history add latest
  cargo xtask history show mac_change::e1000e::rhel9::tap
  cargo xtask history flaky
  cargo xtask history slow --file nightly/history.jsonl
  cargo xtask compare target/nicmatrix/history.jsonl latest";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
    /// The history [default: target/nicmatrix/history.jsonl]
    #[arg(long, global = true, value_name = "PATH")]
    file: Option<PathBuf>,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Add runs; a run that is there already is left out
    Add {
        /// Run directories, events.jsonl files, names of kept runs, also `latest`, or directories of runs
        #[arg(required = true, value_name = "RUN")]
        runs: Vec<PathBuf>,
    },
    /// One trial, night by night
    Show {
        /// The trial's full name
        trial: String,
    },
    /// Trials that change between pass and failure, by how often they do
    Flaky,
    /// Trials that became slower, and those that take longest
    Slow {
        /// How many to show of each
        #[arg(long, default_value_t = 20)]
        most: usize,
    },
}

pub fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let path = match &args.file {
        Some(path) => workspace.cwd.join(path),
        None => workspace.harness_dir().join(history::FILE),
    };
    if let Verb::Add { runs } = &args.verb {
        add(workspace, &path, runs)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !path.exists() {
        bail!(BadInput(format!(
            "there is no history {}: `cargo xtask history add latest` begins one",
            workspace.show(&path)
        )));
    }
    let history = runs::history(&path)?;
    match &args.verb {
        Verb::Add { .. } => {}
        Verb::Show { trial } => out::shown(&shown(&history, trial)?),
        Verb::Flaky => out::shown(&show::flaky(&history)),
        Verb::Slow { most } => out::shown(&show::slow(&history, *most)),
    }
    Ok(ExitCode::SUCCESS)
}

fn add(workspace: &Workspace, path: &std::path::Path, given: &[PathBuf]) -> Result<()> {
    let mut all: Vec<PastRun> = Vec::new();
    for text in given {
        all.extend(runs::past_runs(workspace, text)?);
    }
    all.sort_by(|a, b| a.time.total_cmp(&b.time));
    if path.exists() {
        // What is wrong with the file is the user's to mend, and named as such.
        runs::history(path)?;
    }
    let added = file::add(path, &all)?;
    let file = workspace.show(path);
    for (run, added) in all.iter().zip(added) {
        let name = &run.name;
        match added {
            Added::New => outln!("{file}: added {name}: {}", counts(run)),
            Added::Again => {
                outln!(
                    "{file}: added {name} again, as not all of it was there: {}",
                    counts(run)
                );
            }
            Added::Known => outln!("{file}: {name} is there already"),
        }
    }
    Ok(())
}

/// "110 trials, 109 passed, 1 failed".
fn counts(run: &PastRun) -> String {
    let each = Verdict::ALL
        .into_iter()
        .filter_map(|verdict| match run.count(verdict) {
            0 => None,
            n => Some(format!(", {n} {}", verdict.word())),
        });
    let s = if run.trials.len() == 1 { "" } else { "s" };
    format!("{} trial{s}{}", run.trials.len(), each.collect::<String>())
}

/// How many trials are suggested for a name that none has.
const SUGGESTIONS: usize = 3;

fn shown(history: &History, trial: &str) -> Result<String> {
    if let Some(text) = show::trial(history, trial) {
        return Ok(text);
    }
    let trials = history.trials();
    let near = words::alike(trial, trials.iter().copied());
    let near: Vec<&str> = near
        .iter()
        .map(|(_, name)| *name)
        .take(SUGGESTIONS)
        .collect();
    let hint = match near.as_slice() {
        [] => format!("it has {} trials, none of a name like that", trials.len()),
        near => format!("nearest: {}", near.join(", ")),
    };
    bail!(BadInput(format!(
        "the history has no trial `{trial}`; {hint}"
    )))
}
