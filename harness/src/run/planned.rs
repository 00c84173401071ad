//! The plan of a matrix on this host, before anything is built or booted.

use crate::cases;
use crate::guest::image;
use crate::host::module::Module;
use crate::host::qemus::Qemus;
use crate::host::{Capabilities, kernel_facts, machine, place};
use crate::matrix::load;
use crate::matrix::schema::{BootMode, Matrix, Profile};
use crate::plan::shard::{self, Share};
use crate::plan::{self, PlannedTrial, choose};
use crate::settings::Settings;
use crate::vm::start_state::StartState;
use report::durations::Durations;
use report::past::Mode;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The plan of a matrix on this host.
pub struct Planned {
    /// The matrix.
    pub matrix: Matrix,
    /// The profile that was asked for.
    pub profile: Profile,
    /// What this host can do.
    pub capabilities: Capabilities,
    /// Its trials.
    pub trials: Vec<PlannedTrial>,
}

impl Planned {
    /// The trial of that name.
    ///
    /// # Errors
    /// When no trial has that name; with the nearest names.
    pub fn trial(&self, name: &str) -> anyhow::Result<&PlannedTrial> {
        let found = self.trials.iter().find(|trial| trial.name == name);
        found.ok_or_else(|| plan::nothing_matches(&plan::names(&self.trials), name, true))
    }
}

/// Reads the matrix and plans it for this host. Quick: nothing is built or booted; but the first time a
/// suite's QEMU is on the axis, it is fetched.
///
/// # Errors
/// Bad input in the matrix, and what QEMU refuses in it; a QEMU that does not answer.
pub fn planned(settings: &Settings) -> anyhow::Result<Planned> {
    let cache = settings.host_cache();
    // While another process reloads the module, this kernel seems to have none.
    let _still = match settings.allow_module_reload {
        true => Some(Module::of_kernel(&cache).still()?),
        false => None,
    };
    let (matrix, profile) = chosen(settings)?;
    let qemus = Qemus::of(settings, &matrix)?;
    let missing = missing_suites(&matrix, settings);
    planned_of(settings, matrix, profile, qemus, missing)
}

/// Keeps of what was chosen the shard that the settings ask for, if any.
///
/// # Errors
/// Durations that cannot be read.
pub fn keep_shard(
    settings: &Settings,
    trials: &mut Vec<PlannedTrial>,
) -> anyhow::Result<Option<Share>> {
    let Some(shard) = settings.shard else {
        return Ok(None);
    };
    let mode = Mode {
        profile: &settings.profile,
        faults: settings.faults,
        booted: settings.boot,
    };
    let read = |path: &Path| Durations::read(path, mode);
    let durations = settings.durations.as_deref().map(read);
    let durations = durations.transpose()?;
    Ok(Some(shard::keep(shard, durations.as_ref(), trials)))
}

/// The matrix, with the images that the environment names.
///
/// # Errors
/// Bad input in the matrix.
pub fn matrix(settings: &Settings) -> anyhow::Result<Matrix> {
    let names: Vec<&str> = cases::all().iter().map(|case| case.name).collect();
    let mut matrix = load::load(&settings.matrix, &names)?;
    plan::known::check(&matrix, cases::all())?;
    matrix.use_images(&settings.root, |name| std::env::var(name).ok())?;
    Ok(matrix)
}

/// The matrix with the axes that profile and settings give it, and the profile.
fn chosen(settings: &Settings) -> anyhow::Result<(Matrix, Profile)> {
    let mut matrix = matrix(settings)?;
    let profile = matrix.profile(&settings.profile)?.clone();
    matrix.use_axes(&profile);
    matrix.use_qemus(&settings.added_qemus, &settings.chosen_qemus)?;
    Ok((matrix, profile))
}

/// As [`planned`], where the QEMUs are known, and of which suites there are images: whoever knows these asks only for
/// trials that have theirs. To look at the images takes as long as to read them.
///
/// # Errors
/// Bad input in the matrix.
pub fn planned_with(settings: &Settings, qemus: Qemus) -> anyhow::Result<Planned> {
    let (matrix, profile) = chosen(settings)?;
    planned_of(settings, matrix, profile, qemus, BTreeMap::new())
}

fn planned_of(
    settings: &Settings,
    mut matrix: Matrix,
    mut profile: Profile,
    qemus: Qemus,
    missing_suites: BTreeMap<String, String>,
) -> anyhow::Result<Planned> {
    if settings.boot {
        // All of them boot, under their plain names.
        profile.boot_modes = vec![BootMode::Checkpoint];
    }
    if let Some(host) = settings.host {
        matrix.host = host;
    }
    let lab_obstacle = place::lab_obstacle(
        &qemus.default.facts,
        matrix.lab_memory_mib,
        machine::machine_mib(),
    );
    let capabilities = Capabilities {
        qemus,
        kernel: kernel_facts::of_this_kernel(),
        module_reload: settings.allow_module_reload,
        lab_obstacle,
        missing_suites,
    };
    let mut trials = plan::plan(
        &matrix,
        cases::all(),
        &profile,
        &capabilities,
        settings.faults,
    );
    let names: Vec<&str> = cases::all().iter().map(|case| case.name).collect();
    choose::check(&settings.only, &matrix, &names)?;
    trials.retain(|trial| settings.only.takes_axes(&trial.parts));
    if settings.boot {
        trials
            .iter_mut()
            .for_each(|trial| trial.start_state = StartState::Boot);
    }
    Ok(Planned {
        matrix,
        profile,
        capabilities,
        trials,
    })
}

/// The suites of the matrix whose kernels cannot be fetched here, each with why.
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
