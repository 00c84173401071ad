//! The accelerator, proved by a short boot.
//!
//! A `/dev/kvm` that exists may still not run a stock kernel (some cloud machines emulate kernel mode:
//! minutes to reach userspace), and `-cpu host` may abort. So KVM races TCG with the same image, and
//! is used only if it is no slower.

use crate::base::child::dies_with_parent;
use crate::base::error::{CannotRun, OrCannotRun};
use crate::base::json;
use crate::guest::image::{GuestImage, KERNEL_CMDLINE, USERSPACE_MARK};
use crate::settings::AccelChoice;
use crate::vm::accel::Accel;
use anyhow::Result;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Seconds from exec to userspace under TCG on the machine where the deadlines were chosen.
const REFERENCE_SECONDS: f64 = 1.8;

/// The image must be in userspace by then: some thirty times what an ordinary machine takes, so that
/// only one that is of no use misses it.
const BOOT_DEADLINE: Duration = Duration::from_secs(60);

/// By how much KVM may come in after TCG: a working KVM is in userspace long before, but the two
/// share the processors while they race.
const GRACE: Duration = Duration::from_millis(500);

/// How much of the serial console an error quotes, lines.
const TAIL_LINES: usize = 15;

/// An accelerator that was seen to work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proven {
    /// What VMs run under.
    pub accel: Accel,
    /// Why, in a sentence for people.
    pub reason: String,
    /// Seconds from exec to [`USERSPACE_MARK`].
    pub boot_seconds: f64,
    /// What deadlines are multiplied by; 1.0 on a machine as fast as the reference or faster.
    pub speed: f64,
}

/// What the answer depends on.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Key {
    qemu: PathBuf,
    qemu_size: u64,
    qemu_modified: (i64, i64),
    firmware: Vec<PathBuf>,
    image: String,
    host_kernel: String,
    /// Empty where `/dev/kvm` opens, else why not.
    kvm_refusal: String,
}

#[derive(Serialize, Deserialize)]
struct Cached {
    key: Key,
    proven: Proven,
}

/// Where the answer to `choice` is kept.
fn file(cache_dir: &Path, choice: AccelChoice) -> PathBuf {
    let name = match choice {
        AccelChoice::Auto => "auto",
        AccelChoice::Kvm => "kvm",
        AccelChoice::Tcg => "tcg",
    };
    cache_dir.join(format!("accel-{name}.json"))
}

/// What [`prove`] would give, if that is known already; boots nothing.
pub fn known(
    qemu: &Path,
    firmware: &[PathBuf],
    image: &GuestImage,
    cache_dir: &Path,
    choice: AccelChoice,
) -> Option<Proven> {
    cached(&file(cache_dir, choice), &key(qemu, firmware, image).ok()?)
}

/// Finds what VMs can run under, by booting `image`; the answer is kept in `cache_dir`.
///
/// `firmware` are QEMU's `-L` directories. `progress` is told before it takes long. Every error is a
/// [`CannotRun`].
pub fn prove(
    qemu: &Path,
    firmware: &[PathBuf],
    image: &GuestImage,
    cache_dir: &Path,
    choice: AccelChoice,
    progress: &dyn Fn(&str),
) -> Result<Proven> {
    let file = file(cache_dir, choice);
    let key = key(qemu, firmware, image)?;
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
    let start = |accel| Boot::start(accel, qemu, firmware, image);
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

fn key(qemu: &Path, firmware: &[PathBuf], image: &GuestImage) -> Result<Key> {
    let binary =
        fs::metadata(qemu).or_cannot_run(|| format!("find the QEMU {}", qemu.display()))?;
    let host = nix::sys::utsname::uname().or_cannot_run(|| "ask for the host's kernel".into())?;
    let kvm_refusal = match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => String::new(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            "this machine has no /dev/kvm".into()
        }
        Err(error) => format!("/dev/kvm cannot be opened ({error})"),
    };
    Ok(Key {
        qemu: qemu.into(),
        qemu_size: binary.len(),
        qemu_modified: (binary.mtime(), binary.mtime_nsec()),
        firmware: firmware.into(),
        image: image.hash.clone(),
        host_kernel: host.release().to_string_lossy().into_owned(),
        kvm_refusal,
    })
}

fn cached(file: &Path, key: &Key) -> Option<Proven> {
    let cached: Cached = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    (cached.key == *key).then_some(cached.proven)
}

/// A QEMU that boots the image and is killed when dropped.
struct Boot {
    accel: Accel,
    command: String,
    child: Child,
    started: Instant,
    serial: Vec<u8>,
    stderr: Vec<u8>,
    /// Seconds from exec to userspace.
    userspace: Option<f64>,
    /// How it ended, and after how many seconds.
    exit: Option<(ExitStatus, f64)>,
}

impl Boot {
    fn start(accel: Accel, qemu: &Path, firmware: &[PathBuf], image: &GuestImage) -> Result<Self> {
        let mut command = Command::new(qemu);
        for dir in firmware {
            command.arg("-L").arg(dir);
        }
        command
            .args(["-machine", "pc", "-m", "256", "-smp", "1"])
            .args(accel.qemu_args())
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-serial", "stdio"])
            .arg("-kernel")
            .arg(image.kernel())
            .arg("-initrd")
            .arg(&image.initrd)
            .args(["-append", KERNEL_CMDLINE])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self::spawn(accel, command)
    }

