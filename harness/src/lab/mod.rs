//! The lab: a disposable host for trials that need a kernel setting which nobody should have to make on
//! their own machine.
//!
//! vhost's zero-copy is a parameter of the host's kernel module (`vhost_net`'s
//! `experimental_zcopytx`), and many kernels have no such module at all. So the host is a VM too: the
//! kernel and userspace of the built guest image with modules of its own, booted by the default
//! QEMU, whichever its trials are for, with KVM where that is proved, else TCG.
//!
//! # What a lab sees
//! This machine's programs and what the run is made of ([`shown`]), read-only over 9p and kept in the lab's page
//! cache; tmpfs over `/tmp` and `/run`; the checkpoints; the run's directory, for writing. The same program runs
//! inside as outside ([`crate::inside`]), chrooted to that tree, so that every path means the same on both sides. Nothing
//! is installed, and QEMU's end takes all of it away.
//!
//! # How a trial runs there
//! A port of virtio-serial carries JSON lines ([`protocol`]). The harness outside sends a [`Job`]: the
//! trial's name, the settings and all that was found out outside. The harness inside plans the trial
//! anew for the kernel that it finds, runs it on its own thread and namespace as any other, and sends
//! how it ended, which goes into the same events. Artifacts need no transport: they are written where
//! they belong.
//!
//! # What a lab's VMs run under
//! KVM, which a boot inside proves. This holds also where the lab itself runs under TCG: QEMU emulates
//! AMD's virtualization, Linux's kvm_amd uses it, and a guest inside is translated once and not twice.
//! It boots in 5 s and answers 0.4 s after it is restored. Where KVM does not work inside, what is left
//! is TCG inside TCG, which takes 34 s and 5 s.
//!
//! # What labs share
//! A lab under KVM has checkpoints of its own, as a nested CPU has other features. Under TCG one lab is like
//! the next, and what one has proved and made serves the later ones ([`answers`]): the harness inside asks
//! the one outside for a checkpoint before it makes it, copies it, and offers it the one that it had to
//! make, for which another lab of the run waits ([`claims`]); the harness outside compares what has arrived
//! with what was made, and keeps a copy. Where guests run under TCG, whose CPU does not depend on what it
//! runs on, the harness outside makes the checkpoint in a tenth of the time. It holds a checkpoint's lock
//! until the trial ends.
//!
//! # Own and shared labs
//! A run has labs of its own, one for each setting of the module, started when a trial needs it and
//! ended with the run. Where `cargo xtask lab up` has started one, it is used in their place
//! ([`shared`]).
//!
//! # When a lab fails
//! A lab whose kernel is in trouble (a panic, an oops) fails the trials that were in it, as vhost is part of that
//! kernel. One that ends or falls silent without it (its harness says once a second that it is alive) leaves them
//! broken. Either way its console's end is told, and the next trial gets a new lab.

mod answers;
pub mod claims;
pub mod cmdline;
pub mod protocol;
pub mod shared;
mod shown;
mod start;
pub mod vm;

use crate::base::deadline::Limit;
use crate::base::error::{CannotRun, OrCannotRun};
use crate::base::lines::Lines;
use crate::base::need::{Need, PROCESSOR};
use crate::base::slots::{Slot, Slots};
use crate::base::thread;
use crate::host::accel::Proven;
use crate::host::machine;
use crate::host::place::Host;
use crate::host::qemus::Qemus;
use crate::matrix::Backend;
use crate::plan::PlannedTrial;
use crate::settings::Settings;
use crate::testbed::stock::Stock;
use crate::vm::accel::Accel;
use anyhow::{Context as _, Result};
use claims::Claims;
use parking_lot::Mutex;
use protocol::{FromLab, Hello, Job, ToLab};
use report::events::{Outcome, TrialEnded};
use report::flags::HostChoice;
use shared::Request;
use start::{cpus, start};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};
use vm::Lab;

/// This program's first argument where it is the harness inside. No trial's name can hold a `/`.
pub const INSIDE: &str = "nicmatrix/inside";

