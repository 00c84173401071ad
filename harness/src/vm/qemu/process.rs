//! A QEMU's process, and how it ended.

use crate::base::collected::Collected;
use crate::base::cpu;
use crate::base::deadline::Until;
use crate::base::killed::OutOfMemory;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

/// Between two looks whether a QEMU has ended.
const LOOK: Duration = Duration::from_millis(1);

/// The process of a QEMU. It is ended when this is dropped.
pub struct Process {
    pub(super) child: Child,
    pub(super) started: Instant,
    /// Where there are transcripts.
    pub(super) stdout: Option<Collected>,
    pub(super) stderr: Collected,
    pub(super) own_group: bool,
    pub(super) out_of_memory: OutOfMemory,
    /// By us.
    pub(super) killed: bool,
    /// Once it has ended and was waited for: how, and what the kernel tells of a kill from outside.
    pub(super) death: Option<(ExitStatus, Option<String>)>,
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

/// Whom a QEMU's last words name as the cause of its end, where that is the host.
pub(super) fn ended_by_host(stderr: &str) -> Option<String> {
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
