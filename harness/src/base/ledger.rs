//! What the runs on this machine use, in a file that they share: each writes down its own, and reads the others'.

use super::slots::Need;
use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg, OFlag};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Where all users of a machine may write, and which ends with its boot.
const FILE: &str = "/dev/shm/nicmatrix-slots";

/// What is read of it, bytes: some hundred a run, and another user may write what he likes.
const MOST: u64 = 64 << 10;

/// The file, for this process.
pub struct Ledger {
    file: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    process: u32,
    /// When it was started, in ticks after the boot: another may get its number.
    started: u64,
    need: Need,
}

impl Ledger {
    /// This machine's.
    pub fn of_machine() -> Ledger {
        Ledger { file: FILE.into() }
    }

    /// Writes down what this run uses now; what others use, each.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn exchange(&self, own: Need) -> Result<Vec<Need>> {
        let file = open(&self.file).with_context(|| self.file.display().to_string())?;
        let mut file = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
        let mut text = String::new();
        (&mut *file).take(MOST).read_to_string(&mut text)?;
        // What cannot be read says nothing.
        let mut entries: Vec<Entry> = serde_json::from_str(&text).unwrap_or_default();
        let this = std::process::id();
        entries
            .retain(|entry| entry.process != this && started(entry.process) == Some(entry.started));
        let others = entries.iter().map(|entry| entry.need).collect();
        if own != Need::NONE
            && let Some(started) = started(this)
        {
            entries.push(Entry {
                process: this,
                started,
                need: own,
            });
        }
        let text = serde_json::to_string(&entries)?;
        file.rewind()?;
        file.set_len(0)?;
        file.write_all(text.as_bytes())?;
        Ok(others)
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true);
    options.custom_flags(OFlag::O_NOFOLLOW.bits());
    loop {
        // Not made where it is there: in such a directory the kernel refuses that to all but the file's owner.
        match options.open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            opened => return opened,
        }
        match options.clone().create_new(true).open(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Ok(file) => {
                file.set_permissions(fs::Permissions::from_mode(0o666))?;
                return Ok(file);
            }
            refused => return refused,
        }
    }
}

/// When a process was started (proc_pid_stat(5), field 22); nothing of one that has ended.
fn started(process: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The second field, its name, may hold anything.
    let (_, rest) = text.rsplit_once(") ")?;
    rest.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn each_sees_what_the_others_use_until_they_end() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger {
            file: directory.path().join("slots"),
        };
        let need = |processors| Need {
            processors,
            ..Need::NONE
        };
        assert_eq!(ledger.exchange(need(1)).unwrap(), []);
        assert_eq!(ledger.exchange(need(2)).unwrap(), []);
        let mut other = Command::new("sleep").arg("60").spawn().unwrap();
        let entry = |process, started| Entry {
            process,
            started,
            need: need(7),
        };
        let started = started(other.id()).unwrap();
        let write = |entries: &[Entry]| {
            fs::write(&ledger.file, serde_json::to_string(entries).unwrap()).unwrap();
        };
        // The second is of a process that had this one's number before.
        write(&[entry(other.id(), started), entry(other.id(), started - 1)]);
        assert_eq!(ledger.exchange(need(3)).unwrap(), [need(7)]);
        assert_eq!(ledger.exchange(Need::NONE).unwrap(), [need(7)]);
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(ledger.exchange(need(4)).unwrap(), []);
        for text in ["", "[{]", "\u{0}", "{\"a\": 1}"] {
            fs::write(&ledger.file, text).unwrap();
            assert_eq!(ledger.exchange(need(5)).unwrap(), [], "{text}");
        }
        let mode = fs::metadata(&ledger.file).unwrap().permissions().mode();
        assert_eq!(mode & 0o666, 0o666);
    }
}
