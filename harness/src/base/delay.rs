//! How long the host has kept what a thread waits for from running: the processes that the thread has started
//! stood ready, and no processor was free for them.
//!
//! The kernel counts, for each thread, the time that it stood in the queue for a processor (`run_delay`, the second
//! figure of `/proc/PID/task/TID/schedstat`; time for which a cgroup's quota stops it counts as well). Where this
//! machine is itself a VM, its own host may keep a whole processor from running, which it tells as steal time. A
//! kernel that counts neither (no `CONFIG_SCHED_INFO`, no `CONFIG_PROC_CHILDREN`) shows no delay.

use nix::unistd::Pid;
use parking_lot::Mutex;
use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How old what was read may be where a wait begins: with one command after the other, reading anew for each
/// would cost more than the commands.
const FRESH: Duration = Duration::from_millis(250);

thread_local! {
    static METER: RefCell<Option<Arc<Meter>>> = const { RefCell::new(None) };
}

/// What the host of a lab has kept the lab from running, as it was told; nanoseconds.
static OF_LAB: AtomicU64 = AtomicU64::new(0);

/// Adds up how long a thread, and the processes that it started, were kept from running.
pub struct Meter(Mutex<Read>);

struct Read {
    /// Those that do the same work.
    threads: Vec<Pid>,
    at: Instant,
    total: Duration,
    /// By process and thread, what the kernel has counted; nanoseconds.
    queued: HashMap<(u32, u32), u64>,
    /// By processor; in `USER_HZ`.
    stolen: Vec<u64>,
    /// [`OF_LAB`].
    of_lab: u64,
}

/// The calling thread's.
pub fn meter() -> Arc<Meter> {
    METER.with_borrow_mut(|meter| Arc::clone(meter.get_or_insert_with(|| Arc::new(Meter::new()))))
}

/// Has the calling thread do its part of the work of the threads of `meter`, which is its meter from now on.
pub fn join(meter: &Arc<Meter>) {
    meter.0.lock().threads.push(nix::unistd::gettid());
    METER.set(Some(Arc::clone(meter)));
}

/// Notes, in a lab, how long the lab's host has kept it from running up to now: nothing here shows it.
pub fn note_of_lab(delay: Duration) {
    let nanos = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
    OF_LAB.fetch_max(nanos, Ordering::Relaxed);
}

impl Meter {
    fn new() -> Meter {
        let mut read = Read {
            threads: vec![nix::unistd::gettid()],
            at: Instant::now(),
            total: Duration::ZERO,
            queued: HashMap::new(),
            stolen: Vec::new(),
            of_lab: 0,
        };
        read.again();
        read.total = Duration::ZERO;
        Meter(Mutex::new(read))
    }

    /// The delay so far, of which the last moments may be missing.
    pub fn about(&self) -> Duration {
        let mut read = self.0.lock();
        if read.at.elapsed() > FRESH {
            read.again();
        }
        read.total
    }

    /// The delay so far.
    pub fn exact(&self) -> Duration {
        let mut read = self.0.lock();
        read.again();
        read.total
    }
}

impl Read {
    /// Adds what has come since the last time: that of the one that was kept waiting the longest, as one that
    /// waits for it waits as long.
    fn again(&mut self) {
        let now = Instant::now();
        let queued = queued(&self.threads);
        let of_lab = OF_LAB.load(Ordering::Relaxed);
        let stolen = std::fs::read_to_string("/proc/stat").map_or(Vec::new(), |text| steal(&text));
        let in_queue = queued
            .iter()
            .map(|(id, nanos)| nanos.saturating_sub(self.queued.get(id).copied().unwrap_or(0)))
            .max();
        let more = Duration::from_nanos(in_queue.unwrap_or(0) + of_lab - self.of_lab)
            + since(&self.stolen, &stolen);
        self.total += more.min(now - self.at);
        (self.at, self.queued, self.stolen, self.of_lab) = (now, queued, stolen, of_lab);
    }
}

