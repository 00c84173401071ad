//! Files that must be as they were written: by their digest, which is not taken again while nobody has touched
//! them.

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// A file as it was when it was written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sealed {
    /// Its path in the directory that it was sealed in.
    pub name: String,
    /// None where no copy of it is ever used.
    sha256: Option<String>,
    stamp: Stamp,
}

/// What changes whenever a file is written, and cannot be set back.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Stamp {
    size: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Sealed {
    /// As it is now; `digest` is taken where a copy may be used.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn of(directory: &Path, name: &str, digest: bool) -> Result<Sealed> {
        let path = directory.join(name);
        // Before it is read: a change meanwhile is seen later.
        let stamp = stamp(&path)?;
        Ok(Sealed {
            name: name.to_owned(),
            sha256: digest.then(|| sha256(&path)).transpose()?,
            stamp,
        })
    }
}

/// Checks files of `directory`; whether a file is a copy (of a restored cache, say), which has other stamps and the
/// same content. Then the stamps of `files` are the copy's.
///
/// # Errors
/// A file that is gone, cannot be read or was altered.
pub fn check(directory: &Path, files: &mut [Sealed]) -> Result<bool> {
    let mut moved = false;
    for file in files {
        let now = stamp(&directory.join(&file.name))?;
        if now == file.stamp {
            continue;
        }
        let found = Sealed::of(directory, &file.name, file.sha256.is_some())?;
        ensure!(
            file.sha256.is_some() && found.sha256 == file.sha256,
            "its {} was altered: {} bytes now, {} when it was made",
            file.name,
            now.size,
            file.stamp.size
        );
        *file = found;
        moved = true;
    }
    Ok(moved)
}

fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut hash = Sha256::new();
    std::io::copy(&mut file, &mut hash).with_context(|| format!("read {}", path.display()))?;
    Ok(format!("{:x}", hash.finalize()))
}

fn stamp(path: &Path) -> Result<Stamp> {
    let m = fs::metadata(path).with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(Stamp {
        size: m.size(),
        inode: m.ino(),
        modified: (m.mtime(), m.mtime_nsec()),
        changed: (m.ctime(), m.ctime_nsec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_taken_and_an_altered_byte_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        fs::write(&path, "whole").unwrap();
        let seal = |digest| vec![Sealed::of(directory.path(), "a", digest).unwrap()];
        let (mut with, mut without) = (seal(true), seal(false));
        assert!(!check(directory.path(), &mut with).unwrap());
        // A copy under the same name.
        let copy = directory.path().join("b");
        fs::copy(&path, &copy).unwrap();
        fs::rename(&copy, &path).unwrap();
        assert!(check(directory.path(), &mut with).unwrap());
        assert!(!check(directory.path(), &mut with).unwrap());
        assert!(check(directory.path(), &mut without).is_err());
        // As long as before, and with the time of before.
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, "wh0le").unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(modified).unwrap();
        let error = check(directory.path(), &mut with).unwrap_err().to_string();
        assert_eq!(error, "its a was altered: 5 bytes now, 5 when it was made");
        fs::remove_file(&path).unwrap();
        assert!(check(directory.path(), &mut with).is_err());
    }
}
