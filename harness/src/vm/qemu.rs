//! The one way to start a QEMU, whatever it is started for: a guest, a lab, a boot that proves an
//! accelerator, or a question to it.

use crate::base::child::pdeath_command;
use crate::base::collected::Collected;
use crate::base::deadline::{Limit, Until};
use crate::base::error::OrCannotRun;
use crate::base::kept::Log;
use crate::base::killed::OutOfMemory;
use crate::base::{cpu, output, rights, words};
use crate::settings::Settings;
use anyhow::anyhow;
use caps::Capability;
use command_fds::{CommandFdExt, FdMapping};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// Between two looks whether a QEMU has ended.
const LOOK: Duration = Duration::from_millis(1);

/// A QEMU answers a question on its command line within 0.1 s; from a cold disk under full load it may take some
/// seconds.
const ANSWER: Limit = Limit {
    what: "QEMU to answer and end",
    seconds: 20.0,
};

/// What is kept of what a QEMU prints on a stream, bytes, beginning and end. It prints some lines, or the same
/// line for ever.
const PRINTED: usize = 256 << 10;

/// Has a QEMU refuse itself what no guest needs: to start programs, to become another user, to schedule itself.
const SANDBOX: [&str; 2] = [
    "-sandbox",
    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
];

/// What a QEMU keeps of root's capabilities: for files in an ordinary user's directories, also those that a lab writes,
/// and for the program by which virtio's rss has the tap choose a queue.
const RIGHTS: [Capability; 5] = [
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_CHOWN,
    Capability::CAP_FOWNER,
    Capability::CAP_BPF,
    Capability::CAP_NET_ADMIN,
];

/// A QEMU that can be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Qemu {
    /// Its program.
    pub program: PathBuf,
    /// `-L` directories.
    pub firmware: Vec<PathBuf>,
    /// The loader that starts it, where that is not the system's.
    pub loader: Option<Loader>,
    /// The OVMF that comes with it; without one, the system's is taken.
    pub uefi: Option<PathBuf>,
    /// Whether it confines itself ([`SANDBOX`]): not every build can.
    pub sandbox: bool,
}

/// A dynamic loader (ld.so(8)) with its own libraries, for a program of another distribution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loader {
    /// The loader.
    pub program: PathBuf,
    /// Where it looks for libraries.
    pub libraries: Vec<PathBuf>,
}

impl Qemu {
    /// The default QEMU of `settings`.
    pub fn default_of(settings: &Settings) -> Qemu {
        Qemu {
            firmware: settings.firmware.clone(),
            ..Qemu::at(settings.qemu.clone())
        }
    }

    /// The QEMU `program`, with the system's libraries and the firmware that it finds itself.
    pub fn at(program: PathBuf) -> Qemu {
        Qemu {
            program,
            firmware: Vec::new(),
            loader: None,
            uefi: None,
            sandbox: false,
        }
    }

    /// This QEMU with `arguments`, not yet started.
    pub fn command(&self, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> QemuCommand {
        let firmware = self.firmware.iter();
        let mut all: Vec<OsString> = firmware
            .flat_map(|directory| ["-L".into(), directory.into()])
            .collect();
        all.extend(arguments.into_iter().map(Into::into));
        if self.sandbox {
            all.extend(SANDBOX.map(Into::into));
        }
        let program = match &self.loader {
            None => self.program.clone(),
            Some(loader) => {
                let libraries: Vec<_> = (loader.libraries.iter())
                    .map(|directory| directory.as_os_str())
                    .collect();
                let its: [OsString; 3] = [
                    "--library-path".into(),
                    libraries.join(OsStr::new(":")),
                    self.program.clone().into(),
                ];
                all.splice(0..0, its);
                loader.program.clone()
            }
        };
        QemuCommand {
            program,
            arguments: all,
            sockets: Vec::new(),
            stdio: None,
            directory: None,
            own_group: false,
        }
    }
}

/// A new file beside a VM's others.
///
/// # Errors
/// [`crate::base::error::CannotRun`]: the directory cannot be written to.
pub fn transcript(directory: &Path, name: &str) -> anyhow::Result<Log> {
    let path = directory.join(name);
    File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)
        .map(Log::new)
        .or_cannot_run(|| format!("write {}", path.display()))
}

