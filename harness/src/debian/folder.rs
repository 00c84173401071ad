//! A folder in which things are built of packages: one process builds at a time, and what could not be
//! fetched is noted for a while.

use crate::base::error::{CannotRun, OrCannotRun, Skip};
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A suite that could not be fetched is tried again after this long: under nextest, each trial's
/// process would otherwise wait for the network.
const ASK_AGAIN: Duration = Duration::from_secs(600);

#[derive(Serialize, Deserialize)]
struct Missing {
    fingerprint: String,
    reason: String,
}

fn missing_file(folder: &Path, suite: &str) -> PathBuf {
    folder.join(format!("missing-{suite}.json"))
}

/// Notes that what is made of `suite` could not be fetched.
///
/// # Errors
/// A folder that cannot be written to.
pub fn note_missing(folder: &Path, suite: &str, fingerprint: &str, reason: &str) -> Result<()> {
    let missing = Missing {
        fingerprint: fingerprint.into(),
        reason: reason.into(),
    };
    write_json(&missing_file(folder, suite), &missing)
}

/// Why what is made of `suite` could not be fetched, where that was a short while ago and from the same
/// inputs.
pub fn noted_missing(folder: &Path, suite: &str, fingerprint: &str) -> Option<String> {
    let file = missing_file(folder, suite);
    let noted = fs::metadata(&file).ok()?.modified().ok()?;
    let recent = SystemTime::now().duration_since(noted).ok()? < ASK_AGAIN;
    let missing: Missing = read_json(&file).ok()?;
    (recent && missing.fingerprint == fingerprint).then_some(missing.reason)
}

/// Under the lock, any build directory is a killed process's.
pub fn remove_leftovers(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(".build-") {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// How many things are kept that are not current, beside those in use.
const KEPT: usize = 1;

/// How long something stays current that was not asked for meanwhile: a build of another state shares the folder,
/// and asks for what its own recipe makes.
const STAYS: Duration = Duration::from_secs(14 * 24 * 3600);

/// What this process uses, each locked until it ends.
static IN_USE: Mutex<BTreeMap<PathBuf, Flock<File>>> = Mutex::new(BTreeMap::new());

/// Which directory of a folder is current, and what it was made from.
#[derive(Serialize, Deserialize)]
pub struct Current {
    /// Digest of the recipe and of apt's lists.
    pub fingerprint: String,
    /// Digest of the recipe alone.
    pub recipe: String,
    /// The directory's name.
    pub hash: String,
}

/// The file that names the directory of `suite`, or of the system's own, that is current for a recipe.
pub fn current_file(folder: &Path, suite: Option<&str>, recipe: &str) -> PathBuf {
    let recipe = &recipe[..recipe.len().min(8)];
    folder.join(match suite {
        None => format!("current-{recipe}.json"),
        Some(suite) => format!("current-{suite}-{recipe}.json"),
    })
}

/// Keeps a directory of `folder` from being removed by other processes, for as long as this one lives.
fn hold(directory: &Path) -> Result<()> {
    let mut in_use = IN_USE.lock();
    if !in_use.contains_key(directory) {
        let file = File::open(directory)?;
        let lock = Flock::lock(file, FlockArg::LockShared).map_err(|(_, errno)| errno)?;
        in_use.insert(directory.to_owned(), lock);
    }
    Ok(())
}

/// Removes a directory of `folder`, unless a process uses it; whether it is gone.
fn remove(directory: &Path) -> Result<bool> {
    let file = File::open(directory)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        // Locked while it goes: who takes it now finds it damaged.
        Ok(_lock) => fs::remove_dir_all(directory)
            .map(|()| true)
            .map_err(Into::into),
        Err((_, Errno::EWOULDBLOCK)) => Ok(false),
        Err((_, errno)) => Err(errno.into()),
    }
}

/// What `load` makes of the directory that is current for these inputs; `damaged` is handed why it could
/// not.
pub fn cached<T>(
    folder: &Path,
    suite: Option<&str>,
    recipe: &str,
    fingerprint: &str,
    load: impl FnOnce(&Path) -> Result<T>,
    damaged: impl FnOnce(&anyhow::Error),
) -> Option<T> {
    let file = current_file(folder, suite, recipe);
    let current: Current = read_json(&file).ok()?;
    if current.fingerprint != fingerprint {
        return None;
    }
    // Only how long it stays current depends on it.
    let _ = File::open(&file).and_then(|file| file.set_modified(SystemTime::now()));
    used(&folder.join(current.hash), load)
        .inspect_err(damaged)
        .ok()
}

/// What `load` makes of a directory, which stays as long as this process.
///
/// # Errors
/// The errors of `load`.
pub fn used<T>(directory: &Path, load: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    hold(directory).with_context(|| format!("{} cannot be read", directory.display()))?;
    load(directory)
}

/// What `load` makes of the last directory of the same recipe: for a machine whose package lists are gone
/// (a container, a restored cache) or whose mirror is not reached.
pub fn last<T>(
    folder: &Path,
    suite: Option<&str>,
    recipe: &str,
    load: impl FnOnce(&Path) -> Result<T>,
) -> Option<T> {
    let current: Current = read_json(&current_file(folder, suite, recipe)).ok()?;
    (current.recipe == recipe)
        .then(|| used(&folder.join(current.hash), load).ok())
        .flatten()
}

/// Makes a directory with a `manifest` the current one, and drops those of long ago. `scratch` is on the
/// same file system.
///
/// # Errors
/// A folder that cannot be written to.
pub fn make_current(
    folder: &Path,
    suite: Option<&str>,
    scratch: &Path,
    manifest: &str,
    current: &Current,
) -> Result<()> {
    let new = scratch.join("current.json");
    write_json(&new, current)?;
    fs::rename(new, current_file(folder, suite, &current.recipe))?;
    prune(folder, manifest)
}

/// Whether a file was written or asked for within [`STAYS`], or is of the future.
fn is_recent(file: &fs::DirEntry) -> bool {
    let modified = file.metadata().and_then(|meta| meta.modified());
    modified.is_ok_and(|at| {
        SystemTime::now()
            .duration_since(at)
            .map_or(true, |age| age < STAYS)
    })
}

/// Keeps the directories of `folder` with a `manifest` that are current or in use, and the newest of the others.
fn prune(folder: &Path, manifest: &str) -> Result<()> {
    let entries: Vec<_> = fs::read_dir(folder)?.flatten().collect();
    let current: BTreeSet<PathBuf> = entries
        .iter()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("current"))
        .filter(|entry| is_recent(entry))
        .filter_map(|entry| read_json::<Current>(&entry.path()).ok())
        .map(|current| folder.join(current.hash))
        .collect();
    let mut others: Vec<_> = entries
        .iter()
        .filter(|entry| entry.path().join(manifest).exists() && !current.contains(&entry.path()))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    others.sort();
    for (_, old) in others.iter().rev().skip(KEPT) {
        remove(old)?;
    }
    Ok(())
}

