//! A run of the harness in directories of its own, and what it leaves behind.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Ctrl-C and SIGTERM must end the run within 5 s.
pub const ENDS: Duration = Duration::from_secs(5);
/// Between two looks at what has no event to wait for: another process's files and its end.
pub const LOOK: Duration = Duration::from_millis(20);

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// `nicmatrix`, with only those of the user's settings that say what VMs run on.
pub fn nicmatrix(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nicmatrix"));
    let keep = [
        "NICMATRIX_DIR",
        "NICMATRIX_QEMU",
        "NICMATRIX_FIRMWARE",
        "NICMATRIX_ACCEL",
    ];
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let ours = text.starts_with("NEXTEST") || text.starts_with("NICMATRIX_");
        if ours && !keep.contains(&&*text) {
            command.env_remove(&name);
        }
    }
    command.env_remove("GITHUB_STEP_SUMMARY");
    command.args(arguments).stdin(Stdio::null());
    command
}

pub fn matrix(arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = nicmatrix(&["run"]);
    command.args(arguments).envs(variables.iter().copied());
    command
}

/// Runs what must end with `code` and those words.
pub fn refused(arguments: &[&str], variables: &[(&str, &str)], code: i32, words: &[&str]) {
    let Output {
        status,
        stdout,
        stderr,
    } = matrix(arguments, variables).output().expect("it runs");
    let text = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    assert_eq!(status.code(), Some(code), "{status}: {text}");
    expect_words(&text, words);
}

/// Fails when `text` lacks one of `words`.
pub fn expect_words(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no {word:?} in: {text}");
    }
}

/// The shipped matrix with `from` replaced.
pub fn changed_matrix(directory: &Path, from: &str, to: &str) -> String {
    let text = fs::read_to_string(root().join("matrix.toml")).expect("the shipped matrix");
    assert!(text.contains(from), "the shipped matrix has no {from}");
    let path = directory.join("matrix.toml");
    fs::write(&path, text.replace(from, to)).expect("written");
    path.to_string_lossy().into_owned()
}

/// Directories of one run alone, with what runs share: images, proofs, QEMUs and checkpoints.
pub struct Own {
    pub directory: TempDir,
    /// Its `NICMATRIX_DIR`: also what tells its processes from those of others.
    pub dir: String,
    /// Its `TMPDIR`.
    pub tmp: PathBuf,
    /// The built image's.
    pub kernel: PathBuf,
}

impl Own {
    pub fn new() -> Own {
        Own::called("nicmatrix")
    }

    /// With checkpoints of its own: what it writes is no other run's, nor what it makes while it lacks something.
    pub fn with_own_checkpoints() -> Own {
        let own = Own::new();
        fs::remove_file(Path::new(&own.dir).join("checkpoints")).expect("a link");
        own
    }

    /// With that name for its `NICMATRIX_DIR`.
    pub fn called(name: &str) -> Own {
        // Builds the image where it is missing, or waits for the test that does.
        let built = nicmatrix(&["image"]).output().expect("it runs");
        assert!(built.status.success(), "{built:?}");
        let printed = String::from_utf8(built.stdout).expect("UTF-8");
        // DIR/images/HASH/initrd, the system's own kernel's first
        let first = printed.lines().next().unwrap_or_default();
        let mut above = Path::new(first).ancestors().skip(1);
        let image = above.next().expect("HASH");
        let shared = above.nth(1).expect("DIR");
        let kernel = image.join("bzImage");
        for name in ["host", "qemus", "checkpoints"] {
            fs::create_dir_all(shared.join(name)).expect("made");
        }

        let directory = tempfile::tempdir().expect("a directory");
        let (own, tmp) = (directory.path().join(name), directory.path().join("tmp"));
        fs::create_dir_all(&own).expect("made");
        fs::create_dir(&tmp).expect("made");
        for name in ["images", "host", "qemus", "checkpoints"] {
            symlink(shared.join(name), own.join(name)).expect("linked");
        }
        let dir = own.to_string_lossy().into_owned();
        Own {
            directory,
            dir,
            tmp,
            kernel,
        }
    }

    pub fn run(&self, trial: &str, matrix_file: Option<&str>) -> Started {
        self.start(&["--exact", trial], matrix_file)
    }

