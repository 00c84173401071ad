//! Processor time that a trial took: that of its thread and of the children which the thread
//! waited for.
//!
//! The kernel sums up ended children by process only, and a process runs several trials at once;
//! so each child's own time is read between its end and the moment when it is reaped. For a VM, the
//! time for which it was ready to run but no processor was free is read as well.

use super::delay;
use nix::errno::Errno;
use nix::sys::resource::{UsageWho, getrusage};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;
use std::cell::Cell;
use std::io;
use std::process::{Child, ExitStatus};
use std::time::Duration;

thread_local! {
    /// Processor time of the calling thread's ended children.
    static CHILDREN: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    /// Queueing time of the children that the thread ended by [`end`]; none before the first, or where
    /// the kernel does not count it.
    static QUEUED: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// User and system time of the calling thread, and of the children that it waited for by [`wait`] and
/// [`try_wait`], with their own.
pub fn of_thread() -> Duration {
    let thread =
        getrusage(UsageWho::RUSAGE_THREAD).map_or(Duration::ZERO, |usage| time(usage.as_ref()));
    thread + CHILDREN.get()
}

/// User and system time so far of the process of that pid, with threads that have ended; none of one that
/// was waited for.
pub fn of_running(pid: u32) -> Option<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid as i32)).ok()?;
    clock.now().ok().map(Duration::from)
}

/// How long the threads of the process of that pid have run so far or stood ready to run, and how often it waited
/// for the disk to give it a page of its memory; none where the kernel does not count it.
pub fn busy_so_far(pid: u32) -> Option<(Duration, u64)> {
    let busy = of_running(pid)? + queued_so_far(pid)?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc_pid_stat(5): majflt is the tenth field behind the name, which is in brackets.
    let (_, fields) = stat.rsplit_once(')')?;
    let faults = fields.split_whitespace().nth(9)?.parse().ok()?;
    Some((busy, faults))
}

/// User and system time of this process alone, without its children.
pub fn of_own_threads() -> Duration {
    getrusage(UsageWho::RUSAGE_SELF).map_or(Duration::ZERO, |usage| time(usage.as_ref()))
}

/// How long the threads of the children that the calling thread ended by [`end`] stood ready to run
/// with no processor free for them; none where the kernel does not count it (no `CONFIG_SCHED_INFO`).
pub fn queued() -> Option<Duration> {
    QUEUED.get()
}

/// User and system time of this process and of all children that it waited for, with their own.
pub fn of_process() -> Duration {
    [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN]
        .into_iter()
        .filter_map(|who| getrusage(who).ok())
        .map(|usage| time(usage.as_ref()))
        .sum()
}

fn time(usage: &libc::rusage) -> Duration {
    let part = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.unsigned_abs())
            + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    part(usage.ru_utime) + part(usage.ru_stime)
}

/// Kills `child` and waits for it; counts its time, and how long its threads were [`queued`].
pub fn end(child: &mut Child) {
    if let Some(more) = queued_so_far(child.id()) {
        QUEUED.set(Some(QUEUED.get().unwrap_or_default() + more));
    }
    // Both fail only when it has ended and been waited for.
    let _ = child.kill();
    let _ = wait(child);
}

/// The sum over a process's threads, which are gone once it has ended.
fn queued_so_far(pid: u32) -> Option<Duration> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    threads
        .flatten()
        .filter_map(|thread| {
            let nanos = delay::run_delay(&thread.path())?;
            Some(Duration::from_nanos(nanos))
        })
        .reduce(|sum, more| sum + more)
}

/// As [`Child::wait`], and counts the child's time.
pub fn wait(child: &mut Child) -> io::Result<ExitStatus> {
    count(child, 0);
    child.wait()
}

/// As [`Child::try_wait`], and counts the child's time.
pub fn try_wait(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    count(child, libc::WNOHANG);
    child.try_wait()
}

