//! `cargo xtask report`: the reports of a kept run, made again of its events.

use crate::{BadInput, Workspace, runs};
use anyhow::{Context, Result, ensure};
use report::events::Line;
use report::history;
use report::html::{self, Earlier};
use report::{Results, junit, log, markdown, out, terminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  cargo xtask report latest                           the summary of the last run
  cargo xtask report 20261125T222259Z-7263 --junit junit.xml --markdown summary.md
  cargo xtask report latest --html report.html        for a browser; the run's directory has one already
  cargo xtask report latest --html report.html --history nightly/history.jsonl
  cargo xtask report ~/Downloads/events.jsonl --markdown -";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A run's directory, an events.jsonl, or a run's name under target/nicmatrix/runs, also `latest`
    run: PathBuf,
    /// Write JUnit XML there; `-` is stdout
    #[arg(long, value_name = "PATH")]
    junit: Option<PathBuf>,
    /// Write Markdown there; `-` is stdout
    #[arg(long, value_name = "PATH")]
    markdown: Option<PathBuf>,
    /// Write a page for a browser there; `-` is stdout
    #[arg(long, value_name = "PATH")]
    html: Option<PathBuf>,
    /// The history that the page tells of: each trial's earlier nights, since when it is red, what is usual of
    /// a figure [default: target/nicmatrix/history.jsonl, where it is there]
    #[arg(long, value_name = "FILE", requires = "html")]
    history: Option<PathBuf>,
}

/// Renders what is asked for; without a path, the summary on stdout.
pub fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let log = runs::locate(workspace, &args.run)?;
    let lines = log::read(&log).map_err(|error| BadInput(format!("{error:#}")))?;
    let dir = log.parent().unwrap_or(Path::new("")).to_owned();
    let run = html::Run::new(&lines, dir);
    let results = &run.results;
    if args.junit.is_none() && args.markdown.is_none() && args.html.is_none() {
        terminal::print(results);
    }
    if let Some(path) = &args.junit {
        to_junit(workspace, results, path)?;
    }
    if let Some(path) = &args.markdown {
        to_markdown(workspace, results, path)?;
    }
    if let Some(path) = &args.html {
        to_html(workspace, &run, &earlier(workspace, &lines, args)?, path)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

fn to_junit(workspace: &Workspace, results: &Results, path: &Path) -> Result<()> {
    if is_stdout(path) {
        out::text(&junit::render(results, &workspace.root)?);
        return Ok(());
    }
    junit::write(results, &workspace.cwd.join(path), &workspace.root)
}

fn to_markdown(workspace: &Workspace, results: &Results, path: &Path) -> Result<()> {
    let text = markdown::render(results);
    if is_stdout(path) {
        out::text(&text);
        return Ok(());
    }
    std::fs::write(workspace.cwd.join(path), text)
        .with_context(|| format!("cannot write the Markdown report {}", path.display()))
}

fn earlier(workspace: &Workspace, lines: &[Line], args: &Args) -> Result<Earlier> {
    let bad_input = |text: String| anyhow::Error::from(BadInput(text));
    let history = match &args.history {
        Some(given) => {
            let path = workspace.cwd.join(given);
            let missing = || bad_input(format!("there is no history {}", given.display()));
            ensure!(path.is_file(), missing());
            path
        }
        None => workspace.harness_dir().join(history::FILE),
    };
    Earlier::read(&history, lines).map_err(|error| bad_input(format!("{error:#}")))
}

fn to_html(workspace: &Workspace, run: &html::Run, earlier: &Earlier, path: &Path) -> Result<()> {
    if is_stdout(path) {
        out::text(&html::render(run, earlier));
        return Ok(());
    }
    html::write(run, earlier, &workspace.cwd.join(path))
}
