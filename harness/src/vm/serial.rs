//! The serial console: recorded, watched for trouble in every trial, and waited on.

use super::kernel_words::{OOPS, classify};
use crate::base::deadline::Deadline;
use crate::base::watch::Watch;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The last words of a kernel that stops after a panic in place of rebooting, trace and all printed.
const STOPPED: &str = "end Kernel panic";

/// The last words of an oops, upon which a kernel goes on without the task that met it.
const OOPS_TRACED: &str = "end trace";

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    /// Start of the line that is not yet ended.
    line: usize,
    trouble: Vec<(&'static str, String)>,
    closed: bool,
}

impl State {
    /// Takes what the console printed; whether a kernel has just said with it that it stops, or that the
    /// task that met an oops does.
    fn take(&mut self, bytes: &[u8]) -> bool {
        let mut stopped = false;
        self.bytes.extend_from_slice(bytes);
        while let Some(end) = self.bytes[self.line..].iter().position(|b| *b == b'\n') {
            let line = String::from_utf8_lossy(&self.bytes[self.line..self.line + end]);
            let line = line.trim().to_owned();
            self.line += end + 1;
            let after_oops = || self.trouble.iter().any(|(kind, _)| *kind == OOPS);
            stopped |= line.contains(STOPPED) || line.contains(OOPS_TRACED) && after_oops();
            if let Some(kind) = classify(&line) {
                self.trouble.push((kind, line));
            }
        }
        stopped
    }
}

struct Shared {
    state: Watch<State>,
    echo: AtomicBool,
}

/// A recorded serial console.
pub struct Serial {
    shared: Arc<Shared>,
    writer: UnixStream,
}

impl Serial {
    /// Records `stream` into `log` until it ends; `echo` copies it to stderr as well. A kernel that
    /// stops after a panic ends `agent`'s connection, as nobody will answer there. An oops does so too:
    /// the trial has failed with it, and the task that it hit may be the agent.
    ///
    /// # Errors
    /// When the socket cannot be duplicated, or the thread cannot be started.
    pub fn record(
        stream: UnixStream,
        agent: UnixStream,
        log: File,
        echo: bool,
    ) -> std::io::Result<Serial> {
        let shared = Arc::new(Shared {
            state: Watch::default(),
            echo: AtomicBool::new(echo),
        });
        let theirs = shared.clone();
        let reader = stream.try_clone()?;
        std::thread::Builder::new()
            .name("serial".into())
            .spawn(move || read_all(reader, &agent, log, &theirs))?;
        Ok(Serial {
            shared,
            writer: stream,
        })
    }

    /// Whether the console is copied to stderr from now on.
    pub fn set_echo(&self, echo: bool) {
        self.shared.echo.store(echo, Ordering::Relaxed);
    }

    /// The last `lines` lines.
    pub fn tail(&self, lines: usize) -> String {
        last_lines(&self.shared.state.lock().bytes, lines)
    }

    /// The first kernel message that fails a trial, if one was seen: its kind and the line.
    pub fn trouble(&self) -> Option<(&'static str, String)> {
        self.shared.state.lock().trouble.first().cloned()
    }

    /// Waits until all that a dead QEMU's console printed is recorded, at most until `deadline`.
    pub fn await_end(&self, deadline: Deadline) {
        (self.shared.state).wait(deadline.ends(), |state| state.closed.then_some(()));
    }

    /// Waits until `look` finds something in all that the console printed so far; `None` when the time
    /// is up, or QEMU gone.
    pub fn wait<T>(
        &self,
        deadline: Deadline,
        mut look: impl FnMut(&str) -> Option<T>,
    ) -> Option<T> {
        let waited = self.shared.state.wait(deadline.ends(), |state| {
            let found = look(&String::from_utf8_lossy(&state.bytes));
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

fn read_all(mut reader: UnixStream, agent: &UnixStream, mut log: File, shared: &Shared) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = reader.read(&mut buffer) {
        // A log that cannot be written (disk full) must not decide a trial.
        let _ = log.write_all(&buffer[..count]);
        if shared.echo.load(Ordering::Relaxed) {
            let _ = std::io::stderr().write_all(&buffer[..count]);
        }
        shared.state.update(|state| {
            if state.take(&buffer[..count]) {
                // It may be closed already.
                let _ = agent.shutdown(std::net::Shutdown::Both);
            }
        });
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
        let log = tempfile::tempfile().unwrap();
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
}
