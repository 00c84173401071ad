//! The accelerator, proved by a short boot.
//!
//! A `/dev/kvm` that exists may still not run a stock kernel (some cloud machines emulate kernel mode,
//! where a boot takes minutes), and `-cpu host` may abort. So KVM races TCG with the same image, and is
//! used only if it is no slower.

use super::cache_file;
use crate::base::delay;
use crate::base::error::{CannotRun, OrCannotRun};
use crate::base::json;
use crate::base::kept::Kept;
use crate::debian::folder::digest;
use crate::guest::image::{GuestImage, KERNEL_CMDLINE, USERSPACE_MARK};
use crate::settings::AccelChoice;
use crate::vm::accel::Accel;
use crate::vm::qemu::{Death, Process, Qemu};
use anyhow::Result;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Seconds from QEMU's start to userspace under TCG on the machine where the deadlines were chosen.
const REFERENCE_SECONDS: f64 = 1.8;

/// The image must be in userspace by then: some thirty times what an ordinary machine takes, so that
/// only an accelerator that cannot be used misses it.
pub const BOOT_DEADLINE: Duration = Duration::from_secs(60);

/// The image's boot was neither over nor in userspace in time: a host that is busy looks like that too.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotInTime(String);

/// By how much KVM may come in after TCG: a working KVM is in userspace long before, but the two
/// share the processors while they race.
const GRACE: Duration = Duration::from_millis(500);

/// What the kernel says of its processors (proc_cpuinfo(5)).
const CPUINFO: &str = "/proc/cpuinfo";

/// How much of the serial console an error quotes, lines.
const TAIL_LINES: usize = 15;

/// What is kept of the serial console, bytes: a boot prints some 60 KiB.
const PRINTED: usize = 1 << 20;

/// How much of the console is read before the time is looked at again, bytes: a guest may print for ever.
const AT_ONCE: usize = 64 << 10;

/// An accelerator that was seen to work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proven {
    /// What VMs run under.
    pub accel: Accel,
    /// Why, in a sentence for people.
    pub reason: String,
    /// Seconds from QEMU's start to [`USERSPACE_MARK`].
    pub boot_seconds: f64,
    /// What deadlines are multiplied by; 1.0 on a machine as fast as the reference or faster. Time in which the
    /// host did not let the boot run is left out, as the deadlines leave it out.
    pub speed: f64,
}

/// What the answer depends on.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Key {
    qemu: Qemu,
    qemu_size: u64,
    qemu_modified: (i64, i64),
    image: String,
    host_kernel: String,
    /// Digest of what the kernel says of the first processor. Another machine may have this one's disk.
    processor: String,
    /// Empty where `/dev/kvm` opens, else why not.
    kvm_refusal: String,
}

#[derive(Serialize, Deserialize)]
struct Cached {
    key: Key,
    proven: Proven,
}

/// The file that keeps the answer to `choice` for `qemu`.
fn file(cache_dir: &Path, qemu: &Qemu, choice: AccelChoice) -> PathBuf {
    let name = match choice {
        AccelChoice::Auto => "auto",
        AccelChoice::Kvm => "kvm",
        AccelChoice::Tcg => "tcg",
    };
    cache_file(cache_dir, &format!("accel-{name}"), qemu)
}

/// What [`prove`] would give, if that is known already; boots nothing.
pub fn known(
    qemu: &Qemu,
    image: &GuestImage,
    cache_dir: &Path,
    choice: AccelChoice,
) -> Option<Proven> {
    cached(&file(cache_dir, qemu, choice), &key(qemu, image).ok()?)
}

