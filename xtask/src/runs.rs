//! The runs that the harness keeps under `target/nicmatrix/runs`.

use crate::Place;
use anyhow::Result;
use report::{Results, log};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// Where they are.
pub fn dir(place: &Place) -> PathBuf {
    place.harness_dir().join("runs")
}

/// Gives `command`'s run a name of its own, and returns its directory: another run in the same
/// checkout is then never read in its place.
pub fn name(command: &mut Command, place: &Place) -> PathBuf {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let name = format!(
        "{}-{}",
        now.unwrap_or_default().as_nanos(),
        std::process::id()
    );
    command.env("NICMATRIX_RUN", &name);
    dir(place).join(name)
}

/// What the run in `directory` came to.
pub fn read(directory: &Path) -> Result<Results> {
    report::read(&directory.join(log::FILE))
}
