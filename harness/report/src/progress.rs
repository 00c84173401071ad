//! A line for each trial that has ended; on a terminal, below them, a line for each that is running, and how
//! long the run will still take. In a CI log the lines are a group that can be folded.

use crate::terminal::paint;
use crate::{Trial, colour, text};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often the live lines are drawn anew: their times are in whole seconds.
const TICK: Duration = Duration::from_secs(1);

/// Running trials that have a line each, at most; the longest-running first.
const MOST_LINES: usize = 12;

/// The part of a run after which the rest of its time can be told.
const ENOUGH: f64 = 0.05;

/// Shows a run on stderr while it goes on. Threads may share it.
pub struct Progress {
    state: Arc<Mutex<State>>,
    ticker: Mutex<Option<Ticker>>,
}

/// Draws the live lines once a [`TICK`], until `end` is dropped.
struct Ticker {
    end: Sender<()>,
    thread: JoinHandle<()>,
}

/// Where a run is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Screen {
    /// Lines only.
    Plain,
    /// A terminal that takes control sequences.
    Terminal,
    /// GitHub's log: lines in a group.
    GitHub,
    /// GitLab's log: lines in a section.
    GitLab,
}

impl Screen {
    /// That of this process; `is_terminal` says whether stderr is a terminal.
    pub fn of_process(is_terminal: bool) -> Screen {
        Screen::of(is_terminal, |name| std::env::var(name).ok())
    }

    fn of(is_terminal: bool, variable: impl Fn(&str) -> Option<String>) -> Screen {
        let is = |name, value: &str| variable(name).is_some_and(|found| found == value);
        if is("GITHUB_ACTIONS", "true") {
            Screen::GitHub
        } else if is("GITLAB_CI", "true") {
            Screen::GitLab
        } else if is_terminal && !is("TERM", "dumb") {
            Screen::Terminal
        } else {
            Screen::Plain
        }
    }

    fn begin(self, title: &str, now: u64) -> String {
        match self {
            Screen::Plain | Screen::Terminal => format!("{title}\n"),
            Screen::GitHub => format!("{title}\n::group::Trials\n"),
            Screen::GitLab => {
                format!("{title}\n\x1b[0Ksection_start:{now}:trials\r\x1b[0KTrials\n")
            }
        }
    }

    fn end(self, now: u64) -> String {
        match self {
            Screen::Plain | Screen::Terminal => String::new(),
            Screen::GitHub => "::endgroup::\n".into(),
            Screen::GitLab => format!("\x1b[0Ksection_end:{now}:trials\r\x1b[0K\n"),
        }
    }
}

/// A trial that runs.
struct Running {
    name: String,
    since: Instant,
    /// What it does: "starting", "case".
    phase: &'static str,
    /// When it is given up, after its begin.
    limit: Option<Duration>,
}

struct State {
    out: Box<dyn Write + Send>,
    screen: Screen,
    coloured: bool,
    /// Seconds that each trial will take, about.
    expected: HashMap<String, f64>,
    begun: Instant,
    /// Of the trials that ended, what was expected, seconds.
    done: f64,
    ended: usize,
    running: Vec<Running>,
    /// Live lines on the terminal.
    drawn: usize,
    finished: bool,
}

impl Progress {
    /// Of a run of the trials of `expected`, each with the seconds that it will take, about; `title` comes
    /// first.
    pub fn new(title: &str, expected: HashMap<String, f64>, screen: Screen) -> Progress {
        let stderr = std::io::stderr();
        let coloured = colour::wanted(&stderr);
        Progress::on(Box::new(stderr), title, expected, screen, coloured)
    }

    fn on(
        out: Box<dyn Write + Send>,
        title: &str,
        expected: HashMap<String, f64>,
        screen: Screen,
        coloured: bool,
    ) -> Progress {
        let mut state = State {
            out,
            screen,
            coloured,
            expected,
            begun: Instant::now(),
            done: 0.0,
            ended: 0,
            running: Vec::new(),
            drawn: 0,
            finished: false,
        };
        state.write(&screen.begin(title, unix_time()));
        let state = Arc::new(Mutex::new(state));
        let ticker = (screen == Screen::Terminal).then_some(()).and_then(|()| {
            let (end, ended) = mpsc::channel();
            let state = Arc::clone(&state);
            let thread = std::thread::Builder::new().name("progress".into());
            // Where the host has no room for a thread, the live lines are drawn with each event alone.
            let thread = thread.spawn(move || tick(&state, &ended)).ok()?;
            Some(Ticker { end, thread })
        });
        Progress {
            state,
            ticker: Mutex::new(ticker),
        }
    }

    /// A trial begins.
    pub fn started(&self, name: &str) {
        let mut state = lock(&self.state);
        state.running.push(Running {
            name: name.to_owned(),
            since: Instant::now(),
            phase: "starting",
            limit: None,
        });
        state.draw("");
    }