/// A QEMU that is about to be started.
pub struct QemuCommand {
    program: PathBuf,
    arguments: Vec<OsString>,
    sockets: Vec<FdMapping>,
    stdio: Option<UnixStream>,
    directory: Option<PathBuf>,
    own_group: bool,
}

impl QemuCommand {
    /// Has QEMU inherit a socket as its file descriptor `child_fd`; the other end. There is no path to
    /// poll for or to clean up.
    ///
    /// # Errors
    /// When the sockets cannot be made.
    pub fn socket(&mut self, child_fd: i32) -> anyhow::Result<UnixStream> {
        let (ours, theirs) = pair()?;
        self.sockets.push(FdMapping {
            parent_fd: OwnedFd::from(theirs),
            child_fd,
        });
        Ok(ours)
    }

    /// As [`QemuCommand::socket`], as its standard input and output, which else are empty and lost.
    ///
    /// # Errors
    /// When the sockets cannot be made.
    pub fn stdio(&mut self) -> anyhow::Result<UnixStream> {
        let (ours, theirs) = pair()?;
        self.stdio = Some(theirs);
        Ok(ours)
    }

    /// Keeps the command line (`qemu.sh`, as a shell takes it) and all that QEMU says in `directory`.
    pub fn transcripts_in(&mut self, directory: &Path) {
        self.directory = Some(directory.to_owned());
    }

    /// Gives QEMU a process group of its own, which is killed with it: for a program that may be a
    /// script with children.
    pub fn own_group(&mut self) {
        self.own_group = true;
    }

    /// The command line, as a shell takes it, an option a line.
    pub fn line(&self) -> String {
        words::command_line(&self.program, &self.arguments)
    }

    /// Starts QEMU. It is killed with the calling thread, and lives in that thread's network namespace.
    ///
    /// # Errors
    /// [`crate::base::error::CannotRun`]: the program cannot be executed, or the directory of the
    /// transcripts not be written to.
    pub fn start(mut self) -> anyhow::Result<Process> {
        let mut command = self.command();
        let mut stdout = None;
        let mut log = None;
        if let Some(directory) = &self.directory {
            std::fs::write(directory.join("qemu.sh"), self.line() + "\n")
                .or_cannot_run(|| "write the QEMU command line".into())?;
            let (collected, writer) =
                Collected::pipe(PRINTED, Some(transcript(directory, "qemu.stdout")?))?;
            command.stdout(writer);
            stdout = Some(collected);
            log = Some(transcript(directory, "qemu.stderr")?);
        }
        let (stderr, writer) = Collected::pipe(PRINTED, log)?;
        command.stderr(writer);
        if let Some(stdio) = self.stdio.take() {
            let input = (stdio.try_clone()).or_cannot_run(|| "duplicate a socket".into())?;
            command.stdin(OwnedFd::from(input));
            command.stdout(OwnedFd::from(stdio));
        }
        if self.own_group {
            command.process_group(0);
        }
        command
            .fd_mappings(std::mem::take(&mut self.sockets))
            .map_err(|error| anyhow!("{error}"))?;
        let started = Instant::now();
        let out_of_memory = OutOfMemory::so_far();
        let child = command
            .spawn()
            .or_cannot_run(|| format!("start {}", self.program.display()))?;
        // The command, which holds QEMU's ends of the sockets, ends here: while it lived, QEMU's end
        // would not be seen.
        Ok(Process {
            child,
            started,
            stdout,
            stderr,
            own_group: self.own_group,
            out_of_memory,
            killed: false,
            death: None,
        })
    }

    /// Starts QEMU and waits for its end, which comes by itself; what it printed. For options such as
    /// `-device help`.
    ///
    /// # Errors
    /// [`crate::base::error::CannotRun`]: the program cannot be executed, does not end, or prints without end.
    pub fn output(self) -> anyhow::Result<Output> {
        let child = self
            .command()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A script may start other programs.
            .process_group(0)
            .spawn()
            .or_cannot_run(|| format!("start {}", self.program.display()))?;
        output::of(child, ANSWER)
            .or_cannot_run(|| format!("ask QEMU: {}", self.line().replace(" \\\n ", "")))
    }

