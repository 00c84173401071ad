//! The checkpoints on disk. A checkpoint is used or made under its lock, appears whole by a rename,
//! and is looked at before each use.

use super::{Checkpoint, Mode};
use crate::base::error::OrCannotRun;
use crate::base::json;
use crate::base::sealed::{self, Sealed};
use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What all checkpoints together may take on disk, bytes: some eighty of 150 MiB each, more than
/// the full profile uses. The longest unused go first.
const LIMIT: u64 = 12 << 30;
/// No more than this part of the disk.
const SHARE: u64 = 4;
/// What stays free on the disk as long as a checkpoint can go, bytes: a few that are made at once, and what runs
/// leave.
const ROOM: u64 = 1 << 30;

/// How long it is remembered that a checkpoint could not be made. QEMU, image and command line are
/// in the key, so only a passing lack (of memory, of time) is worth another try.
const REFUSAL_HOLDS: Duration = Duration::from_secs(3600);

const MANIFEST: &str = "manifest.json";
const BUILDING: &str = ".build-";
const GOING: &str = ".gone-";

/// Device state, or all of it.
pub const STATE: &str = "state";
/// The guest's memory, where it is apart.
pub const RAM: &str = "ram";

#[derive(Serialize, Deserialize)]
struct Manifest {
    /// For people: "virtio, up, in rhel9".
    what: String,
    outcome: Outcome,
}

#[derive(Serialize, Deserialize)]
enum Outcome {
    Made { mode: Mode, files: Vec<Sealed> },
    Refused { why: String, unix_time: u64 },
}

/// One of the store, for `cache list`.
#[derive(Debug)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// What was saved, or why it could not be.
    pub what: String,
    /// Bytes on disk.
    pub bytes: u64,
    /// When it was last used.
    pub used: SystemTime,
}

/// A directory of checkpoints, which several processes may use at once.
pub struct Store {
    directory: PathBuf,
    digests: bool,
}

impl Store {
    /// A store in `directory`, which need not exist.
    pub fn new(directory: PathBuf) -> Store {
        Store {
            directory,
            digests: true,
        }
    }

    /// A store that ends with the lab that it is in, so that no copy of it is ever used: it needs no
    /// digests of its files, which under TCG take twice as long as a guest's boot.
    pub fn disposable(directory: PathBuf) -> Store {
        Store {
            directory,
            digests: false,
        }
    }

    /// The checkpoint of that key, or why it cannot be made. Where there is no whole one, `make` fills
    /// the directory that it is given; other callers wait meanwhile.
    ///
    /// # Errors
    /// [`crate::base::error::CannotRun`] when the store cannot be used, and the errors of `make`.
    pub fn get(
        &self,
        key: &str,
        what: &str,
        say: &dyn Fn(&str),
        make: impl FnOnce(&Path) -> Result<Result<Mode, String>>,
    ) -> Result<Result<Checkpoint, String>> {
        fs::create_dir_all(&self.directory)
            .or_cannot_run(|| format!("create {}", self.directory.display()))?;
        let shared = self.lock(key, FlockArg::LockShared)?;
        let damaged = match self.load(key) {
            Ok(Outcome::Made { mode, .. }) => return Ok(Ok(self.used(key, mode, shared))),
            Ok(Outcome::Refused { why, .. }) => return Ok(Err(why)),
            Err(why) => why,
        };
        drop(shared);
        let lock = self.lock(key, FlockArg::LockExclusive)?;
        // Another may have made it meanwhile.
        let outcome = match self.load(key) {
            Ok(outcome) => outcome,
            Err(_) => {
                if self.directory.join(key).join(MANIFEST).exists() {
                    say(&format!(
                        "the checkpoint of {what} cannot be used ({damaged:#}): making it again"
                    ));
                }
                self.evict(key, Disk::at(&self.directory)?);
                let outcome = self.make(key, what, make)?;
                if let Outcome::Refused { why, .. } = &outcome {
                    say(&format!("there is no checkpoint of {what}: {why}"));
                }
                self.evict(key, Disk::at(&self.directory)?);
                outcome
            }
        };
        match outcome {
            // Kept exclusive until it is restored: the conversion to shared is not atomic.
            Outcome::Made { mode, .. } => Ok(Ok(self.used(key, mode, lock))),
            Outcome::Refused { why, .. } => Ok(Err(why)),
        }
    }

