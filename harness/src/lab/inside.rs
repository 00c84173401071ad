//! The harness inside the lab: runs what it is told, and says how it went.

use super::cmdline::PORT;
use super::protocol::{FromLab, Grant, ToLab, Up, Want, Work};
use crate::error::{CannotRun, OrCannotRun};
use crate::host::accel;
use crate::host::{Accel, facts};
use crate::run::context::Context;
use crate::run::settings::AccelChoice;
use crate::run::{self, deadline, trial};
use crate::testbed::checkpoints::Checkpoints;
use crate::vm::checkpoint::Mode;
use crate::vm::checkpoint::store::{RAM, Store};
use anyhow::{Context as _, Result, bail};
use report::errln;
use report::events::{Outcome, TrialEnded};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often it says that it is alive.
const ALIVE: Duration = Duration::from_secs(1);

/// Where the lab may write, and nobody else looks.
const OWN: &str = "/run/nicmatrix";

/// That KVM was tried in here, and does not work.
static NO_KVM: AtomicBool = AtomicBool::new(false);

/// Speaks, a message at a time.
#[derive(Clone)]
struct Voice(Arc<Mutex<File>>);

impl Voice {
    fn say(&self, message: &FromLab) -> Result<()> {
        let line = serde_json::to_string(message)? + "\n";
        let mut port = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        port.write_all(line.as_bytes())
            .or_cannot_run(|| "speak on the lab's port".into())
    }
}

/// The trials under way that may be waiting for an answer.
type Waiting = Arc<Mutex<BTreeMap<u64, Sender<Result<Grant, String>>>>>;

/// Serves the harness outside for as long as the lab lives.
///
/// # Errors
/// Outside a lab; a port that cannot be read or written.
pub fn serve() -> Result<()> {
    let port = port()?;
    let open = || File::options().read(true).write(true).open(&port);
    let writer = open().or_cannot_run(|| format!("open {}", port.display()))?;
    let reader = writer.try_clone()?;
    let voice = Voice(Arc::new(Mutex::new(writer)));
    let kernel = facts::of_kernel();
    let release = nix::sys::utsname::uname().map_or_else(
        |_| String::new(),
        |uname| uname.release().to_string_lossy().into_owned(),
    );
    voice.say(&FromLab::Up(Up {
        release,
        vhost_obstacle: kernel.vhost_obstacle,
        zcopytx: kernel.zcopytx,
    }))?;
    let heart = voice.clone();
    std::thread::Builder::new()
        .name("alive".into())
        .spawn(move || {
            while heart.say(&FromLab::Alive).is_ok() {
                std::thread::sleep(ALIVE);
            }
        })
        .or_cannot_run(|| "start a thread".into())?;
    let waiting = Waiting::default();
    for line in BufReader::new(reader).lines() {
        let line = line.or_cannot_run(|| format!("read {}", port.display()))?;
        match serde_json::from_str(&line)
            .context("the lab's port gave a line of another version")?
        {
            ToLab::Run { trial, work } => {
                let (sender, granted) = channel();
                lock(&waiting).insert(trial, sender);
                let (voice, waiting) = (voice.clone(), waiting.clone());
                std::thread::Builder::new()
                    .name(work.trial.clone())
                    .spawn(move || {
                        let asking = voice.clone();
                        let granted = Mutex::new(granted);
                        let ask = move |want: Want| -> Result<Grant> {
                            let want = Box::new(want);
                            asking.say(&FromLab::Wanted { trial, want })?;
                            let granted = granted.lock().unwrap_or_else(PoisonError::into_inner);
                            match granted.recv() {
                                Ok(Ok(grant)) => {
                                    read_ahead(&grant);
                                    Ok(grant)
                                }
                                Ok(Err(why)) => bail!(CannotRun(why)),
                                Err(_) => bail!(CannotRun("nobody answers the lab".into())),
                            }
                        };
                        let name = work.trial.clone();
                        let ended = run_trial(*work, Box::new(ask)).unwrap_or_else(|error| {
                            let message = format!("{error:#}");
                            TrialEnded::unmeasured(name, Outcome::Broken { message })
                        });
                        lock(&waiting).remove(&trial);
                        let ended = Box::new(ended);
                        // Nobody is left to hear that the port is closed.
                        let _ = voice.say(&FromLab::Ended { trial, ended });
                    })
                    .or_cannot_run(|| "start a thread for a trial".into())?;
            }
            ToLab::Granted { trial, grant } => {
                if let Some(sender) = lock(&waiting).get(&trial) {
                    let _ = sender.send(grant);
                }
            }
            ToLab::Alive => {}
        }
    }
    Ok(())
}