/// Finds what VMs can run under, by booting `image`; the answer is kept in `cache_dir`.
///
/// `progress` is called with a line before each boot, which may take `limit`. Every error is a
/// [`CannotRun`]; behind that of a boot which took longer is [`NotInTime`].
pub fn prove(
    qemu: &Qemu,
    image: &GuestImage,
    cache_dir: &Path,
    choice: AccelChoice,
    limit: Duration,
    progress: &dyn Fn(&str),
) -> Result<Proven> {
    let file = file(cache_dir, qemu, choice);
    let key = key(qemu, image)?;
    if let Some(proven) = cached(&file, &key) {
        return Ok(proven);
    }
    fs::create_dir_all(cache_dir).or_cannot_run(|| format!("create {}", cache_dir.display()))?;
    let lock_path = cache_dir.join("accel.lock");
    let lock =
        File::create(&lock_path).or_cannot_run(|| format!("create {}", lock_path.display()))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .or_cannot_run(|| format!("lock {}", lock_path.display()))?;
    // Another process may have proved it meanwhile.
    if let Some(proven) = cached(&file, &key) {
        return Ok(proven);
    }
    let start = |accel| ProofBoot::start(accel, qemu, image, limit);
    let proven = match (choice, key.kvm_refusal.as_str()) {
        (AccelChoice::Tcg, _) => {
            progress("measuring a boot under TCG");
            alone(start(Accel::Tcg)?, "TCG was asked for")?
        }
        (AccelChoice::Kvm, "") => {
            progress("booting under KVM, to see whether it works");
            alone(start(Accel::Kvm)?, "KVM was asked for, and boots")?
        }
        (AccelChoice::Kvm, refusal) => Err(CannotRun(format!(
            "KVM was asked for, but {refusal}: use `--accel auto` or `--accel tcg` to run without it"
        )))?,
        (AccelChoice::Auto, "") => {
            progress("racing a boot under KVM against one under TCG");
            race(start(Accel::Kvm)?, start(Accel::Tcg)?)?
        }
        (AccelChoice::Auto, refusal) => {
            progress("measuring a boot under TCG");
            alone(start(Accel::Tcg)?, &format!("TCG, as {refusal}"))?
        }
    };
    let cached = Cached { key, proven };
    json::write_whole(&file, &cached).or_cannot_run(|| format!("write {}", file.display()))?;
    Ok(cached.proven)
}

fn key(qemu: &Qemu, image: &GuestImage) -> Result<Key> {
    let binary = fs::metadata(&qemu.program)
        .or_cannot_run(|| format!("find the QEMU {}", qemu.program.display()))?;
    let host = nix::sys::utsname::uname().or_cannot_run(|| "ask for the host's kernel".into())?;
    let kvm_refusal = match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => String::new(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            "this machine has no /dev/kvm".into()
        }
        Err(error) => format!("/dev/kvm cannot be opened ({error})"),
    };
    Ok(Key {
        qemu: qemu.clone(),
        qemu_size: binary.len(),
        qemu_modified: (binary.mtime(), binary.mtime_nsec()),
        image: image.hash.clone(),
        host_kernel: host.release().to_string_lossy().into_owned(),
        processor: processor(
            &fs::read_to_string(CPUINFO).or_cannot_run(|| format!("read {CPUINFO}"))?,
        ),
        kvm_refusal,
    })
}

/// Of the first processor in that text, what does not change while the machine runs.
fn processor(cpuinfo: &str) -> String {
    let of_first = cpuinfo.lines().take_while(|line| !line.trim().is_empty());
    let lasting = of_first.filter(|line| {
        let names = [
            "vendor_id",
            "cpu family",
            "model",
            "stepping",
            "flags",
            "vmx flags",
        ];
        names.iter().any(|name| line.starts_with(name))
    });
    digest(lasting)
}

fn cached(file: &Path, key: &Key) -> Option<Proven> {
    let cached: Cached = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    (cached.key == *key).then_some(cached.proven)
}

/// A QEMU that boots the image, to see how long that takes. It is ended when this is dropped.
struct ProofBoot {
    accel: Accel,
    program: String,
    process: Process,
    /// The serial console, until it is closed.
    console: Option<UnixStream>,
    serial: Kept,
    /// Its last bytes, in which a mark may have begun.
    last: Vec<u8>,
    /// How long it may take.
    limit: Duration,
    /// When it was in userspace.
    userspace: Option<Booted>,
    /// How it ended, and after how many seconds.
    exit: Option<(Death, f64)>,
}

