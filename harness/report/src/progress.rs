//! A line for each trial that has ended, and on a terminal a last line with what is running.

use crate::terminal::paint;
use crate::{Trial, name, text};
use std::fmt::Write as _;
use std::io::Write;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the live line is drawn anew: its times are in whole seconds.
const TICK: Duration = Duration::from_secs(1);

/// Clears the line that the cursor is on.
const CLEAR: &str = "\r\x1b[2K";

/// Shows a run on stderr while it goes on. Threads may share it.
pub struct Progress {
    state: Arc<Mutex<State>>,
    ticker: Mutex<Option<Ticker>>,
}

/// Draws the live line once a [`TICK`], until `end` is dropped.
struct Ticker {
    end: Sender<()>,
    thread: JoinHandle<()>,
}

struct State {
    out: Box<dyn Write + Send>,
    total: usize,
    ended: usize,
    running: Vec<(String, Instant)>,
    is_terminal: bool,
    finished: bool,
}

impl Progress {
    /// Of a run of `total` trials; `is_terminal` says whether stderr is one.
    pub fn new(total: usize, is_terminal: bool) -> Progress {
        Progress::on(Box::new(std::io::stderr()), total, is_terminal)
    }

    fn on(out: Box<dyn Write + Send>, total: usize, is_terminal: bool) -> Progress {
        let state = Arc::new(Mutex::new(State {
            out,
            total,
            ended: 0,
            running: Vec::new(),
            is_terminal,
            finished: false,
        }));
        let ticker = is_terminal.then(|| {
            let (end, ended) = mpsc::channel();
            let state = Arc::clone(&state);
            let thread = std::thread::spawn(move || tick(&state, &ended));
            Ticker { end, thread }
        });
        Progress {
            state,
            ticker: Mutex::new(ticker),
        }
    }

    /// A trial begins.
    pub fn started(&self, name: &str) {
        let mut state = lock(&self.state);
        state.running.push((name.to_owned(), Instant::now()));
        state.draw("");
    }

    /// A trial has ended; or it never started, if it was skipped.
    pub fn ended(&self, trial: &Trial) {
        let mut state = lock(&self.state);
        let name = trial.name();
        if let Some(index) = state.running.iter().position(|(n, _)| n == name) {
            state.running.remove(index);
        }
        state.ended += 1;
        let line = state.line(trial);
        state.draw(&line);
    }

    /// The run is over: the live line goes, and nothing is drawn any more.
    pub fn finish(&self) {
        let mut state = lock(&self.state);
        state.running.clear();
        if !state.finished {
            state.draw("");
        }
        state.finished = true;
        drop(state);
        let ticker = lock(&self.ticker).take();
        if let Some(Ticker { end, thread }) = ticker {
            drop(end);
            // It only draws; a panic in it has been printed.
            let _ = thread.join();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

/// A thread that panicked while it drew must not take the run with it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

fn tick(state: &Mutex<State>, ended: &Receiver<()>) {
    while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(TICK) {
        lock(state).draw("");
    }
}

impl State {
    fn line(&self, trial: &Trial) -> String {
        let width = self.total.to_string().len();
        let (name, outcome) = (trial.name(), trial.outcome());
        let word = format!("{:^6}", trial.word(name::is_under_fault(name)));
        let mut line = format!(
            "[{:>width$}/{}] {} {:>6}  {name}",
            self.ended,
            self.total,
            paint(&word, outcome, self.is_terminal),
            text::duration(trial.end.seconds),
        );
        let cause = text::clean(&outcome.cause());
        if !cause.is_empty() {
            let _ = write!(line, ": {}", text::no_commands(&cause));
        }
        line + "\n"
    }

    /// `line`, then the live line; by one write, so that other output does not come in between.
    fn draw(&mut self, line: &str) {
        let mut text = String::new();
        if self.is_terminal && !self.finished {
            text += CLEAR;
        }
        text += line;
        if self.is_terminal && !self.running.is_empty() {
            // The terminal cuts what is too long: without wrapping there is one line to clear.
            let _ = write!(text, "\x1b[?7l{}\x1b[?7h", self.live());
        }
        // Where stderr is gone, the run goes on without a display.
        let _ = self.out.write_all(text.as_bytes());
        let _ = self.out.flush();
    }

    fn live(&self) -> String {
        let running: Vec<_> = self
            .running
            .iter()
            .map(|(name, since)| format!("{name} {} s", since.elapsed().as_secs()))
            .collect();
        format!("{} running: {}", running.len(), running.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Outcome, TrialEnded};
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Sends on what is drawn.
    struct Screen(Sender<String>);

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            // The reader may have seen enough.
            let _ = self.0.send(text);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn progress(is_terminal: bool) -> (Progress, Receiver<String>) {
        let (sender, receiver) = channel();
        (
            Progress::on(Box::new(Screen(sender)), 112, is_terminal),
            receiver,
        )
    }

    fn end_some(progress: &Progress) {
        progress.started("ping_sweep::virtio::rhel9::tap");
        progress.started("driver::e1000::rhel6::tap");
        let ended = |name: &str, outcome| {
            progress.ended(&Trial {
                plan_item: String::new(),
                end: TrialEnded {
                    seconds: 3.4,
                    ..TrialEnded::unmeasured(name.into(), outcome)
                },
            });
        };
        let failed = Outcome::Failed {
            message: "bound e1000e,\u{1b}[0m not ##[error]e1000\nfacts".into(),
        };
        ended("driver::e1000::rhel6::tap", failed);
        ended("ping_sweep::virtio::rhel9::tap", Outcome::Passed);
        ended("driver!unbound::e1000::rhel6::tap", Outcome::Passed);
    }

    #[test]
    fn plain_lines_where_there_is_no_terminal() {
        let (progress, screen) = progress(false);
        end_some(&progress);
        progress.finish();
        drop(progress);
        insta::assert_snapshot!(screen.iter().collect::<String>(), @r"
        [  1/112]  FAIL   3.4 s  driver::e1000::rhel6::tap: bound e1000e, not ## [error]e1000
        [  2/112]   ok    3.4 s  ping_sweep::virtio::rhel9::tap
        [  3/112]  red    3.4 s  driver!unbound::e1000::rhel6::tap
        ");
    }

    #[test]
    fn a_terminal_shows_what_is_running_and_is_left_clean() {
        let (progress, screen) = progress(true);
        end_some(&progress);
        progress.finish();
        drop(progress);
        let drawn: Vec<String> = screen.iter().collect();
        assert!(drawn[1].contains("2 running: ping_sweep::virtio::rhel9::tap 0 s, driver"));
        assert!(drawn[2].contains("\n\x1b[?7l1 running: ping_sweep"));
        assert!(
            drawn
                .iter()
                .all(|text| text.is_empty() || text.starts_with(CLEAR))
        );
        let last = drawn.iter().rfind(|text| !text.is_empty()).unwrap();
        assert_eq!(last, CLEAR);
    }

    #[test]
    fn the_live_line_is_drawn_anew_without_events() {
        let (progress, screen) = progress(true);
        progress.started("a");
        screen.recv().unwrap();
        let deadline = TICK * 30; // a tick, on a machine that is busy with VMs
        let again = screen.recv_timeout(deadline).expect("drawn by the ticker");
        assert!(again.contains("1 running: a"), "{again:?}");
    }
}