/// Reads a checkpoint's memory into this kernel's page cache, where it stays for the next guest: one
/// that maps the file touches it page by page, and each of them would be a round trip to the machine
/// (12 s to the agent's answer in place of 7).
fn read_ahead(grant: &Grant) {
    let Some((directory, Mode::Mapped, _)) = &grant.checkpoint else {
        return;
    };
    let file = File::open(directory.join(RAM));
    // What cannot be read is told by QEMU.
    let _ = file.and_then(|mut file| std::io::copy(&mut file, &mut std::io::sink()));
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The character device of the lab's port.
fn port() -> Result<PathBuf> {
    let ports = std::fs::read_dir("/sys/class/virtio-ports").into_iter();
    ports
        .flatten()
        .flatten()
        .find(|port| {
            std::fs::read_to_string(port.path().join("name")).is_ok_and(|name| name.trim() == PORT)
        })
        .map(|port| PathBuf::from("/dev").join(port.file_name()))
        .ok_or_else(|| CannotRun(format!("this is no lab: it has no port {PORT}")).into())
}

type Ask = Box<dyn Fn(Want) -> Result<Grant> + Send + Sync>;

/// Runs a trial as if here were everywhere.
fn run_trial(work: Work, ask: Ask) -> Result<TrialEnded> {
    let Work {
        settings,
        facts: outside,
        image,
        suites,
        proven,
        ..
    } = work;
    // QEMU is the same; the kernel is another.
    let facts = facts::of_kernel().within(outside);
    let planned = run::planned_with(&settings, facts)?;
    let trial = planned.trial(&work.trial)?.clone();
    let own = PathBuf::from(OWN);
    let say = |line: &str| errln!("{line}");
    let prove = |choice| {
        let (qemu, firmware) = (&settings.qemu, &settings.firmware);
        accel::prove(qemu, firmware, &image, &own, choice, &say)
    };
    let proven = match proven.accel {
        Accel::Kvm => prove(settings.accel)?,
        Accel::Tcg if settings.accel == AccelChoice::Tcg || NO_KVM.load(Ordering::Relaxed) => {
            proven
        }
        // TCG emulates AMD's virtualization.
        Accel::Tcg => prove(AccelChoice::Kvm).unwrap_or_else(|why| {
            NO_KVM.store(true, Ordering::Relaxed);
            say(&format!("guests run under TCG: {why:#}"));
            proven
        }),
    };
    let checkpoints = match proven.accel {
        // What TCG emulates does not depend on what it runs on.
        Accel::Tcg => Checkpoints::elsewhere(ask),
        Accel::Kvm => {
            let version = planned.facts.qemu_version.clone();
            let store = Store::disposable(own.join("checkpoints"));
            Checkpoints::new(store, settings.qemu.clone(), version)
        }
    };
    deadline::set_speed(proven.speed);
    let context = Arc::new(Context {
        settings,
        profile: planned.profile,
        facts: planned.facts,
        image,
        suites,
        proven,
        checkpoints,
    });
    if let crate::plan::Action::Skip(reason) = &trial.action {
        let reason = reason.clone();
        return Ok(TrialEnded::unmeasured(
            trial.name,
            Outcome::Skipped { reason },
        ));
    }
    Ok(TrialEnded {
        host: Some(format!("guests under {}", context.proven.accel.name())),
        ..trial::run(&trial, &context, &work.run)
    })
}
