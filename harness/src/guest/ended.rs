//! What the guest says on its own when a command has ended.

use crate::base::watch::Watch;
use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Default)]
struct State {
    /// Processes that ended and were not waited for yet.
    pids: BTreeSet<i64>,
    /// Whether any end was ever reported.
    used: bool,
}

/// The ends of commands, by the process ids that arrive on a socket, a line each.
pub struct Ended {
    state: Arc<Watch<State>>,
}

impl Ended {
    /// Reads `stream` until it ends.
    ///
    /// # Errors
    /// When the thread that reads cannot be started.
    pub fn listen(stream: UnixStream) -> io::Result<Ended> {
        let state: Arc<Watch<State>> = Arc::default();
        let theirs = state.clone();
        std::thread::Builder::new()
            .name("ended".into())
            .spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    // A reset may cut a line short: the wait for that end then asks the agent.
                    if let Ok(pid) = line.trim().parse() {
                        theirs.update(|state| {
                            state.pids.insert(pid);
                            state.used = true;
                        });
                    }
                }
            })?;
        Ok(Ended { state })
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