    /// The checkpoint of that key, where there is a whole one; none is made.
    ///
    /// # Errors
    /// [`crate::base::error::CannotRun`] when the store cannot be used.
    pub fn kept(&self, key: &str) -> Result<Option<Checkpoint>> {
        if !self.directory.join(key).join(MANIFEST).exists() {
            return Ok(None);
        }
        let shared = self.lock(key, FlockArg::LockShared)?;
        Ok(match self.load(key) {
            Ok(Outcome::Made { mode, .. }) => Some(self.used(key, mode, shared)),
            Ok(Outcome::Refused { .. }) | Err(_) => None,
        })
    }

    fn make(
        &self,
        key: &str,
        what: &str,
        make: impl FnOnce(&Path) -> Result<Result<Mode, String>>,
    ) -> Result<Outcome> {
        let (scratch, directory) = (
            self.directory.join(format!("{BUILDING}{key}")),
            self.directory.join(key),
        );
        let cannot = || format!("write {}", directory.display());
        // What a killed run left.
        for old in [&scratch, &directory] {
            if old.exists() {
                fs::remove_dir_all(old).or_cannot_run(cannot)?;
            }
        }
        fs::create_dir(&scratch).or_cannot_run(cannot)?;
        let outcome = match make(&scratch)? {
            Ok(mode) => {
                let seal = |name: &&str| Sealed::of(&scratch, name, self.digests);
                let sealed = mode.files().iter().map(seal);
                let files = sealed.collect::<Result<_>>().or_cannot_run(cannot)?;
                Outcome::Made { mode, files }
            }
            Err(why) => {
                // The transcripts stay: they say more than `why`.
                for name in [STATE, RAM] {
                    let _ = fs::remove_file(scratch.join(name));
                }
                let unix_time = now();
                Outcome::Refused { why, unix_time }
            }
        };
        let manifest = Manifest {
            what: what.to_owned(),
            outcome,
        };
        json::write_whole(&scratch.join(MANIFEST), &manifest)
            .and_then(|()| Ok(fs::rename(&scratch, &directory)?))
            .or_cannot_run(cannot)?;
        Ok(manifest.outcome)
    }

    /// The checkpoint of that key, if its files are as they were made.
    fn load(&self, key: &str) -> Result<Outcome> {
        let directory = self.directory.join(key);
        let mut manifest = read_manifest(&directory)?;
        match &mut manifest.outcome {
            Outcome::Refused { unix_time, .. } => {
                // None of one that was written down in the future: the clock was set back.
                let age = now().checked_sub(*unix_time);
                let holds = age.is_some_and(|age| age < REFUSAL_HOLDS.as_secs());
                ensure!(holds, "it is time to try again");
            }
            Outcome::Made { files, .. } => {
                if sealed::check(&directory, files)? {
                    json::write_whole(&directory.join(MANIFEST), &manifest)?;
                }
            }
        }
        Ok(manifest.outcome)
    }

    fn used(&self, key: &str, mode: Mode, lock: Flock<File>) -> Checkpoint {
        // Only the order of eviction depends on it.
        let _ = lock.set_modified(SystemTime::now());
        Checkpoint {
            directory: self.directory.join(key),
            mode,
            _lock: Some(lock),
        }
    }

    fn lock(&self, key: &str, how: FlockArg) -> Result<Flock<File>> {
        let path = self.lock_file(key);
        let cannot = || format!("lock {}", path.display());
        let open = File::options().append(true).create(true).open(&path);
        Flock::lock(open.or_cannot_run(cannot)?, how)
            .map_err(|(_, error)| error)
            .or_cannot_run(cannot)
    }

    fn lock_file(&self, key: &str) -> PathBuf {
        self.directory.join(format!("{key}.lock"))
    }

