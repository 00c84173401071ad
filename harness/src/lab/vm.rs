//! A running lab, from outside.
//!
//! # Why it is spoken to
//! Under TCG, QEMU notes that a guest inside is entered or left in the same word as the interrupts that
//! wait for the lab's processor, without the lock that the others who write there hold (`helper_vmrun`
//! and `do_vmexit`, seen in 7.2). An interrupt that comes at that very moment is forgotten: it stays in
//! the APIC's IRR until another comes. If it is the timer's, which is set anew only by its own handler,
//! a lab that has nothing else to do halts for good, as three of 24 did on a busy machine. So it is
//! given something once a second, with which the forgotten one is taken as well.

use super::LAB_SILENT;
use super::cmdline::{LabSpec, PORT_FD, SERIAL_FD, SHELL_FD, START, StartScript};
use super::protocol::{FromLab, Hello, ToLab};
use crate::base::child::pdeath_command;
use crate::base::deadline::Deadline;
use crate::base::error::OrCannotRun;
use crate::base::watch::Watch;
use crate::vm::process::{SERIAL_LOG, transcript, write_command_line};
use crate::vm::serial::Serial;
use anyhow::{Result, anyhow};
use command_fds::{CommandFdExt, FdMapping};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Lines of the console that tell of a lab's end.
const TAIL_LINES: usize = 20;

/// How often it is spoken to.
const SPEAK: Duration = Duration::from_secs(1);

/// A lab. It ends when this is dropped, and with the process.
pub struct Lab {
    port: Arc<Port>,
    state: Arc<Watch<State>>,
    serial: Serial,
    shell: Mutex<UnixStream>,
    stderr: PathBuf,
    /// The keeper's thread, which ends QEMU when its channel is closed.
    keeper: Option<(Sender<()>, JoinHandle<()>)>,
    /// From exec to its first word.
    pub started: Instant,
}

/// Its port, for a message at a time.
struct Port(Mutex<UnixStream>);

impl Port {
    fn say(&self, message: &ToLab) -> Result<()> {
        let line = serde_json::to_string(message)? + "\n";
        Ok(self.0.lock().write_all(line.as_bytes())?)
    }
}

#[derive(Default)]
struct State {
    hello: Option<Hello>,
    heard: Option<Instant>,
    ended: bool,
    trials: BTreeMap<u64, Sender<FromLab>>,
    last: u64,
}

impl State {
    /// How long ago the lab last said anything, once it has.
    fn silence(&self) -> Option<Duration> {
        self.heard.map(|heard| heard.elapsed())
    }

    fn take(&mut self, message: FromLab) {
        self.heard = Some(Instant::now());
        match message {
            FromLab::Hello(hello) => self.hello = Some(hello),
            FromLab::Alive => {}
            FromLab::GuestRequested { trial, .. } | FromLab::Ended { trial, .. } => {
                if let Some(sender) = self.trials.get(&trial) {
                    // Whoever waited for the trial may have given up.
                    let _ = sender.send(message);
                }
            }
        }
    }
}

/// Takes what the lab says until its port is closed.
fn listen(port: UnixStream, state: &Watch<State>) {
    for line in BufReader::new(port).lines().map_while(Result::ok) {
        // A line that cannot be read is of another version, which the lab's start excludes.
        if let Ok(message) = serde_json::from_str::<FromLab>(&line) {
            state.update(|state| state.take(message));
        }
    }
    state.update(|state| {
        state.ended = true;
        // The end of its channel tells whoever waits for a trial.
        state.trials.clear();
    });
}

