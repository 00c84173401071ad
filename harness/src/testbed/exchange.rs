//! Checkpoints that two harnesses share, of which one has no store that lasts: the harness inside a lab asks
//! the one outside before it makes a checkpoint, and offers it the one that it has made.

use crate::vm::checkpoint::copy::{self, Extents};
use crate::vm::checkpoint::store::{STATE, Store};
use crate::vm::checkpoint::{Checkpoint, Mode};
use anyhow::{Context as _, Result, ensure};
use report::errln;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// How a migration stream begins (QEMU's `QEMU_VM_FILE_MAGIC`).
const MAGIC: &[u8] = b"QEVM";

/// Where a harness asks for a checkpoint before it makes one, and offers the one that it has made.
pub trait Exchange: Send + Sync {
    /// The checkpoint of that key, where it is kept.
    ///
    /// # Errors
    /// When nobody answers.
    fn kept(&self, key: &str) -> Result<Option<Kept>>;

    /// Offers a checkpoint for others' use.
    ///
    /// # Errors
    /// When it is not taken.
    fn offer(&self, key: &str, what: &str, made: &Kept) -> Result<()>;
}

/// The files of a checkpoint, to be copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Where they are.
    pub directory: PathBuf,
    /// How it is restored.
    pub mode: Mode,
    /// What each holds, in the order of [`Mode::files`].
    pub files: Vec<Extents>,
}

impl Kept {
    /// Of a checkpoint.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn of(checkpoint: &Checkpoint) -> Result<Kept> {
        let directory = checkpoint.directory();
        let names = checkpoint.mode.files().iter();
        let files = names.map(|name| Extents::of(&directory.join(name)));
        Ok(Kept {
            directory: directory.to_owned(),
            mode: checkpoint.mode,
            files: files.collect::<Result<_>>()?,
        })
    }

    /// Copies the files to `directory`; their sums ([`copy::copy`]).
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn copy_to(&self, directory: &Path) -> Result<Vec<u64>> {
        let files = self.mode.files().iter().zip(&self.files);
        files
            .map(|(name, extents)| {
                copy::copy(&self.directory.join(name), &directory.join(name), extents)
            })
            .collect()
    }
}

/// A checkpoint that was made where nothing lasts, copied to where it can be taken from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// What its maker calls it.
    pub key: String,
    /// For people: "rhel9 with e1000 up".
    pub what: String,
    /// The copy, which is removed once it was taken.
    pub copy: Kept,
    /// The sums of its files as they were made.
    pub sums: Vec<u64>,
}

/// Takes a checkpoint that was offered into `store`, as `key`, and removes the copy. Nobody else has the
/// files that are kept open for writing: they are written here.
///
/// # Errors
/// Files that are not those of a checkpoint, or not as they were made; a store that cannot be written.
pub fn take(store: &Store, key: &str, offer: &Offer) -> Result<()> {
    let Offer {
        what, copy, sums, ..
    } = offer;
    let say = |line: &str| errln!("{line}");
    let taken = store.get(key, what, &say, |directory| {
        // As they are now, whatever the offer says of them.
        let given = Checkpoint::unlocked(copy.directory.clone(), copy.mode);
        let found = Kept::of(&given)?.copy_to(directory)?;
        ensure!(
            found == *sums,
            "the checkpoint of {what} did not arrive as it was made: its sums are {found:?}, not {sums:?}"
        );
        let stream = copy::begins_with(&directory.join(STATE), MAGIC)?;
        ensure!(stream, "the state of {what} is no migration stream");
        Ok(Ok(copy.mode))
    });
    let removed = std::fs::remove_dir_all(&copy.directory)
        .with_context(|| format!("cannot remove {}", copy.directory.display()));
    taken?.map_err(anyhow::Error::msg)?;
    removed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::checkpoint::store::RAM;

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    fn offered(directory: &Path, state: &str) -> Offer {
        let made = directory.join("made");
        std::fs::create_dir_all(&made).unwrap();
        std::fs::write(made.join(STATE), state).unwrap();
        std::fs::write(made.join(RAM), "memory").unwrap();
        let made = Kept::of(&Checkpoint::unlocked(made, Mode::Mapped)).unwrap();
        let copy = directory.join("copy");
        std::fs::create_dir_all(&copy).unwrap();
        Offer {
            key: "theirs".into(),
            what: "rhel9 with e1000 up".into(),
            sums: made.copy_to(&copy).unwrap(),
            copy: Kept {
                directory: copy,
                ..made
            },
        }
    }

    #[test]
    fn what_was_taken_is_kept_under_our_name_and_given_again() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path().join("store"));
        let offer = offered(directory.path(), "QEVM and devices");
        take(&store, KEY, &offer).unwrap();
        assert!(!offer.copy.directory.exists());
        assert!(store.kept(&offer.key).unwrap().is_none());
        let kept = store.kept(KEY).unwrap().unwrap();
        let again = directory.path().join("again");
        std::fs::create_dir(&again).unwrap();
        let sums = Kept::of(&kept).unwrap().copy_to(&again).unwrap();
        assert_eq!(sums, offer.sums);
        assert_eq!(std::fs::read_to_string(again.join(RAM)).unwrap(), "memory");
    }

    #[test]
    fn what_was_altered_or_is_none_is_refused_and_nothing_is_kept() {
        for (state, damage, complaint) in [
            ("QEVM", Some(RAM), "did not arrive as it was made"),
            ("QEVM", Some(STATE), "did not arrive as it was made"),
            ("elsewhere", None, "is no migration stream"),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let store = Store::new(directory.path().join("store"));
            let offer = offered(directory.path(), state);
            if let Some(name) = damage {
                std::fs::write(offer.copy.directory.join(name), "MEMORY").unwrap();
            }
            let error = take(&store, KEY, &offer).unwrap_err();
            assert!(format!("{error:#}").contains(complaint), "{error:#}");
            assert!(store.kept(KEY).unwrap().is_none());
            assert!(!offer.copy.directory.exists());
        }
    }
}