    /// What a trial does from now on; `limit` is when it is given up, where that is known.
    pub fn phase(&self, name: &str, phase: &'static str, limit: Option<Duration>) {
        let mut state = lock(&self.state);
        if let Some(running) = state.running.iter_mut().find(|r| r.name == name) {
            running.phase = phase;
            running.limit = limit.or(running.limit);
            state.draw("");
        }
    }

    /// A trial has ended; or it never started, if it was skipped.
    pub fn ended(&self, trial: &Trial) {
        let mut state = lock(&self.state);
        let name = trial.name();
        state.running.retain(|running| running.name != name);
        state.ended += 1;
        state.done += state.expected.get(name).copied().unwrap_or(0.0);
        let line = state.line(trial);
        state.draw(&line);
    }

    /// The run is over: the live lines go, and nothing is drawn any more.
    pub fn finish(&self) {
        let mut state = lock(&self.state);
        state.running.clear();
        if !state.finished {
            let end = state.screen.end(unix_time());
            state.draw(&end);
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

fn unix_time() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

impl State {
    fn line(&self, trial: &Trial) -> String {
        let total = self.expected.len();
        let width = total.to_string().len();
        let (name, outcome) = (trial.name(), trial.outcome());
        let word = format!("{:^6}", trial.word(trial.parts().fault.is_some()));
        let mut line = format!(
            "[{:>width$}/{total}] {} {:>6}  {name}",
            self.ended,
            paint(&word, outcome, self.coloured),
            text::duration(trial.end.seconds),
        );
        let cause = text::clean(&outcome.cause());
        if !cause.is_empty() {
            let _ = write!(line, ": {}", text::no_commands(&cause));
        }
        line + "\n"
    }

    /// `line`, then the live lines; by one write, so that other output does not come in between.
    fn draw(&mut self, line: &str) {
        if self.screen != Screen::Terminal {
            return self.write(line);
        }
        let mut text = String::new();
        if !self.finished {
            text += &clear(self.drawn);
        }
        text += line;
        let live = self.live(MOST_LINES.min(rows()));
        self.drawn = live.len();
        if !live.is_empty() {
            // The terminal cuts what is too long: without wrapping, each has one line to clear.
            let _ = write!(text, "\x1b[?7l{}\x1b[?7h", live.join("\n"));
        }
        self.write(&text);
    }

    fn write(&mut self, text: &str) {
        // Where stderr is gone, the run goes on without a display.
        let _ = self.out.write_all(text.as_bytes());
        let _ = self.out.flush();
    }

    /// A line for each running trial, at most `most`, and one for the whole; none when nothing runs.
    fn live(&self, most: usize) -> Vec<String> {
        if self.running.is_empty() {
            return Vec::new();
        }
        let shown = &self.running[..most.min(self.running.len())];
        let width = shown.iter().map(|r| r.name.chars().count()).max();
        let width = width.unwrap_or(0);
        let mut lines: Vec<String> = (shown.iter())
            .map(|running| {
                let limit = match running.limit {
                    Some(limit) => format!(" of at most {}", text::duration(limit.as_secs_f64())),
                    None => String::new(),
                };
                let (name, phase) = (&running.name, running.phase);
                let seconds = running.since.elapsed().as_secs();
                format!("  {name:<width$}  {phase:<9}  {seconds} s{limit}")
            })
            .collect();
        let mut whole = format!("{} running", self.running.len());
        let waiting = self
            .expected
            .len()
            .saturating_sub(self.ended + self.running.len());
        let _ = write!(whole, ", {waiting} waiting");
        if let Some(left) = self.left() {
            let _ = write!(whole, ", about {} left", text::duration(left));
        }
        lines.push(whole);
        lines
    }

    /// How long the run still takes, seconds: as its first part did beside what was expected of it. None as
    /// long as that part is small, and where less than a second is left of what was expected.
    fn left(&self) -> Option<f64> {
        let all: f64 = self.expected.values().sum();
        let of_running = self.running.iter().map(|running| {
            let expected = self.expected.get(&running.name).copied().unwrap_or(0.0);
            expected.min(running.since.elapsed().as_secs_f64())
        });
        let done = self.done + of_running.sum::<f64>();
        let elapsed = self.begun.elapsed().as_secs_f64();
        let left = elapsed * (all - done) / done;
        (done > ENOUGH * all && left >= 1.0).then_some(left)
    }
}

/// Clears so many lines, of which the cursor is on the last.
fn clear(lines: usize) -> String {
    format!("\r{}\x1b[J", "\x1b[1A".repeat(lines.saturating_sub(1)))
}

/// Lines that leave room on the terminal for one that has ended.
fn rows() -> usize {
    let size = terminal_size::terminal_size_of(std::io::stderr());
    size.map_or(MOST_LINES, |(_, rows)| {
        usize::from(rows.0).saturating_sub(3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Outcome, TrialEnded};
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Sends on what is drawn.
    struct Pipe(Sender<String>);

    impl Write for Pipe {
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

    fn progress(screen: super::Screen) -> (Progress, Receiver<String>) {
        let (sender, receiver) = channel();
        let names = (0..108).map(|n| format!("trial {n}"));
        let named = [
            "ping_sweep::virtio::rhel9::tap",
            "driver::e1000::rhel6::tap",
            "a",
            "b",
        ];
        let names = names.chain(named.map(str::to_owned));
        let expected = names.map(|name| (name, 2.0)).collect();
        (
            Progress::on(
                Box::new(Pipe(sender)),
                "112 trials",
                expected,
                screen,
                false,
            ),
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
        let (progress, screen) = progress(Screen::Plain);
        end_some(&progress);
        progress.finish();
        drop(progress);
        insta::assert_snapshot!(screen.iter().collect::<String>(), @r"
        112 trials
        [  1/112]  FAIL   3.4 s  driver::e1000::rhel6::tap: bound e1000e, not ## [error]e1000
        [  2/112]   ok    3.4 s  ping_sweep::virtio::rhel9::tap
        [  3/112]  red    3.4 s  driver!unbound::e1000::rhel6::tap
        ");
    }

    #[test]
    fn a_ci_log_has_them_in_a_group() {
        for (kind, begin, end) in [
            (
                Screen::GitHub,
                "112 trials\n::group::Trials\n",
                "::endgroup::\n",
            ),
            (
                Screen::GitLab,
                "112 trials\n\x1b[0Ksection_start:",
                ":trials\r\x1b[0K\n",
            ),
        ] {
            let (progress, screen) = progress(kind);
            end_some(&progress);
            progress.finish();
            drop(progress);
            let all: String = screen.iter().collect();
            assert!(all.starts_with(begin) && all.ends_with(end), "{all:?}");
            assert!(all.contains("\n[  2/112]   ok "), "{all:?}");
        }
    }

    #[test]
    fn where_a_run_is_shown_is_told_by_the_variables() {
        let of = |is_terminal, name: &str, value: &str| {
            Screen::of(is_terminal, |asked| {
                (asked == name).then(|| value.to_owned())
            })
        };
        assert_eq!(of(true, "TERM", "xterm"), Screen::Terminal);
        assert_eq!(of(true, "TERM", "dumb"), Screen::Plain);
        assert_eq!(of(false, "TERM", "xterm"), Screen::Plain);
        assert_eq!(of(false, "GITHUB_ACTIONS", "true"), Screen::GitHub);
        assert_eq!(of(true, "GITLAB_CI", "true"), Screen::GitLab);
    }

    #[test]
    fn a_terminal_shows_what_is_running_and_is_left_clean() {
        let (progress, screen) = progress(Screen::Terminal);
        progress.started("ping_sweep::virtio::rhel9::tap");
        let limit = Some(Duration::from_secs(90));
        progress.phase("ping_sweep::virtio::rhel9::tap", "case", limit);
        end_some(&progress);
        progress.finish();
        drop(progress);
        let drawn: Vec<String> = screen.iter().collect();
        let live = "  ping_sweep::virtio::rhel9::tap  case       0 s of at most 1 min 30 s\n\
                    1 running, 111 waiting";
        assert!(drawn[2].contains(live), "{:?}", drawn[2]);
        // Two lines are cleared by going up one.
        assert!(drawn[3].starts_with("\r\x1b[1A\x1b[J"), "{:?}", drawn[3]);
        let last = drawn.iter().rfind(|text| !text.is_empty()).unwrap();
        assert!(last.ends_with("\x1b[J"), "{last:?}");
    }

    #[test]
    fn the_time_left_is_told_once_a_part_is_done() {
        let (progress, _screen) = progress(Screen::Terminal);
        assert_eq!(lock(&progress.state).left(), None);
        let mut state = lock(&progress.state);
        state.done = 112.0;
        state.begun = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
        let left = state.left().unwrap();
        assert!((60.0..61.0).contains(&left), "{left}");
    }

    #[test]
    fn more_trials_than_lines_are_counted() {
        let (progress, _screen) = progress(Screen::Terminal);
        for n in 0..20 {
            progress.started(&format!("trial {n}"));
        }
        let live = lock(&progress.state).live(12);
        assert_eq!(live.len(), 13);
        assert!(live[12].starts_with("20 running, 92 waiting"), "{live:?}");
    }

    #[test]
    fn the_live_lines_are_drawn_anew_without_events() {
        let (progress, screen) = progress(Screen::Terminal);
        progress.started("a");
        let deadline = TICK * 30; // a tick, on a machine that is busy with VMs
        let title = screen.recv().unwrap();
        assert_eq!(title, "112 trials\n");
        screen.recv().unwrap();
        let again = screen.recv_timeout(deadline).expect("drawn by the ticker");
        assert!(again.contains("1 running"), "{again:?}");
    }
}
