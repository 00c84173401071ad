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
use tempfile::TempDir;

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

/// An archive of the matrix, and a checkout beside it.
pub struct Archive {
    elsewhere: TempDir,
}

impl Archive {
    /// Of this workspace, with what is built of it.
    pub fn new(workspace: &Workspace) -> Result<Archive> {
        let archive = Archive {
            elsewhere: tempfile::tempdir()?,
        };
        copy_read(&workspace.root, &archive.checkout())?;
        let mut make = child::cargo(&workspace.root);
        make.args(["nextest", "archive", "--package", "harness"])
            .args(["--test", "matrix", "--archive-file"])
            .arg(archive.file());
        child::check("`cargo nextest archive`", &mut make)?;
        Ok(archive)
    }

    /// Runs the trials of `part`.
    pub fn run(&self, workspace: &Workspace, mut flags: Flags, part: &Results) -> Result<Results> {
        let checkout = self.checkout();
        let mut command = Command::new(program()?);
        command
            .args(["nextest", "run", "--archive-file"])
            .arg(self.file());
        command.arg("--workspace-remap").arg(&checkout);
        let names = part.trials.iter().map(|t| format!("test(={})", t.name()));
        command.args(["-E", &names.collect::<Vec<_>>().join(" or ")]);
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

    fn file(&self) -> PathBuf {
        self.elsewhere.path().join("nicmatrix.tar.zst")
    }

    fn checkout(&self) -> PathBuf {
        self.elsewhere.path().join("checkout")
    }
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
