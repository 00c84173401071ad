//! What a QEMU has, asked of itself over QMP.

use crate::base::child::dies_with_parent;
use crate::base::error::CannotRun;
use crate::base::json;
use anyhow::{Context, anyhow, bail};
use nix::sys::prctl;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::{fs::MetadataExt, process::CommandExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// QEMU answers within 0.1 s; from a cold disk under full load it may take some seconds.
const ANSWER: Duration = Duration::from_secs(20);

/// One that has not answered as a QEMU is given this long to end by itself, and its stderr to end
/// with it, which a grandchild of a wrapper script may hold open: then do without.
const STDERR: Duration = Duration::from_secs(1);

/// Where QEMU builds keep their modules. One that comes or goes changes QEMU's devices, but not
/// its binary.
const MODULES: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu/qemu",
    "/usr/lib/qemu",
    "/usr/lib64/qemu",
    "/usr/lib64/qemu-kvm",
];

/// OVMF with its variables in one file, as `-bios` takes it.
const UEFI: [&str; 2] = ["/usr/share/ovmf/OVMF.fd", "/usr/share/OVMF/OVMF.fd"];

/// The facts of one QEMU that decide whether a trial can run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QemuFacts {
    /// As `query-version` gives it, for example "7.2.22".
    pub version: String,
    /// `-device` models that it has (`-device help`).
    pub devices: Vec<String>,
    /// Machine types that it has.
    pub machines: Vec<String>,
    /// Whether it takes `-spice`.
    pub spice: bool,
    /// OVMF, where it is installed.
    pub uefi: Option<PathBuf>,
}

impl QemuFacts {
    /// Whether it has the `-device` model.
    pub fn has_device(&self, device: &str) -> bool {
        self.devices.iter().any(|has| has == device)
    }
}

/// The facts of `qemu`, cached in `cache_dir` until its file, its modules or `firmware` change.
///
/// # Errors
/// [`CannotRun`], when it does not answer as a QEMU.
pub fn facts(qemu: &Path, firmware: &[PathBuf], cache_dir: &Path) -> anyhow::Result<QemuFacts> {
    let asked = cached(qemu, firmware, cache_dir)
        .map_err(|e| anyhow::Error::new(CannotRun(format!("{e:#}"))))?;
    Ok(QemuFacts {
        version: asked.version,
        devices: asked.devices,
        machines: asked.machines,
        spice: asked.spice,
        uefi: UEFI.map(PathBuf::from).into_iter().find(|f| f.is_file()),
    })
}

/// What a QEMU says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Asked {
    version: String,
    devices: Vec<String>,
    machines: Vec<String>,
    spice: bool,
}

#[derive(Serialize, Deserialize)]
struct CacheEntry {
    key: String,
    asked: Asked,
}

fn cached(qemu: &Path, firmware: &[PathBuf], cache_dir: &Path) -> anyhow::Result<Asked> {
    // No key: nobody can tell whether it is still the same QEMU.
    let Some(key) = key(qemu, firmware) else {
        return ask(qemu, firmware, ANSWER);
    };
    let place = Sha256::digest(qemu.as_os_str().as_encoded_bytes());
    let file = cache_dir.join(format!("qemu-{:.16}.json", format!("{place:x}")));
    let entry = std::fs::read(&file)
        .ok()
        .and_then(|text| serde_json::from_slice::<CacheEntry>(&text).ok());
    if let Some(entry) = entry.filter(|entry| entry.key == key) {
        return Ok(entry.asked);
    }
    let asked = ask(qemu, firmware, ANSWER)?;
    let entry = CacheEntry { key, asked };
    // A cache that cannot be written costs only that QEMU is asked again.
    let _ = json::write_whole(&file, &entry);
    Ok(entry.asked)
}

