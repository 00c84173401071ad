//! The one way to start a QEMU, whatever it is started for: a guest, a lab, a boot that proves an
//! accelerator, or a question to it.

mod process;

pub use process::{Death, Process};

use crate::base::child::pdeath_command;
use crate::base::collected::Collected;
use crate::base::deadline::Limit;
use crate::base::error::OrCannotRun;
use crate::base::kept::Log;
use crate::base::killed::OutOfMemory;
use crate::base::{output, rights, words};
use crate::settings::Settings;
use anyhow::anyhow;
use caps::Capability;
use command_fds::{CommandFdExt, FdMapping};
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

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

#[cfg(test)]
mod tests;
