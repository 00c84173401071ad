//! The harness inside the lab: runs the trials that the harness outside sends, and sends how they ended.

use crate::base::error::{CannotRun, OrCannotRun, find};
use crate::base::lines::{Lines, MESSAGE};
use crate::base::{panics, thread};
use crate::host::accel::{self, NotInTime};
use crate::host::kernel_facts;
use crate::lab::cmdline::PORT;
use crate::lab::protocol::{FromLab, Hello, Job, ToLab};
use crate::plan::Action;
use crate::run::context::Context;
use crate::run::planned::planned_with;
use crate::run::trial;
use crate::settings::AccelChoice;
use crate::testbed::checkpoints::{Checkpoints, GuestReply, GuestRequest};
use crate::vm::accel::Accel;
use crate::vm::checkpoint::Mode;
use crate::vm::checkpoint::store::{RAM, Store};
use anyhow::{Context as _, Result, bail};
use parking_lot::Mutex;
use report::errln;
use report::events::{Outcome, TrialEnded};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// How often it tells the harness outside that it is alive.
const ALIVE: Duration = Duration::from_secs(1);

/// How long the boot may take that shows whether KVM works here: 20 s in a lab that TCG runs on an idle
/// machine, and a lab waits for its processors as every process does.
const PROOF: Duration = Duration::from_secs(600);

/// A directory of the lab alone, where it may write.
const OWN: &str = "/run/nicmatrix";

/// Whether KVM was tried in this lab, and does not work.
static NO_KVM: AtomicBool = AtomicBool::new(false);

/// The lab's port: one message is written at a time.
#[derive(Clone)]
struct Port(Arc<Mutex<File>>);

impl Port {
    fn say(&self, message: &FromLab) -> Result<()> {
        let line = serde_json::to_string(message)? + "\n";
        let mut port = self.0.lock();
        port.write_all(line.as_bytes())
            .or_cannot_run(|| "speak on the lab's port".into())
    }
}

/// The trials under way, each with where replies to it go.
type Waiting = Arc<Mutex<BTreeMap<u64, Sender<Result<GuestReply, String>>>>>;

/// Serves the harness outside for as long as the lab lives.
///
/// # Errors
/// A machine that is no lab; a port that cannot be read or written, or was closed.
pub fn serve() -> Result<()> {
    let device = port_device()?;
    let open = || File::options().read(true).write(true).open(&device);
    let writer = open().or_cannot_run(|| format!("open {}", device.display()))?;
    let reader = writer.try_clone()?;
    let port = Port(Arc::new(Mutex::new(writer)));
    let kernel = kernel_facts::of_this_kernel();
    let release = nix::sys::utsname::uname().map_or_else(
        |_| String::new(),
        |uname| uname.release().to_string_lossy().into_owned(),
    );
    port.say(&FromLab::Hello(Hello {
        release,
        vhost_obstacle: kernel.vhost_obstacle,
        zcopytx: kernel.zcopytx,
    }))?;
    let heart = port.clone();
    thread::start("alive", move || {
        while heart.say(&FromLab::Alive).is_ok() {
            std::thread::sleep(ALIVE);
        }
    })?;
    let waiting = Waiting::default();
    let mut lines = Lines::new(reader, MESSAGE);
    loop {
        let line = lines.line();
        let Some(line) = line.or_cannot_run(|| format!("read {}", device.display()))? else {
            bail!("the lab's port was closed");
        };
        match serde_json::from_slice(line)
            .context("a line on the lab's port is not of this version of the harness")?
        {
            ToLab::Run { trial, job } => {
                let (sender, replies) = channel();
                waiting.lock().insert(trial, sender);
                let name = job.trial.clone();
                let (theirs, waiting) = (port.clone(), waiting.clone());
                let started = thread::start(&job.trial.clone(), move || {
                    let port = theirs;
                    let asking = port.clone();
                    let replies = Mutex::new(replies);
                    let ask = move |request: GuestRequest| -> Result<GuestReply> {
                        let request = Box::new(request);
                        asking.say(&FromLab::GuestRequested { trial, request })?;
                        let reply = replies.lock().recv();
                        match reply {
                            Ok(Ok(reply)) => {
                                read_ahead(&reply);
                                Ok(reply)
                            }
                            Ok(Err(why)) => bail!(CannotRun(why)),
                            Err(_) => {
                                bail!(CannotRun("the harness outside does not answer".into()))
                            }
                        }
                    };
                    let name = job.trial.clone();
                    let run = AssertUnwindSafe(|| run_trial(*job, Box::new(ask)));
                    let ended = std::panic::catch_unwind(run).unwrap_or_else(|panic| {
                        bail!("the harness panicked: {}", panics::words(&*panic))
                    });
                    waiting.lock().remove(&trial);
                    let ended = ended.unwrap_or_else(|error| broken(name, &error));
                    // A closed port means that the harness outside has ended.
                    let _ = port.say(&FromLab::Ended {
                        trial,
                        ended: Box::new(ended),
                    });
                });
                if let Err(error) = started {
                    let ended = Box::new(broken(name, &error));
                    port.say(&FromLab::Ended { trial, ended })?;
                }
            }
            ToLab::GuestReplied { trial, reply } => {
                if let Some(sender) = waiting.lock().get(&trial) {
                    let _ = sender.send(reply);
                }
            }
            ToLab::Alive => {}
        }
    }
}

