//! `cargo xtask compare`: what became of each trial since an earlier run.

use crate::Workspace;
use crate::runs::{self, Past};
use anyhow::{Context, Result};
use clap::ValueEnum;
use report::compare::{Comparison, Pick, Sides, json, markdown, terminal};
use report::out;
use report::past::PastRun;
use report::words::OneOf;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  cargo xtask compare 20261125T222259Z-7263 latest
  cargo xtask compare target/nicmatrix/runs latest         the nearest earlier run of that profile
  cargo xtask compare target/nicmatrix/history.jsonl latest    and since when it is red, what flips
  cargo xtask compare base/ head/ --format markdown -o summary.md     directories of shards

Exit codes: 0 nothing is worse, 1 something is, 2 bad input, 3 the runs cannot be compared, or trials
that BASE judged have no verdict in HEAD. docs/compare.md says what counts as worse.";

/// So many nights of a history are looked at.
const NIGHTS: usize = 60;

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What to compare with: a run's directory, an events.jsonl, a run's name under
    /// target/nicmatrix/runs, also `latest`, a directory of runs, or a history
    base: PathBuf,
    /// What to judge: a run, or a directory of a run's shards
    head: PathBuf,
    /// How to show it
    #[arg(long, value_parser = OneOf::<Format>::new(), default_value = "terminal")]
    format: Format,
    /// Write it there; `-` is stdout
    #[arg(short, long, value_name = "PATH", default_value = "-")]
    output: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Terminal,
    Markdown,
    Json,
}

/// Compares, and says by the exit code what it comes to.
pub fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let head = runs::past_runs(workspace, &args.head)?;
    let (base, pick) = base(workspace, &args.base, &head)?;
    let sides = Sides::choose(base, pick, head)?;
    let comparison = Comparison::new(&sides);
    let to_stdout = args.output == Path::new("-");
    let text = match args.format {
        Format::Terminal if to_stdout => {
            terminal::print(&comparison);
            return Ok(ExitCode::from(comparison.conclusion().exit_code()));
        }
        Format::Terminal => terminal::render(&comparison, false),
        Format::Markdown => markdown::render(&comparison),
        Format::Json => json::render(&comparison),
    };
    if to_stdout && args.format == Format::Json {
        out::json(&text);
    } else if to_stdout {
        out::text(&text);
    } else {
        std::fs::write(workspace.cwd.join(&args.output), text)
            .with_context(|| format!("cannot write the comparison {}", args.output.display()))?;
    }
    Ok(ExitCode::from(comparison.conclusion().exit_code()))
}

/// The runs that may be compared with. Of a history only those are read whole that the head may be compared
/// with; where there are none, all are returned without their trials, for the error to name them.
fn base(workspace: &Workspace, text: &Path, head: &[PastRun]) -> Result<(Vec<PastRun>, Pick)> {
    let history = match runs::past(workspace, text)? {
        Past::Runs(runs) if runs.len() == 1 => return Ok((runs, Pick::TheOne)),
        Past::Runs(runs) => return Ok((runs, Pick::NearestBefore)),
        Past::History(history) => history,
    };
    let newest = head.iter().max_by(|a, b| a.time.total_cmp(&b.time));
    let fits =
        |run: &PastRun| newest.is_some_and(|newest| run.time < newest.time && run.is_like(newest));
    let mut runs = history.runs(NIGHTS, fits);
    if runs.is_empty() {
        runs = history.nights().map(|night| night.run.clone()).collect();
    }
    Ok((runs, Pick::NearestBefore))
}