/// From QEMU's start to the first message of the harness inside: 6 s under TCG.
const LAB_UP: Limit = Limit {
    what: "the lab",
    seconds: 90.0,
};

/// How long a lab may send nothing: it sends once a second, but its VMs may keep the host's processors
/// busy.
const LAB_SILENT: Limit = Limit {
    what: "a message of the lab",
    seconds: 90.0,
};

/// How often the harness looks whether a lab has fallen silent.
const LOOK: Duration = Duration::from_secs(5);

/// How much slower TCG is inside TCG than outside, at the most. A boot takes 34 s there, 2 outside: each
/// time the QEMU inside translates a piece of code, the QEMU outside throws its own translation away.
const NESTED_TCG: f64 = 20.0;

/// What the harness outside has found out and built, as far as a lab needs it.
pub struct Outside<'a> {
    /// The user's settings.
    pub settings: &'a Settings,
    /// The QEMUs of the run.
    pub qemus: &'a Qemus,
    /// What labs run under.
    pub proven: &'a Proven,
    /// What labs are made from: the default QEMU, and the image.
    pub stock: &'a Stock,
    /// What the trial's VMs run under outside.
    pub trial_proven: &'a Proven,
    /// What its testbeds are made from.
    pub trial_stock: &'a Stock,
    /// The checkpoints that labs are making.
    pub claims: &'a Claims,
    /// The files that guests are made of beside the built image.
    pub guest_files: &'a [PathBuf],
}

/// A trial's connection to its lab.
struct Connection {
    route: Route,
    /// The lab's first message.
    hello: Hello,
    /// What the lab says of the trial.
    heard: Receiver<FromLab>,
}

/// How messages get to the lab.
enum Route {
    /// To a lab of this process, in which the trial has this number.
    Own(Arc<Lab>, u64),
    /// Through the process that keeps a shared lab.
    Shared(UnixStream),
}

impl Connection {
    fn own(lab: Arc<Lab>, hello: Hello) -> Connection {
        let (number, heard) = lab.trial();
        let route = Route::Own(lab, number);
        Connection {
            route,
            hello,
            heard,
        }
    }

    fn shared(
        stream: UnixStream,
        mut lines: Lines<UnixStream>,
        hello: Hello,
    ) -> Result<Connection> {
        // The process that keeps the lab takes no more from it than this one takes.
        let (sender, heard) = sync_channel(1);
        thread::start("shared lab", move || {
            while let Ok(Some(line)) = lines.line() {
                let Ok(message) = serde_json::from_slice(line) else {
                    break;
                };
                if sender.send(message).is_err() {
                    break;
                }
            }
        })?;
        let route = Route::Shared(stream);
        Ok(Connection {
            route,
            hello,
            heard,
        })
    }

    /// Sends a message about the trial, whose number is filled in.
    fn say(&self, message: impl FnOnce(u64) -> ToLab) -> Result<()> {
        match &self.route {
            Route::Own(lab, number) => lab.say(&message(*number)),
            Route::Shared(stream) => {
                // The process that keeps the lab fills in its own number.
                let line = serde_json::to_string(&message(0))? + "\n";
                let mut stream: &UnixStream = stream;
                stream
                    .write_all(line.as_bytes())
                    .or_cannot_run(|| "speak with the lab that is up".into())
            }
        }
    }

    /// Ends a lab of this process that has sent nothing for too long; then, a sentence about it.
    fn silent(&self) -> Option<Outcome> {
        let Route::Own(lab, _) = &self.route else {
            return None;
        };
        let silence = lab.silence();
        (silence > LAB_SILENT.start().span()).then(|| {
            let tail = lab.tail();
            lab.kill();
            let seconds = silence.as_secs_f64();
            let message = format!("the lab said nothing for {seconds:.0} s, and was ended; {tail}");
            lost(lab, message)
        })
    }

    /// How the lab ended.
    fn death(&self) -> Outcome {
        match &self.route {
            Route::Own(lab, _) => {
                let message = format!("the lab ended under the trial: {:#}", lab.death());
                lost(lab, message)
            }
            Route::Shared(_) => Outcome::Broken {
                message: "the lab that was up ended under the trial: `cargo xtask lab status` says where its console is".into(),
            },
        }
    }
}