    pub fn start(&self, arguments: &[&str], matrix_file: Option<&str>) -> Started {
        let (out, err) = (self.file("stdout"), self.file("stderr"));
        let mut command = matrix(arguments, &[("NICMATRIX_DIR", &self.dir)]);
        command.env("TMPDIR", &self.tmp);
        command.envs(matrix_file.map(|path| ("NICMATRIX_MATRIX", path)));
        command.stdout(fs::File::create(&out).expect("made"));
        command.stderr(fs::File::create(&err).expect("made"));
        Started {
            child: command.spawn().expect("it starts"),
        }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// All that the run printed.
    pub fn said(&self) -> String {
        ["stdout", "stderr"]
            .map(|name| fs::read_to_string(self.file(name)).unwrap_or_default())
            .join("\n")
    }

    /// The run's processes: those that got its directory in their environment.
    pub fn processes(&self) -> Vec<Process> {
        let mark = format!("NICMATRIX_DIR={}", self.dir);
        let entries = fs::read_dir("/proc").expect("/proc").flatten();
        entries
            .map(|entry| entry.path())
            .filter(|path| {
                let variables = fs::read(path.join("environ")).unwrap_or_default();
                variables
                    .split(|byte| *byte == 0)
                    .any(|v| v == mark.as_bytes())
            })
            .map(Process)
            .collect()
    }

    /// Waits until a guest takes commands.
    pub fn await_vm(&self, started: &mut Started, limit: Duration) {
        let latest = Path::new(&self.dir).join("runs/latest");
        let takes_commands = || {
            let mut trials = fs::read_dir(&latest).into_iter().flatten().flatten();
            trials.any(|trial| {
                let log = fs::read_to_string(trial.path().join("commands.log"));
                log.is_ok_and(|log| !log.is_empty())
            })
        };
        let deadline = Instant::now() + limit;
        while !takes_commands() {
            let ended = started.child.try_wait().expect("it can be waited for");
            assert!(ended.is_none(), "it ended without a VM: {}", self.said());
            let late = Instant::now() >= deadline;
            assert!(!late, "no VM within {limit:?}: {}", self.said());
            std::thread::sleep(LOOK);
        }
    }

    /// Fails when a process of the run writes to a file elsewhere.
    pub fn expect_own_files(&self) {
        let own = self.directory.path();
        for file in self.processes().iter().flat_map(Process::writes) {
            assert!(file.starts_with(own), "{} is written", file.display());
        }
    }

    /// Fails while anything of `was` is left.
    pub fn expect_gone(&self, was: &Traces) {
        let deadline = Instant::now() + ENDS;
        loop {
            let left = self.left(was);
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left behind: {left:?}");
            std::thread::sleep(LOOK);
        }
    }

    pub fn left(&self, was: &Traces) -> Vec<String> {
        let mut left: Vec<_> = self.processes().iter().map(Process::line).collect();
        let everywhere = fs::read_dir("/proc").expect("/proc").flatten();
        let held = everywhere.flat_map(|entry| Process(entry.path()).networks());
        left.extend(held.filter(|network| was.networks.contains(network)));
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let named = was
            .networks
            .iter()
            .filter(|network| mounts.contains(*network));
        left.extend(named.map(|network| format!("{network} has a name")));
        let own = mounts.lines().filter(|line| line.contains(&self.dir));
        left.extend(own.map(|line| format!("mounted: {line}")));
        left.extend(names_in(&self.tmp));
        left.extend(unfinished(Path::new(&self.dir)));
        left.extend(interfaces().difference(&was.interfaces).cloned());
        left.extend(elsewhere().difference(&was.elsewhere).cloned());
        left
    }
}

fn names_in(directory: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().display().to_string())
}

/// What was being written below a directory when its writer ended. What runs share is a link there, and is others'
/// as well.
fn unfinished(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if [".tmp", ".build-"]
            .iter()
            .any(|begin| name.to_string_lossy().starts_with(begin))
        {
            found.push(entry.path().display().to_string());
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(unfinished(&entry.path()));
        }
    }
    found
}

/// What is named after the project, or QEMU's own, where nothing of a run belongs.
fn elsewhere() -> BTreeSet<String> {
    let directories = [
        "/tmp",
        "/var/tmp",
        "/dev/shm",
        "/run",
        "/sys/kernel/tracing/instances",
        "/sys/kernel/tracing/events/nicmatrix",
    ];
    let all = directories
        .iter()
        .flat_map(|directory| names_in(Path::new(directory)));
    // What the runs of a machine share, which is there from the first on.
    let all = all.filter(|path| path != "/run/nicmatrix");
    all.filter(|path| {
        let name = path.rsplit('/').next().unwrap_or_default();
        // QEMU's files for snapshots and for shared memory.
        path.contains("nicmatrix") || name.starts_with("vl.") || name.starts_with("qemu")
    })
    .collect()
}

/// A run under way; killed when a test fails.
pub struct Started {
    pub child: Child,
}

impl Started {
    pub fn ended_within(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                return status;
            }
            assert!(Instant::now() < deadline, "it still runs after {limit:?}");
            std::thread::sleep(LOOK);
        }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, signal).expect("sent");
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory of /proc.
pub struct Process(pub PathBuf);

impl Process {
    pub fn line(&self) -> String {
        let line = fs::read(self.0.join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ")
    }

    /// The network namespaces of its threads, as `net:[INODE]`.
    pub fn networks(&self) -> BTreeSet<String> {
        let threads = fs::read_dir(self.0.join("task")).into_iter().flatten();
        let links = threads.flatten().map(|thread| thread.path().join("ns/net"));
        links
            .filter_map(|link| fs::read_link(link).ok())
            .map(|name| name.to_string_lossy().into_owned())
            .collect()
    }

    /// The regular files that it can write to.
    pub fn writes(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.0.join("fd")).into_iter().flatten();
        let open = files.flatten().filter(|file| {
            let about = self.0.join("fdinfo").join(file.file_name());
            let about = fs::read_to_string(about).unwrap_or_default();
            let flags = about.lines().find_map(|line| line.strip_prefix("flags:"));
            let mode = flags.and_then(|octal| octal.trim().chars().last());
            let regular = fs::metadata(file.path()).is_ok_and(|m| m.is_file());
            regular && matches!(mode, Some('1' | '2'))
        });
        open.filter_map(|file| fs::read_link(file.path()).ok())
            .collect()
    }
}

fn interfaces() -> BTreeSet<String> {
    let entries = fs::read_dir("/sys/class/net").into_iter().flatten();
    let names = entries.flatten().map(|entry| entry.path());
    names.map(|path| path.display().to_string()).collect()
}

/// What must be gone after a run.
pub struct Traces {
    /// Of this machine, before the run.
    interfaces: BTreeSet<String>,
    /// Outside of the run's directories, before the run.
    elsewhere: BTreeSet<String>,
    /// The trial's own.
    pub networks: BTreeSet<String>,
}

impl Traces {
    /// Before a run.
    pub fn before() -> Traces {
        Traces {
            interfaces: interfaces(),
            elsewhere: elsewhere(),
            networks: BTreeSet::new(),
        }
    }
}
