//! Where a run leaves its files: a directory a run, and in it a directory a trial.

use crate::base::error::CannotRun;
use anyhow::Result;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;

/// Runs kept in the runs directory, however old they are: enough to compare a week of nightly runs by hand.
const RUNS_KEPT: usize = 20;
/// A younger run is kept as well: a day's many short ones do not take last night's, nor Monday's Friday's.
const KEPT_FOR: Duration = Duration::from_secs(4 * 24 * 3600);
/// Of those, at most: what is left of a run is some MiB.
const YOUNG_KEPT: usize = 500;

/// In every run's directory; its lock is held, shared, by each process of that run.
const LOCK: &str = ".lock";

/// Turns an I/O error into a sentence that says what to do, as [`CannotRun`].
pub fn on_disk<T>(result: io::Result<T>, doing: impl FnOnce() -> String) -> Result<T> {
    result.map_err(|error| {
        let advice = match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                "; free some space there, or set NICMATRIX_DIR to a directory elsewhere"
            }
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
                "; make it writable, or set NICMATRIX_DIR to a directory elsewhere"
            }
            _ => "",
        };
        CannotRun(format!("cannot {}: {error}{advice}", doing())).into()
    })
}

/// A run's directory. It is not pruned for as long as this lives.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl RunDir {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Makes a run's directory in `runs`, points `latest` there, and removes all but the newest runs.
///
/// Processes that are given the same `id` (nextest's run id, say) share the directory;
/// without one it is named after the time (UTC) and this process.
pub fn run_dir(runs: &Path, id: Option<&str>) -> Result<RunDir> {
    let doing = || format!("make a directory for this run in {}", runs.display());
    on_disk(fs::create_dir_all(runs), doing)?;
    let path = match id {
        Some(id) => runs.join(file_name(id)),
        None => on_disk(create_numbered(&runs.join(time_and_pid())), doing)?,
    };
    let lock = on_disk(lock_run(&path), || format!("lock {}", path.display()))?;
    let run = RunDir { path, _lock: lock };
    on_disk(point_latest(runs, &run.path), || {
        format!("point {} at this run", runs.join("latest").display())
    })?;
    prune(runs);
    Ok(run)
}

fn time_and_pid() -> String {
    let now = OffsetDateTime::now_utc();
    let (year, month, day) = now.to_calendar_date();
    let (hour, minute, second) = now.to_hms();
    format!(
        "{year}{:02}{day:02}T{hour:02}{minute:02}{second:02}Z-{}",
        u8::from(month),
        std::process::id()
    )
}

/// Makes `path`, or where that exists `path.2`, `path.3` …
fn create_numbered(path: &Path) -> io::Result<PathBuf> {
    let mut candidate = path.to_owned();
    for number in 2.. {
        match fs::create_dir(&candidate) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let mut name = path.as_os_str().to_owned();
                name.push(format!(".{number}"));
                candidate = name.into();
            }
            other => return other.map(|()| candidate),
        }
    }
    unreachable!("a directory cannot hold that many names")
}

fn lock_run(path: &Path) -> io::Result<Flock<File>> {
    loop {
        fs::create_dir_all(path)?;
        let open = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path.join(LOCK));
        let file = match open {
            // Another run's pruning came in between.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            other => other?,
        };
        let lock = Flock::lock(file, FlockArg::LockShared).map_err(|(_, errno)| errno)?;
        if lock.metadata()?.nlink() > 0 {
            return Ok(lock);
        }
    }
}

fn point_latest(runs: &Path, run: &Path) -> io::Result<()> {
    let name = run.file_name().unwrap_or(run.as_os_str());
    let new = runs.join(format!(
        ".latest-{}-{}",
        name.to_string_lossy(),
        std::process::id()
    ));
    symlink(name, &new)?;
    fs::rename(&new, runs.join("latest"))
}

