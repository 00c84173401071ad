//! What a trial left in its artifact directory: the ends of its logs, and which files there are.

use crate::html::anchor::percent;
use crate::html::shown::bytes;
use crate::text::clean;
use std::cell::Cell;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

/// Logs of which the page shows the end, with their titles and the most that is shown, bytes.
const LOGS: [(&str, &str, usize); 5] = [
    ("serial.log", "Serial console", 16 * 1024),
    ("qmp.log", "QMP transcript", 16 * 1024),
    ("qemu.sh", "QEMU's command line", 8 * 1024),
    ("qemu.stderr", "QEMU's messages", 8 * 1024),
    ("commands.log", "Commands and their output", 8 * 1024),
];

/// Files of a trial that are listed.
const FILES: usize = 60;

/// The end of a log.
pub struct Excerpt {
    /// What it is, with the subdirectory where it is of one: "QMP transcript, destination1".
    pub title: String,
    pub text: String,
    /// "the last 16.0 KiB of 9.9 MiB", where it is not all.
    pub part: Option<String>,
}

/// A file.
pub struct Artifact {
    /// From the artifact directory.
    pub name: String,
    pub size: u64,
    /// Its address from the page, where the page lies above it.
    pub link: Option<String>,
}

/// Reads artifacts as long as all that is read stays below a limit: with hundreds of failures the page would
/// not open any more.
pub struct Reader<'r> {
    run_dir: &'r Path,
    /// Where the page will lie.
    page_dir: Option<PathBuf>,
    left: Cell<usize>,
}

impl<'r> Reader<'r> {
    /// Of a run in `run_dir`, at most `limit` bytes, for a page in `page_dir`.
    pub fn new(run_dir: &'r Path, page_dir: Option<&Path>, limit: usize) -> Self {
        let page_dir = page_dir.map(|dir| {
            if dir.as_os_str().is_empty() {
                Path::new(".")
            } else {
                dir
            }
        });
        Reader {
            run_dir,
            page_dir: page_dir.and_then(|dir| dir.canonicalize().ok()),
            left: Cell::new(limit),
        }
    }

    /// Takes `n` bytes of what may still be shown; false where they are too many.
    pub fn spend(&self, n: usize) -> bool {
        let left = self.left.get().checked_sub(n);
        self.left.set(left.unwrap_or(self.left.get()));
        left.is_some()
    }

    /// The trial's artifact directory: that of its name in the run's directory, which may have been moved to
    /// another machine, or else where the trial wrote it.
    pub fn directory(&self, artifacts: &str) -> Option<PathBuf> {
        let given = Path::new(artifacts);
        let moved = self.run_dir.join(given.file_name()?);
        [moved, given.to_owned()]
            .into_iter()
            .find(|dir| dir.is_dir())
    }

    /// The ends of the logs in `dir` and in the directories in it.
    pub fn excerpts(&self, dir: &Path) -> Vec<Excerpt> {
        let mut excerpts = Vec::new();
        for sub in [PathBuf::new()].into_iter().chain(directories(dir)) {
            for (file, title, most) in LOGS {
                let Some((text, size)) = tail(&dir.join(&sub).join(file), most) else {
                    continue;
                };
                if text.trim().is_empty() || !self.spend(text.len()) {
                    continue;
                }
                let title = match sub.as_os_str().is_empty() {
                    true => title.to_owned(),
                    false => format!("{title}, {}", sub.display()),
                };
                let part = (size > most as u64)
                    .then(|| format!("the last {} of {}", bytes(most as u64), bytes(size)));
                excerpts.push(Excerpt { title, text, part });
            }
        }
        excerpts
    }

    /// The files in `dir` and in the directories in it, and how many more there are.
    pub fn artifacts(&self, dir: &Path) -> (Vec<Artifact>, usize) {
        let mut names = Vec::new();
        for sub in [PathBuf::new()].into_iter().chain(directories(dir)) {
            let entries = std::fs::read_dir(dir.join(&sub))
                .into_iter()
                .flatten()
                .flatten();
            let files = entries.filter(|entry| entry.file_type().is_ok_and(|t| t.is_file()));
            names.extend(files.filter_map(|entry| {
                let size = entry.metadata().ok()?.len();
                (size > 0).then(|| (sub.join(entry.file_name()), size))
            }));
        }
        names.sort();
        let more = names.len().saturating_sub(FILES);
        let base = self.relative(dir);
        let artifact = |(name, size): (PathBuf, u64)| Artifact {
            link: base
                .as_ref()
                .map(|base| percent(&base.join(&name).to_string_lossy())),
            name: name.to_string_lossy().into_owned(),
            size,
        };
        (names.into_iter().take(FILES).map(artifact).collect(), more)
    }

