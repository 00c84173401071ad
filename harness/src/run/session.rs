//! One run of the harness: its events, its progress, its end.

use super::context::Context;
use super::exit_code::Verdicts;
use super::planned::Planned;
use super::schedule::{self, History};
use super::verdict::confirmed;
use super::{for_libtest, shell, trial};
use crate::base::error::{CannotRun, OrCannotRun};
use crate::base::need::Need;
use crate::base::slots::{Joins, Slots};
use crate::base::{artifacts, cpu, panics, thread};
use crate::host::machine;
use crate::host::module::{Hold, Module, Reloader};
use crate::host::place::Host;
use crate::lab::Labs;
use crate::matrix::Backend;
use crate::plan::shard::Share;
use crate::plan::{Action, PlannedTrial};
use crate::settings::Settings;
use crate::vm::accel::Accel;
use libtest_mimic::{Completion, Failed};
use nix::sys::resource::{UsageWho, getrusage};
use parking_lot::Mutex;
use report::events::{Event, Outcome, SCHEMA, TrialEnded};
use report::exit_code;
use report::html::{self, Earlier};
use report::identity::Identity;
use report::log::{self, EventLog};
use report::merge::PLAN;
use report::name::DEFAULT_QEMU;
use report::progress::{Progress, Screen};
use report::terminal;
use report::{Trial, errln, signals};
use signal_hook::iterator::Signals;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A run that has begun.
pub struct Session {
    /// None when every selected trial is a skip: then nothing is built or proved.
    context: Option<Arc<Context>>,
    settings: Settings,
    log: EventLog,
    progress: Option<Arc<Progress>>,
    run: artifacts::RunDir,
    /// What trials took before; nothing under nextest, which has a schedule of its own.
    history: History,
    slots: Slots,
    labs: Labs,
    /// Where vhost_net may be reloaded.
    reloader: Option<Reloader>,
    begun: Instant,
    /// Processor time that was used up before.
    cpu_before: Duration,
    closed: Mutex<bool>,
    verdicts: Mutex<Verdicts>,
}