/// What the kernel has counted for these threads of this process, and for each thread of the processes that they
/// started.
fn queued(threads: &[Pid]) -> HashMap<(u32, u32), u64> {
    let own = std::process::id();
    let mut found = HashMap::new();
    let mut note = |process: u32, thread: u32, task: &Path| {
        if let Some(nanos) = run_delay(task) {
            found.insert((process, thread), nanos);
        }
    };
    let mut children = String::new();
    for thread in threads {
        let task = PathBuf::from(format!("/proc/self/task/{thread}"));
        note(own, thread.as_raw().unsigned_abs(), &task);
        children += &std::fs::read_to_string(task.join("children")).unwrap_or_default();
        children.push(' ');
    }
    for process in (children.split_whitespace()).filter_map(|pid| pid.parse().ok()) {
        // One that has ended meanwhile waits for nothing.
        let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else {
            continue;
        };
        for entry in threads.flatten() {
            let name = entry.file_name();
            if let Some(thread) = name.to_str().and_then(|name| name.parse().ok()) {
                note(process, thread, &entry.path());
            }
        }
    }
    found
}

/// Nanoseconds in the queue for a processor, of the task in that directory of `/proc`.
pub(super) fn run_delay(task: &Path) -> Option<u64> {
    // Nanoseconds on a processor, nanoseconds in the queue for one, turns.
    let text = std::fs::read_to_string(task.join("schedstat")).ok()?;
    text.split_whitespace().nth(1)?.parse().ok()
}

/// Of each processor in `/proc/stat`, what this machine's own host has kept from it.
fn steal(stat: &str) -> Vec<u64> {
    let lines = stat
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with("cpu"));
    let stolen = |line: &str| line.split_whitespace().nth(8)?.parse().ok();
    lines.map(|line| stolen(line).unwrap_or(0)).collect()
}

/// What came on the processor on which most came.
fn since(before: &[u64], now: &[u64]) -> Duration {
    let more = before
        .iter()
        .zip(now)
        .map(|(before, now)| now.saturating_sub(*before));
    // USER_HZ is 100 on every architecture that the harness runs on.
    Duration::from_millis(more.max().unwrap_or(0) * 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::cpu;
    use std::process::Command;

    #[test]
    fn a_child_that_is_kept_from_running_is_seen_and_one_that_sleeps_is_not() {
        let meter = meter();
        let mut sleeping = Command::new("sleep").arg("60").spawn().unwrap();
        // Two that never pause, on one processor: each stands ready for half of the time.
        let mut looping: Vec<_> = (0..2)
            .map(|_| {
                let mut command = Command::new("taskset");
                command.args(["-c", "0", "sh", "-c", "while :; do :; done"]);
                command.spawn().unwrap()
            })
            .collect();
        let begun = Instant::now();
        let before = meter.exact();
        while meter.exact() - before < Duration::from_millis(50) {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "no delay is seen"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(meter.exact() - before <= begun.elapsed());
        // Another thread has started none of them.
        let seen = std::thread::spawn(move || {
            let alone = queued(&[nix::unistd::gettid()]).len();
            join(&meter);
            (alone, queued(&super::meter().0.lock().threads).len())
        });
        assert_eq!(seen.join().unwrap(), (1, 2 + 3));
        for child in looping.iter_mut().chain([&mut sleeping]) {
            cpu::end(child);
        }
    }

    #[test]
    fn steal_time_is_that_of_the_processor_which_lost_most() {
        let stat = |first: u64, second: u64| {
            format!(
                "cpu  9 9 9 9 9 9 9 99 0 0\ncpu0 1 2 3 4 5 6 7 {first} 0 0\ncpu1 1 2 3 4 5 6 7 {second} 0 0\nintr 1 2\n"
            )
        };
        let (before, now) = (steal(&stat(5, 5)), steal(&stat(6, 30)));
        assert_eq!(before, [5, 5]);
        assert_eq!(since(&before, &now), Duration::from_millis(250));
        assert_eq!(since(&[], &now), Duration::ZERO);
    }
}
