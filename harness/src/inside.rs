//! The harness inside the lab: runs the trials that the harness outside sends, and sends how they ended.

use crate::base::error::{CannotRun, OrCannotRun, find};
use crate::base::lines::{Lines, MESSAGE};
use crate::base::{delay, panics, thread};
use crate::host::accel::{self, NotInTime, Proven};
use crate::host::kernel_facts;
use crate::lab::cmdline::PORT;
use crate::lab::protocol::{Answer, FromLab, Hello, Job, Question, ToLab};
use crate::plan::{Action, PlannedTrial};
use crate::run::context::Context;
use crate::run::planned::{Planned, planned_with};
use crate::run::trial;
use crate::settings::AccelChoice;
use crate::testbed::checkpoints::Checkpoints;
use crate::testbed::exchange::{Exchange, Kept, Offer};
use crate::testbed::source::Source;
use crate::vm::accel::Accel;
use crate::vm::checkpoint::Checkpoint;
use crate::vm::checkpoint::key::Origin;
use crate::vm::checkpoint::store::Store;
use anyhow::{Context as _, Result, bail};
use parking_lot::Mutex;
use report::errln;
use report::events::{Outcome, TrialEnded};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tempfile::TempDir;

/// How often it tells the harness outside that it is alive.
const ALIVE: Duration = Duration::from_secs(1);

/// How long the boot may take that shows whether KVM works here: 20 s in a lab that TCG runs on an idle
/// machine, and a lab waits for its processors as every process does.
const PROOF: Duration = Duration::from_secs(600);

/// A directory of the lab alone, where it may write.
const OWN: &str = "/run/nicmatrix";

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

/// The trials under way, each with where answers to it go.
type Waiting = Arc<Mutex<BTreeMap<u64, Sender<Result<Answer, String>>>>>;

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
                let (sender, answers) = channel();
                waiting.lock().insert(trial, sender);
                let name = job.trial.clone();
                let (theirs, waiting) = (port.clone(), waiting.clone());
                let started = thread::start(&job.trial.clone(), move || {
                    let port = theirs;
                    let ask = Arc::new(Asking {
                        port: port.clone(),
                        trial,
                        answers: Mutex::new(answers),
                        copies: Mutex::default(),
                    });
                    let name = job.trial.clone();
                    let run = AssertUnwindSafe(|| run_trial(*job, &ask));
                    let ended = std::panic::catch_unwind(run).unwrap_or_else(|panic| {
                        bail!("the harness panicked: {}", panics::words(&*panic))
                    });
                    waiting.lock().remove(&trial);
                    let ended = Box::new(ended.unwrap_or_else(|error| broken(name, &error)));
                    // A closed port means that the harness outside has ended.
                    let _ = port.say(&FromLab::Ended { trial, ended });
                });
                if let Err(error) = started {
                    let ended = Box::new(broken(name, &error));
                    port.say(&FromLab::Ended { trial, ended })?;
                }
            }
            ToLab::Answered { trial, answer } => {
                if let Some(sender) = waiting.lock().get(&trial) {
                    let _ = sender.send(answer);
                }
            }
            ToLab::Alive { delay } => delay::note_of_lab(delay),
        }
    }
}

fn broken(trial: String, error: &anyhow::Error) -> TrialEnded {
    let message = format!("{error:#}");
    TrialEnded::unmeasured(trial, Outcome::Broken { message })
}

/// A trial's questions to the harness outside.
struct Asking {
    port: Port,
    trial: u64,
    /// Held until the answer has come: one question at a time.
    answers: Mutex<Receiver<Result<Answer, String>>>,
    /// Checkpoints that it reads.
    copies: Mutex<Vec<TempDir>>,
}

impl Asking {
    fn ask(&self, question: Question) -> Result<Answer> {
        let answers = self.answers.lock();
        let trial = self.trial;
        self.port.say(&FromLab::Asked { trial, question })?;
        match answers.recv() {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(why)) => bail!(CannotRun(why)),
            Err(_) => bail!(CannotRun("the harness outside does not answer".into())),
        }
    }

    /// What the guest under TCG in that place is started from. QEMU opens a guest's memory for writing though it maps
    /// it privately, and the checkpoints outside are not a lab's to write: it is a copy, which lasts as long as the trial.
    fn guest(&self, place: u8) -> Result<(Source, Vec<String>)> {
        let reply = match self.ask(Question::Guest(place))? {
            Answer::Guest(reply) => reply,
            other => return Err(unexpected(&other)),
        };
        let Some((kept, saved)) = reply.checkpoint else {
            return Ok((Source::Boot, reply.notes));
        };
        let cannot = || format!("copy a checkpoint to {OWN}");
        std::fs::create_dir_all(OWN).or_cannot_run(cannot)?;
        let copy = tempfile::tempdir_in(OWN).or_cannot_run(cannot)?;
        kept.copy_to(copy.path()).or_cannot_run(cannot)?;
        let checkpoint = Checkpoint::unlocked(copy.path().to_owned(), kept.mode);
        self.copies.lock().push(copy);
        Ok((Source::Restore(checkpoint, saved), reply.notes))
    }
}

fn unexpected(answer: &Answer) -> anyhow::Error {
    CannotRun(format!(
        "the harness outside answered another question: {answer:?}"
    ))
    .into()
}

/// The store outside, for the checkpoints of guests under KVM.
struct Outside {
    asking: Arc<Asking>,
    /// Where offers are copied to: in the run's directory, which the harness outside reads too.
    offers: PathBuf,
}

impl Exchange for Outside {
    fn kept(&self, key: &str) -> Result<Option<Kept>> {
        match self.asking.ask(Question::Kept(key.to_owned()))? {
            Answer::Kept(kept) => Ok(kept),
            other => Err(unexpected(&other)),
        }
    }