/// What a boot took.
#[derive(Debug, Clone, Copy)]
struct Booted {
    /// Seconds from start to userspace.
    seconds: f64,
    /// Of these, seconds in which the host did not let it run: other work says nothing of how fast the host is.
    delayed: f64,
}

impl ProofBoot {
    fn start(accel: Accel, qemu: &Qemu, image: &GuestImage, limit: Duration) -> Result<Self> {
        let mut arguments: Vec<OsString> = Vec::new();
        let mut put = |text: &str| arguments.extend(text.split(' ').map(OsString::from));
        put("-machine pc -m 256 -smp 1");
        put(&accel.qemu_args().join(" "));
        put("-nodefaults -no-user-config -no-reboot -display none -serial stdio");
        arguments.extend(["-kernel".into(), image.kernel().into()]);
        arguments.extend(["-initrd".into(), image.initrd.clone().into()]);
        arguments.extend(["-append".into(), KERNEL_CMDLINE.into()]);
        Self::spawn(accel, qemu, arguments, limit)
    }

    /// `arguments` have the serial console on standard output.
    fn spawn(accel: Accel, qemu: &Qemu, arguments: Vec<OsString>, limit: Duration) -> Result<Self> {
        let mut command = qemu.command(arguments);
        let console = command.stdio()?;
        delay::meter().note();
        Ok(ProofBoot {
            accel,
            program: qemu.program.display().to_string(),
            process: command.start()?,
            console: Some(console),
            serial: Kept::new(PRINTED),
            last: Vec::new(),
            limit,
            userspace: None,
            exit: None,
        })
    }

    /// Takes what the console has shown, and notes QEMU's end.
    fn read(&mut self) -> Result<()> {
        let before = self.last.len();
        take_available(&mut self.console, &mut self.last)?;
        self.serial.push(&self.last[before..]);
        let mark = USERSPACE_MARK.as_bytes();
        if self.userspace.is_none() && self.last.windows(mark.len()).any(|seen| seen == mark) {
            let started = self.process.started();
            self.userspace = Some(Booted {
                seconds: started.elapsed().as_secs_f64(),
                delayed: delay::meter().since(started).as_secs_f64(),
            });
        }
        let old = self.last.len().saturating_sub(mark.len());
        self.last.drain(..old);
        if self.is_mute() {
            let seconds = self.process.started().elapsed().as_secs_f64();
            self.exit = self.process.death().map(|death| (death, seconds));
        }
        Ok(())
    }

    /// Its console is closed: it has ended, or is about to.
    fn is_mute(&self) -> bool {
        self.console.is_none()
    }

    fn deadline(&self) -> Instant {
        self.process.started() + self.limit
    }

    fn is_running(&self) -> bool {
        self.exit.is_none() && self.userspace.is_none()
    }

    /// Why it is not in userspace, with what can be seen of it.
    fn failure(&self) -> String {
        let (name, program) = (self.accel.name(), &self.program);
        let what = match &self.exit {
            Some((Death { status, .. }, seconds)) => format!(
                "`{program}` under {name} ended with {status} after {seconds:.1} s, before the guest was in userspace"
            ),
            None => format!(
                "`{program}` under {name} did not bring the guest to userspace within {} s",
                self.limit.as_secs()
            ),
        };
        let said = match tail(&self.process.stderr()) {
            none if none.is_empty() => "QEMU said nothing".into(),
            text => format!("QEMU said: {text}"),
        };
        let console = match tail(&self.serial.text()) {
            none if none.is_empty() => "nothing came over the serial console".into(),
            text => format!("the serial console ended with: {text}"),
        };
        format!("{what}; {said}; {console}")
    }
}