    /// The program and its arguments, with neither input nor output.
    fn command(&self) -> Command {
        let mut command = pdeath_command(&self.program);
        command
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        rights::lessen(&mut command, &RIGHTS);
        command
    }
}

fn pair() -> anyhow::Result<(UnixStream, UnixStream)> {
    UnixStream::pair().or_cannot_run(|| "make a pair of sockets for QEMU".into())
}

/// Whom a QEMU's last words name as the cause of its end, where that is the host.
fn ended_by_host(stderr: &str) -> Option<String> {
    // What strerror(3) calls what a host has too little of.
    const WANT: [&str; 4] = [
        "Resource temporarily unavailable",
        "Cannot allocate memory",
        "Too many open files",
        "No space left on device",
    ];
    // When it takes a signal to quit.
    let signal = |line: &str| {
        let (_, signal) = line.split_once("terminating on signal ")?;
        Some(format!("by signal {signal}"))
    };
    let want = |line: &str| {
        let word = WANT.iter().find(|word| line.contains(**word))?;
        Some(format!("the host refused what it asked for ({word})"))
    };
    let mut lines = stderr.lines().rev();
    lines.find_map(|line| signal(line).or_else(|| want(line)))
}

/// The process of a QEMU. It is ended when this is dropped.
pub struct Process {
    child: Child,
    started: Instant,
    /// Where there are transcripts.
    stdout: Option<Collected>,
    stderr: Collected,
    own_group: bool,
    out_of_memory: OutOfMemory,
    /// By us.
    killed: bool,
    /// Once it has ended and was waited for: how, and what the kernel tells of a kill from outside.
    death: Option<(ExitStatus, Option<String>)>,
}

/// How a QEMU ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// Its exit status.
    pub status: ExitStatus,
    /// All that it wrote to stderr, without blanks around it; of very much, the beginning and the end.
    pub stderr: String,
    /// Where somebody else ended it: who, as far as is known.
    pub outside: Option<String>,
    /// The command that it had not answered when it ended, where one is known.
    pub asked: Option<String>,
}

impl Death {
    /// Whether it ended by a defect of its own: an assertion, a wrong access.
    pub fn is_crash(&self) -> bool {
        let crashes = [
            Signal::SIGABRT,
            Signal::SIGSEGV,
            Signal::SIGILL,
            Signal::SIGFPE,
        ];
        let signal = self.status.signal();
        crashes.iter().any(|crash| signal == Some(*crash as i32))
    }

    /// What it wrote to stderr, for a sentence's end.
    pub fn said(&self) -> String {
        match self.stderr.as_str() {
            "" => "nothing on stderr".into(),
            text => format!("stderr: {text}"),
        }
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QEMU ended with {}", self.status)?;
        if let Some(outside) = &self.outside {
            write!(f, ", from outside: {outside}")?;
        }
        if let Some(asked) = &self.asked {
            write!(f, " while it was asked `{asked}`")?;
        }
        write!(f, "; {}", self.said())
    }
}

impl Process {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// When it was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// What it wrote to stderr so far, without blanks around it; of very much, the beginning and the end.
    pub fn stderr(&self) -> String {
        self.stderr.text().trim().to_owned()
    }

    /// How it ended; nothing while it runs.
    pub fn death(&mut self) -> Option<Death> {
        if self.death.is_none() {
            let status = cpu::try_wait(&mut self.child).ok()??;
            self.note(status);
        }
        let (status, outside) = self.death.clone()?;
        // The last that it printed goes to its transcripts.
        if let Some(stdout) = &self.stdout {
            stdout.text();
        }
        Some(Death {
            status,
            stderr: self.stderr(),
            outside,
            asked: None,
        })
    }

    fn note(&mut self, status: ExitStatus) {
        let outside = match (self.killed, status.signal()) {
            (true, _) => None,
            (false, Some(libc::SIGKILL)) => Some(self.out_of_memory.tell(self.child.id())),
            (false, Some(libc::SIGTERM | libc::SIGINT | libc::SIGHUP)) => {
                Some("by a signal".into())
            }
            // A page of its memory had no room on the disk, or could not be read from there.
            (false, Some(libc::SIGBUS)) => Some("a file in its memory could not be reached".into()),
            _ => ended_by_host(&self.stderr()),
        };
        self.death = Some((status, outside));
    }

