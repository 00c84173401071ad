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
pub use run::Run;
use std::path::Path;

/// The page's name in a run's directory.
pub const FILE: &str = "report.html";

/// Writes the page of `run` to `file`. Artifacts beside `file` are linked.
///
/// # Errors
/// A file that cannot be written.
pub fn write(run: &Run, earlier: &Earlier, file: &Path) -> Result<()> {
    let page = page::render(run, earlier, file.parent());
    crate::out::replace_file(file, &page).with_context(|| {
        format!(
            "cannot write the HTML report {}; choose another place with --html PATH",
            file.display()
        )
    })
}

/// The page of `run`, without links to files.
pub fn render(run: &Run, earlier: &Earlier) -> String {
    page::render(run, earlier, None)
}
