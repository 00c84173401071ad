//! vhost-net as the kernel shows it: the threads that serve a QEMU's queues, and the frames that they
//! send out of the guest's own pages.

use crate::base::error::{CannotRun, OrCannotRun};
use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The kernel's function tracer.
const TRACING: &str = "/sys/kernel/tracing";
/// Our probe in it.
const PROBE: &str = "nicmatrix/zerocopy";
/// The kernel's function, by its older and its newer name, that is called when the pages of a guest from
/// which vhost_net has sent a frame are no longer in use (drivers/vhost/net.c). Its third argument says
/// whether the pages were sent as they were (true) or had to be copied on the way. It is not called for
/// a frame that vhost_net copies to begin with, as it does all with `experimental_zcopytx=0`.
const COMPLETIONS: [&str; 2] = ["vhost_zerocopy_callback", "vhost_zerocopy_complete"];

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

/// Watches for frames that are sent out of a guest's own pages, until it is dropped. A killed run leaves
/// an empty instance of the tracer behind.
pub struct ZeroCopy {
    instance: PathBuf,
}

/// Frames that began as the guest's own pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// Frames that were sent as they were.
    pub sent: usize,
    /// Frames that had to be copied on the way, as the host's own stack does with those that it keeps.
    pub copied: usize,
}

impl ZeroCopy {
    /// Begins to watch, in an instance of the tracer of its own.
    ///
    /// # Errors
    /// [`CannotRun`]: a kernel without kprobe events, or no right to them.
    pub fn watch() -> Result<ZeroCopy> {
        let tracing = Path::new(TRACING);
        let write = |file: &Path, text: &str| {
            fs::write(file, text).or_cannot_run(|| format!("write `{text}` to {}", file.display()))
        };
        let events = tracing.join("events").join(PROBE);
        if !events.exists() {
            let symbols = fs::read_to_string("/proc/kallsyms")
                .or_cannot_run(|| "read /proc/kallsyms".into())?;
            let has = |name: &&&str| {
                symbols
                    .lines()
                    .any(|line| line.split_whitespace().nth(2) == Some(**name))
            };
            let function = COMPLETIONS.iter().find(has).ok_or_else(|| {
                let names = COMPLETIONS.join(" nor ");
                CannotRun(format!("this kernel's vhost_net has no function {names}"))
            })?;
            let probe = format!("p:{PROBE} {function} sent=%dx:u8");
            let appended = fs::OpenOptions::new()
                .append(true)
                .open(tracing.join("kprobe_events"))
                .and_then(|mut file| std::io::Write::write_all(&mut file, probe.as_bytes()));
            // Another trial may have set it first.
            if !events.exists() {
                appended.or_cannot_run(|| format!("set the probe `{probe}`"))?;
            }
        }
        let instance = tempfile::Builder::new()
            .prefix("nicmatrix-")
            .tempdir_in(tracing.join("instances"))
            .or_cannot_run(|| "make an instance of the tracer".into())?
            // It can be removed by rmdir alone: see drop.
            .keep();
        let watching = ZeroCopy { instance };
        let enable = watching.instance.join("events").join(PROBE).join("enable");
        write(&enable, "1")?;
        Ok(watching)
    }

    /// The frames of that kind that the vhost workers of the QEMU of that pid have sent so far.
    ///
    /// # Errors
    /// When the tracer cannot be read.
    pub fn take(&self, qemu: u32) -> Result<Counted> {
        let file = self.instance.join("trace");
        let text =
            fs::read_to_string(&file).or_cannot_run(|| format!("read {}", file.display()))?;
        Ok(count(&text, qemu))
    }
}

impl Drop for ZeroCopy {
    fn drop(&mut self) {
        // Where this fails, the instance ends with the lab.
        let _ = fs::remove_dir(&self.instance);
    }
}

/// From the lines of a trace.
fn count(trace: &str, qemu: u32) -> Counted {
    let worker = format!("vhost-{qemu}-");
    let ours = |line: &&str| line.trim_start().starts_with(&worker);
    let of = |flag: &str| {
        let ours = trace.lines().filter(ours);
        ours.filter(|line| line.ends_with(flag)).count()
    };
    Counted {
        sent: of(" sent=1"),
        copied: of(" sent=0"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_are_counted_by_how_they_ended() {
        let trace = "\
# tracer: nop
#
     vhost-812-815     [001] ....1   101.1: zerocopy: (vhost_zerocopy_callback+0x0/0x60 [vhost_net]) sent=1
     vhost-812-815     [001] ....1   101.2: zerocopy: (vhost_zerocopy_callback+0x0/0x60 [vhost_net]) sent=1
     vhost-812-815     [000] ..s.1   101.3: zerocopy: (vhost_zerocopy_callback+0x0/0x60 [vhost_net]) sent=0
";
        assert_eq!(count(trace, 812), Counted { sent: 2, copied: 1 });
        assert_eq!(count(trace, 81), Counted::default());
    }

    #[test]
    fn a_process_without_vhost_has_no_worker() {
        let me = std::process::id();
        assert_eq!(workers(me), Vec::<u32>::new());
        assert_eq!(ran(&[]), Duration::ZERO);
        assert!(passed(me).unwrap() > 0);
    }
}
