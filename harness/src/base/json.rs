//! Small JSON files that several processes write and read at once.

use anyhow::Result;
use serde::Serialize;
use std::path::Path;

/// Writes `value` to `file`, whose directory is made where it is missing; whole or not at all.
///
/// # Errors
/// When the directory or the file cannot be written.
pub fn write_whole(file: &Path, value: &impl Serialize) -> Result<()> {
    let directory = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    let new = tempfile::NamedTempFile::new_in(directory)?;
    serde_json::to_writer_pretty(&new, value)?;
    new.persist(file)?;
    Ok(())
}
