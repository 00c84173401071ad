//! The frames that vhost_net sends out of a guest's own pages, as probes in the kernel show them.

use crate::base::error::{CannotRun, OrCannotRun};
use anyhow::Result;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The kernel's function tracer.
const TRACING: &str = "/sys/kernel/tracing";
/// The group of our probes in it, and the beginning of our instances' names.
const GROUP: &str = "nicmatrix";

/// The kernel's function, by its older and its newer name, that is called when the pages of a guest from
/// which vhost_net has sent a frame are no longer in use (drivers/vhost/net.c). Its third argument says
/// whether the pages were sent as they were (true) or had to be copied on the way. It is not called for
/// a frame that vhost_net copies to begin with, as it does all with `experimental_zcopytx=0`.
const COMPLETIONS: [&str; 2] = ["vhost_zerocopy_callback", "vhost_zerocopy_complete"];

/// The kernel's function by which a vhost worker hands frames to a tap (drivers/net/tun.c). It is called with
/// either setting: where the tracer does not show it, it would show no completion either.
const SENDS: [&str; 1] = ["tun_sendmsg"];

/// Watches for frames that are sent out of a guest's own pages, until it is dropped.
pub struct ZeroCopy {
    instance: PathBuf,
    probes: [String; 2],
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
    /// Begins to watch, in an instance of the tracer and with probes of its own.
    ///
    /// # Errors
    /// [`CannotRun`]: a kernel without kprobe events, or no right to them.
    pub fn watch() -> Result<ZeroCopy> {
        let tracing = Path::new(TRACING);
        let symbols =
            fs::read_to_string("/proc/kallsyms").or_cannot_run(|| "read /proc/kallsyms".into())?;
        let own = unique();
        let instance = tracing.join("instances").join(format!("{GROUP}-{own}"));
        let watching = ZeroCopy {
            probes: [format!("completed_{own}"), format!("sends_{own}")],
            instance,
        };
        let [completed, sends] = &watching.probes;
        set(
            tracing,
            completed,
            function(&symbols, &COMPLETIONS)?,
            "sent=%dx:u8",
        )?;
        set(tracing, sends, function(&symbols, &SENDS)?, "")?;
        fs::create_dir(&watching.instance)
            .or_cannot_run(|| "make an instance of the tracer".into())?;
        for probe in &watching.probes {
            let events = watching.instance.join("events").join(GROUP);
            let enable = events.join(probe).join("enable");
            fs::write(&enable, "1").or_cannot_run(|| format!("write 1 to {}", enable.display()))?;
        }
        Ok(watching)
    }

    /// The frames of that kind that the vhost workers of the QEMU of that pid have sent so far.
    ///
    /// # Errors
    /// [`CannotRun`]: the tracer cannot be read, or shows nothing that those workers have sent.
    pub fn take(&self, qemu: u32) -> Result<Counted> {
        let file = self.instance.join("trace");
        let text =
            fs::read_to_string(&file).or_cannot_run(|| format!("read {}", file.display()))?;
        count(&text, qemu)
    }
}

impl Drop for ZeroCopy {
    fn drop(&mut self) {
        // Where this fails, the next run does it, or the instance ends with the lab.
        let _ = fs::remove_dir(&self.instance);
        for probe in &self.probes {
            let _ = remove(Path::new(TRACING), probe);
        }
    }
}

/// Takes away what killed runs have left in the tracer, as far as this process may.
pub fn sweep() {
    sweep_in(Path::new(TRACING));
}

fn sweep_in(tracing: &Path) {
    let names = |directory: PathBuf| -> Vec<String> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| is_left(name)).collect()
    };
    let instances = tracing.join("instances");
    for name in names(instances.clone()) {
        let _ = fs::remove_dir(instances.join(name));
    }
    for probe in names(tracing.join("events").join(GROUP)) {
        let _ = remove(tracing, &probe);
    }
}

/// What the name of everything ends with that this process sets in the tracer next.
fn unique() -> String {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let number = LAST.fetch_add(1, Ordering::Relaxed);
    format!("{}_{}_{number}", namespace(), std::process::id())
}

/// The number of this process's namespace of process ids: others have the same ids for other processes.
fn namespace() -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self/ns/pid").map_or(0, |namespace| namespace.ino())
}