/// Removes old runs. What cannot be removed is left: another process may be removing it, and old
/// files are no reason for a run to fail.
fn prune(runs: &Path) {
    let mut found: Vec<_> = fs::read_dir(runs)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| {
            let made = fs::metadata(entry.path().join(LOCK))
                .ok()?
                .modified()
                .ok()?;
            Some((made, entry.path()))
        })
        .collect();
    found.sort();
    found.reverse();
    let now = SystemTime::now();
    let young = |made: &SystemTime| now.duration_since(*made).unwrap_or_default() < KEPT_FOR;
    let kept = found
        .iter()
        .take(YOUNG_KEPT)
        .filter(|(made, _)| young(made));
    let kept = kept.count().max(RUNS_KEPT);
    for (_, path) in found.into_iter().skip(kept) {
        let Ok(file) = File::open(path.join(LOCK)) else {
            continue;
        };
        if let Ok(_lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// A trial's name as a file name: `::` becomes `.`, and `!`, which has a meaning for shells and web
/// servers, becomes `+`.
fn file_name(name: &str) -> String {
    let name: String = name
        .replace("::", ".")
        .chars()
        .map(|c| match c {
            '!' => '+',
            c if c.is_ascii_alphanumeric() || "._-+".contains(c) => c,
            _ => '_',
        })
        .collect();
    match name.strip_prefix('.') {
        Some(rest) => format!("_{rest}"),
        None => name,
    }
}

/// A trial's directory.
#[derive(Debug, Clone)]
pub struct Artifacts {
    dir: PathBuf,
}

impl Artifacts {
    /// Makes a directory for `trial` in the run's. A further try of the same trial gets its own,
    /// `NAME.2` and so on, so that the failed try's artifacts stay.
    pub fn new(run_dir: &Path, trial: &str) -> Result<Artifacts> {
        let dir = run_dir.join(file_name(trial));
        on_disk(create_numbered(&dir), || {
            format!("make the artifact directory {}", dir.display())
        })
        .map(|dir| Artifacts { dir })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of a file in it, which need not exist.
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// Writes a file, in place of one of that name.
    pub fn write(&self, file: &str, bytes: impl AsRef<[u8]>) -> Result<()> {
        let path = self.path(file);
        on_disk(fs::write(&path, bytes), || {
            format!("write {}", path.display())
        })
    }

    /// Adds to the end of a file, which is made where it is missing.
    pub fn append(&self, file: &str, bytes: impl AsRef<[u8]>) -> Result<()> {
        let path = self.path(file);
        let append = || {
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(&path)?
                .write_all(bytes.as_ref())
        };
        on_disk(append(), || format!("append to {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_gets_a_directory_and_its_next_try_another() {
        let run = tempfile::tempdir().unwrap();
        let name = "ping_sweep!loss::virtio::rhel9::tap";
        let first = Artifacts::new(run.path(), name).unwrap();
        let second = Artifacts::new(run.path(), name).unwrap();
        assert_eq!(
            first.dir(),
            run.path().join("ping_sweep+loss.virtio.rhel9.tap")
        );
        assert_eq!(
            second.dir(),
            run.path().join("ping_sweep+loss.virtio.rhel9.tap.2")
        );
        first.write("log", "a").unwrap();
        first.write("log", "b").unwrap();
        first.append("log", b"c").unwrap();
        assert_eq!(fs::read_to_string(first.path("log")).unwrap(), "bc");
    }

    #[test]
    fn names_cannot_leave_the_directory() {
        assert_eq!(file_name("../../etc/a b"), "_._.._etc_a_b");
        assert_eq!(file_name(".."), "_.");
    }

    #[test]
    fn a_full_disk_is_said_so_and_is_not_the_nics_fault() {
        let run = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::new(run.path(), "a").unwrap();
        symlink("/dev/full", artifacts.path("serial.log")).unwrap();
        for result in [
            artifacts.write("serial.log", "x"),
            artifacts.append("serial.log", "x"),
        ] {
            let error = result.unwrap_err();
            assert!(error.is::<CannotRun>());
            let text = error.to_string();
            assert!(text.contains("serial.log: No space left"), "{text}");
            assert!(text.contains("set NICMATRIX_DIR"), "{text}");
        }
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let error = run_dir(Path::new("/proc/nicmatrix/runs"), None).unwrap_err();
        assert!(error.is::<CannotRun>());
        assert!(
            error.to_string().contains("/proc/nicmatrix/runs"),
            "{error}"
        );
    }

    #[test]
    fn runs_get_their_own_directories_and_latest_is_the_last() {
        let runs = tempfile::tempdir().unwrap();
        let one = run_dir(runs.path(), None).unwrap();
        let two = run_dir(runs.path(), None).unwrap();
        assert_ne!(one.path(), two.path());
        let latest = fs::canonicalize(runs.path().join("latest")).unwrap();
        assert_eq!(latest, fs::canonicalize(two.path()).unwrap());
    }

    #[test]
    fn processes_of_one_nextest_run_share_a_directory() {
        let runs = tempfile::tempdir().unwrap();
        let one = run_dir(runs.path(), Some("0b1f")).unwrap();
        let two = run_dir(runs.path(), Some("0b1f")).unwrap();
        assert_eq!(one.path(), runs.path().join("0b1f"));
        assert_eq!(one.path(), two.path());
    }

    #[test]
    fn old_runs_go_but_never_one_in_use_nor_a_directory_that_is_no_run() {
        let runs = tempfile::tempdir().unwrap();
        fs::create_dir(runs.path().join("mine")).unwrap();
        let held = run_dir(runs.path(), Some("held")).unwrap();
        let old = run_dir(runs.path(), Some("old")).unwrap();
        let old_path = old.path().to_owned();
        fs::create_dir(old_path.join("trial")).unwrap();
        drop(old);
        let made_before = |path: &Path, age: Duration| {
            let lock = OpenOptions::new().append(true).open(path.join(LOCK));
            lock.unwrap().set_modified(SystemTime::now() - age).unwrap();
        };
        made_before(&old_path, KEPT_FOR - Duration::from_secs(60));
        for n in 0..RUNS_KEPT {
            run_dir(runs.path(), Some(&format!("run{n}"))).unwrap();
        }
        assert!(old_path.exists());
        made_before(&old_path, KEPT_FOR);
        made_before(held.path(), KEPT_FOR);
        run_dir(runs.path(), Some("run0")).unwrap();
        assert!(!old_path.exists());
        assert!(held.path().exists() && runs.path().join("mine").exists());
        // The newest, the one in use, "mine" and "latest".
        assert_eq!(fs::read_dir(runs.path()).unwrap().count(), RUNS_KEPT + 3);
    }
}
