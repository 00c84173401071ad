//! A run as one HTML page: it opens from a disk, requests nothing, and reads without scripts.
//!
//! [`page`] lays it out; each other module makes one part of it. The style and the script are in the page,
//! and its content security policy lets nothing else run: what a guest said stays text.

mod anchor;
mod earlier;
mod excerpts;
mod figures;
mod findings;
mod grid;
mod page;
mod run;
mod shown;
mod timeline;
mod trials;

pub use earlier::{Band, Earlier, Past, PastNight, figure_key};

use anyhow::{Context, Result};
use run::Run;
use std::path::Path;

/// The page's name in a run's directory.
pub const FILE: &str = "report.html";

/// Writes the page of the run whose event log is `log` to `file`. Artifacts beside `file` are linked.
///
/// # Errors
/// A log that cannot be read; a file that cannot be written.
pub fn write(log: &Path, earlier: &Earlier, file: &Path) -> Result<()> {
    let run = Run::read(log)?;
    let page = page::render(&run, earlier, file.parent());
    crate::out::replace_file(file, &page).with_context(|| {
        format!(
            "cannot write the HTML report {}; choose another place with --html PATH",
            file.display()
        )
    })
}

/// The page of the run whose event log is `log`, without links to files.
///
/// # Errors
/// A log that cannot be read.
pub fn render(log: &Path, earlier: &Earlier) -> Result<String> {
    Ok(page::render(&Run::read(log)?, earlier, None))
}