    /// `dir` from the page's directory, where it is below it.
    fn relative(&self, dir: &Path) -> Option<PathBuf> {
        let dir = dir.canonicalize().ok()?;
        let relative = dir.strip_prefix(self.page_dir.as_ref()?).ok()?;
        let plain = |c| matches!(c, Component::Normal(_));
        relative
            .components()
            .all(plain)
            .then(|| Path::new(".").join(relative))
    }
}

/// The directories in `dir`, sorted.
fn directories(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<PathBuf> = entries
        .filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()))
        .map(|entry| entry.file_name().into())
        .collect();
    names.sort();
    names
}

/// The last `most` bytes of a plain file, clean, and its size.
fn tail(path: &Path, most: usize) -> Option<(String, u64)> {
    // What is no plain file may block for ever.
    let size = std::fs::symlink_metadata(path)
        .ok()
        .filter(|m| m.is_file())?
        .len();
    let mut file = File::open(path).ok()?;
    file.seek(SeekFrom::Start(size.saturating_sub(most as u64)))
        .ok()?;
    let mut bytes = Vec::new();
    file.take(most as u64).read_to_end(&mut bytes).ok()?;
    Some((clean(&String::from_utf8_lossy(&bytes)), size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn run() -> (tempfile::TempDir, PathBuf) {
        let run = tempfile::tempdir().unwrap();
        let dir = run.path().join("driver.e1000.rhel9.tap");
        fs::create_dir_all(dir.join("destination1")).unwrap();
        (run, dir)
    }

    fn titles(excerpts: &[Excerpt]) -> Vec<&str> {
        excerpts
            .iter()
            .map(|excerpt| excerpt.title.as_str())
            .collect()
    }

    #[test]
    fn the_ends_of_logs_are_read() {
        let (run, dir) = run();
        fs::write(
            dir.join("serial.log"),
            "x".repeat(20_000) + "\u{1b}[31mend\r\n",
        )
        .unwrap();
        fs::write(dir.join("qmp.log"), "").unwrap();
        fs::write(dir.join("destination1/qmp.log"), "moved").unwrap();
        let reader = Reader::new(run.path(), None, 1 << 20);
        let excerpts = reader.excerpts(&dir);
        assert_eq!(
            titles(&excerpts),
            ["Serial console", "QMP transcript, destination1"]
        );
        assert!(excerpts[0].text.ends_with("xend\n"));
        assert_eq!(
            excerpts[0].part.as_deref(),
            Some("the last 16.0 KiB of 19.5 KiB")
        );
        assert_eq!(
            (excerpts[1].text.as_str(), &excerpts[1].part),
            ("moved", &None)
        );
    }

    #[test]
    fn nothing_is_read_beyond_the_limit() {
        let (run, dir) = run();
        fs::write(dir.join("serial.log"), "twelve bytes").unwrap();
        fs::write(dir.join("qmp.log"), "three").unwrap();
        let reader = Reader::new(run.path(), None, 10);
        assert_eq!(titles(&reader.excerpts(&dir)), ["QMP transcript"]);
        assert_eq!(titles(&reader.excerpts(&dir)), ["QMP transcript"]);
        assert!(reader.excerpts(&dir).is_empty());
    }

    #[test]
    fn only_plain_files_are_read() {
        let (run, dir) = run();
        let fifo = dir.join("serial.log");
        let made = std::process::Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap();
        assert!(made.success());
        std::os::unix::fs::symlink("/etc/passwd", dir.join("qmp.log")).unwrap();
        let reader = Reader::new(run.path(), None, 1 << 20);
        assert!(reader.excerpts(&dir).is_empty());
        assert!(reader.artifacts(&dir).0.is_empty());
    }

    #[test]
    fn a_run_that_was_moved_is_read_where_it_is() {
        let (run, dir) = run();
        let reader = Reader::new(run.path(), None, 0);
        let elsewhere = "/builds/1/target/nicmatrix/runs/r/driver.e1000.rhel9.tap";
        assert_eq!(reader.directory(elsewhere), Some(dir));
        assert_eq!(reader.directory("/builds/1/no.such"), None);
        assert_eq!(reader.directory(""), None);
    }

    #[test]
    fn files_are_linked_from_a_page_above_them() {
        let (run, dir) = run();
        fs::write(dir.join("a #1.pcap"), "pcap").unwrap();
        let link = |page: Option<&Path>| {
            let (files, more) = Reader::new(run.path(), page, 0).artifacts(&dir);
            assert_eq!(
                (files[0].name.as_str(), files[0].size, more),
                ("a #1.pcap", 4, 0)
            );
            files.into_iter().next().and_then(|file| file.link)
        };
        let from_the_run = "./driver.e1000.rhel9.tap/a%20%231.pcap";
        assert_eq!(link(Some(run.path())).as_deref(), Some(from_the_run));
        assert_eq!(link(None), None);
        assert_eq!(link(Some(&dir.join("destination1"))), None);
    }
}