/// Waits for `child`'s end unless `options` say otherwise, and adds its time; leaves it to be
/// waited for. A child that was waited for before adds nothing.
fn count(child: &Child, options: libc::c_int) {
    // SAFETY: both are plain numbers, for which all zeros is a value.
    let (mut info, mut usage): (libc::siginfo_t, libc::rusage) = unsafe { std::mem::zeroed() };
    loop {
        // The system call also gives the usage, which libc's function of that name does not.
        // SAFETY: both pointers are to local variables of the types that waitid(2) names.
        let result = unsafe {
            libc::syscall(
                libc::SYS_waitid,
                libc::P_PID,
                child.id(),
                &raw mut info,
                libc::WEXITED | libc::WNOWAIT | options,
                &raw mut usage,
            )
        };
        match Errno::result(result) {
            Err(Errno::EINTR) => {}
            // Of a child that still runs the kernel gives a usage of zero.
            Ok(_) => break CHILDREN.set(CHILDREN.get() + time(&usage)),
            Err(_) => break,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// Burns some processor time, in a child of its own too.
    const BURN: &str = "burn() { i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; }
        burn; (burn); echo said; echo complained >&2; exit 3";

    fn burning() -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", BURN]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    #[test]
    fn a_process_is_busy_while_it_runs_and_not_while_it_sleeps() {
        let Some((before, _)) = busy_so_far(std::process::id()) else {
            return;
        };
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_millis(30) {
            std::hint::spin_loop();
        }
        let (after, _) = busy_so_far(std::process::id()).unwrap();
        assert!(after - before >= Duration::from_millis(20));
        assert!(busy_so_far(u32::MAX).is_none());
    }

    /// As the shell's `times` tells: the kernel's account of what it took, and what its ended children
    /// took, each of user and system time rounded down to ticks.
    fn told(times: &str) -> [Duration; 2] {
        let seconds = |text: &str| -> f64 {
            let (minutes, seconds) = text.trim_end_matches('s').split_once('m').unwrap();
            minutes.parse::<f64>().unwrap() * 60.0 + seconds.parse::<f64>().unwrap()
        };
        let line = |line: &str| line.split_whitespace().map(seconds).sum();
        let mut lines = times.lines().map(line).map(Duration::from_secs_f64);
        [(); 2].map(|()| lines.next().unwrap())
    }

    #[test]
    fn the_time_of_a_running_child_grows_and_ends_with_it() {
        let mut child = Command::new("sh")
            .args(["-c", "while :; do :; done"])
            .spawn()
            .unwrap();
        let begun = std::time::Instant::now();
        let least = Duration::from_millis(5);
        while of_running(child.id()).unwrap() < least {
            assert!(begun.elapsed() < Duration::from_secs(60));
            std::thread::yield_now();
        }
        let before = CHILDREN.get();
        end(&mut child);
        assert!(CHILDREN.get() - before >= least);
        assert_eq!(of_running(child.id()), None);
    }

    fn counted(what: impl FnOnce()) -> Duration {
        let before = CHILDREN.get();
        what();
        CHILDREN.get() - before
    }

    #[test]
    fn a_childs_time_is_counted_once_and_with_its_own_childrens() {
        let command = BURN
            .replace("30000", "300000")
            .replace("echo said", "times");
        let mut child = Command::new("sh")
            .args(["-c", &command])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let one = counted(|| assert_eq!(wait(&mut child).unwrap().code(), Some(3)));
        let again = counted(|| {
            assert_eq!(wait(&mut child).unwrap().code(), Some(3));
            assert!(try_wait(&mut child).unwrap().is_some());
        });
        let times = io::read_to_string(child.stdout.take().unwrap()).unwrap();
        let [its_own, its_childs] = told(&times);
        assert!(its_own.min(its_childs) > Duration::ZERO, "{times}");
        let both = its_own + its_childs;
        assert!(
            one >= both && one < both * 2,
            "{one:?}, but it says {times}"
        );
        assert_eq!(again, Duration::ZERO, "it was waited for before");
    }

    #[test]
    fn a_child_that_still_runs_adds_nothing_yet() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let looking = counted(|| assert!(try_wait(&mut child).unwrap().is_none()));
        assert_eq!(looking, Duration::ZERO);
        drop(child.stdin.take());
        wait(&mut child).unwrap();
    }

    #[test]
    fn what_stands_ready_is_counted_where_another_has_the_processor() {
        use nix::sched::{CpuSet, sched_setaffinity};
        use nix::unistd::Pid;
        let counts = std::path::Path::new("/proc/thread-self/schedstat").exists();
        // Several that never pause, on one processor, which they inherit.
        let mut one = CpuSet::new();
        one.set(0).unwrap();
        sched_setaffinity(Pid::from_raw(0), &one).unwrap();
        let mut looping: Vec<Child> = (0..3)
            .map(|_| {
                let mut command = Command::new("sh");
                command.args(["-c", "echo; while :; do :; done"]);
                let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
                let mut line = [0];
                io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
                child
            })
            .collect();
        assert_eq!(queued(), None);
        // The shares are even only over some turns; this ends when the last has used up 50 ms.
        let used = |child: &Child| {
            let stat = std::fs::read_to_string(format!("/proc/{}/schedstat", child.id())).unwrap();
            stat.split(' ').next().unwrap().parse::<u64>().unwrap()
        };
        while counts && used(&looping[2]) < 50_000_000 {
            std::thread::yield_now();
        }
        let took = counted(|| looping.iter_mut().for_each(end));
        if !counts {
            assert_eq!(queued(), None, "a kernel that counts nothing shows nothing");
            return;
        }
        let queued = queued().unwrap();
        assert!(
            queued > took / 2,
            "{queued:?} in the queue, {took:?} out of it"
        );
    }

    #[test]
    fn other_threads_children_are_not_counted_here_but_are_in_the_process() {
        let (before, process) = (of_thread(), of_process());
        let theirs = std::thread::spawn(|| {
            wait(&mut burning().spawn().unwrap()).unwrap();
            of_thread()
        });
        let theirs = theirs.join().unwrap();
        assert!(theirs > Duration::from_millis(2), "{theirs:?}");
        assert!(of_thread() - before < theirs);
        assert!(of_process() - process >= theirs);
    }
}
