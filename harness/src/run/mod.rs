//! The harness: what `cargo test --test matrix` runs.
//!
//! libtest's threads only hold trials ready; which of them run is decided by slots, whose sizes are
//! what the trials need of processors and memory. The longest begin first. Under nextest, which has
//! a process a trial, `.config/nextest.toml` says the same as far as nextest can.
//!
//! Exit codes: 0 all passed or skipped, 1 a NIC failed (or, under faults, a case is blind), 2 bad
//! input, 3 the harness could not run, 130 interrupted.

pub mod artifacts;
pub mod child;
pub mod context;
pub mod cpu;
pub mod deadline;
pub mod settings;
pub mod shell;
pub mod trial;

mod identity;
mod lines;
pub(crate) mod schedule;
mod session;
pub mod slots;

use crate::cases::Start;
use crate::error::CannotRun;
use crate::guest::image;
use crate::host::module::{self, Module};
use crate::host::place::{self, Host};
use crate::host::{HostFacts, facts};
use crate::matrix::load;
use crate::matrix::schema::{From, Matrix, Profile};
use crate::plan::{self, Action, PlannedTrial};
use crate::{cases, lab, net};
use libtest_mimic::{Arguments, Trial};
use report::{errln, out};
use session::Session;
use settings::Settings;
use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::OnceLock;

/// The run, once it is known that something is to be run.
static SESSION: OnceLock<Session> = OnceLock::new();

/// Entry point of the test binary.
pub fn main() -> ExitCode {
    if let Some(served) = lab::serve_if_inside().or_else(module::keep_if_asked) {
        return exit(served.map(|()| ExitCode::SUCCESS));
    }
    exit(libtest(Arguments::from_args()))
}

/// Runs trials as the test binary does, with `arguments` of libtest.
///
/// # Errors
/// Bad input; a host that cannot run what was selected.
pub fn trials(arguments: Vec<String>) -> anyhow::Result<ExitCode> {
    // The first word is the program's name.
    let words = std::iter::once("matrix".to_owned()).chain(arguments);
    libtest(Arguments::from_iter(words))
}

/// Reports an error that ended the harness, and chooses the exit code.
pub fn exit(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        // nextest takes a line that starts so as the failure's message.
        errln!("Error: {error:#}");
        let cannot_run = error.chain().any(|cause| cause.is::<CannotRun>());
        ExitCode::from(if cannot_run { 3 } else { 2 })
    })
}

/// The plan of a matrix on this host.
pub struct Planned {
    /// The matrix.
    pub matrix: Matrix,
    /// The profile that was asked for.
    pub profile: Profile,
    /// What this host can do.
    pub facts: HostFacts,
    /// Its trials.
    pub trials: Vec<PlannedTrial>,
}

impl Planned {
    /// The trial of that name.
    ///
    /// # Errors
    /// When there is none, with the nearest names.
    pub fn trial(&self, name: &str) -> anyhow::Result<&PlannedTrial> {
        let found = self.trials.iter().find(|trial| trial.name == name);
        found.ok_or_else(|| {
            let names: Vec<String> = self.trials.iter().map(|t| t.name.clone()).collect();
            plan::nothing_matches(&names, name, true)
        })
    }
}

/// Reads the matrix and plans it for this host. Quick: nothing is built or booted.
///
/// # Errors
/// Bad input in the matrix; a QEMU that does not answer.
pub fn planned(settings: &Settings) -> anyhow::Result<Planned> {
    let cache = settings.host_cache();
    // While another process reloads the module, this kernel seems to have none.
    let _still = match settings.allow_module_reload {
        true => Some(Module::of_kernel(&cache).still()?),
        false => None,
    };
    let facts = facts::facts(&settings.qemu, &settings.firmware, &cache)?;
    planned_with(settings, facts)
}

/// The matrix, with the images that the environment names.
///
/// # Errors
/// Bad input in it.
pub fn matrix(settings: &Settings) -> anyhow::Result<Matrix> {
    let names: Vec<&str> = cases::all().iter().map(|case| case.name).collect();
    let mut matrix = load::load(&settings.matrix, &names)?;
    matrix.use_images(&settings.root, |name| std::env::var(name).ok())?;
    Ok(matrix)
}

/// As [`planned`], where the facts are known.
///
/// # Errors
/// Bad input in the matrix.
pub fn planned_with(settings: &Settings, mut facts: HostFacts) -> anyhow::Result<Planned> {
    let mut matrix = matrix(settings)?;
    let mut profile = matrix.profile(&settings.profile)?.clone();
    matrix.use_axes(&profile);
    if settings.boot {
        // All of them boot, under their plain names.
        profile.starts = vec![From::Checkpoint];
    }
    if let Some(host) = settings.host {
        matrix.host = host;
    }
    facts.module_reload = settings.allow_module_reload;
    facts.lab_obstacle = place::lab_obstacle(
        &facts.qemu_version,
        &facts.qemu_devices,
        matrix.lab_memory_mib,
        schedule::machine_mib(),
    );
    facts.missing_suites = missing_suites(&matrix, settings);
    let mut trials = plan::plan(
        &matrix,
        cases::all(),
        &profile,
        &facts,
        settings.faults,
        settings.shard,
    );
    if settings.boot {
        trials
            .iter_mut()
            .for_each(|trial| trial.start = Start::Boot);
    }
    Ok(Planned {
        matrix,
        profile,
        facts,
        trials,
    })
}