/// Changes when QEMU does. None for a script, which may start any QEMU.
fn key(qemu: &Path, firmware: &[PathBuf]) -> Option<String> {
    let mut start = [0; 2];
    File::open(qemu).ok()?.read_exact(&mut start).ok()?;
    if &start == b"#!" {
        return None;
    }
    let stamp = |path: &Path| {
        let m = path.metadata().ok()?;
        Some((m.ino(), m.size(), m.mtime(), m.mtime_nsec()))
    };
    let modules: Vec<_> = MODULES.iter().map(|dir| stamp(Path::new(dir))).collect();
    let binary = qemu.canonicalize().ok()?;
    Some(format!(
        "{binary:?} {:?} {modules:?} {firmware:?}",
        stamp(&binary)?
    ))
}

/// Starts a QEMU without a machine and asks it.
fn ask(qemu: &Path, firmware: &[PathBuf], deadline: Duration) -> anyhow::Result<Asked> {
    let mut command = Command::new(qemu);
    command
        .args(["-machine", "none,accel=tcg:kvm", "-nodefaults"])
        .args(["-display", "none", "-qmp", "stdio"])
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for directory in firmware {
        command.arg("-L").arg(directory);
    }
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?));
    }
    let child = command
        .spawn()
        .with_context(|| format!("cannot start {}", qemu.display()))?;
    let mut session = Session::new(child, Instant::now() + deadline);
    let answers = session.converse().and_then(|answers| {
        session.expect_alone()?;
        Ok(answers)
    });
    let end = session.end(answers.is_ok());
    let answers = answers.map_err(|trouble| {
        let what = match trouble {
            Trouble::Silent => format!("it did not answer QMP within {deadline:?}"),
            Trouble::Ended => format!("it ended before it answered QMP ({})", end.status),
            Trouble::Answer(what) => what,
        };
        let stderr = match end.stderr.trim() {
            "" => "and wrote nothing to stderr".to_string(),
            text => format!("and wrote to stderr: {text}"),
        };
        anyhow!(
            "{} does not work as a QEMU: {what}, {stderr}",
            qemu.display()
        )
    })?;
    let mut asked = understand(&answers)
        .with_context(|| format!("cannot make sense of the answers of {}", qemu.display()))?;
    asked.spice = has_spice(qemu);
    Ok(asked)
}

/// Whether `qemu` explains `-spice`: where SPICE is a module, no monitor command tells that it is
/// there.
fn has_spice(qemu: &Path) -> bool {
    let mut command = Command::new(qemu);
    let explained = dies_with_parent(&mut command)
        .args(["-spice", "help"])
        .stdin(Stdio::null())
        .output();
    explained
        .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("disable-ticketing"))
}

/// The commands, in order; the greeting comes before their answers. `device_add help` lists just
/// what `-device` takes, its modules' devices and aliases included; `qom-list-types` has no aliases
/// and names devices that a user cannot add.
fn questions() -> Vec<Value> {
    vec![
        json!({"execute": "qmp_capabilities"}),
        json!({"execute": "query-version"}),
        json!({"execute": "query-machines"}),
        json!({"execute": "human-monitor-command",
               "arguments": {"command-line": "device_add help"}}),
    ]
}

enum Trouble {
    Silent,
    Ended,
    Answer(String),
}

struct End {
    status: String,
    stderr: String,
}

struct Session {
    child: Child,
    deadline: Instant,
    lines: mpsc::Receiver<String>,
    stderr: mpsc::Receiver<String>,
}

