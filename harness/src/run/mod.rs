//! The harness: what `cargo test --test matrix` runs.
//!
//! libtest's threads only hold trials ready; which of them run is decided by slots, whose sizes are
//! what the trials need of processors and memory. The longest begin first. Under nextest, which has
//! a process a trial, `.config/nextest.toml` says the same as far as nextest can.
//!
//! Exit codes: 0 all passed, known to fail or skipped, 1 a NIC failed (or, under faults, a case is blind), 2 bad
//! input, 3 the harness could not run, 130 interrupted.

pub mod context;
pub mod identity;
pub mod planned;
pub mod shell;
pub mod trial;

mod exit_code;
mod expected;
mod for_libtest;
mod lines;
pub(crate) mod schedule;
mod session;
mod verdict;

use crate::host::place::Host;
use crate::net;
use crate::plan::{self, Action, PlannedTrial, choose};
use crate::settings::Settings;
use libtest_mimic::{Arguments, Trial};
use planned::{keep_shard, planned};
use report::exit_code::{BROKEN, worse};
use report::{errln, out};
use session::Session;
use std::process::ExitCode;
use std::sync::OnceLock;

/// The run, once it is known that something is to be run.
static SESSION: OnceLock<Session> = OnceLock::new();

/// Runs trials as this process's arguments, which are libtest's, say.
pub fn main() -> anyhow::Result<ExitCode> {
    libtest(Arguments::from_args())
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

fn libtest(mut arguments: Arguments) -> anyhow::Result<ExitCode> {
    let settings = Settings::from_env()?;
    let mut plan = planned(&settings)?;
    let names = plan::names(&plan.trials);
    let digest = plan::digest(&plan.trials);
    choose::keep(&settings.only, &names, &mut plan.trials)?;
    let of_all_shards = match settings.shard {
        Some(_) => selected(&plan.trials, &arguments).len(),
        None => 0,
    };
    let share = keep_shard(&settings, &mut plan.trials)?;
    let selected = selected(&plan.trials, &arguments);
    if arguments.list {
        out::text(&lines::list(selected.iter().map(|trial| &*trial.name)));
        return Ok(ExitCode::SUCCESS);
    }
    if selected.is_empty() && !arguments.ignored {
        nothing_selected(&settings, &arguments, of_all_shards, &names)?;
    }
    // A lab needs only a QEMU of this machine, and no privileges.
    let here = |trial: &PlannedTrial| trial.action == Action::Run && trial.host == Host::Direct;
    if selected.iter().any(here) {
        // A user namespace can be entered only while there is one thread.
        net::userns::enter_if_needed()?;
        net::tun::check()?;
    }
    let identity = identity::identity(
        &settings,
        &plan.capabilities.qemus,
        digest,
        share.as_ref().map(|share| share.shard.clone()),
    )?;
    let mut trials = std::mem::take(&mut plan.trials);
    let opened = Session::open(identity, settings, plan, &selected, share)?;
    let session = SESSION.get_or_init(|| opened);
    if session.shows_progress() {
        // Progress and table show the same.
        arguments.logfile = Some("/dev/null".into());
    }
    let runs = selected.iter().filter(|trial| trial.action == Action::Run);
    let threads = session.threads().min(runs.count()).max(1);
    arguments.test_threads.get_or_insert(threads);
    // One at a time, the plan's order is easier to follow, and no slower.
    if arguments.test_threads != Some(1) {
        session.schedule(&mut trials);
    }
    let trials = trials.into_iter().map(as_libtest).collect();
    session.watch_signals()?;
    let ran = lines::run(&mut arguments, trials);
    let mut code = session.close(false);
    if let Err(error) = ran {
        errln!("Error: {error:#}");
        code = worse(code, BROKEN);
    }
    Ok(ExitCode::from(code))
}

/// Those of `trials` that libtest's filters select.
fn selected(trials: &[PlannedTrial], arguments: &Arguments) -> Vec<PlannedTrial> {
    let trials = trials.iter();
    trials
        .filter(|trial| !arguments.is_filtered_out(&as_libtest((*trial).clone())))
        .cloned()
        .collect()
}

/// A filter that matches nothing of the plan is an error; a shard that has none of the `of_all_shards`
/// trials that it matches is not.
fn nothing_selected(
    settings: &Settings,
    arguments: &Arguments,
    of_all_shards: usize,
    names: &[String],
) -> anyhow::Result<()> {
    if let (Some((k, n)), 1..) = (settings.shard, of_all_shards) {
        errln!("shard {k}/{n} has none of the {of_all_shards} trials selected");
        return Ok(());
    }
    let filter = arguments.filter.clone().unwrap_or_default();
    Err(plan::nothing_matches(names, &filter, arguments.exact))
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