impl Lab {
    /// Starts a lab; it is not up yet. Its transcripts go to the directory of `spec`.
    ///
    /// # Errors
    /// [`crate::base::error::CannotRun`]: QEMU cannot be executed, the directory not be written to.
    pub fn start(qemu: &Path, spec: &LabSpec, start: &StartScript) -> Result<Lab> {
        let directory = &spec.directory;
        std::fs::create_dir_all(directory)
            .and_then(|()| std::fs::write(directory.join(START), start.script()))
            .or_cannot_run(|| format!("write to {}", directory.display()))?;
        let create = |name: &str| transcript(directory, name);
        let arguments = spec.arguments();
        write_command_line(directory, qemu, &arguments)?;
        let (port, theirs_port) = UnixStream::pair()?;
        let (console, theirs_console) = UnixStream::pair()?;
        let (shell, theirs_shell) = UnixStream::pair()?;
        let map = |parent: UnixStream, child_fd| FdMapping {
            parent_fd: OwnedFd::from(parent),
            child_fd,
        };
        let mut command = pdeath_command(qemu);
        command
            .args(&arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(create("qemu.stderr")?)
            .fd_mappings(vec![
                map(theirs_port, PORT_FD),
                map(theirs_console, SERIAL_FD),
                map(theirs_shell, SHELL_FD),
            ])
            .map_err(|error| anyhow!("{error}"))?;
        let (reader, recorder) = (port.try_clone()?, port.try_clone()?);
        let port = Arc::new(Port(Mutex::new(port)));
        let state: Arc<Watch<State>> = Arc::default();
        let (kept_port, kept) = (port.clone(), state.clone());
        // The parent-death signal is that of the spawning thread, and trials' threads end.
        let (hand_over, spawned) = channel();
        let (keeper, dropped) = channel::<()>();
        let thread = std::thread::Builder::new()
            .name("lab".into())
            .spawn(move || {
                let child = command.spawn();
                drop(command);
                match child {
                    Ok(child) => {
                        let _ = hand_over.send(Ok(()));
                        keep(child, &dropped, &kept_port, &kept);
                    }
                    Err(error) => drop(hand_over.send(Err(error))),
                }
            })
            .or_cannot_run(|| "start a thread for the lab".into())?;
        let started = Instant::now();
        spawned
            .recv()
            .map_err(|_| anyhow!("the lab's thread ended"))?
            .or_cannot_run(|| format!("execute {}", qemu.display()))?;
        let theirs = state.clone();
        std::thread::Builder::new()
            .name("lab port".into())
            .spawn(move || listen(reader, &theirs))
            .or_cannot_run(|| "start a thread for the lab".into())?;
        Ok(Lab {
            serial: Serial::record(console, recorder, create(SERIAL_LOG)?, false)?,
            port,
            state,
            shell: Mutex::new(shell),
            stderr: directory.join("qemu.stderr"),
            keeper: Some((keeper, thread)),
            started,
        })
    }

    /// Waits until the harness inside speaks.
    ///
    /// # Errors
    /// The deadline, or the lab's end, with what its console showed.
    pub fn wait_up(&self, deadline: Deadline) -> Result<Hello> {
        let waited = self.state.wait(deadline.ends(), |state| {
            (state.hello.is_some() || state.ended).then(|| state.hello.clone())
        });
        match waited {
            Some(Some(hello)) => Ok(hello),
            Some(None) => Err(self.death().context("the lab ended before it was up")),
            None => Err(deadline.missed(self.tail())),
        }
    }

    /// Whether it still runs, as far as is known.
    pub fn is_alive(&self) -> bool {
        !self.state.lock().ended
    }

    /// How long ago it last said anything; nothing before its first word.
    pub fn silence(&self) -> Duration {
        self.state.lock().silence().unwrap_or_default()
    }

    /// A number for a trial, and what the lab will say of it. The channel ends with the lab.
    pub fn trial(&self) -> (u64, Receiver<FromLab>) {
        let (sender, receiver) = channel();
        let mut state = self.state.lock();
        state.last += 1;
        let trial = state.last;
        if !state.ended {
            state.trials.insert(trial, sender);
        }
        (trial, receiver)
    }

    /// Nothing more is awaited of a trial.
    pub fn forget(&self, trial: u64) {
        self.state.lock().trials.remove(&trial);
    }

    /// Says something to the harness inside.
    ///
    /// # Errors
    /// When the lab has ended.
    pub fn say(&self, message: &ToLab) -> Result<()> {
        self.port.say(message).map_err(|_| self.death())
    }

    /// Joins `stream` to a shell inside, until it is closed. One at a time.
    ///
    /// # Errors
    /// The end of either.
    pub fn shell(&self, stream: &UnixStream) -> Result<()> {
        let shell = self.shell.lock();
        let (mut said, mut user) = (shell.try_clone()?, stream.try_clone()?);
        let speaking = Arc::new(AtomicBool::new(true));
        let listening = speaking.clone();
        // Looked at now and then: what the shell says to nobody must not be lost to the next.
        said.set_read_timeout(Some(Duration::from_millis(200)))?;
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while listening.load(Ordering::Relaxed) {
                match said.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) if user.write_all(&buffer[..count]).is_err() => break,
                    _ => {}
                }
            }
        });
        let copied = std::io::copy(&mut stream.try_clone()?, &mut shell.try_clone()?);
        speaking.store(false, Ordering::Relaxed);
        let _ = reader.join();
        copied?;
        Ok(())
    }

    /// Ends it at once; whoever waits for something of it is told.
    pub fn kill(&self) {
        // QEMU ends with its keeper; nobody needs to wait for that.
        let _ = self.port.0.lock().shutdown(std::net::Shutdown::Both);
    }

    /// The end of its console.
    pub fn tail(&self) -> String {
        let tail = self.serial.tail(TAIL_LINES);
        match tail.trim() {
            "" => "its console stayed silent".into(),
            tail => format!("its console ends with:\n{tail}"),
        }
    }

    /// Why it is no more.
    pub fn death(&self) -> anyhow::Error {
        let said = std::fs::read_to_string(&self.stderr).unwrap_or_default();
        let said = match said.trim() {
            "" => String::new(),
            said => format!("; QEMU said: {said}"),
        };
        let why = match self.serial.trouble() {
            Some((kind, line)) => format!("its console shows a {kind}: {line}"),
            None => "its QEMU ended".into(),
        };
        anyhow!("{why}{said}; {}", self.tail())
    }
}