impl Session {
    fn new(mut child: Child, deadline: Instant) -> Self {
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (line, lines) = mpsc::channel();
        let (text, stderr) = mpsc::channel();
        // The threads end with the pipes; nobody joins them, as a stray grandchild could hold one
        // open.
        std::thread::spawn(move || {
            for read in BufReader::new(out?).split(b'\n') {
                line.send(String::from_utf8_lossy(&read.ok()?).into_owned())
                    .ok()?;
            }
            Some(())
        });
        std::thread::spawn(move || {
            let mut all = Vec::new();
            err?.read_to_end(&mut all).ok()?;
            text.send(String::from_utf8_lossy(&all).into_owned()).ok()
        });
        Session {
            child,
            deadline,
            lines,
            stderr,
        }
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn say(&mut self, command: &Value) {
        if let Some(stdin) = &mut self.child.stdin {
            // One that has ended is noticed by the answer that does not come.
            let _ = writeln!(stdin, "{command}");
        }
    }

    /// The answers to all questions.
    fn converse(&mut self) -> Result<Vec<Value>, Trouble> {
        if self.next()?.get("QMP").is_none() {
            return Err(Trouble::Answer("it does not greet as QMP does".into()));
        }
        questions()
            .into_iter()
            .map(|question| {
                self.say(&question);
                loop {
                    let mut reply = self.next()?;
                    if let Some(answer) = reply.get_mut("return") {
                        return Ok(answer.take());
                    }
                    if let Some(error) = reply.get("error") {
                        return Err(Trouble::Answer(format!(
                            "it answered {question} with {error}"
                        )));
                    }
                }
            })
            .collect()
    }

    fn next(&mut self) -> Result<Value, Trouble> {
        let line = self.lines.recv_timeout(self.left()).map_err(|e| match e {
            mpsc::RecvTimeoutError::Timeout => Trouble::Silent,
            mpsc::RecvTimeoutError::Disconnected => Trouble::Ended,
        })?;
        serde_json::from_str(&line).map_err(|_| {
            let start: String = line.chars().take(100).collect();
            Trouble::Answer(format!("it wrote `{start}` where QMP was awaited"))
        })
    }

    /// A script that does not `exec` QEMU leaves it behind when it is killed. Known where the kernel
    /// lists a process's children.
    fn expect_alone(&self) -> Result<(), Trouble> {
        let pid = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        match children {
            Ok(children) if !children.trim().is_empty() => Err(Trouble::Answer(
                "it starts QEMU as a child, which would outlive it: begin that line of the script \
                 with `exec`"
                    .into(),
            )),
            _ => Ok(()),
        }
    }

    /// Asks one that `answers` to quit, then kills what is left, so that nothing outlives the
    /// question.
    fn end(mut self, answers: bool) -> End {
        if answers {
            self.say(&json!({"execute": "quit"}));
        }
        self.child.stdin.take();
        let pid = Pid::from_raw(self.child.id() as i32);
        let (ended, end) = mpsc::channel();
        // It stays to be reaped by `wait` below.
        std::thread::spawn(move || {
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
            ended.send(waitid(Id::Pid(pid), flags))
        });
        let patience = if answers {
            self.left()
        } else {
            STDERR.min(self.left())
        };
        let ended = end.recv_timeout(patience).is_ok();
        if !ended || !answers {
            // Its group is its own, and its id is taken for as long as it is not reaped.
            let _ = killpg(pid, Signal::SIGKILL);
        }
        let status = match self.child.wait() {
            Ok(status) => status.to_string(),
            Err(e) => format!("its exit status is unknown: {e}"),
        };
        End {
            status,
            stderr: self.stderr.recv_timeout(STDERR).unwrap_or_default(),
        }
    }
}

fn understand(answers: &[Value]) -> anyhow::Result<Asked> {
    let [_, version, machines, devices] = answers else {
        bail!("there are {} answers", answers.len());
    };
    let number = |part: &str| {
        version["qemu"][part]
            .as_u64()
            .with_context(|| format!("query-version gave {version}"))
    };
    let machines: Vec<String> = machines
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|machine| [&machine["name"], &machine["alias"]])
        .filter_map(|name| Some(name.as_str()?.to_string()))
        .collect();
    let devices = devices.as_str().map(device_names).unwrap_or_default();
    if machines.is_empty() || devices.is_empty() {
        bail!(
            "it lists {} machine types and {} devices",
            machines.len(),
            devices.len()
        );
    }
    Ok(Asked {
        version: format!(
            "{}.{}.{}",
            number("major")?,
            number("minor")?,
            number("micro")?
        ),
        devices,
        machines,
        spice: false,
    })
}

/// From lines like `name "virtio-net-pci", bus PCI, alias "virtio-net"`.
fn device_names(help: &str) -> Vec<String> {
    let quoted = |line: &str, key: &str| {
        let (_, rest) = line.split_once(&format!("{key} \""))?;
        Some(rest.split_once('"')?.0.to_string())
    };
    help.lines()
        .filter(|line| line.starts_with("name "))
        .flat_map(|line| [quoted(line, "name"), quoted(line, ", alias")])
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests;
