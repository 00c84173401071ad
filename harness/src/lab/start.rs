//! How a lab is started: what it is made of, and what it is shown.

use super::Outside;
use super::cmdline::{self, LabSpec};
use super::shown::{self, Shown, Tree};
use super::vm::Lab;
use crate::base::error::OrCannotRun as _;
use crate::host::machine;
use crate::host::qemus::TestedQemu;
use crate::testbed::stock::Stock;
use crate::vm::accel::Accel;
use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The virtual CPUs of a lab under TCG. With two, a trial takes half as much processor time again, as QEMU
/// must keep the two apart with every atomic access.
const TCG_CPUS: usize = 1;

/// The virtual CPUs of a lab.
pub(super) fn cpus(accel: Accel) -> usize {
    match accel {
        Accel::Kvm => machine::processors(),
        Accel::Tcg => TCG_CPUS,
    }
}

/// Starts a lab with its transcripts in `directory`, for the run with that directory or, without one, for any: then
/// what it will read is not known, and it sees what its user may read. Its processor time is added to `spent` at its end.
pub(super) fn start(
    zcopytx: bool,
    outside: &Outside,
    directory: &Path,
    run: Option<&Path>,
    memory_mib: u32,
    spent: Arc<Mutex<Duration>>,
) -> Result<Lab> {
    let settings = outside.settings;
    let Stock { qemu, image, .. } = outside.stock;
    let initrd = image.lab_initrd.clone();
    let initrd = initrd
        .context("the guest image has no initramfs for a lab")
        .or_cannot_run(|| "start the lab".into())?;
    let program = std::env::current_exe().or_cannot_run(|| "find this program".into())?;
    let mut paths = read_inside(outside);
    paths.push(program.clone());
    if run.is_none() {
        paths.extend([settings.root.clone(), settings.dir.clone()]);
    }
    let mut shown = Shown::of(paths);
    let mut place = |directory: &Path| {
        std::fs::create_dir_all(directory)
            .or_cannot_run(|| format!("create {}", directory.display()))?;
        let real = shown.way_to(directory);
        real.with_context(|| format!("there is no {}", directory.display()))
            .or_cannot_run(|| "start the lab".into())
    };
    let artifacts = place(run.unwrap_or(&settings.runs()))?;
    let checkpoints = place(&settings.checkpoints())?;
    let mut environment = vec![
        ("HOME".to_owned(), "/root".to_owned()),
        ("TMPDIR".to_owned(), "/tmp".to_owned()),
    ];
    environment.extend(
        std::env::vars().filter(|(name, _)| name == "PATH" || name.starts_with("NICMATRIX_IMAGE_")),
    );
    let script = cmdline::StartScript {
        zcopytx,
        artifacts: artifacts.clone(),
        checkpoints: checkpoints.clone(),
        shown: shown.clone(),
        environment,
        program,
    };
    let tree = (run.is_some() && shown::is_allowed()).then(|| Tree {
        at: settings.dir.join("lab-root"),
        shown,
        empty: vec![artifacts.clone(), checkpoints.clone()],
    });
    let spec = LabSpec {
        accel: outside.proven.accel,
        memory_mib,
        cpus: cpus(outside.proven.accel) as u32,
        kernel: image.kernel().to_owned(),
        initrd,
        shown: tree.as_ref().map_or("/".into(), |tree| tree.at.clone()),
        artifacts,
        checkpoints,
        directory: directory.to_owned(),
    };
    Lab::start(qemu, &spec, &script, tree, spent)
}

/// What the trials of a run read in a lab, beside the system's programs and checkpoints.
fn read_inside(outside: &Outside) -> Vec<PathBuf> {
    let settings = outside.settings;
    let Stock { image, suites, .. } = outside.stock;
    let mut paths = vec![
        settings.matrix.clone(),
        settings.images(),
        settings.host_cache(),
    ];
    for image in [image].into_iter().chain(suites.values().flatten()) {
        paths.extend(image.kernel().parent().map(Path::to_owned));
    }
    let qemus = outside.qemus.iter();
    paths.extend(qemus.flat_map(|(_, TestedQemu { qemu, .. })| shown::of_qemu(qemu)));
    paths.extend(outside.guest_files.iter().cloned());
    paths
}
