//! The harness: what `cargo test --test matrix` runs.
//!
//! libtest's threads only hold trials ready; which of them run is decided by slots, whose sizes are
//! what the trials need of processors and memory. The longest begin first. Under nextest, which has
//! a process a trial, `.config/nextest.toml` says the same as far as nextest can.
//!
//! Exit codes: 0 all passed, known to fail or skipped, 1 a NIC failed (or, under faults, a case is blind), 2 bad
//! input, 3 the harness could not run, 130 interrupted.

pub mod context;
pub mod planned;
pub mod shell;
pub mod trial;

mod exit_code;
mod expected;
mod identity;
mod lines;
pub(crate) mod schedule;
mod session;
mod verdict;

use crate::host::place::Host;
use crate::net;
use crate::plan::{self, Action, PlannedTrial, choose};
use crate::settings::Settings;
use libtest_mimic::{Arguments, Trial};
use planned::planned;
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
    let whole = plan.whole(&settings)?;
    let all = whole.as_deref().unwrap_or(&plan.trials);
    let names = plan::names(all);
    let digest = plan::digest(all);
    choose::keep(&settings.only, &names, &mut plan.trials)?;
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
        nothing_selected(&settings, &arguments, whole.as_deref(), &names)?;
    }
    // A lab needs only a QEMU of this machine, and no privileges.
    let here = |trial: &PlannedTrial| trial.action == Action::Run && trial.host == Host::Direct;
    if selected.iter().any(here) {
        // A user namespace can be entered only while there is one thread.
        net::userns::enter_if_needed()?;
        net::tun::check()?;
    }
    let identity = identity::identity(&settings, &plan.capabilities.qemus, digest)?;
    let mut trials = std::mem::take(&mut plan.trials);
    let opened = Session::open(identity, settings, plan, &selected)?;
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
    let code = session.close(false)?;
    ran.map(|()| code)
}

/// A filter that matches nothing of the whole plan is an error; a shard that has none of the trials it
/// matches is not.
fn nothing_selected(
    settings: &Settings,
    arguments: &Arguments,
    whole: Option<&[PlannedTrial]>,
    names: &[String],
) -> anyhow::Result<()> {
    if let (Some((k, n)), Some(whole)) = (settings.shard, whole) {
        let matching = whole
            .iter()
            .filter(|trial| choose::by_name(&settings.only, &trial.name))
            .filter(|trial| !arguments.is_filtered_out(&as_libtest((*trial).clone())))
            .count();
        if matching > 0 {
            errln!("shard {k}/{n} has none of the {matching} trials selected");
            return Ok(());
        }
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
