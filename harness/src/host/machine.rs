//! What there is for the run: processors, memory, threads and descriptors, of this machine and within the limits of
//! the groups that this process is in.

use crate::base::cgroup::{self, Groups};
use crate::base::need::{Need, PROCESSOR};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::fs;
use std::path::Path;

/// How many trials may want each processor at once, on average. With one, a processor would be idle
/// whenever trials happen to wait together; with many more, guests stand still for so long that their
/// own clocks complain.
const READY: f64 = 1.5;

/// Descriptors that are asked for at most. Some programs close all that they could have, one by one: that many take
/// them a few milliseconds.
const DESCRIPTORS: u64 = 1 << 16;

/// Descriptors of a run beside its trials: logs, locks, the terminal, what is read for a moment.
const OWN_DESCRIPTORS: u32 = 32;

/// Processors that this process may use.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// What there is now for trials.
pub fn spare() -> Need {
    let memory = [free_mib(), memory_left(&cgroup::of_process("memory"))];
    let quota = quota(&cgroup::of_process("cpu")).unwrap_or(f64::MAX);
    Need {
        tasks: tasks_left(&cgroup::of_process("pids")).unwrap_or(u32::MAX),
        descriptors: descriptors().saturating_sub(OWN_DESCRIPTORS),
        ..carried(
            quota.min(processors() as f64),
            memory.into_iter().flatten().min().unwrap_or(u64::MAX),
        )
    }
}

/// What a machine with so many processors and that memory carries at once.
pub fn carried(processors: f64, memory_mib: u64) -> Need {
    Need {
        processors: (f64::from(PROCESSOR) * READY * processors) as u32,
        memory_mib,
        ..Need::ALL
    }
}

/// The memory that this process may use of the machine's, MiB.
pub fn machine_mib() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let groups = cgroup::of_process("memory");
    let limits = (groups.directories.iter()).filter_map(|directory| {
        let (limit, _) = memory_files(&groups);
        Some(number(&directory.join(limit))? >> 20)
    });
    limits
        .chain(mib(&text, "MemTotal:"))
        .min()
        .unwrap_or(u64::MAX)
}

/// Raises the number of descriptors that this process and its children may have, as far as it may.
pub fn raise_descriptors() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let wanted = hard.min(DESCRIPTORS).max(soft);
        // Slots go by what it is afterwards.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard);
    }
}

/// How many descriptors this process may have.
fn descriptors() -> u32 {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((u64::MAX, 0));
    u32::try_from(soft).unwrap_or(u32::MAX)
}

/// The machine's memory that is free now, MiB.
fn free_mib() -> Option<u64> {
    mib(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

/// A line of `/proc/meminfo`.
fn mib(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024)
}

/// The files of a group's limit and use, bytes.
fn memory_files(groups: &Groups) -> (&'static str, &'static str) {
    match groups.first_version {
        true => ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        false => ("memory.max", "memory.current"),
    }
}

/// What the tightest of these groups leaves of memory, MiB; nothing where none has a limit.
fn memory_left(groups: &Groups) -> Option<u64> {
    let (limit, used) = memory_files(groups);
    let left = groups.directories.iter().filter_map(|directory| {
        let limit = number(&directory.join(limit))?;
        let used = number(&directory.join(used))?;
        // The kernel gives these pages back before it kills.
        let cache = cached(
            &fs::read_to_string(directory.join("memory.stat")).ok()?,
            groups,
        );
        Some(limit.saturating_sub(used.saturating_sub(cache)) >> 20)
    });
    left.min()
}

/// Bytes of files that are only kept for the next one to read them, of a `memory.stat` with those of all below.
fn cached(stat: &str, groups: &Groups) -> u64 {
    let names = match groups.first_version {
        true => ["total_inactive_file", "total_active_file"],
        false => ["inactive_file", "active_file"],
    };
    let bytes = |name: &str| -> Option<u64> {
        let mut words = stat.lines().map(|line| line.split(' '));
        words.find_map(|mut words| (words.next()? == name).then(|| words.next()?.parse().ok())?)
    };
    names.iter().filter_map(|name| bytes(name)).sum()
}

/// The processors that the tightest of these groups may use; nothing where none has a limit.
fn quota(groups: &Groups) -> Option<f64> {
    let of = |directory: &Path| -> Option<f64> {
        let (quota, period) = match groups.first_version {
            true => (
                number(&directory.join("cpu.cfs_quota_us"))?,
                number(&directory.join("cpu.cfs_period_us"))?,
            ),
            false => {
                let text = fs::read_to_string(directory.join("cpu.max")).ok()?;
                let (quota, period) = text.trim().split_once(' ')?;
                (quota.parse().ok()?, period.parse().ok()?)
            }
        };
        Some(quota as f64 / period as f64)
    };
    let quotas = groups.directories.iter().filter_map(|d| of(d));
    quotas.min_by(f64::total_cmp)
}

/// The threads and processes that the tightest of these groups may still begin; nothing where none has a limit.
fn tasks_left(groups: &Groups) -> Option<u32> {
    let left = groups.directories.iter().filter_map(|directory| {
        let most = number(&directory.join("pids.max"))?;
        Some(most.saturating_sub(number(&directory.join("pids.current"))?))
    });
    left.min()
        .map(|left| u32::try_from(left).unwrap_or(u32::MAX))
}

/// A file with a number; nothing where it says that there is no limit ("max", -1, or more than any machine has).
fn number(file: &Path) -> Option<u64> {
    let number: u64 = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    (number < i64::MAX as u64 / 2).then_some(number)
}

#[cfg(test)]
mod tests;
