//! What the guest says on its own when a command has ended.

use crate::base::lines::Lines;
use crate::base::thread;
use crate::base::watch::Watch;
use anyhow::{Context as _, Result};
use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A process id has at most ten digits.
const LINE: usize = 32;

/// Ends that nobody waits for are kept up to this number; a trial runs some commands at a time.
const PIDS: usize = 1024;

struct State {
    /// Processes that ended and were not waited for yet.
    pids: BTreeSet<i64>,
    /// Whether ends are reported, by what was seen last: where the guest has our port, they are.
    used: bool,
}

impl Default for State {
    fn default() -> State {
        State {
            pids: BTreeSet::new(),
            used: true,
        }
    }
}

impl State {
    fn take(&mut self, pid: i64) {
        if self.pids.len() == PIDS {
            self.pids.pop_first();
        }
        self.pids.insert(pid);
        self.used = true;
    }
}

/// The ends of commands, by the process ids that arrive on a socket, a line each.
pub struct Ended {
    state: Arc<Watch<State>>,
    guest: UnixStream,
}

impl Ended {
    /// Reads `stream` until it ends.
    ///
    /// # Errors
    /// When the socket cannot be duplicated, or the thread that reads cannot be started.
    pub fn listen(stream: UnixStream) -> Result<Ended> {
        let state: Arc<Watch<State>> = Arc::default();
        let theirs = state.clone();
        let guest = stream.try_clone()?;
        thread::start("ended", move || {
            let mut lines = Lines::new(&stream, LINE);
            // After a line that is too long nothing is reported any more, and the agent is asked.
            while let Ok(Some(line)) = lines.text() {
                // A reset may cut a line short: the wait for that end then asks the agent.
                if let Ok(pid) = line.trim().parse() {
                    theirs.update(|state| state.take(pid));
                }
            }
            theirs.update(|state| state.used = false);
            // A guest that writes on is not to wait until somebody reads.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        })?;
        Ok(Ended { state, guest })
    }

    /// Has the command go on that waits for a line.
    ///
    /// # Errors
    /// When QEMU has ended.
    pub fn let_go(&self) -> Result<()> {
        (&self.guest)
            .write_all(b"go\n")
            .context("a command that waits for it cannot be let go")
    }

    /// Of a command that had ended without a report: a guest without our port is better asked.
    pub fn was_not_reported(&self) {
        self.state.update(|state| state.used = false);
    }

    /// Whether this guest says when a command ends.
    pub fn is_used(&self) -> bool {
        self.state.lock().used
    }

    /// Waits for the end of `pid`, no longer than `limit`; whether it came. Each end is given once.
    pub fn wait(&self, pid: i64, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let came = |state: &mut State| state.pids.remove(&pid).then_some(());
        self.state.wait(deadline, came).is_some()
    }
}

/// How much longer than before a command may be taken to need.
const STEP: Duration = Duration::from_millis(2);

/// How long it takes from the report of a command's end, which the command makes itself, until the agent has reaped
/// it: some milliseconds, by the guest's speed. Asked before, the agent only delays it.
#[derive(Default)]
pub struct Lag {
    micros: AtomicU64,
}

impl Lag {
    /// As commands before had it, or somewhat less.
    pub fn expected(&self) -> Duration {
        Duration::from_micros(self.micros.load(Ordering::Relaxed))
    }

    /// Learns from a command that had been reaped `taken` after its report, which the agent said when it was asked for
    /// the time `question`. One that took long, for its children kept its output open, says little of others.
    pub fn learn(&self, taken: Duration, question: u32) {
        let expected = self.expected();
        let next = match question {
            1 => expected * 7 / 8,
            _ => taken.min(expected * 2 + STEP),
        };
        let micros = u64::try_from(next.as_micros()).unwrap_or(u64::MAX);
        self.micros.store(micros, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn an_end_is_told_once_whoever_came_first() {
        let (ours, mut guest) = UnixStream::pair().unwrap();
        let ended = Ended::listen(ours).unwrap();
        assert!(ended.is_used());
        assert!(!ended.wait(7, Duration::ZERO));
        ended.was_not_reported();
        assert!(!ended.is_used());
        guest.write_all(b"7\r\n8\nhalf a li").unwrap();
        assert!(ended.wait(8, LONG) && ended.wait(7, LONG));
        assert!(ended.is_used());
        assert!(!ended.wait(7, Duration::ZERO));
    }

    #[test]
    fn a_command_that_waits_is_let_go_by_a_line() {
        let (ours, guest) = UnixStream::pair().unwrap();
        let ended = Ended::listen(ours).unwrap();
        ended.let_go().unwrap();
        let mut lines = Lines::new(&guest, LINE);
        assert_eq!(lines.text().unwrap().as_deref(), Some("go"));
        drop(guest);
        let gone = ended.let_go().unwrap_err();
        assert!(format!("{gone:#}").contains("cannot be let go"));
    }

    #[test]
    fn a_guest_that_floods_it_is_bounded() {
        let (ours, mut guest) = UnixStream::pair().unwrap();
        let ended = Ended::listen(ours).unwrap();
        for pid in 0..5000 {
            writeln!(guest, "{pid}").unwrap();
        }
        assert!(ended.wait(4999, LONG));
        assert!(ended.state.lock().pids.len() <= PIDS);
        assert!(ended.is_used());
        // It ends at the first that is too long.
        let chunk = [b'1'; 4096];
        while guest.write_all(&chunk).is_ok() {}
        let unused = |state: &mut State| (!state.used).then_some(());
        assert!(ended.state.wait(Instant::now() + LONG, unused).is_some());
    }

    #[test]
    fn the_agent_is_asked_when_it_had_reaped_the_commands_before_it() {
        let of = Duration::from_millis;
        let lag = Lag::default();
        assert_eq!(lag.expected(), of(0));
        for _ in 0..9 {
            lag.learn(of(24), 2);
        }
        assert_eq!(lag.expected(), of(24));
        lag.learn(of(25), 1);
        assert_eq!(lag.expected(), of(21));
        lag.learn(Duration::from_secs(20), 9);
        assert_eq!(lag.expected(), of(44));
    }
}