    fn spawn(accel: Accel, mut command: Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = dies_with_parent(&mut command)
            .spawn()
            .or_cannot_run(|| format!("start {name}"))?;
        Ok(Boot {
            accel,
            command: name,
            child,
            started: Instant::now(),
            serial: Vec::new(),
            stderr: Vec::new(),
            userspace: None,
            exit: None,
        })
    }

    /// Takes what QEMU has said, and its end.
    fn read(&mut self) -> Result<()> {
        take_available(&mut self.child.stdout, &mut self.serial)?;
        take_available(&mut self.child.stderr, &mut self.stderr)?;
        let mark = USERSPACE_MARK.as_bytes();
        if self.userspace.is_none() && self.serial.windows(mark.len()).any(|seen| seen == mark) {
            self.userspace = Some(self.started.elapsed().as_secs_f64());
        }
        if self.is_mute() {
            let seconds = self.started.elapsed().as_secs_f64();
            self.exit = self.child.try_wait()?.map(|status| (status, seconds));
        }
        Ok(())
    }

    /// Both outputs are closed: it has ended, or is about to.
    fn is_mute(&self) -> bool {
        self.child.stdout.is_none() && self.child.stderr.is_none()
    }

    fn is_running(&self) -> bool {
        self.exit.is_none() && self.userspace.is_none()
    }

    /// Why it is not in userspace, with what can be seen of it.
    fn failure(&self) -> String {
        let (name, command) = (self.accel.name(), &self.command);
        let what = match self.exit {
            Some((status, seconds)) => format!(
                "`{command}` under {name} ended with {status} after {seconds:.1} s, before the guest was in userspace"
            ),
            None => format!(
                "`{command}` under {name} did not bring the guest to userspace within {} s",
                BOOT_DEADLINE.as_secs()
            ),
        };
        let said = match tail(&self.stderr) {
            none if none.is_empty() => "QEMU said nothing".into(),
            text => format!("QEMU said: {text}"),
        };
        let console = match tail(&self.serial) {
            none if none.is_empty() => "nothing came over the serial console".into(),
            text => format!("the serial console ended with: {text}"),
        };
        format!("{what}; {said}; {console}")
    }
}

impl Drop for Boot {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads what is there, and closes the stream at its end.
fn take_available<S: Read + AsFd>(stream: &mut Option<S>, into: &mut Vec<u8>) -> Result<()> {
    let mut buffer = [0; 16384];
    while let Some(open) = stream {
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
fn step(boots: &mut [&mut Boot], deadline: Instant) -> Result<()> {
    let mut fds = Vec::new();
    let mut until = deadline;
    for boot in boots.iter().filter(|boot| boot.is_running()) {
        let (out, err) = (&boot.child.stdout, &boot.child.stderr);
        fds.extend(
            out.as_ref()
                .map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)),
        );
        fds.extend(
            err.as_ref()
                .map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)),
        );
        if boot.is_mute() {
            // Its end follows within this, and is not to be seen by poll.
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

/// Boots with nothing to compare to.
fn alone(mut boot: Boot, reason: &str) -> Result<Proven> {
    let deadline = boot.started + BOOT_DEADLINE;
    while boot.is_running() && Instant::now() < deadline {
        step(&mut [&mut boot], deadline).or_cannot_run(|| "watch a boot".into())?;
    }
    match boot.userspace {
        Some(seconds) => Ok(proven(boot.accel, seconds, reason.into())),
        None => Err(CannotRun(boot.failure()).into()),
    }
}

/// KVM, if it is in userspace no later than TCG and a little; else TCG.
fn race(mut kvm: Boot, mut tcg: Boot) -> Result<Proven> {
    let deadline = tcg.started + BOOT_DEADLINE;
    loop {
        if let Some(seconds) = kvm.userspace {
            let reason = format!("KVM, whose boot was in userspace after {seconds:.1} s");
            return Ok(proven(Accel::Kvm, seconds, reason));
        }
        let over = Instant::now() >= deadline;
        let mut until = deadline;
        if let Some(seconds) = tcg.userspace {
            until = tcg.started + Duration::from_secs_f64(seconds) + GRACE;
            if kvm.exit.is_some() {
                let why = kvm.failure().replace('\n', " ");
                let reason = format!("TCG, as KVM does not work: {why}");
                return Ok(proven(Accel::Tcg, seconds, reason));
            }
            if Instant::now() >= until {
                let reason = format!(
                    "TCG, as KVM is slower here: it was not in userspace after {:.1} s, TCG was after {seconds:.1} s",
                    kvm.started.elapsed().as_secs_f64()
                );
                return Ok(proven(Accel::Tcg, seconds, reason));
            }
        } else if over || (kvm.exit.is_some() && tcg.exit.is_some()) {
            return Err(CannotRun(format!("{}. {}", tcg.failure(), kvm.failure())).into());
        }
        step(&mut [&mut kvm, &mut tcg], until).or_cannot_run(|| "watch a boot".into())?;
    }
}

fn proven(accel: Accel, boot_seconds: f64, reason: String) -> Proven {
    Proven {
        accel,
        reason,
        boot_seconds,
        speed: (boot_seconds / REFERENCE_SECONDS).max(1.0),
    }
}

/// The last lines, without what a terminal would act upon.
fn tail(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<String> = text
        .lines()
        .map(|line| line.chars().filter(|c| !c.is_control()).collect::<String>())
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests;