/// Whether a name is of a process of this namespace that has ended.
fn is_left(name: &str) -> bool {
    let mut parts = name.rsplit(['_', '-']).skip(1);
    let mut number = || parts.next()?.parse::<u64>().ok();
    let (Some(process), Some(of)) = (number(), number()) else {
        return false;
    };
    let Ok(process) = i32::try_from(process) else {
        return false;
    };
    of == namespace() && kill(Pid::from_raw(process), None) == Err(nix::errno::Errno::ESRCH)
}

/// The first of these functions that the kernel has.
fn function<'n>(symbols: &str, names: &[&'n str]) -> Result<&'n str> {
    let has =
        |name: &&&str| (symbols.lines()).any(|line| line.split_whitespace().nth(2) == Some(**name));
    let found = names.iter().find(has).copied();
    found.ok_or_else(|| {
        let names = names.join(" nor ");
        CannotRun(format!("this kernel has no function {names}")).into()
    })
}

fn set(tracing: &Path, probe: &str, function: &str, arguments: &str) -> Result<()> {
    let line = format!("p:{GROUP}/{probe} {function} {arguments}");
    append(tracing, &line).or_cannot_run(|| format!("set the probe `{line}`"))
}

fn remove(tracing: &Path, probe: &str) -> std::io::Result<()> {
    append(tracing, &format!("-:{GROUP}/{probe}"))
}

fn append(tracing: &Path, line: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new()
        .append(true)
        .open(tracing.join("kprobe_events"))?;
    file.write_all(line.as_bytes())
}

/// From the lines of a trace.
fn count(trace: &str, qemu: u32) -> Result<Counted> {
    let worker = format!("vhost-{qemu}-");
    let ours: Vec<&str> = (trace.lines())
        .filter(|line| line.trim_start().starts_with(&worker))
        .collect();
    let [sends] = SENDS;
    if !ours.iter().any(|line| line.contains(sends)) {
        return Err(CannotRun(format!(
            "the kernel's tracer shows no call of {sends} by the vhost workers of QEMU {qemu}, so it cannot show \
             which frames they copy"
        ))
        .into());
    }
    let of = |flag: &str| ours.iter().filter(|line| line.ends_with(flag)).count();
    Ok(Counted {
        sent: of(" sent=1"),
        copied: of(" sent=0"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::find;

    #[test]
    fn completions_are_counted_by_how_they_ended_where_the_tracer_shows_the_worker_at_all() {
        let trace = "\
# tracer: nop
#
     vhost-812-815     [001] ....1   101.0: sends_1_2_0: (tun_sendmsg+0x0/0x60 [tun])
     vhost-812-815     [001] ....1   101.1: completed_1_2_0: (vhost_zerocopy_callback+0x0/0x60 [vhost_net]) sent=1
     vhost-812-815     [001] ....1   101.2: completed_1_2_0: (vhost_zerocopy_callback+0x0/0x60 [vhost_net]) sent=1
     vhost-812-815     [000] ..s.1   101.3: completed_1_2_0: (vhost_zerocopy_callback+0x0/0x60 [vhost_net]) sent=0
     vhost-813-817     [001] ....1   101.4: sends_1_2_0: (tun_sendmsg+0x0/0x60 [tun])
";
        assert_eq!(count(trace, 812).unwrap(), Counted { sent: 2, copied: 1 });
        assert_eq!(count(trace, 813).unwrap(), Counted::default());
        let blind = count(trace, 81).unwrap_err();
        assert!(find::<CannotRun>(&blind).is_some(), "{blind}");
    }

    #[test]
    fn what_a_killed_run_left_goes_and_what_a_living_one_has_stays() {
        let tracing = tempfile::tempdir().unwrap();
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        let (living, others) = (unique(), format!("1_{}_0", ended.id()));
        let left = format!("{}_{}_0", namespace(), ended.id());
        for own in [&living, &left, &others] {
            let instance = format!("instances/{GROUP}-{own}");
            let event = format!("events/{GROUP}/sends_{own}");
            for directory in [instance, event] {
                fs::create_dir_all(tracing.path().join(directory)).unwrap();
            }
        }
        fs::write(tracing.path().join("kprobe_events"), "").unwrap();
        sweep_in(tracing.path());
        let removed = fs::read_to_string(tracing.path().join("kprobe_events")).unwrap();
        assert_eq!(removed, format!("-:{GROUP}/sends_{left}"));
        let instances = fs::read_dir(tracing.path().join("instances")).unwrap();
        let mut kept: Vec<_> = instances
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        kept.sort();
        let mut wanted = [living, others].map(|own| format!("{GROUP}-{own}"));
        wanted.sort();
        assert_eq!(kept, wanted);
    }
}
