//! The matrix under nextest as a machine without a toolchain runs it: from an archive, in a checkout of its
//! own (docs/shards.md).

use super::finished;
use super::tally::Tally;
use crate::settings::hand_over;
use crate::{Workspace, child};
use anyhow::{Context, Result, ensure};
use report::Results;
use report::flags::Flags;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where programs are that do not build: no cargo, no rustc, unless the distribution's.
const NO_TOOLCHAIN: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is read of a checkout where nothing is built.
const READ: [&str; 4] = [
    "Cargo.toml",
    "matrix.toml",
    ".config/nextest.toml",
    // The tests' working directory is beside it.
    "harness/Cargo.toml",
];

/// Runs the trials of `part`, all where it is None.
pub fn run(workspace: &Workspace, mut flags: Flags, part: Option<&Results>) -> Result<Results> {
    let elsewhere = tempfile::tempdir()?;
    let archive = elsewhere.path().join("nicmatrix.tar.zst");
    let checkout = elsewhere.path().join("checkout");
    copy_read(&workspace.root, &checkout)?;
    child::check(
        "`cargo nextest archive`",
        child::cargo(&workspace.root)
            .args([
                "nextest",
                "archive",
                "--package",
                "harness",
                "--test",
                "matrix",
            ])
            .arg("--archive-file")
            .arg(&archive),
    )?;

    let mut command = Command::new(program()?);
    command
        .args(["nextest", "run", "--archive-file"])
        .arg(&archive);
    command.arg("--workspace-remap").arg(&checkout);
    if let Some(part) = part {
        let names = part.trials.iter().map(|t| format!("test(={})", t.name()));
        command.args(["-E", &names.collect::<Vec<_>>().join(" or ")]);
    }
    // Images and checkpoints are this machine's, whichever checkout runs on it.
    flags.output.dir = Some(workspace.harness_dir());
    let matrix = flags.conditions.matrix.take();
    flags.conditions.matrix = matrix.map(|file| workspace.root.join(file));
    hand_over(&mut command, workspace, &flags)?;
    command.current_dir(&checkout).env("PATH", NO_TOOLCHAIN);
    let (run, success) = finished(workspace, &mut command)?;
    let reds = Tally::of(&run).failed;
    ensure!(
        success == (reds == 0),
        "nextest says {}, but {reds} of its trials are recorded as not passed",
        if success { "all passed" } else { "some failed" },
    );
    Ok(run)
}

/// The program of nextest, by its full path: the PATH that it is run with may not have it.
fn program() -> Result<PathBuf> {
    let places = std::env::var_os("PATH").unwrap_or_default();
    let cargo_home = std::env::var_os("CARGO_HOME").map(|home| Path::new(&home).join("bin"));
    let places = std::env::split_paths(&places).chain(cargo_home);
    let mut programs = places.map(|place| place.join("cargo-nextest"));
    let found = programs.find(|program| program.is_file());
    found.context("`cargo nextest` runs, but no cargo-nextest is on PATH or in CARGO_HOME/bin")
}

/// Copies what is read of a checkout.
fn copy_read(from: &Path, to: &Path) -> Result<()> {
    for name in READ {
        let (source, target) = (from.join(name), to.join(name));
        if let Some(folder) = target.parent() {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        std::fs::copy(&source, &target)
            .with_context(|| format!("cannot copy {} to {}", source.display(), target.display()))?;
    }
    Ok(())
}