impl Session {
    /// Prepares the host where a trial will run, and begins the event log.
    ///
    /// # Errors
    /// The errors of [`Context::prepare`]; a log that cannot be written.
    pub fn open(
        mut identity: Identity,
        settings: Settings,
        planned: Planned,
        selected: &[PlannedTrial],
        share: Option<Share>,
    ) -> anyhow::Result<Session> {
        let to_run = selected.iter().filter(|trial| trial.action == Action::Run);
        let runs = to_run.clone().count();
        let verdicts = Verdicts::owing(
            to_run.clone().map(|trial| &*trial.name),
            settings.flaky_fails,
        );
        let lab_memory_mib = planned.matrix.lab_memory_mib;
        let context = match runs {
            0 => None,
            _ => Some(Arc::new(Context::prepare(
                settings.clone(),
                planned,
                selected,
            )?)),
        };
        let ready = context.as_ref().map(|context| context.ready(DEFAULT_QEMU));
        let accel = ready.transpose()?.map(|ready| ready.proven.accel);
        identity.host.accelerator = accel.map(|accel| accel.name().to_owned());
        let run = artifacts::run_dir(&settings.runs(), settings.run.as_deref())?;
        if let Some(share) = share {
            let file = run.path().join(PLAN);
            artifacts::on_disk(std::fs::write(&file, share.plan), || {
                format!("write {}", file.display())
            })?;
        }
        let log = EventLog::create(run.path());
        let log = artifacts::on_disk(log, || {
            format!("open the event log in {}", run.path().display())
        })?;
        let log = log.with_echo(settings.json);
        append(
            &log,
            &Event::RunStarted {
                schema: SCHEMA,
                identity: Some(Box::new(identity)),
                unix_time: SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |d| d.as_secs()),
                properties: context
                    .as_ref()
                    .map_or_else(BTreeMap::new, |c| c.properties(selected)),
                settings: Some(settings.recorded()?),
                only: settings.only.recorded()?,
                faults: settings.faults,
            },
        )?;
        for trial in selected {
            append(&log, &planned_event(trial))?;
            if let Action::Skip(reason) = &trial.action {
                append(&log, &Event::TrialEnded(skipped(trial, reason, &settings)))?;
            }
        }
        let history = match settings.nextest {
            true => History::default(),
            false => {
                // A boot needs a processor for seconds, what is restored does not.
                let boot = if settings.boot { "@boot" } else { "" };
                let what = format!("{}{boot}", settings.profile);
                History::read(&settings.host_cache(), &what)
            }
        };
        // nextest shows its own progress, and has a process a trial.
        let progress = (context.as_ref())
            .filter(|_| !settings.nextest)
            .map(|context| {
                let trials = if runs == 1 { "trial" } else { "trials" };
                let title = format!("{runs} {trials} on {}", context.headline(selected));
                let expected = to_run
                    .map(|trial| (trial.name.clone(), history.seconds(trial)))
                    .collect();
                let is_terminal = std::io::stderr().is_terminal() && !settings.show;
                Arc::new(Progress::new(
                    &title,
                    expected,
                    Screen::of_process(is_terminal),
                ))
            });
        let lab_dir = run.path().join("lab");
        let labs = Labs::new(lab_dir, lab_memory_mib, accel.unwrap_or(Accel::Tcg));
        let module = || Module::of_kernel(&settings.host_cache());
        let reloader = settings.allow_module_reload.then(module);
        Ok(Session {
            labs,
            reloader: reloader.map(Reloader::new),
            context,
            settings,
            log,
            progress,
            run,
            history,
            slots: Slots::shared(machine::spare()),
            begun: Instant::now(),
            cpu_before: cpu::of_process(),
            closed: Mutex::new(false),
            verdicts: Mutex::new(verdicts),
        })
    }

    /// Whether progress and table, or events, are shown in place of libtest's lines.
    pub fn shows_progress(&self) -> bool {
        self.settings.json || !self.settings.nextest && self.settings.table
    }

    /// The order to run in.
    pub fn schedule(&self, trials: &mut [PlannedTrial]) {
        self.history.longest_first(trials);
    }

    /// How many trials must be begun at once for the slots to decide which of them run.
    pub fn threads(&self) -> usize {
        self.slots.threads(schedule::LEAST)
    }

    /// Ends the run on SIGINT, SIGTERM and SIGHUP, with a report of what there is; the second time the same signal
    /// comes, at once. VMs and all other children have a parent-death signal: they end with this process.
    ///
    /// # Errors
    /// When the handler cannot be installed.
    pub fn watch_signals(self: &'static Session) -> anyhow::Result<()> {
        let watched = signals::that_end();
        for signal in &watched {
            // One of each: where a terminal sends SIGINT, `cargo xtask` passes it on as SIGTERM.
            signals::exits_at_second(*signal).or_cannot_run(|| "watch for signals".into())?;
        }
        let mut signals = Signals::new(watched).or_cannot_run(|| "watch for signals".into())?;
        thread::start("signals", move || {
            if signals.forever().next().is_some() {
                shell::restore_terminal();
                std::process::exit(self.close(true).into());
            }
        })
        .map(drop)
    }

    /// Runs one trial for libtest-mimic, when there is a slot for it.
    pub fn run(&self, planned: &PlannedTrial) -> Result<Completion, Failed> {
        if let Action::Skip(reason) = &planned.action {
            return Ok(Completion::ignored_with(reason));
        }
        let Some(context) = &self.context else {
            return Err("nothing was prepared for this trial".into());
        };
        let run = AssertUnwindSafe(|| self.run_and_confirm(planned, context));
        let ended = std::panic::catch_unwind(run).unwrap_or_else(|panic| {
            let message = format!("the harness panicked: {}", panics::words(&*panic));
            self.broken(planned, message)
        });
        let recorded = self.record(&Event::TrialEnded(ended.clone()));
        self.verdicts
            .lock()
            .take(&planned.name, &ended.outcome, recorded);
        let show = AssertUnwindSafe(|| {
            let trial = Trial {
                plan_item: planned.case.plan_item.to_owned(),
                end: ended,
            };
            if let Some(progress) = &self.progress {
                progress.ended(&trial);
            }
            for_libtest::shown(&trial, &self.settings)
        });
        std::panic::catch_unwind(show).unwrap_or_else(|panic| {
            let message = format!("the harness panicked: {}", panics::words(&*panic));
            let outcome = Outcome::Broken {
                message: message.clone(),
            };
            self.verdicts.lock().take(&planned.name, &outcome, false);
            Err(message.into())
        })
    }

    /// Runs one trial; where it fails and the settings ask for it, again at once, with nothing beside it.
    fn run_and_confirm(&self, planned: &PlannedTrial, context: &Arc<Context>) -> TrialEnded {
        let ended = self.in_slot(planned, self.history.need(planned), Joins::Last, || {
            self.record(&Event::TrialStarted {
                trial: planned.name.clone(),
                name: planned.parts.clone(),
            });
            if let Some(progress) = &self.progress {
                progress.started(&planned.name);
            }
            self.once(planned, context)
        });
        match (&ended.outcome, self.settings.confirm) {
            (Outcome::Failed { message }, 1..) => {
                let repeats = self.in_slot(planned, Need::ALL, Joins::First, || {
                    (0..self.settings.confirm)
                        .map(|_| self.once(planned, context).outcome)
                        .collect()
                });
                let (repeats, outcome) = confirmed(message.clone(), repeats);
                TrialEnded {
                    repeats: Some(repeats),
                    outcome,
                    ..ended
                }
            }
            _ => ended,
        }
    }

    /// Does `work` for a trial when there is a slot for it that takes `need`, for which it joins the line.
    fn in_slot<T>(
        &self,
        planned: &PlannedTrial,
        need: Need,
        joins: Joins,
        work: impl FnOnce() -> T,
    ) -> T {
        // A trial that waits for its lab takes no slot here yet. Once it has a slot in the lab, it goes
        // before the others here, so that the lab is not idle.
        let lab_slot = self.labs.wait(planned, need);
        let joins = lab_slot.as_ref().map_or(joins, |_| Joins::First);
        let _slot = self.slots.wait_at(joins, need);
        work()
    }

    fn once(&self, planned: &PlannedTrial, context: &Arc<Context>) -> TrialEnded {
        match planned.host {
            Host::Direct => match self.hold_module(planned.cell.backend) {
                Ok(_held) => trial::run(planned, context, self.run.path(), &self.phases(planned)),
                Err(error) => self.broken(planned, format!("{error:#}")),
            },
            Host::Lab => match context.outside(&planned.cell.qemu) {
                Ok(outside) => {
                    if let Some(progress) = &self.progress {
                        progress.phase(&planned.name, "in a lab", None);
                    }
                    self.labs.run(planned, &outside, self.run.path())
                }
                Err(error) => self.broken(planned, format!("{error:#}")),
            },
        }
    }

    /// What shows the phases of a trial.
    fn phases(&self, planned: &PlannedTrial) -> trial::Phases {
        let (progress, name) = (self.progress.clone(), planned.name.clone());
        Arc::new(move |phase, limit| {
            if let Some(progress) = &progress {
                progress.phase(&name, phase, limit);
            }
        })
    }

    fn broken(&self, planned: &PlannedTrial, message: String) -> TrialEnded {
        TrialEnded {
            reproduce: self.settings.reproduce(&planned.name),
            ..TrialEnded::unmeasured(planned.name.clone(), Outcome::Broken { message })
        }
    }

    /// Where vhost_net may be reloaded: holds it as `backend` needs it.
    fn hold_module(&self, backend: Backend) -> anyhow::Result<Option<Hold>> {
        match (&self.reloader, backend) {
            (None, _) | (_, Backend::Tap) => Ok(None),
            (Some(reloader), Backend::Vhost) => reloader.hold(false).map(Some),
            (Some(reloader), Backend::VhostZcopy) => reloader.hold(true).map(Some),
        }
    }

    /// Writes an event to the log; whether it was written. A log that cannot be written (disk full) is
    /// reported, and must not stop the trials.
    fn record(&self, event: &Event) -> bool {
        let appended = append(&self.log, event);
        if let Err(error) = &appended {
            errln!("Error: {error:#}");
        }
        appended.is_ok()
    }

    /// Writes the last event and the reports, shows the table, puts vhost_net back where it was
    /// reloaded, gives the exit code, in which what cannot be written counts too. Only the first call does
    /// so: a signal may come while the run ends.
    pub fn close(&self, interrupted: bool) -> u8 {
        let mut closed = self.closed.lock();
        if *closed {
            return signals::CODE;
        }
        *closed = true;
        self.labs.end();
        let mut recorded = self.record(&Event::RunEnded {
            seconds: self.begun.elapsed().as_secs_f64(),
            interrupted,
            harness_peak_kib: getrusage(UsageWho::RUSAGE_SELF)
                .map_or(0, |usage| usage.max_rss() as u64),
            cpu_seconds: Some((cpu::of_process() - self.cpu_before).as_secs_f64()),
            harness_cpu_seconds: Some(cpu::of_own_threads().as_secs_f64()),
            labs_cpu_seconds: Some(self.labs.spent().as_secs_f64()),
            processors: Some(machine::processors()),
        });
        if let Some(progress) = &self.progress {
            progress.finish();
        }
        let reported = match self.settings.nextest {
            true => Ok(()),
            false => self.report(),
        };
        // A signal that comes from here on need not wait.
        drop(closed);
        // Interrupted trials hold the module until this process has ended: its keeper puts it back then.
        if let (Some(reloader), false) = (&self.reloader, interrupted) {
            reloader.put_back();
        }
        if let Err(error) = reported {
            errln!("Error: {error:#}");
            recorded = false;
        }
        if interrupted {
            return signals::CODE;
        }
        let verdicts = self.verdicts.lock();
        for trial in verdicts.lost() {
            errln!("Error: {trial} was to run, and its verdict is not in the event log");
        }
        match recorded {
            true => verdicts.code(),
            false => exit_code::worse(verdicts.code(), exit_code::BROKEN),
        }
    }

    /// The reports of the whole run. nextest writes its own, of all its processes.
    fn report(&self) -> anyhow::Result<()> {
        let junit = self.settings.junit.clone();
        let junit = junit.unwrap_or_else(|| self.run.path().join("junit.xml"));
        let step_summary = std::env::var_os("GITHUB_STEP_SUMMARY").map(PathBuf::from);
        let lines = log::read(self.log.path())?;
        let run = html::Run::new(&lines, self.run.path().to_owned());
        let root = &self.settings.root;
        let page = self.run.path().join(html::FILE);
        let nights = self.settings.dir.join(report::history::FILE);
        let earlier = Earlier::read(&nights, &lines).unwrap_or_else(|error| {
            errln!("Error: the page tells of no earlier night: {error:#}");
            Earlier::default()
        });
        let paged = html::write(&run, &earlier, &page);
        let mut results = run.results;
        results.html = paged.is_ok().then_some(page);
        let written = report::write_all(&mut results, Some(&junit), step_summary.as_deref(), root)
            .and(paged)
            .map_err(|error| CannotRun(format!("{error:#}")).into());
        if !self.settings.json {
            terminal::print(&results);
        }
        if let Err(error) = self.history.remember(&results) {
            errln!("Error: {error:#}");
        }
        // Returned last: where a report cannot be written, the table still shows the verdicts.
        written
    }
}

fn append(log: &EventLog, event: &Event) -> anyhow::Result<()> {
    artifacts::on_disk(log.append(event), || {
        format!("append to the event log {}", log.path().display())
    })
}

fn planned_event(trial: &PlannedTrial) -> Event {
    Event::Planned {
        trial: trial.name.clone(),
        name: trial.parts.clone(),
        plan_item: trial.case.plan_item.to_owned(),
    }
}

fn skipped(trial: &PlannedTrial, reason: &str, settings: &Settings) -> TrialEnded {
    let outcome = Outcome::Skipped {
        reason: reason.to_owned(),
    };
    TrialEnded {
        reproduce: settings.reproduce(&trial.name),
        ..TrialEnded::unmeasured(trial.name.clone(), outcome)
    }
}
