//! The serial console: recorded, watched for trouble in every trial, and waited on.

use super::kernel_words::{OOPS, classify, is_last, is_of_an_end};
use crate::base::deadline::Deadline;
use crate::base::error::OrCannotRun as _;
use crate::base::kept::{Kept, Log};
use crate::base::thread;
use crate::base::watch::Watch;
use report::{errln, text};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What is kept of what a console printed, bytes, beginning and end: a boot prints some 60 KiB.
const PRINTED: usize = 2 << 20;

/// The longest line that is looked at whole, bytes: a kernel's has at most 1 KiB (`LOG_LINE_MAX`). A longer one is
/// taken for several.
const LINE: usize = 4 << 10;

/// The last words of a kernel that stops after a panic in place of rebooting, trace and all printed.
const STOPPED: &str = "end Kernel panic";

/// The last words of an oops, upon which a kernel goes on without the task that met it.
const OOPS_TRACED: &str = "end trace";

/// A kernel message that fails a trial: its kind and the line.
type Trouble = (&'static str, String);

struct State {
    printed: Kept,
    /// The line that is not yet ended.
    line: Vec<u8>,
    /// The first.
    trouble: Option<Trouble>,
    /// The first that is none if the kernel ends with it.
    unless_ended: Option<Trouble>,
    /// Whether there was an oops.
    oops: bool,
    closed: bool,
}

impl State {
    fn new() -> State {
        State {
            printed: Kept::new(PRINTED),
            line: Vec::new(),
            trouble: None,
            unless_ended: None,
            oops: false,
            closed: false,
        }
    }

    /// Takes what the console printed, and calls `each` with the lines that end with it; whether a kernel has just
    /// said with it that it stops, or that the task that met an oops does.
    fn take(&mut self, bytes: &[u8], mut each: impl FnMut(&str)) -> bool {
        let mut stopped = false;
        self.printed.push(bytes);
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") || self.line.len() >= LINE {
                let line = std::mem::take(&mut self.line);
                let line = String::from_utf8_lossy(&line);
                each(&line);
                stopped |= self.line(line.trim());
            }
        }
        stopped
    }

    fn trouble(&self) -> Option<Trouble> {
        self.trouble.clone().or(self.unless_ended.clone())
    }

    fn line(&mut self, line: &str) -> bool {
        if let Some(kind) = classify(line) {
            self.oops |= kind == OOPS;
            let first = match is_of_an_end(line) {
                true => &mut self.unless_ended,
                false => &mut self.trouble,
            };
            first.get_or_insert_with(|| (kind, text::one_line(&text::clean(line))));
        }
        if is_last(line) {
            self.unless_ended = None;
        }
        line.contains(STOPPED) || line.contains(OOPS_TRACED) && self.oops
    }
}

struct Shared {
    state: Watch<State>,
    /// Whether its lines are shown on stderr.
    shown: bool,
    /// Whether stderr is its terminal.
    attached: AtomicBool,
}

/// A recorded serial console.
pub struct Serial {
    shared: Arc<Shared>,
    writer: UnixStream,
}

impl Serial {
    /// Records `stream` into `log` until it ends; `shown` has its lines on stderr as well. A kernel that
    /// stops after a panic ends `agent`'s connection, as nobody will answer there. An oops does so too:
    /// the trial has failed with it, and the task that it hit may be the agent.
    ///
    /// # Errors
    /// When the socket cannot be duplicated, or the thread cannot be started.
    pub fn record(
        stream: UnixStream,
        agent: UnixStream,
        log: Log,
        shown: bool,
    ) -> anyhow::Result<Serial> {
        let shared = Arc::new(Shared {
            state: Watch::new(State::new()),
            shown,
            attached: AtomicBool::new(false),
        });
        let theirs = shared.clone();
        let reader = (stream.try_clone()).or_cannot_run(|| "duplicate a socket".into())?;
        thread::start("serial", move || read_all(reader, &agent, log, &theirs))?;
        Ok(Serial {
            shared,
            writer: stream,
        })
    }

    /// From now on stderr is its terminal: whatever the guest prints goes there as it is.
    pub fn attach(&self) {
        self.shared.attached.store(true, Ordering::Relaxed);
    }

    /// The last `lines` lines.
    pub fn tail(&self, lines: usize) -> String {
        let printed = self.shared.state.lock().printed.text();
        last_lines(printed.as_bytes(), lines)
    }

    /// The first kernel message that fails a trial, if one was seen: its kind and the line.
    pub fn trouble(&self) -> Option<Trouble> {
        self.shared.state.lock().trouble()
    }

    /// Waits until all that a dead QEMU's console printed is recorded, at most until `deadline`.
    pub fn await_end(&self, deadline: Deadline) {
        (self.shared.state).wait(deadline, |state| state.closed.then_some(()));
    }

    /// Waits until `look` finds something in all that the console printed so far; `None` when the time
    /// is up, or QEMU gone.
    pub fn wait<T>(
        &self,
        deadline: Deadline,
        mut look: impl FnMut(&str) -> Option<T>,
    ) -> Option<T> {
        let waited = self.shared.state.wait(deadline, |state| {
            let found = look(&state.printed.text());
            (found.is_some() || state.closed).then_some(found)
        });
        waited.flatten()
    }

    /// Types `bytes` into the console.
    ///
    /// # Errors
    /// When QEMU is gone.
    pub fn send(&self, bytes: &[u8]) -> std::io::Result<()> {
        (&self.writer).write_all(bytes)
    }
}