/// Reads what has arrived, up to [`AT_ONCE`], and closes the stream at its end.
fn take_available(stream: &mut Option<UnixStream>, into: &mut Vec<u8>) -> Result<()> {
    let mut buffer = [0; 16384];
    let full = into.len() + AT_ONCE;
    while let Some(open) = stream
        && into.len() < full
    {
        let mut fds = [PollFd::new(open.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::ZERO)? == 0 {
            break;
        }
        match open.read(&mut buffer)? {
            0 => *stream = None,
            n => into.extend_from_slice(&buffer[..n]),
        }
    }
    Ok(())
}

/// Waits until one of `boots` says something or ends, or until `deadline`, and takes what there is.
fn step(boots: &mut [&mut ProofBoot], deadline: Instant) -> Result<()> {
    let mut fds = Vec::new();
    let mut until = deadline;
    for boot in boots.iter().filter(|boot| boot.is_running()) {
        let console = boot.console.as_ref();
        fds.extend(console.map(|console| PollFd::new(console.as_fd(), PollFlags::POLLIN)));
        if boot.is_mute() {
            // The process ends within this time, which poll does not see.
            until = until.min(Instant::now() + Duration::from_millis(5));
        }
    }
    let left = until.saturating_duration_since(Instant::now()).as_millis() + 1;
    match poll(
        &mut fds,
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX),
    ) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    boots
        .iter_mut()
        .filter(|boot| boot.is_running())
        .try_for_each(|boot| boot.read())
}

/// One boot, with nothing to compare it to.
fn alone(mut boot: ProofBoot, reason: &str) -> Result<Proven> {
    let deadline = boot.deadline();
    while boot.is_running() && Instant::now() < deadline {
        step(&mut [&mut boot], deadline).or_cannot_run(|| "watch a boot".into())?;
    }
    match boot.userspace {
        Some(booted) => Ok(proven(boot.accel, booted, reason.into())),
        None if boot.exit.is_some() => Err(CannotRun(boot.failure()).into()),
        None => {
            let name = boot.accel.name();
            Err(NotInTime(boot.failure())).or_cannot_run(|| format!("see whether {name} works"))
        }
    }
}

/// KVM, if it is in userspace no later than TCG and a little; else TCG.
fn race(mut kvm: ProofBoot, mut tcg: ProofBoot) -> Result<Proven> {
    let deadline = tcg.deadline();
    loop {
        if let Some(booted) = kvm.userspace {
            let seconds = booted.seconds;
            let reason = format!("KVM, whose boot was in userspace after {seconds:.1} s");
            return Ok(proven(Accel::Kvm, booted, reason));
        }
        let over = Instant::now() >= deadline;
        let mut until = deadline;
        if let Some(booted) = tcg.userspace {
            let seconds = booted.seconds;
            until = tcg.process.started() + Duration::from_secs_f64(seconds) + GRACE;
            if kvm.exit.is_some() {
                let why = kvm.failure().replace('\n', " ");
                let reason = format!("TCG, as KVM does not work: {why}");
                return Ok(proven(Accel::Tcg, booted, reason));
            }
            if Instant::now() >= until {
                let reason = format!(
                    "TCG, as KVM is slower here: it was not in userspace after {:.1} s, TCG was after {seconds:.1} s",
                    kvm.process.started().elapsed().as_secs_f64()
                );
                return Ok(proven(Accel::Tcg, booted, reason));
            }
        } else if over || (kvm.exit.is_some() && tcg.exit.is_some()) {
            return Err(CannotRun(format!("{}. {}", tcg.failure(), kvm.failure())).into());
        }
        step(&mut [&mut kvm, &mut tcg], until).or_cannot_run(|| "watch a boot".into())?;
    }
}

fn proven(accel: Accel, booted: Booted, reason: String) -> Proven {
    Proven {
        accel,
        reason,
        boot_seconds: booted.seconds,
        speed: ((booted.seconds - booted.delayed) / REFERENCE_SECONDS).max(1.0),
    }
}

/// The last lines, without control characters.
fn tail(text: &str) -> String {
    let lines: Vec<String> = text
        .lines()
        .map(|line| line.chars().filter(|c| !c.is_control()).collect::<String>())
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests;