/// An error of fetching `what` of `suite`: what the network refused is a reason to skip; trouble of this
/// machine stays trouble.
pub fn unavailable(what: &str, suite: &str, error: anyhow::Error) -> anyhow::Error {
    match error.is::<CannotRun>() {
        true => error,
        false => {
            let why = format!("{error:#}");
            // The first of apt's errors says it.
            let why = why.split("; ").next().unwrap_or_default();
            let words = format!("the {what} of Debian {suite} cannot be fetched: {why}");
            Skip(words).into()
        }
    }
}

/// Puts a built directory in its place at once, over a damaged one.
///
/// # Errors
/// A directory that cannot be moved or removed.
pub fn publish(built: &Path, dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir)?;
        // The lock is on what is gone.
        IN_USE.lock().remove(dir);
    }
    Ok(fs::rename(built, dir)?)
}

/// Waits for its turn in `folder`, which is made where it is missing; `doing` is what another process is
/// then waited for. The lock is an empty file, which is never removed.
///
/// # Errors
/// [`crate::base::error::CannotRun`]: a folder that cannot be written to.
pub fn lock(folder: &Path, doing: &str, progress: &dyn Fn(&str)) -> Result<Flock<File>> {
    fs::create_dir_all(folder).or_cannot_run(|| format!("create {}", folder.display()))?;
    let path = folder.join("lock");
    let cannot = || format!("lock {}", path.display());
    let file = File::create(&path).or_cannot_run(cannot)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((file, Errno::EWOULDBLOCK)) => {
            progress(&format!("another process is {doing}: waiting for it"));
            Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, e)| e)
                .or_cannot_run(cannot)
        }
        Err((_, error)) => Err(error).or_cannot_run(cannot),
    }
}

/// SHA-256 of the parts, kept apart by a NUL; half of it is enough for a name.
pub fn digest<S: AsRef<str>>(parts: impl IntoIterator<Item = S>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_ref());
        hash.update([0]);
    }
    hash.finalize()[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A value that [`write_json`] has written.
///
/// # Errors
/// A file that cannot be read, or is not as it was written.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    serde_json::from_slice(&text)
        .with_context(|| format!("{} is not as it was written", path.display()))
}

/// Writes `value` for [`read_json`].
///
/// # Errors
/// A file that cannot be written.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    Ok(fs::write(path, serde_json::to_vec_pretty(value)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_had_is_asked_for_again_after_a_while_or_a_change() {
        let images = tempfile::tempdir().unwrap();
        note_missing(images.path(), "sid", "lists", "no route").unwrap();
        let noted = |suite, fingerprint| noted_missing(images.path(), suite, fingerprint);
        assert_eq!(noted("sid", "lists").as_deref(), Some("no route"));
        assert_eq!(noted("sid", "newer lists"), None);
        assert_eq!(noted("bullseye", "lists"), None);
        File::options()
            .write(true)
            .open(missing_file(images.path(), "sid"))
            .unwrap()
            .set_modified(SystemTime::now() - ASK_AGAIN)
            .unwrap();
        assert_eq!(noted("sid", "lists"), None);
    }

    #[test]
    fn the_hash_keeps_its_parts_apart() {
        assert_ne!(digest(["ab", "c"]), digest(["a", "bc"]));
        assert_ne!(digest(["a"]), digest(["a", ""]));
        assert_eq!(digest(["a"]).len(), 32);
    }

    #[test]
    fn what_the_network_refused_is_a_skip_and_trouble_here_is_not() {
        let refused = unavailable(
            "kernel",
            "sid",
            anyhow::anyhow!("`apt-get` ended with 100: E: no route; E: and more"),
        );
        let Skip(why) = refused.downcast().unwrap();
        assert_eq!(
            why,
            "the kernel of Debian sid cannot be fetched: `apt-get` ended with 100: E: no route"
        );
        let trouble = CannotRun("cannot write to /x".into());
        assert!(unavailable("kernel", "sid", trouble.into()).is::<CannotRun>());
    }
}