impl AsFd for Serial {
    /// Hangs up when QEMU closes the console.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.writer.as_fd()
    }
}

impl Drop for Serial {
    fn drop(&mut self) {
        let _ = self.writer.shutdown(std::net::Shutdown::Both);
    }
}

/// The last `lines` lines of what a console printed.
pub fn last_lines(bytes: &[u8], lines: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let all: Vec<&str> = text
        .lines()
        .map(|line| line.trim_end_matches('\r'))
        .collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn read_all(mut reader: UnixStream, agent: &UnixStream, mut log: Log, shared: &Shared) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = reader.read(&mut buffer) {
        // A log that cannot be written (disk full) must not decide a trial.
        let _ = log.write_all(&buffer[..count]);
        let attached = shared.attached.load(Ordering::Relaxed);
        if attached {
            report::out::write(std::io::stderr(), &buffer[..count]);
        }
        let mut lines = Vec::new();
        let stopped = shared.state.update(|state| {
            state.take(&buffer[..count], |line| {
                if shared.shown && !attached {
                    lines.push(text::prefixed("console| ", line));
                }
            })
        });
        if stopped {
            // It may be closed already.
            let _ = agent.shutdown(std::net::Shutdown::Both);
        }
        for line in lines {
            errln!("{line}");
        }
    }
    shared.state.update(|state| state.closed = true);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The guest's end of a console, the socket on which its agent is awaited, and the record.
    fn recorded() -> (UnixStream, UnixStream, Serial) {
        let (guest, console) = UnixStream::pair().unwrap();
        let (agent, waiting) = UnixStream::pair().unwrap();
        let log = Log::new(tempfile::tempfile().unwrap());
        let serial = Serial::record(console, agent, log, false).unwrap();
        (guest, waiting, serial)
    }

    #[test]
    fn a_kernel_that_stops_ends_the_wait_for_the_agent() {
        let (mut guest, mut waiting, serial) = recorded();
        guest
            .write_all(b"---[ end Kernel panic - not syncing: x ]---\r\n")
            .unwrap();
        assert_eq!(waiting.read(&mut [0]).unwrap(), 0);
        assert_eq!(serial.trouble().map(|(kind, _)| kind), Some("panic"));
    }

    #[test]
    fn so_does_an_oops_and_a_warning_does_not() {
        let (mut guest, mut waiting, serial) = recorded();
        let warning = "WARNING: CPU: 0 PID: 10 at x.c:1 y+0x1/0x2\r\n---[ end trace 0000000000000000 ]---\r\n";
        guest.write_all(warning.as_bytes()).unwrap();
        guest
            .write_all(b"Oops: Oops: 0010 [#1] PREEMPT\r\n")
            .unwrap();
        let deadline = crate::base::deadline::QMP_REPLY.start();
        serial
            .wait(deadline, |text| text.contains("Oops").then_some(()))
            .unwrap();
        waiting.set_nonblocking(true).unwrap();
        assert!(waiting.read(&mut [0]).is_err(), "it still may answer");
        waiting.set_nonblocking(false).unwrap();
        guest
            .write_all(b"---[ end trace 0000000000000000 ]---\r\n")
            .unwrap();
        assert_eq!(waiting.read(&mut [0]).unwrap(), 0);
        assert_eq!(serial.trouble().map(|(kind, _)| kind), Some("oops"));
    }

    #[test]
    fn a_ring_that_fails_as_its_kernel_ends_is_no_trouble() {
        let failure = "[   11.982081] net eth0: Unexpected TXQ (0) queue failure: -5\r\n";
        let full = "[    1.982081] net eth0: Unexpected TXQ (0) queue failure: -28\r\n";
        let end = "[   11.989461] ACPI: PM: Preparing to enter system sleep state S5\r\n\
                   [   12.003042] reboot: Restarting system\r\n";
        let trouble = |text: &[&str]| {
            let mut state = State::new();
            state.take(text.concat().as_bytes(), |_| ());
            state.trouble().map(|(kind, _)| kind)
        };
        assert_eq!(trouble(&[failure, end]), None);
        assert_eq!(trouble(&[failure]), Some("transmit ring failure"));
        assert_eq!(trouble(&[end, failure]), Some("transmit ring failure"));
        assert_eq!(trouble(&[full, end]), Some("transmit ring failure"));
        assert_eq!(
            trouble(&[failure, "kernel BUG at x.c:1\n", end]),
            Some("BUG")
        );
    }

    #[test]
    fn a_console_without_a_lines_end_takes_neither_time_nor_memory() {
        let mut state = State::new();
        let chunk = [b'x'; 4096];
        let begun = std::time::Instant::now();
        // A quadratic one takes minutes for so many.
        for _ in 0..64 << 10 {
            state.take(&chunk, |_| ());
        }
        let took = begun.elapsed();
        assert!(took < std::time::Duration::from_secs(30), "{took:?}");
        assert!(state.line.len() <= LINE);
        assert!(state.printed.text().len() < PRINTED + 100);
        state.take(b"\nBUG: one\nOops: two\n", |_| ());
        assert_eq!(state.trouble, Some(("BUG", "BUG: one".into())));
        assert!(state.take(b"end trace\n", |_| ()));
    }

    #[test]
    fn lines_are_whole_however_they_come() {
        let mut state = State::new();
        let mut lines = Vec::new();
        for part in ["one\r\nt", "wo\n", "\n", "th"] {
            state.take(part.as_bytes(), |line| lines.push(line.trim().to_owned()));
        }
        assert_eq!(lines, ["one", "two", ""]);
    }
}
