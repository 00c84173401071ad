//! A running lab, from outside.
//!
//! # Why it is spoken to
//! Under TCG, QEMU keeps two things in one word: the interrupts that wait for the lab's processor, and
//! whether a guest inside is being entered or left. It writes the second without the lock that guards
//! the first (`helper_vmrun` and `do_vmexit`, seen in 7.2). An interrupt that comes at that very moment
//! is lost: it stays in the APIC's IRR until another interrupt comes. Where the lost one is the timer's,
//! which only its own handler sets anew, an otherwise idle lab halts for good, as three of 24 did on a
//! busy machine. A message once a second is another interrupt, with which the kernel takes the lost one
//! as well.

use super::LAB_SILENT;
use super::cmdline::{LabSpec, PORT_FD, SERIAL_FD, SHELL_FD, START, StartScript};
use super::protocol::{FromLab, Hello, ToLab};
use super::shown::Tree;
use crate::base::cpu;
use crate::base::deadline::{self, Deadline};
use crate::base::delay;
use crate::base::error::OrCannotRun;
use crate::base::lines::{Lines, MESSAGE, Unreadable};
use crate::base::thread;
use crate::base::watch::Watch;
use crate::vm::process::SERIAL_LOG;
use crate::vm::qemu::{Process, Qemu, transcript};
use crate::vm::serial::Serial;
use anyhow::{Context as _, Result, anyhow};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError, channel, sync_channel,
};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How many of the console's last lines are quoted.
const TAIL_LINES: usize = 20;

/// How often it is spoken to.
const SPEAK: Duration = Duration::from_secs(1);

/// Messages of a trial that wait until they are taken. A trial asks for a guest and waits for the answer, so two
/// are one too many already.
const WAITING: usize = 64;

/// A lab. It ends when this is dropped, and with the process.
pub struct Lab {
    port: Arc<Port>,
    state: Arc<Watch<State>>,
    serial: Serial,
    shell: Mutex<UnixStream>,
    process: Arc<Mutex<Process>>,
    /// The thread that keeps QEMU, and ends it when its channel is closed.
    keeper: Option<(Sender<()>, JoinHandle<()>)>,
    /// When its QEMU was started.
    pub started: Instant,
}

/// The lab's port.
struct Port {
    /// One message is written at a time.
    stream: Mutex<UnixStream>,
    /// The same, for who does not wait until it is.
    closed_by: UnixStream,
}

impl Port {
    /// `patience` is how long a lab may not read before it counts as hung.
    fn new(stream: UnixStream, patience: Duration) -> Result<Port> {
        stream.set_write_timeout(Some(patience))?;
        Ok(Port {
            closed_by: stream.try_clone()?,
            stream: Mutex::new(stream),
        })
    }

    /// Closes the port where the lab does not take the message: the rest of a line would be missing.
    fn say(&self, message: &ToLab) -> Result<()> {
        let line = serde_json::to_string(message)? + "\n";
        let written = self.stream.lock().write_all(line.as_bytes());
        if written.is_err() {
            self.close();
        }
        written.context("it does not take a message")
    }

    fn close(&self) {
        let _ = self.closed_by.shutdown(std::net::Shutdown::Both);
    }
}

#[derive(Default)]
struct State {
    hello: Option<Hello>,
    heard: Option<Instant>,
    ended: bool,
    /// Why it is not listened to any more, where that is not its own end.
    unheard: Option<String>,
    trials: BTreeMap<u64, SyncSender<FromLab>>,
    last: u64,
}

impl State {
    /// How long ago the lab last said anything, once it has.
    fn silence(&self) -> Option<Duration> {
        self.heard.map(|heard| heard.elapsed())
    }