impl Drop for Lab {
    /// When it is over QEMU has ended, and its processor time counts as this process's.
    fn drop(&mut self) {
        if let Some((keeper, thread)) = self.keeper.take() {
            drop(keeper);
            let _ = thread.join();
        }
    }
}

/// Keeps QEMU until nobody wants it any more, and speaks to the lab meanwhile.
fn keep(mut child: Child, dropped: &Receiver<()>, port: &Port, state: &Watch<State>) {
    let limit = LAB_SILENT.start().span();
    // Else only the end of the channel comes.
    while dropped.recv_timeout(SPEAK) == Err(RecvTimeoutError::Timeout) {
        // Not for ever: what nobody reads would fill the port.
        let silence = state.lock().silence();
        if silence.is_some_and(|silence| silence <= limit) {
            // Who listens for its end is told of it.
            let _ = port.say(&ToLab::Alive);
        }
    }
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_that_was_heard_is_spoken_to_and_one_that_was_not_is_left_alone() {
        let said_in = |heard| {
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            let state = Watch::<State>::default();
            state.lock().heard = heard;
            let (keeper, dropped) = channel();
            let mut command = pdeath_command("cat");
            let child = command.stdin(Stdio::piped()).spawn().expect("started");
            let mut line = String::new();
            std::thread::scope(|scope| {
                let port = Port(Mutex::new(ours));
                let state = &state;
                scope.spawn(move || keep(child, &dropped, &port, state));
                let wait = SPEAK + SPEAK / 2;
                theirs.set_read_timeout(Some(wait)).expect("set");
                let _ = BufReader::new(&theirs).read_line(&mut line);
                drop(keeper);
            });
            line
        };
        let said = said_in(Some(Instant::now()));
        let message = serde_json::from_str::<ToLab>(&said).expect("a message");
        assert!(matches!(message, ToLab::Alive), "{said}");
        assert_eq!(said_in(None), "");
    }
}
