//! What this machine has to give: processors and memory.

use crate::base::slots::{Need, PROCESSOR};

/// How many trials may want each processor at once, on average. With one, a processor would be idle
/// whenever trials happen to wait together; with many more, guests stand still for so long that their
/// own clocks complain.
const READY: f64 = 1.5;

/// Processors that this process may use.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// What this machine has to give: its processors, and the memory that is free now.
pub fn spare() -> Need {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory_mib = mib(&text, "MemAvailable:").unwrap_or(u64::MAX);
    carried(processors(), memory_mib)
}

/// What a machine with so many processors and that memory carries at once.
pub fn carried(processors: usize, memory_mib: u64) -> Need {
    Need {
        processors: (f64::from(PROCESSOR) * READY * processors as f64) as u32,
        memory_mib,
    }
}

/// The machine's memory, MiB.
pub fn machine_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    mib(&text, "MemTotal:").unwrap_or(u64::MAX)
}

/// A line of `/proc/meminfo`.
fn mib(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_read() {
        let text = "MemTotal:       24683520 kB\nMemFree:  1 kB\nMemAvailable:   24275968 kB\n";
        assert_eq!(mib(text, "MemAvailable:"), Some(23707));
        assert_eq!(mib("MemTotal: 1 kB\n", "MemAvailable:"), None);
        assert!(spare().processors >= PROCESSOR);
    }
}