    /// Takes a message; where there are too many, why it is not listened to any more.
    fn take(&mut self, message: FromLab) -> Result<(), String> {
        self.heard = Some(Instant::now());
        match message {
            FromLab::Hello(hello) => self.hello = Some(hello),
            FromLab::Alive => {}
            FromLab::Asked { trial, .. } | FromLab::Ended { trial, .. } => {
                if let Some(sender) = self.trials.get(&trial)
                    && let Err(TrySendError::Full(_)) = sender.try_send(message)
                {
                    return Err(format!(
                        "it sent more than {WAITING} messages at once of a trial"
                    ));
                }
                // Otherwise whoever waited for the trial may have given up.
            }
        }
        Ok(())
    }
}

/// Takes what the lab says until its port is closed.
fn listen(port: &UnixStream, state: &Watch<State>) {
    let mut lines = Lines::new(port, MESSAGE);
    let unheard = loop {
        let message = match lines.line() {
            Ok(Some(line)) => serde_json::from_slice::<FromLab>(line),
            Ok(None) | Err(Unreadable::Failed(_)) => break None,
            Err(error) => break Some(format!("on its port {error}")),
        };
        // A line that cannot be read is of another version, which the lab's start excludes.
        let taken = message.map(|message| state.update(|state| state.take(message)));
        if let Ok(Err(why)) = taken {
            break Some(why);
        }
    };
    // A lab that sends on is not to fill the socket and wait there.
    let _ = port.shutdown(std::net::Shutdown::Both);
    state.update(|state| {
        state.ended = true;
        state.unheard = unheard;
        // The end of its channel tells whoever waits for a trial.
        state.trials.clear();
    });
}

impl Lab {
    /// Starts a lab; it is not up yet. Its transcripts go to the directory of `spec`; it sees what is in `tree`, where
    /// that can be made; the processor time that it took is added to `spent` when it has ended.
    ///
    /// # Errors
    /// [`crate::base::error::CannotRun`]: QEMU cannot be started, the directory not be written to.
    pub fn start(
        qemu: &Qemu,
        spec: &LabSpec,
        start: &StartScript,
        tree: Option<Tree>,
        spent: Arc<Mutex<Duration>>,
    ) -> Result<Lab> {
        let directory = &spec.directory;
        std::fs::create_dir_all(directory)
            .and_then(|()| std::fs::write(directory.join(START), start.script()))
            .or_cannot_run(|| format!("write to {}", directory.display()))?;
        let mut command = qemu.command(spec.arguments());
        command.transcripts_in(directory);
        let port = command.socket(PORT_FD)?;
        let console = command.socket(SERIAL_FD)?;
        let shell = command.socket(SHELL_FD)?;
        let (reader, recorder) = (port.try_clone()?, port.try_clone()?);
        let port = Arc::new(Port::new(port, LAB_SILENT.start().span())?);
        let state: Arc<Watch<State>> = Arc::default();
        let (kept_port, kept) = (port.clone(), state.clone());
        // QEMU is killed with the thread that starts it, and trials' threads end.
        let (hand_over, handed_over) = channel();
        let (keeper, dropped) = channel::<()>();
        let thread = thread::start("lab", move || {
            let mounted = tree.map_or(Ok(()), |tree| tree.enter());
            let started = mounted.and_then(|()| command.start());
            let started = started.map(|process| Arc::new(Mutex::new(process)));
            let process = started.as_ref().ok().cloned();
            // The one who started this thread waits for it.
            let _ = hand_over.send(started);
            if let Some(process) = process {
                keep(&process, &dropped, &kept_port, &kept);
                *spent.lock() += cpu::of_thread();
            }
        })?;
        let process = handed_over
            .recv()
            .map_err(|_| anyhow!("the lab's thread ended"))??;
        let theirs = state.clone();
        thread::start("lab port", move || listen(&reader, &theirs))?;
        let log = transcript(directory, SERIAL_LOG)?;
        let started = process.lock().started();
        Ok(Lab {
            serial: Serial::record(console, recorder, log, false)?,
            port,
            state,
            shell: Mutex::new(shell),
            process,
            keeper: Some((keeper, thread)),
            started,
        })
    }