fn broken(trial: String, error: &anyhow::Error) -> TrialEnded {
    let message = format!("{error:#}");
    TrialEnded::unmeasured(trial, Outcome::Broken { message })
}

/// Reads a checkpoint's memory into this kernel's page cache, where it stays for the next guest. A guest
/// that maps the file touches it page by page, and each page would be a round trip to the host (12 s to
/// the agent's answer in place of 7).
fn read_ahead(reply: &GuestReply) {
    let Some((directory, Mode::Mapped, _)) = &reply.checkpoint else {
        return;
    };
    let file = File::open(directory.join(RAM));
    // Where the file cannot be read, QEMU says so.
    let _ = file.and_then(|mut file| std::io::copy(&mut file, &mut std::io::sink()));
}

/// The character device of the lab's port.
fn port_device() -> Result<PathBuf> {
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

type Ask = Box<dyn Fn(GuestRequest) -> Result<GuestReply> + Send + Sync>;

/// Runs a trial as any other, in this kernel.
fn run_trial(job: Job, ask: Ask) -> Result<TrialEnded> {
    let Job {
        trial: name,
        run,
        settings,
        qemus,
        image,
        suites,
        proven,
    } = job;
    // The QEMUs are those of outside; the kernel is another.
    let planned = planned_with(&settings, qemus)?;
    let trial = planned.trial(&name)?.clone();
    let tested = planned.capabilities.qemus.get(&trial.cell.qemu);
    let tested = tested.map_err(|why| CannotRun(why.to_owned()))?.clone();
    let own = PathBuf::from(OWN);
    let say = |line: &str| errln!("{line}");
    let prove = |choice| accel::prove(&tested.qemu, &image, &own, choice, PROOF, &say);
    let proven = match proven.accel {
        Accel::Kvm => prove(settings.accel)?,
        Accel::Tcg if settings.accel == AccelChoice::Tcg || NO_KVM.load(Ordering::Relaxed) => {
            proven
        }
        // TCG emulates AMD's virtualization.
        Accel::Tcg => match prove(AccelChoice::Kvm) {
            Ok(proven) => proven,
            // On a busy machine it takes long. Under TCG within TCG every guest would take longer still.
            Err(why) if find::<NotInTime>(&why).is_some() => return Err(why),
            Err(why) => {
                NO_KVM.store(true, Ordering::Relaxed);
                say(&format!("guests run under TCG: {why:#}"));
                proven
            }
        },
    };
    let checkpoints = match proven.accel {
        // What TCG emulates does not depend on what it runs on.
        Accel::Tcg => Checkpoints::elsewhere(ask),
        Accel::Kvm => {
            let store = Store::disposable(own.join("checkpoints"));
            Checkpoints::of(store, &tested)
        }
    };
    let accel = proven.accel;
    let of_each = vec![(trial.cell.qemu.clone(), proven, checkpoints)];
    let context = Arc::new(Context::new(settings, planned, (image, suites), of_each));
    if let Action::Skip(reason) = &trial.action {
        let reason = reason.clone();
        return Ok(TrialEnded::unmeasured(
            trial.name,
            Outcome::Skipped { reason },
        ));
    }
    // A lab has no screen.
    let unseen: trial::Phases = Arc::new(|_, _| ());
    Ok(TrialEnded {
        host: Some(format!("guests under {}", accel.name())),
        ..trial::run(&trial, &context, &run, &unseen)
    })
}
