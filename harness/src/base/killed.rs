//! Who killed a process of ours: whether the kernel did so for want of memory.

use super::cgroup;
use nix::fcntl::OFlag;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

/// The kernel's messages that are looked through, at most: its ring holds some thousand.
const MESSAGES: usize = 20_000;

/// How often the kernel has killed for want of memory, up to a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory {
    /// Processes of this process's cgroup.
    cgroup: Option<u64>,
    /// Processes of this machine.
    machine: Option<u64>,
}

impl OutOfMemory {
    /// Now.
    pub fn so_far() -> OutOfMemory {
        let counted = events().and_then(|file| count(&fs::read_to_string(file).ok()?));
        let machine = fs::read_to_string("/proc/vmstat").unwrap_or_default();
        OutOfMemory {
            cgroup: counted,
            machine: count(&machine),
        }
    }

    /// What the kernel tells of the end of `pid` since then, for a sentence's end.
    pub fn tell(self, pid: u32) -> String {
        let message = kernel_names(pid);
        tell(self, OutOfMemory::so_far(), message.as_deref())
    }
}

fn tell(before: OutOfMemory, now: OutOfMemory, message: Option<&str>) -> String {
    if let Some(message) = message {
        return format!("the kernel says: {message}");
    }
    let more = |before: Option<u64>, now: Option<u64>| now.zip(before).map(|(n, b)| n - b.min(n));
    match (
        more(before.cgroup, now.cgroup),
        more(before.machine, now.machine),
    ) {
        (Some(count @ 1..), _) => format!(
            "meanwhile the memory limit of its cgroup had {count} killed (oom_kill in memory.events)"
        ),
        (_, Some(count @ 1..)) => format!(
            "meanwhile the kernel killed {count} for want of memory (oom_kill in /proc/vmstat)"
        ),
        (None, None) => "whether for want of memory the kernel does not tell".into(),
        _ => "not for want of memory, as far as the kernel tells".into(),
    }
}

/// Where the kernel counts for this process's group.
fn events() -> Option<PathBuf> {
    let groups = cgroup::of_process("memory");
    let name = match groups.first_version {
        true => "memory.oom_control",
        false => "memory.events",
    };
    Some(groups.directories.first()?.join(name))
}

/// The line `oom_kill N`.
fn count(text: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// The kernel's message that it killed `pid`; none also where its messages may not be read.
fn kernel_names(pid: u32) -> Option<String> {
    let mut messages = fs::File::options()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open("/dev/kmsg")
        .ok()?;
    let named = format!("Killed process {pid} ");
    let mut buffer = [0; 8 << 10];
    let mut found = None;
    for _ in 0..MESSAGES {
        // One message a read; an error says that there is no further one, or that it was overwritten.
        let Ok(read) = messages.read(&mut buffer) else {
            break;
        };
        let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
        let message = text.split_once(';').map_or(&*text, |(_, message)| message);
        let line = message.lines().next().unwrap_or_default();
        if line.contains(&named) {
            found = Some(line.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_tells_is_said() {
        let at = |cgroup, machine| OutOfMemory { cgroup, machine };
        let said = |before, now| tell(before, now, None);
        let none = at(Some(1), Some(4));
        assert_eq!(
            said(none, none),
            "not for want of memory, as far as the kernel tells"
        );
        assert!(said(none, at(Some(2), Some(5))).contains("limit of its cgroup had 1 killed"));
        assert!(said(none, at(Some(1), Some(6))).contains("killed 2 for want of memory"));
        assert!(said(at(None, None), at(None, None)).contains("does not tell"));
        let message = "Out of memory: Killed process 7 (qemu)";
        assert_eq!(
            tell(none, none, Some(message)),
            format!("the kernel says: {message}")
        );
        assert_eq!(count("low 0\noom 3\noom_kill 2\n"), Some(2));
    }
}