    /// Waits until the harness inside speaks.
    ///
    /// # Errors
    /// The deadline, or the lab's end, with what its console showed.
    pub fn wait_up(&self, deadline: Deadline) -> Result<Hello> {
        let waited = self.state.wait(deadline, |state| {
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

    /// A number for a trial, and the channel of what the lab says of it, which ends with the lab.
    pub fn trial(&self) -> (u64, Receiver<FromLab>) {
        let (sender, receiver) = sync_channel(WAITING);
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
        let said = self.port.say(message);
        said.map_err(|error| self.death().context(format!("{error:#}")))
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
        // The reader looks now and then whether it is still wanted: once its user has gone, what the
        // shell says is left to the next user.
        said.set_read_timeout(Some(Duration::from_millis(200)))?;
        let reader = thread::start("shell", move || {
            let mut buffer = [0; 4096];
            while listening.load(Ordering::Relaxed) {
                match said.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) if user.write_all(&buffer[..count]).is_err() => break,
                    _ => {}
                }
            }
        })?;
        let copied = std::io::copy(&mut stream.try_clone()?, &mut shell.try_clone()?);
        speaking.store(false, Ordering::Relaxed);
        let _ = reader.join();
        copied?;
        Ok(())
    }

    /// Closes its port, which ends the channels of all its trials. QEMU runs on until the lab is dropped.
    pub fn kill(&self) {
        self.port.close();
    }

    /// The end of its console.
    pub fn tail(&self) -> String {
        let tail = self.serial.tail(TAIL_LINES);
        match tail.trim() {
            "" => "its console stayed silent".into(),
            tail => format!("its console ends with:\n{tail}"),
        }
    }

    /// What its kernel's console shows that no kernel should print.
    pub fn trouble(&self) -> Option<(&'static str, String)> {
        self.serial.trouble()
    }

    /// Why it has ended, of a lab that is seen to end.
    pub fn death(&self) -> anyhow::Error {
        let mut process = self.process.lock();
        // Its port closes a moment before the process has ended.
        process.await_end(deadline::QEMU_EXIT.start());
        let ended = match process.death() {
            Some(death) => format!("its {death}"),
            None => "its connection was closed".into(),
        };
        drop(process);
        let ended = match &self.state.lock().unheard {
            Some(why) => format!("{why}; {ended}"),
            None => ended,
        };
        let tail = self.tail();
        match self.trouble() {
            Some((kind, line)) => {
                anyhow!("its console shows a {kind}: {line}; {ended}; {tail}")
            }
            None => anyhow!("{ended}; {tail}"),
        }
    }
}

impl Drop for Lab {
    /// Waits for QEMU's end, so that its processor time counts as this process's.
    fn drop(&mut self) {
        if let Some((keeper, thread)) = self.keeper.take() {
            drop(keeper);
            let _ = thread.join();
        }
    }
}

/// Keeps QEMU until the lab is dropped, and speaks to the lab meanwhile.
fn keep(process: &Mutex<Process>, dropped: &Receiver<()>, port: &Port, state: &Watch<State>) {
    let limit = LAB_SILENT.start().span();
    let begun = Instant::now();
    // Nothing is ever sent on the channel: either the time is up, or the lab was dropped.
    while dropped.recv_timeout(SPEAK) == Err(RecvTimeoutError::Timeout) {
        let silence = state.lock().silence();
        // A lab that no longer reads is left alone: its port would fill up.
        if silence.is_some_and(|silence| silence <= limit) {
            // A lab that has ended is noticed by whoever listens to it.
            let delay = delay::meter().since(begun);
            let _ = port.say(&ToLab::Alive { delay });
        }
    }
    process.lock().end();
}

#[cfg(test)]
mod tests {
    use super::*;
    use report::events::{Outcome, TrialEnded};
    use std::io::{BufRead as _, BufReader};

    /// What is made of a lab that says so.
    fn listened(say: impl FnOnce(UnixStream) + Send + 'static) -> (State, Receiver<FromLab>) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let saying = std::thread::spawn(move || say(theirs));
        let (sender, receiver) = sync_channel(WAITING);
        let state = Watch::<State>::default();
        state.lock().trials.insert(1, sender);
        listen(&ours, &state);
        saying.join().expect("it ends");
        let state = std::mem::take(&mut *state.lock());
        (state, receiver)
    }