/// The suites of the matrix whose kernels cannot be had here, each with why.
fn missing_suites(matrix: &Matrix, settings: &Settings) -> BTreeMap<String, String> {
    let suites: BTreeSet<&str> = (matrix.axes.guest.iter())
        .filter_map(|name| matrix.guests.get(name)?.kernel_suite())
        .collect();
    suites
        .into_iter()
        .filter_map(|suite| {
            let why = image::obstacle(&settings.images(), suite)?;
            Some((suite.to_owned(), why))
        })
        .collect()
}

fn libtest(mut arguments: Arguments) -> anyhow::Result<ExitCode> {
    let settings = Settings::from_env()?;
    let mut plan = planned(&settings)?;
    let mut selected = Vec::new();
    for planned in &plan.trials {
        if !arguments.is_filtered_out(&as_libtest(planned.clone())) {
            selected.push(planned.clone());
        }
    }
    if arguments.list {
        out::text(&lines::list(selected.iter().map(|trial| &*trial.name)));
        return Ok(ExitCode::SUCCESS);
    }
    if selected.is_empty() && !arguments.ignored {
        nothing_selected(&settings, &arguments, plan.trials.clone())?;
    }
    // What a lab needs of this machine is a QEMU, and no right to anything.
    let here = |trial: &PlannedTrial| trial.action == Action::Run && trial.host == Host::Direct;
    if selected.iter().any(here) {
        // A user namespace can be entered only while there is one thread.
        net::userns::enter_if_needed()?;
        net::tun::check()?;
    }
    let digest = plan_digest(&settings, &plan)?;
    let opened = Session::open(
        identity::identity(&settings, &plan.facts, digest)?,
        settings,
        plan.profile,
        plan.facts,
        plan.matrix.lab_memory_mib,
        &selected,
    )?;
    let session = SESSION.get_or_init(|| opened);
    if session.shows_progress() {
        // Progress and table say it all.
        arguments.logfile = Some("/dev/null".into());
    }
    let runs = selected.iter().filter(|trial| trial.action == Action::Run);
    let threads = session.threads().min(runs.count()).max(1);
    arguments.test_threads.get_or_insert(threads);
    // In the plan's order, one at a time is easier to follow, and no slower.
    if arguments.test_threads != Some(1) {
        session.schedule(&mut plan.trials);
    }
    let trials = plan.trials.into_iter().map(as_libtest).collect();
    session.watch_signals()?;
    let ran = lines::run(&mut arguments, trials);
    let code = session.close(false)?;
    ran.map(|()| code)
}

/// The digest of the whole plan, of which `plan` may be a shard.
fn plan_digest(settings: &Settings, plan: &Planned) -> anyhow::Result<String> {
    if settings.shard.is_none() {
        return Ok(plan::digest(&plan.trials));
    }
    let whole = Settings {
        shard: None,
        ..settings.clone()
    };
    Ok(plan::digest(
        &planned_with(&whole, plan.facts.clone())?.trials,
    ))
}

/// A filter that matches nothing is an error; a shard that has none of those it matches is not.
fn nothing_selected(
    settings: &Settings,
    arguments: &Arguments,
    mut trials: Vec<PlannedTrial>,
) -> anyhow::Result<()> {
    if let Some((k, n)) = settings.shard {
        let whole = Settings {
            shard: None,
            ..settings.clone()
        };
        trials = planned(&whole)?.trials;
        let matching = trials
            .iter()
            .filter(|trial| !arguments.is_filtered_out(&as_libtest((*trial).clone())))
            .count();
        if matching > 0 {
            errln!("shard {k}/{n} has none of the {matching} trials selected");
            return Ok(());
        }
    }
    let names: Vec<String> = trials.into_iter().map(|trial| trial.name).collect();
    let filter = arguments.filter.clone().unwrap_or_default();
    Err(plan::nothing_matches(&names, &filter, arguments.exact))
}

/// A planned trial as libtest sees it: a skip is decided before listing, so that nextest, which
/// reads exit codes alone, shows it as a skip too.
fn as_libtest(planned: PlannedTrial) -> Trial {
    let skipped = planned.action != Action::Run;
    Trial::ignorable_test(planned.name.clone(), move || match SESSION.get() {
        Some(session) => session.run(&planned),
        None => Err("the trial was started before the session".into()),
    })
    .with_ignored_flag(skipped)
}
