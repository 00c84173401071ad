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

/// How old the last look may be where a wait begins or is over: with one command after the other, looking anew for each
/// would cost more than the commands.
const FRESH: Duration = Duration::from_millis(250);

/// Looks that are kept; then every other one goes, and what is asked of long ago begins a little earlier.
const KEPT: usize = 1024;

thread_local! {
    static METER: RefCell<Option<Arc<Meter>>> = const { RefCell::new(None) };
}

/// What the host of a lab has kept the lab from running, as it was told; nanoseconds.
static OF_LAB: AtomicU64 = AtomicU64::new(0);

/// Knows how long a thread, and the processes that it started, were kept from running.
pub struct Meter(Mutex<Looks>);

struct Looks {
    /// Whether none of it counts any more.
    disregarded: bool,
    /// Those that do the same work.
    threads: Vec<Pid>,
    /// In the order of time; there is one at least.
    looks: Vec<Look>,
}

/// What the kernel had counted at a moment.
#[derive(Debug)]
struct Look {
    at: Instant,
    /// By process and thread; nanoseconds.
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
        let threads = vec![nix::unistd::gettid()];
        let looks = vec![Look::take(&threads)];
        Meter(Mutex::new(Looks {
            disregarded: false,
            threads,
            looks,
        }))
    }

    /// Has the meter know of this moment: a wait begins.
    pub fn note(&self) {
        self.0.lock().refresh();
    }

    /// Has it show no delay from now on: what is waited for in vain is to be waited for no longer.
    pub fn disregard(&self) {
        self.0.lock().disregarded = true;
    }

    /// The delay since `begun`, of which the last moments may be missing: that of the one that was kept waiting the
    /// longest, as one that waits for it waits as long.
    pub fn since(&self, begun: Instant) -> Duration {
        let mut looks = self.0.lock();
        if looks.disregarded {
            return Duration::ZERO;
        }
        looks.refresh();
        let after = looks.looks.partition_point(|look| look.at <= begun);
        let before = &looks.looks[after.saturating_sub(1)];
        looks.looks.last().map_or(Duration::ZERO, |last| {
            last.delay_since(before).min(begun.elapsed())
        })
    }
}

impl Looks {
    fn refresh(&mut self) {
        let last = self.looks.last();
        if last.is_some_and(|look| look.at.elapsed() < FRESH) {
            return;
        }
        if self.looks.len() >= KEPT {
            let mut keep = false;
            self.looks.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.looks.push(Look::take(&self.threads));
    }
}

impl Look {
    fn take(threads: &[Pid]) -> Look {
        Look {
            at: Instant::now(),
            queued: queued(threads),
            stolen: std::fs::read_to_string("/proc/stat").map_or(Vec::new(), |text| steal(&text)),
            of_lab: OF_LAB.load(Ordering::Relaxed),
        }
    }

    /// What one that was started since then was kept waiting counts from its start.
    fn delay_since(&self, before: &Look) -> Duration {
        let in_queue = self
            .queued
            .iter()
            .map(|(id, nanos)| nanos.saturating_sub(before.queued.get(id).copied().unwrap_or(0)))
            .max();
        let nanos = in_queue.unwrap_or(0) + self.of_lab.saturating_sub(before.of_lab);
        Duration::from_nanos(nanos) + since(&before.stolen, &self.stolen)
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
        meter.note();
        while meter.since(begun) < Duration::from_millis(50) {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "no delay is seen"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(meter.since(begun) <= begun.elapsed());
        // Another thread has started none of them.
        let seen = std::thread::spawn(move || {
            let alone = queued(&[nix::unistd::gettid()]).len();
            join(&meter);
            (alone, queued(&super::meter().0.lock().threads).len())
        });
        assert_eq!(seen.join().unwrap(), (1, 2 + 3));
        let meter = super::meter();
        assert!(meter.since(begun) > Duration::ZERO);
        meter.disregard();
        assert_eq!(meter.since(begun), Duration::ZERO);
        for child in looping.iter_mut().chain([&mut sleeping]) {
            cpu::end(child);
        }
    }

    fn look(queued: &[((u32, u32), u64)], of_lab: u64) -> Look {
        Look {
            at: Instant::now(),
            queued: queued.iter().copied().collect(),
            stolen: Vec::new(),
            of_lab,
        }
    }

    #[test]
    fn threads_that_wait_in_turns_do_not_add_up() {
        let both = |first, second, of_lab| look(&[((1, 1), first), ((1, 2), second)], of_lab);
        let looks = [both(5, 5, 0), both(9, 5, 0), both(9, 8, 0), both(10, 8, 2)];
        let delays: Vec<u128> = looks
            .iter()
            .map(|look| look.delay_since(&looks[0]).as_nanos())
            .collect();
        assert_eq!(delays, [0, 4, 4, 7]);
        // One that is new counts whole, one that has ended does not.
        let other = look(&[((2, 1), 3)], 0);
        assert_eq!(other.delay_since(&looks[0]).as_nanos(), 3);
    }

    #[test]
    fn of_many_looks_every_other_one_is_kept() {
        let mut looks = Looks {
            disregarded: false,
            threads: Vec::new(),
            looks: (0..KEPT).map(|_| look(&[], 0)).collect(),
        };
        looks.looks[KEPT - 1].at -= FRESH * 2;
        looks.refresh();
        assert_eq!(looks.looks.len(), KEPT / 2 + 1);
        looks.refresh();
        assert_eq!(looks.looks.len(), KEPT / 2 + 1, "it is fresh");
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