/// The verdict on a trial whose lab was lost: vhost is part of the lab's kernel, and may have caused trouble there.
fn lost(lab: &Lab, message: String) -> Outcome {
    match lab.trouble() {
        Some(_) => Outcome::Failed { message },
        None => Outcome::Broken { message },
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Route::Own(lab, number) = &self.route {
            lab.forget(*number);
        }
    }
}

/// The labs of a run, one for each setting of the module, each started when the first trial needs it.
pub struct Labs {
    directory: PathBuf,
    memory_mib: u32,
    labs: [Mutex<Option<Started>>; 2],
    /// What trials may take of each.
    slots: [Slots; 2],
    /// Processor time of those that have ended.
    spent: Arc<Mutex<Duration>>,
}

/// A lab that was started, or why it did not come up: then another try would fail as well.
type Started = Result<(Arc<Lab>, Hello), String>;

impl Labs {
    /// No lab runs yet. The transcripts of labs go to `directory`; `accel` is what labs will run under.
    pub fn new(directory: PathBuf, memory_mib: u32, accel: Accel) -> Labs {
        let cpus = cpus(accel);
        Labs {
            directory,
            memory_mib,
            labs: Default::default(),
            slots: [(); 2].map(|()| Slots::new(machine::carried(cpus as f64, u64::MAX))),
            spent: Arc::default(),
        }
    }

    /// Waits until the lab of `trial` has room for it; of this machine it takes `need` while it runs, and of its lab a
    /// processor at least: where the lab is emulated, what its trials wait for is mostly each other. A trial on this machine
    /// itself does not wait.
    pub fn wait(&self, trial: &PlannedTrial, need: Need) -> Option<Slot<'_>> {
        let slots = &self.slots[usize::from(with_zcopytx(trial))];
        let of_lab = Need {
            processors: need.processors.max(PROCESSOR),
            ..need
        };
        (trial.host == Host::Lab).then(|| slots.wait(of_lab))
    }

    /// Runs a trial in the lab that it needs.
    pub fn run(&self, trial: &PlannedTrial, outside: &Outside, run: &Path) -> TrialEnded {
        let begun = Instant::now();
        let ended = self.try_run(trial, outside, run).unwrap_or_else(|error| {
            let message = format!("{error:#}");
            self.lost(trial, Outcome::Broken { message })
        });
        TrialEnded {
            // As measured outside.
            seconds: begun.elapsed().as_secs_f64(),
            reproduce: outside.settings.reproduce(&trial.name),
            ..ended
        }
    }

    fn try_run(&self, trial: &PlannedTrial, outside: &Outside, run: &Path) -> Result<TrialEnded> {
        let zcopytx = with_zcopytx(trial);
        let mut lab_start_seconds = None;
        let connection = match shared::connect(outside.settings, zcopytx, Request::Trial)? {
            Some((stream, lines, hello)) => Connection::shared(stream, lines, hello)?,
            None => {
                let (lab, hello, took) = self.lab(zcopytx, outside, run)?;
                lab_start_seconds = took.map(|took| took.as_secs_f64());
                Connection::own(lab, hello)
            }
        };
        connection.say(|trial_number| ToLab::Run {
            trial: trial_number,
            job: Box::new(job(trial, outside, run)),
        })?;
        // Checkpoints are locked for as long as the trial may read them.
        let mut held = answers::Held::default();
        let ended = loop {
            match connection.heard.recv_timeout(LOOK) {
                Ok(FromLab::Asked { question, .. }) => {
                    let answer = answers::answer(trial, outside, question, &mut held);
                    let answer = answer.map_err(|error| format!("{error:#}"));
                    connection.say(|trial| ToLab::Answered { trial, answer })?;
                }
                Ok(FromLab::Ended { ended, .. }) => break *ended,
                Ok(FromLab::Hello(_) | FromLab::Alive) => {}
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(outcome) = connection.silent() {
                        break self.lost(trial, outcome);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break self.lost(trial, connection.death()),
            }
        };
        Ok(TrialEnded {
            host: Some(match &ended.host {
                Some(inside) => format!("{}, {inside}", describe(&connection.hello)),
                None => describe(&connection.hello),
            }),
            lab_start_seconds,
            ..ended
        })
    }

    /// The end of a trial whose lab did not send it; the artifacts are the lab's.
    fn lost(&self, trial: &PlannedTrial, outcome: Outcome) -> TrialEnded {
        TrialEnded {
            artifacts: self.directory.display().to_string(),
            attempts: u32::from(matches!(outcome, Outcome::Failed { .. })),
            ..TrialEnded::unmeasured(trial.name.clone(), outcome)
        }
    }

    /// The lab with that setting. Where none is alive it is started, and the duration says how long that
    /// took.
    fn lab(
        &self,
        zcopytx: bool,
        outside: &Outside,
        run: &Path,
    ) -> Result<(Arc<Lab>, Hello, Option<Duration>)> {
        let mut lab = self.labs[usize::from(zcopytx)].lock();
        match &*lab {
            Some(Ok((lab, hello))) if lab.is_alive() => {
                return Ok((lab.clone(), hello.clone(), None));
            }
            Some(Err(why)) => return Err(CannotRun(why.clone()).into()),
            _ => *lab = None,
        }
        let started = self.start(zcopytx, outside, run);
        *lab = Some(match &started {
            Ok(lab) => Ok(lab.clone()),
            Err(error) => Err(format!("{error:#}")),
        });
        let (lab, hello) = started?;
        let took = lab.started.elapsed();
        Ok((lab, hello, Some(took)))
    }

    fn start(&self, zcopytx: bool, outside: &Outside, run: &Path) -> Result<(Arc<Lab>, Hello)> {
        let directory = (1..)
            .map(|n| {
                self.directory
                    .join(format!("zcopytx-{}.{n}", u8::from(zcopytx)))
            })
            .find(|directory| !directory.exists())
            .context("the numbers are used up")?;
        let lab = start(
            zcopytx,
            outside,
            &directory,
            Some(run),
            self.memory_mib,
            self.spent.clone(),
        )?;
        let hello = lab
            .wait_up(LAB_UP.start())
            .or_cannot_run(|| "start the lab".into())?;
        Ok((Arc::new(lab), hello))
    }

    /// Processor time of the labs that have ended, with the trials in them.
    pub fn spent(&self) -> Duration {
        *self.spent.lock()
    }

    /// Ends all labs; one that is just starting ends with the process.
    pub fn end(&self) {
        for lab in &self.labs {
            if let Some(mut lab) = lab.try_lock() {
                *lab = None;
            }
        }
    }
}