    fn offer(&self, key: &str, what: &str, made: &Kept) -> Result<()> {
        let cannot = || format!("offer it in {}", self.offers.display());
        std::fs::create_dir_all(&self.offers).or_cannot_run(cannot)?;
        let directory = tempfile::tempdir_in(&self.offers).or_cannot_run(cannot)?;
        let sums = made.copy_to(directory.path()).or_cannot_run(cannot)?;
        let copy = Kept {
            directory: directory.path().to_owned(),
            ..made.clone()
        };
        let (key, what) = (key.to_owned(), what.to_owned());
        let offer = Offer {
            key,
            what,
            copy,
            sums,
        };
        self.asking.ask(Question::Take(offer))?;
        // Another trial may offer something at the moment.
        let _ = std::fs::remove_dir(&self.offers);
        Ok(())
    }
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

/// What the trials of a run have in common, found out by the first of them: under TCG, to plan thousands of
/// trials takes seconds, and to ask QEMU where its firmware is as long as to start a guest.
#[derive(Default)]
struct Common {
    /// What it was found out from.
    job: String,
    planned: Option<Arc<Planned>>,
    /// Of each QEMU, by its name.
    of_each: BTreeMap<String, Found>,
}

static COMMON: Mutex<Option<Common>> = Mutex::new(None);

/// Runs a trial as any other, in this kernel.
fn run_trial(job: Job, asking: &Arc<Asking>) -> Result<TrialEnded> {
    let (planned, trial, found) = common(&job, asking)?;
    let Job {
        run,
        settings,
        image,
        suites,
        proven,
        ..
    } = job;
    let tested = planned.capabilities.qemus.get(&trial.cell.qemu);
    let tested = tested.map_err(|why| CannotRun(why.to_owned()))?.clone();
    let (inside, origin) = found;
    let inside = inside.unwrap_or_else(|| proven.clone());
    let checkpoints = match inside.accel {
        // What TCG emulates does not depend on what it runs on.
        Accel::Tcg => {
            let asking = asking.clone();
            Checkpoints::elsewhere(Box::new(move |place| asking.guest(place)))
        }
        Accel::Kvm => {
            let store = Store::disposable(PathBuf::from(OWN).join("checkpoints"));
            match proven.accel {
                Accel::Kvm => Checkpoints::of(store, &tested),
                Accel::Tcg => {
                    let exchange = Box::new(Outside {
                        asking: asking.clone(),
                        offers: run.join("lab").join("offers"),
                    });
                    Checkpoints::exchanged(store, &tested, origin, exchange)
                }
            }
        }
    };
    let accel = inside.accel;
    let of_each = vec![(trial.cell.qemu.clone(), inside, checkpoints)];
    let context = Context::new(settings, &planned, (image, suites), of_each);
    let context = Arc::new(context);
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

/// What its guests run under where that is not what they would outside, and what is known of its QEMU.
type Found = (Option<Proven>, Arc<OnceLock<Origin>>);

/// The plan, the trial in it, and what is found out of its QEMU: by this trial where none did before it.
fn common(job: &Job, asking: &Asking) -> Result<(Arc<Planned>, PlannedTrial, Found)> {
    let same = (&job.settings, &job.qemus, &job.image, &job.suites);
    let same = serde_json::to_string(&same)?;
    // The others wait: they would only do the same.
    let mut common = COMMON.lock();
    let common = match &mut *common {
        Some(known) if known.job == same => known,
        other => other.insert(Common {
            job: same,
            ..Common::default()
        }),
    };
    let planned = match &common.planned {
        Some(planned) => planned.clone(),
        // The QEMUs are those of outside; the kernel is another.
        None => {
            let planned = Arc::new(planned_with(&job.settings, job.qemus.clone())?);
            common.planned.insert(planned).clone()
        }
    };
    let trial = planned.trial(&job.trial)?.clone();
    let found = match common.of_each.get(&trial.cell.qemu) {
        Some(found) => found.clone(),
        None => {
            let found = (prove(job, &planned, &trial, asking)?, Arc::default());
            (common.of_each).insert(trial.cell.qemu.clone(), found.clone());
            found
        }
    };
    Ok((planned, trial, found))
}

/// Whether guests run under KVM here, and why; none where they run as outside, under TCG.
fn prove(
    job: &Job,
    planned: &Planned,
    trial: &PlannedTrial,
    asking: &Asking,
) -> Result<Option<Proven>> {
    let tested = planned.capabilities.qemus.get(&trial.cell.qemu);
    let tested = tested.map_err(|why| CannotRun(why.to_owned()))?;
    let own = PathBuf::from(OWN);
    let say = |line: &str| errln!("{line}");
    let prove = |choice| accel::prove(&tested.qemu, &job.image, &own, choice, PROOF, &say);
    match (job.proven.accel, &job.proven_inside) {
        (Accel::Kvm, _) => prove(job.settings.accel).map(Some),
        (Accel::Tcg, _) if job.settings.accel == AccelChoice::Tcg => Ok(None),
        (Accel::Tcg, Some(known)) => Ok(Some(known.clone())),
        // TCG emulates AMD's virtualization.
        (Accel::Tcg, None) => match prove(AccelChoice::Kvm) {
            Ok(proven) => {
                if let Err(why) = asking.ask(Question::Remember(proven.clone())) {
                    say(&format!("that KVM works is not remembered: {why:#}"));
                }
                Ok(Some(proven))
            }
            // On a busy machine it takes long. Under TCG within TCG every guest would take longer still.
            Err(why) if find::<NotInTime>(&why).is_some() => Err(why),
            Err(why) => {
                say(&format!("guests run under TCG: {why:#}"));
                Ok(None)
            }
        },
    }
}