    /// Waits until it has ended by itself, at most until `until`; whether it has. Its process id stays its
    /// own until it is asked for its [`Process::death`] or [ended](Process::end).
    pub fn await_end(&self, until: impl Into<Until>) -> bool {
        let until = until.into();
        while !self.has_ended() {
            if until.left().is_none() {
                return false;
            }
            std::thread::sleep(LOOK);
        }
        true
    }

    fn has_ended(&self) -> bool {
        let pid = Pid::from_raw(self.child.id() as i32);
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        self.death.is_some() || waitid(Id::Pid(pid), flags) != Ok(WaitStatus::StillAlive)
    }

    /// Kills it, and leaves it to be waited for.
    pub fn kill(&mut self) {
        // One that has ended by itself was not killed by us.
        self.killed |= !self.has_ended();
        // An error says that it has ended.
        let _ = self.child.kill();
    }

    /// Kills it where it still runs, and waits for its end; the calling thread is charged with the
    /// processor time that it took.
    pub fn end(&mut self) {
        if self.death.is_some() {
            return;
        }
        self.killed |= !self.has_ended();
        if self.own_group {
            // Nobody else can have the group's id before its leader was waited for.
            let _ = killpg(Pid::from_raw(self.child.id() as i32), Signal::SIGKILL);
        }
        cpu::end(&mut self.child);
        // It was waited for, and its status is kept.
        if let Ok(Some(status)) = self.child.try_wait() {
            self.note(status);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::CannotRun;
    use std::io::{Read as _, Write as _};

    const LONG: Duration = Duration::from_secs(20);

    /// A stand-in for a QEMU that does what `script` says.
    fn shell(script: &str) -> QemuCommand {
        Qemu::at("sh".into()).command(["-c", script])
    }

    fn death(command: QemuCommand) -> Death {
        let mut process = command.start().unwrap();
        assert!(process.await_end(Instant::now() + LONG));
        process.death().unwrap()
    }

    #[test]
    fn the_command_line_begins_with_the_firmware_and_is_kept_with_what_was_said() {
        let directory = tempfile::tempdir().unwrap();
        let echo = Qemu {
            firmware: vec!["build dir/pc-bios".into(), "/fw".into()],
            ..Qemu::at("/bin/echo".into())
        };
        let mut command = echo.command(["-m", "256"]);
        command.transcripts_in(directory.path());
        insta::assert_snapshot!(command.line(), @r"
        /bin/echo \
          -L 'build dir/pc-bios' \
          -L /fw \
          -m 256
        ");
        let line = command.line();
        assert!(death(command).status.success());
        let kept = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        assert_eq!(kept("qemu.sh"), line + "\n");
        assert_eq!(kept("qemu.stdout"), "-L build dir/pc-bios -L /fw -m 256\n");
        assert_eq!(kept("qemu.stderr"), "");
    }

    #[test]
    fn a_program_of_another_distribution_is_started_by_its_own_loader() {
        let other = Qemu {
            firmware: vec!["/r/usr/share/qemu".into()],
            loader: Some(Loader {
                program: "/r/usr/bin/ld.so".into(),
                libraries: vec!["/r/usr/lib".into(), "/r/usr/lib/pulse".into()],
            }),
            ..Qemu::at("/r/usr/bin/qemu".into())
        };
        insta::assert_snapshot!(other.command(["-m", "256"]).line(), @r"
        /r/usr/bin/ld.so \
          --library-path /r/usr/lib:/r/usr/lib/pulse /r/usr/bin/qemu \
          -L /r/usr/share/qemu \
          -m 256
        ");
    }

    #[test]
    fn a_death_tells_the_status_and_what_was_said() {
        let silent = death(shell("exit 3"));
        assert_eq!(
            silent.to_string(),
            "QEMU ended with exit status: 3; nothing on stderr"
        );
        let directory = tempfile::tempdir().unwrap();
        let mut command = shell("echo one >&2; echo two >&2; kill -9 $$");
        command.transcripts_in(directory.path());
        let mut loud = death(command);
        assert!(
            loud.outside
                .take()
                .is_some_and(|who| who.contains("memory"))
        );
        let loud = loud.to_string();
        assert_eq!(
            loud,
            "QEMU ended with signal: 9 (SIGKILL); stderr: one\ntwo"
        );
        let asked = Some("info virtio".to_owned());
        assert_eq!(
            Death { asked, ..silent }.to_string(),
            "QEMU ended with exit status: 3 while it was asked `info virtio`; nothing on stderr"
        );
    }

    #[test]
    fn a_host_that_is_named_in_its_last_words_has_ended_it() {
        let by = |words| ended_by_host(words);
        let thread = "qemu: qemu_thread_create: Resource temporarily unavailable";
        let refused = "the host refused what it asked for (Resource temporarily unavailable)";
        assert_eq!(by(thread).as_deref(), Some(refused));
        let signal = "qemu: terminating on signal 15 from pid 7 (sh)";
        assert_eq!(by(signal).as_deref(), Some("by signal 15 from pid 7 (sh)"));
        assert_eq!(by("qemu: hw/net/x.c:1: f: Assertion `x' failed."), None);
    }

    #[test]
    fn a_stderr_that_is_not_utf_8_is_shown_as_far_as_it_is() {
        let said = death(shell(r"printf 'cannot open \377\376.img\n' >&2; exit 1")).said();
        assert_eq!(said, "stderr: cannot open \u{fffd}\u{fffd}.img");
    }

    #[test]
    fn what_it_says_is_read_while_it_says_more() {
        let mut command = shell("echo one >&2; echo; read line; echo two >&2");
        let mut io = command.stdio().unwrap();
        let mut process = command.start().unwrap();
        io.read_exact(&mut [0]).unwrap();
        assert_eq!(process.stderr(), "one");
        assert_eq!(process.death(), None);
        io.write_all(b"\n").unwrap();
        assert!(process.await_end(Instant::now() + LONG));
        assert_eq!(process.death().unwrap().stderr, "one\ntwo");
    }

    #[test]
    fn sockets_are_inherited_and_close_with_it() {
        let mut command = shell("echo hello >&7; read line <&7; echo $line >&8");
        let (mut seven, mut eight) = (command.socket(7).unwrap(), command.socket(8).unwrap());
        let _process = command.start().unwrap();
        let mut said = [0; 6];
        seven.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"hello\n");
        seven.write_all(b"back\n").unwrap();
        let mut said = String::new();
        eight.read_to_string(&mut said).unwrap();
        assert_eq!(said, "back\n");
    }

    #[test]
    fn it_is_killed_with_its_group_and_only_once() {
        let mut command = shell("sleep 97.5 & echo $!; wait");
        command.own_group();
        let mut io = command.stdio().unwrap();
        let mut process = command.start().unwrap();
        let mut pid = [0; 16];
        let count = io.read(&mut pid).unwrap();
        let child = String::from_utf8_lossy(&pid[..count]).trim().to_owned();
        assert!(!process.await_end(Instant::now()));
        process.end();
        process.end();
        let death = process.death().unwrap();
        assert!(death.to_string().contains("SIGKILL"), "{death}");
        // It was orphaned by the shell's end; who takes it over may take a moment.
        let line = Path::new("/proc").join(child).join("cmdline");
        let deadline = Instant::now() + LONG;
        while std::fs::read(&line).is_ok_and(|line| !line.is_empty()) {
            assert!(Instant::now() < deadline, "its child lives on");
            std::thread::sleep(LOOK);
        }
    }

    #[test]
    fn a_program_that_cannot_be_started_is_named() {
        let nowhere = Qemu::at("/nowhere/qemu".into());
        let nothing: [&str; 0] = [];
        let started = nowhere.command(nothing).start().err().unwrap();
        let asked = nowhere.command(nothing).output().unwrap_err();
        for error in [started, asked] {
            assert!(error.is::<CannotRun>());
            assert_eq!(
                format!("{error:#}"),
                "cannot start /nowhere/qemu: No such file or directory (os error 2)"
            );
        }
    }

    #[test]
    fn the_output_of_a_question_is_all_that_it_prints() {
        let output = shell("echo $LC_ALL; echo complained >&2").output().unwrap();
        assert_eq!(
            (&*output.stdout, &*output.stderr),
            (&b"C\n"[..], &b"complained\n"[..])
        );
    }
}
