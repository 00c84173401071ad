//! What the guest says on its own when a command has ended.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[derive(Default)]
struct State {
    /// Processes that ended and were not waited for yet.
    pids: BTreeSet<i64>,
    /// Whether any has ever said so.
    used: bool,
}

/// The ends of commands, by the process ids that arrive on a socket, a line each.
pub struct Ended {
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Ended {
    /// Reads `stream` until it ends.
    ///
    /// # Errors
    /// When the thread that reads cannot be started.
    pub fn listen(stream: UnixStream) -> io::Result<Ended> {
        let shared: Arc<(Mutex<State>, Condvar)> = Arc::default();
        let ended = Ended {
            shared: shared.clone(),
        };
        std::thread::Builder::new()
            .name("ended".into())
            .spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    // A reset may cut a line short; who waits for it asks.
                    if let Ok(pid) = line.trim().parse() {
                        let mut state = lock(&shared.0);
                        state.pids.insert(pid);
                        state.used = true;
                        shared.1.notify_all();
                    }
                }
            })?;
        Ok(ended)
    }

    /// Whether this guest says when a command ends.
    pub fn is_used(&self) -> bool {
        lock(&self.shared.0).used
    }

    /// Waits for the end of `pid`, no longer than `limit`; whether it came. It is told once.
    pub fn wait(&self, pid: i64, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut state = lock(&self.shared.0);
        loop {
            if state.pids.remove(&pid) {
                return true;
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return false;
            };
            let waited = self.shared.1.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn an_end_is_told_once_whoever_came_first() {
        let (ours, mut guest) = UnixStream::pair().unwrap();
        let ended = Ended::listen(ours).unwrap();
        assert!(!ended.is_used());
        assert!(!ended.wait(7, Duration::ZERO));
        guest.write_all(b"7\r\n8\nhalf a li").unwrap();
        assert!(ended.wait(8, LONG) && ended.wait(7, LONG));
        assert!(ended.is_used());
        assert!(!ended.wait(7, Duration::ZERO));
    }
}