/// vhost_net's `experimental_zcopytx` in the lab of `trial`.
fn with_zcopytx(trial: &PlannedTrial) -> bool {
    trial.cell.backend == Backend::VhostZcopy
}

/// What the harness inside runs, with all that it need not find out itself.
fn job(trial: &PlannedTrial, outside: &Outside, run: &Path) -> Job {
    let proven = outside.trial_proven;
    let slower = match proven.accel {
        Accel::Tcg => NESTED_TCG,
        // The harness inside measures it anew, as it also does under TCG where KVM works inside.
        Accel::Kvm => 1.0,
    };
    Job {
        trial: trial.name.clone(),
        run: run.to_owned(),
        settings: Settings {
            host: Some(HostChoice::Direct),
            // The lab's kernel has one setting for all trials in it.
            allow_module_reload: false,
            ..outside.settings.clone()
        },
        qemus: outside.qemus.clone(),
        image: outside.stock.image.clone(),
        suites: outside.stock.suites.clone(),
        proven: Proven {
            speed: proven.speed * slower,
            ..proven.clone()
        },
        proven_inside: answers::proven_inside(outside),
    }
}

/// A trial's host, for the reports.
pub fn describe(hello: &Hello) -> String {
    let setting = match hello.zcopytx {
        Some(on) => format!(", vhost_net with experimental_zcopytx={}", u8::from(on)),
        None => String::new(),
    };
    format!("lab, Linux {}{setting}", hello.release)
}
