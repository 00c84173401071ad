//! vhost-net as the kernel shows it: the threads that serve a QEMU's queues.

use crate::base::error::OrCannotRun;
use anyhow::{Context as _, Result};
use std::fs;
use std::time::Duration;

/// The threads that serve the QEMU of that pid: named `vhost-PID`, of the kernel before Linux 6.4, of
/// QEMU itself since.
pub fn workers(qemu: u32) -> Vec<u32> {
    let mut found = kernel_workers(qemu);
    found.extend(of_name(qemu, &format!("/proc/{qemu}/task")));
    found
}

/// Those of them that are the kernel's, whose time is not in QEMU's own.
pub fn kernel_workers(qemu: u32) -> Vec<u32> {
    of_name(qemu, "/proc")
}

fn of_name(qemu: u32, directory: &str) -> Vec<u32> {
    let name = format!("vhost-{qemu}");
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|id| {
            // A thread may end meanwhile.
            fs::read_to_string(format!("{directory}/{id}/comm"))
                .is_ok_and(|comm| comm.trim() == name)
        })
        .collect()
}

/// How long those threads were on a processor, together. A kernel without a fine clock counts in ticks:
/// then a thread that ran may have run for no time.
pub fn ran(workers: &[u32]) -> Duration {
    Duration::from_nanos(schedstat(workers, 0))
}

/// How often those threads were put on a processor, together.
pub fn turns(workers: &[u32]) -> u64 {
    schedstat(workers, 2)
}

/// The sum of a field of `schedstat` (Documentation/scheduler/sched-stats.rst): nanoseconds on a processor,
/// nanoseconds in the queue, turns.
fn schedstat(threads: &[u32], field: usize) -> u64 {
    let of = |id: &u32| -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{id}/schedstat")).ok()?;
        text.split_whitespace().nth(field)?.parse().ok()
    };
    threads.iter().filter_map(of).sum()
}

/// Bytes that the process of that pid has read and written by system calls (`rchar` and `wchar`,
/// proc(5)); what vhost carries is not among them.
///
/// # Errors
/// A kernel that does not count them.
pub fn passed(pid: u32) -> Result<u64> {
    let file = format!("/proc/{pid}/io");
    let text = fs::read_to_string(&file).or_cannot_run(|| format!("read {file}"))?;
    let bytes = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|bytes| bytes.trim().parse().ok())
    };
    let both = bytes("rchar:").zip(bytes("wchar:"));
    both.map(|(read, written)| read + written)
        .context("it has no rchar and wchar")
        .or_cannot_run(|| format!("read {file}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_vhost_has_no_worker() {
        let me = std::process::id();
        assert_eq!(workers(me), Vec::<u32>::new());
        assert_eq!(ran(&[]), Duration::ZERO);
        assert!(passed(me).unwrap() > 0);
    }
}
