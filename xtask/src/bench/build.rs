//! How long the harness takes to build where nothing is built.

use super::Figure;
use crate::{Workspace, child};
use anyhow::{Context as _, Result};
use nix::sys::resource::{Usage, UsageWho, getrusage};
use report::errln;
use std::time::Instant;

/// Builds the harness in a directory of its own, with what was downloaded already; how long it took, and how
/// much of the processors.
pub fn from_nothing(workspace: &Workspace) -> Result<Vec<Figure>> {
    errln!("building the harness from nothing");
    let target = tempfile::tempdir().context("cannot make a directory to build in")?;
    let mut cargo = child::cargo(&workspace.root);
    cargo
        .args(["build", "--quiet", "--package", "harness"])
        .env("CARGO_TARGET_DIR", target.path());
    let before = of_children()?;
    let begun = Instant::now();
    child::check("building the harness", &mut cargo)?;
    let seconds = begun.elapsed().as_secs_f64();
    let spent = of_children()? - before;
    Ok(vec![
        Figure::of("cargo build from nothing", "s", vec![seconds])?.at_most(60.0),
        Figure::of("  of it, processor time", "s", vec![spent])?,
    ])
}

/// User and system time of the children that have ended, seconds.
fn of_children() -> Result<f64> {
    let usage =
        getrusage(UsageWho::RUSAGE_CHILDREN).context("cannot ask for the children's time")?;
    let seconds = |usage: &Usage| {
        [usage.user_time(), usage.system_time()]
            .iter()
            .map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6)
            .sum()
    };
    Ok(seconds(&usage))
}