    #[test]
    fn a_lab_that_sends_a_line_without_end_is_not_heard_any_more() {
        let (state, heard) = listened(|mut lab| {
            let chunk = vec![b'x'; 1 << 20];
            let mut sent = 0;
            while sent < 1 << 30 && lab.write_all(&chunk).is_ok() {
                sent += chunk.len();
            }
            assert!(sent < 2 * MESSAGE, "{sent}");
        });
        let why = state.unheard.expect("a reason");
        assert!(
            why.starts_with("on its port a line came that has more than"),
            "{why}"
        );
        assert!(heard.recv().is_err(), "the trial is told");
    }

    #[test]
    fn a_lab_that_sends_messages_without_end_is_not_heard_any_more() {
        let (state, heard) = listened(|lab| {
            let end = TrialEnded::unmeasured("a".into(), Outcome::Passed);
            let ended = Box::new(end);
            let message = FromLab::Ended { trial: 1, ended };
            let line = serde_json::to_string(&message).expect("JSON");
            let mut lab = std::io::BufWriter::new(lab);
            while writeln!(lab, "{line}").is_ok() {}
        });
        let why = state.unheard.expect("a reason");
        assert_eq!(why, "it sent more than 64 messages at once of a trial");
        assert_eq!(heard.iter().count(), WAITING);
    }

    #[test]
    fn a_lab_that_does_not_read_is_spoken_to_no_longer_than_it_may_hang() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let port = Port::new(ours, Duration::from_millis(50)).expect("a port");
        let alive = ToLab::Alive {
            delay: Duration::ZERO,
        };
        let said = (0..1 << 20).try_for_each(|_| port.say(&alive));
        let error = format!("{:#}", said.expect_err("it is full"));
        assert!(error.starts_with("it does not take a message: "), "{error}");
        // It is closed: nothing follows the half of a message.
        assert!(port.say(&alive).is_err());
        drop(theirs);
    }

    #[test]
    fn a_lab_that_hangs_is_ended_although_somebody_speaks_to_it() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let port = Port::new(ours, Duration::from_secs(600)).expect("a port");
        std::thread::scope(|scope| {
            let speaking = scope.spawn(|| {
                let alive = ToLab::Alive {
                    delay: Duration::ZERO,
                };
                (0..1 << 20).try_for_each(|_| port.say(&alive))
            });
            // Once it has begun to speak.
            BufReader::new(&theirs)
                .read_line(&mut String::new())
                .expect("a message");
            port.close();
            assert!(speaking.join().expect("it ends").is_err());
        });
    }

    #[test]
    fn a_lab_that_was_heard_is_spoken_to_and_one_that_was_not_is_left_alone() {
        let said_in = |heard| {
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            let state = Watch::<State>::default();
            state.lock().heard = heard;
            let (keeper, dropped) = channel();
            let sleep = Qemu::at("sleep".into());
            let process = Mutex::new(sleep.command(["60"]).start().expect("started"));
            let mut line = String::new();
            std::thread::scope(|scope| {
                let port = Port::new(ours, LAB_SILENT.start().span()).expect("a port");
                let (process, state) = (&process, &state);
                scope.spawn(move || keep(process, &dropped, &port, state));
                // What is said is waited for; silence has to last.
                let wait = match heard {
                    Some(_) => Duration::from_secs(60),
                    None => SPEAK + SPEAK / 2,
                };
                theirs.set_read_timeout(Some(wait)).expect("set");
                let _ = BufReader::new(&theirs).read_line(&mut line);
                drop(keeper);
            });
            line
        };
        let said = said_in(Some(Instant::now()));
        let message = serde_json::from_str::<ToLab>(&said).expect("a message");
        assert!(matches!(message, ToLab::Alive { .. }), "{said}");
        assert_eq!(said_in(None), "");
    }
}