    /// All checkpoints, the longest unused first; also what a killed run left half-made.
    pub fn list(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.path().is_dir())
            .map(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                let lock = fs::metadata(self.lock_file(key_of(&name))).and_then(|m| m.modified());
                Entry {
                    what: match read_manifest(&entry.path()).map(|m| (m.what, m.outcome)) {
                        Ok((what, Outcome::Made { .. })) => what,
                        Ok((what, Outcome::Refused { why, .. })) => {
                            format!("none of {what}: {why}")
                        }
                        Err(_) => "half-made".into(),
                    },
                    bytes: size(&entry.path()),
                    used: lock.unwrap_or(UNIX_EPOCH),
                    key: name,
                }
            })
            .collect();
        entries.sort_by_key(|entry| entry.used);
        entries
    }

    /// Removes all that is not in use; returns what it removed and what it had to leave.
    ///
    /// # Errors
    /// A directory that cannot be removed.
    pub fn clear(&self) -> Result<(Vec<Entry>, Vec<Entry>)> {
        let (mut gone, mut kept) = (Vec::new(), Vec::new());
        for entry in self.list() {
            match self.remove(&entry.key)? {
                true => gone.push(entry),
                false => kept.push(entry),
            }
        }
        Ok((gone, kept))
    }

    /// Removes one, unless it is in use.
    fn remove(&self, name: &str) -> Result<bool> {
        let key = key_of(name);
        let path = self.lock_file(key);
        let file = File::options().append(true).create(true).open(&path)?;
        let _lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => return Ok(false),
            Err((_, error)) => {
                return Err(error).with_context(|| format!("lock {}", path.display()));
            }
        };
        // At once, so that a kill in between leaves nothing that looks whole.
        let going = self.directory.join(format!("{GOING}{key}"));
        let directory = self.directory.join(name);
        if directory != going {
            fs::rename(&directory, &going)
                .with_context(|| format!("cannot remove {}", directory.display()))?;
        }
        fs::remove_dir_all(&going).with_context(|| format!("cannot remove {}", going.display()))?;
        Ok(true)
    }

    /// What all checkpoints together may take, bytes.
    ///
    /// # Errors
    /// [`crate::base::error::CannotRun`]: a disk that cannot be asked.
    pub fn limit(&self) -> Result<u64> {
        let made = self.directory.ancestors().find(|above| above.exists());
        Ok(Disk::at(made.unwrap_or(Path::new("/")))?.limit())
    }

    /// Removes the longest unused, and what killed runs left, until the rest is within the limit and there is room
    /// on the disk.
    fn evict(&self, newest: &str, disk: Disk) {
        let entries = self.list();
        let mut total: u64 = entries.iter().map(|entry| entry.bytes).sum();
        let mut free = disk.free;
        for entry in entries.iter().filter(|entry| entry.key != newest) {
            let left_over = entry.key.starts_with('.');
            let must_go = left_over || total > disk.limit() || free < ROOM;
            if must_go && self.remove(&entry.key).unwrap_or(false) {
                total -= entry.bytes;
                free += entry.bytes;
            }
        }
    }
}

/// The disk that a store is on.
#[derive(Clone, Copy)]
struct Disk {
    /// All of it, bytes.
    size: u64,
    /// What this user may still write, bytes.
    free: u64,
}

impl Disk {
    fn at(path: &Path) -> Result<Disk> {
        let stat = nix::sys::statvfs::statvfs(path)
            .or_cannot_run(|| format!("ask for the space at {}", path.display()))?;
        Ok(Disk {
            size: stat.blocks() * stat.fragment_size(),
            free: stat.blocks_available() * stat.fragment_size(),
        })
    }

    fn limit(self) -> u64 {
        LIMIT.min(self.size / SHARE)
    }
}

/// The key that a directory of the store is named by, whole or not.
fn key_of(name: &str) -> &str {
    name.trim_start_matches(BUILDING).trim_start_matches(GOING)
}

fn size(directory: &Path) -> u64 {
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    // In blocks of 512 bytes (stat(2)): a guest's memory is mostly holes.
    files
        .filter_map(|file| Some(file.metadata().ok()?.blocks() * 512))
        .sum()
}

fn read_manifest(directory: &Path) -> Result<Manifest> {
    let path = directory.join(MANIFEST);
    let text = fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    serde_json::from_slice(&text)
        .with_context(|| format!("{} is not as it was written", path.display()))
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests;
