//! Cases × cells → trials, each to run or to skip with a reason. Pure.

pub mod choose;
pub mod known;
mod vm;

use crate::base::words;
use crate::cases::{Case, Fault, Load};
use crate::host::Capabilities;
use crate::host::place::{Host, host_of};
use crate::host::qemu_facts::common_machine;
use crate::host::qemus::{OtherQemu, TestedQemu};
use crate::matrix::disruption::Disruption;
use crate::matrix::known::BOOT;
use crate::matrix::schema::{BootMode, Matrix, Profile};
use crate::matrix::{Backend, Cell};
use crate::vm::cmdline::{Boot, Firmware};
use crate::vm::start_state::StartState;
use known::Known;
use report::name::{DEFAULT_QEMU, TrialName};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What is to be done with a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Run it.
    Run,
    /// It cannot run here, for this reason.
    Skip(String),
}

/// A case on a cell, perhaps under a fault.
#[derive(Clone)]
pub struct PlannedTrial {
    /// The full name.
    pub name: String,
    /// The name's parts.
    pub parts: TrialName,
    /// The procedure.
    pub case: &'static Case,
    /// Where it runs.
    pub cell: Arc<Cell>,
    /// What its guest starts from, where a checkpoint can be made.
    pub start_state: StartState,
    /// What happens before the case runs a second time.
    pub disruption: Option<Disruption>,
    /// Under which breakage.
    pub fault: Option<&'static Fault>,
    /// The QEMU that its guest moves to, where that is not its own.
    pub other: Option<Arc<OtherQemu>>,
    /// The version of the machine type, where it is not the QEMU's newest one.
    pub machine_version: Option<String>,
    /// The need of the host's processors: that of its case, but nothing is measured under a fault, nor
    /// in a profile that does not time netperf.
    pub load: Load,
    /// On which machine it runs; for a skip, this one.
    pub host: Host,
    /// What the matrix file knows of it.
    pub known: Known,
    /// Run or skip.
    pub action: Action,
}

/// The trials in a stable order, by case (as in `cases`), then by cell (as on the axes). With
/// `faults`, every case under each of its faults (once a NIC and backend) in place of the plain
/// trials. A shard `(k, n)` takes the k-th of every n, whatever this host can run: the n shards make
/// up the whole on any hosts.
pub fn plan(
    matrix: &Matrix,
    cases: &'static [&'static Case],
    profile: &Profile,
    facts: &Capabilities,
    faults: bool,
    shard: Option<(u32, u32)>,
) -> Vec<PlannedTrial> {
    let cells: Vec<PlannedCell> = matrix
        .cells()
        .map(|c| PlannedCell::new(c, matrix, facts))
        .collect();
    // What runs on one QEMU, and on which guests, does not depend on which others there are.
    let by_qemu = || cells.chunk_by(|a, b| a.cell.qemu == b.cell.qemu);
    let chosen = |case: &&&Case| match &profile.cases {
        Some(names) => names.iter().any(|name| name == case.name),
        None => true,
    };
    let destinations = destinations(matrix, facts);
    let (k, n) = shard.unwrap_or((1, 1));
    let mut trials = Vec::new();
    let mut count = 0;
    for case in cases.iter().filter(chosen) {
        let variants = by_qemu().flat_map(|cells| {
            let here = cells.iter().filter(|planned| {
                (case.applies)(&planned.cell) && profile.takes(case.name, planned.cell.backend)
            });
            let variants = match faults {
                true => fault_variants(case, here.collect()),
                false => {
                    plain_variants(case, profile, on_its_guests(case, profile, here.collect()))
                }
            };
            match case.across {
                true => across_variants(variants, &destinations, faults),
                false => variants,
            }
        });
        for variant in variants {
            if count % n == k - 1 {
                trials.push(variant.trial(case, profile));
            }
            count += 1;
        }
    }
    trials
}

/// The names of `trials`.
pub fn names(trials: &[PlannedTrial]) -> Vec<String> {
    trials.iter().map(|trial| trial.name.clone()).collect()
}

/// SHA-256 over the names of `trials`, a line each. Of a whole plan it is the same on every host and
/// for every shard.
pub fn digest(trials: &[PlannedTrial]) -> String {
    let mut sha = Sha256::new();
    for trial in trials {
        sha.update(&trial.name);
        sha.update(b"\n");
    }
    format!("{:x}", sha.finalize())
}

/// Where `case` runs in this profile: on every guest, or on one for each NIC and backend; then the
/// guests take turns, and no two cases begin with the same one. Where only some cases run with vhost,
/// they all do so on one guest, another for each backend: a lab makes its own checkpoints of it.
fn on_its_guests<'p, 'm>(
    case: &Case,
    profile: &Profile,
    cells: Vec<&'p PlannedCell<'m>>,
) -> Vec<&'p PlannedCell<'m>> {
    let named = |names: &[String]| names.iter().position(|name| name == case.name);
    let one = named(&profile.on_one_guest);
    let with_vhost = profile.with_vhost.as_deref().and_then(named);
    let mut chosen: Vec<&PlannedCell> = Vec::new();
    for (turn, lane) in lanes(cells.clone()).into_iter().enumerate() {
        let taken = one.map(|first| first + turn);
        let taken = match lane[0].cell.backend {
            Backend::Tap => taken,
            Backend::Vhost => with_vhost.map(|_| 0).or(taken),
            Backend::VhostZcopy => with_vhost.map(|_| 1).or(taken),
        };
        match taken {
            None => chosen.extend(lane),
            Some(taken) => chosen.push(lane[taken % lane.len()]),
        }
    }
    let is_chosen = |planned: &&PlannedCell| chosen.iter().any(|one| std::ptr::eq(*one, *planned));
    cells.into_iter().filter(is_chosen).collect()
}

/// The cells of each NIC and backend.
fn lanes<'p, 'm>(cells: Vec<&'p PlannedCell<'m>>) -> Vec<Vec<&'p PlannedCell<'m>>> {
    let mut lanes: Vec<Vec<&PlannedCell>> = Vec::new();
    for planned in cells {
        let lane = lanes.iter_mut().find(|lane| {
            let (a, b) = (&lane[0].cell, &planned.cell);
            a.nic.name == b.nic.name && a.backend == b.backend
        });
        match lane {
            Some(lane) => lane.push(planned),
            None => lanes.push(vec![planned]),
        }
    }
    lanes
}

/// `case` from each of the profile's starts (a case that always boots gets no second boot) and, where
/// it changes something, after each of the profile's disruptions.
fn plain_variants<'p, 'm>(
    case: &'static Case,
    profile: &Profile,
    cells: Vec<&'p PlannedCell<'m>>,
) -> Vec<Variant<'p, 'm>> {
    let starts = profile.boot_modes.iter().map(|from| match from {
        BootMode::Checkpoint => case.start_state,
        BootMode::Boot => StartState::Boot,
    });
    let mut wanted: Vec<(StartState, Option<Disruption>)> =
        starts.map(|start| (start, None)).collect();
    wanted.dedup();
    if case.rearm.is_some() {
        wanted.extend(
            profile
                .disruptions
                .iter()
                .map(|disruption| (case.start_state, Some(*disruption))),
        );
    }
    cells
        .into_iter()
        .flat_map(|planned| {
            wanted.iter().map(move |(start, disruption)| Variant {
                planned,
                start_state: *start,
                disruption: *disruption,
                fault: None,
                boots: *start == StartState::Boot && case.start_state != StartState::Boot,
                other: None,
            })
        })
        .collect()
}

/// Each fault of `case` on every NIC and backend where it can be shown, and there on one guest: what
/// is on trial is the case, not the guest. The guests take turns. With vhost only those that cannot be
/// shown on the same NIC without it, and not on a guest on which the case is known to fail by itself,
/// where there is another.
fn fault_variants<'p, 'm>(
    case: &'static Case,
    cells: Vec<&'p PlannedCell<'m>>,
) -> Vec<Variant<'p, 'm>> {
    let on_tap = |fault: &Fault, nic: &str| {
        let mut taps = (cells.iter())
            .filter(|planned| planned.cell.backend == Backend::Tap && planned.cell.nic.name == nic);
        taps.any(|planned| (fault.applies)(&planned.cell))
    };
    let mut variants = Vec::new();
    for (turn, lane) in lanes(cells.clone()).iter().enumerate() {
        for (index, fault) in case.faults.iter().enumerate() {
            let shown = |planned: &&&PlannedCell| {
                let Cell { nic, backend, .. } = &*planned.cell;
                (fault.applies)(&planned.cell)
                    && (*backend == Backend::Tap || !on_tap(fault, &nic.name))
            };
            let mut able: Vec<_> = lane.iter().filter(shown).collect();
            // Whatever the QEMU: names are the same on all.
            let holds = |planned: &&&PlannedCell| !planned.may_hide(case, fault);
            if able.iter().any(&holds) {
                able.retain(holds);
            }
            if let Some(planned) = able.get((turn + index) % able.len().max(1)) {
                variants.push(Variant {
                    planned,
                    start_state: case.start_state,
                    disruption: None,
                    fault: Some(fault),
                    boots: false,
                    other: None,
                });
            }
        }
    }
    variants
}

/// A QEMU of the axis that guests of others move to.
struct Destination {
    name: String,
    /// It, with what it refuses; or why there is none here.
    tested: Result<(Arc<OtherQemu>, TestedQemu), String>,
}

fn destinations(matrix: &Matrix, facts: &Capabilities) -> Vec<Destination> {
    let destination = |name: &String| Destination {
        name: name.clone(),
        tested: match facts.qemus.get(name) {
            Err(why) => Err(why.to_owned()),
            Ok(tested) => {
                let other = OtherQemu {
                    name: name.clone(),
                    qemu: tested.qemu.clone(),
                    facts: tested.facts.clone(),
                };
                Ok((Arc::new(other), tested.clone()))
            }
        },
    };
    matrix.axes.qemu.iter().map(destination).collect()
}

/// Each of `variants` once for each other QEMU, a fault for the first of them: what is on trial then is the
/// case. They start from what the case asks for, and are told apart by that QEMU.
fn across_variants<'p, 'm>(
    mut variants: Vec<Variant<'p, 'm>>,
    destinations: &'p [Destination],
    faults: bool,
) -> Vec<Variant<'p, 'm>> {
    variants.retain(|variant| variant.variant().is_none());
    let most = if faults { 1 } else { destinations.len() };
    let to_each = |variant: Variant<'p, 'm>| {
        let own = &variant.planned.cell.qemu;
        let others = destinations.iter().filter(move |one| one.name != *own);
        let to = move |other| Variant {
            other: Some(other),
            ..variant
        };
        others.take(most).map(to)
    };
    variants.into_iter().flat_map(to_each).collect()
}

/// The parts from which a trial is made.
#[derive(Clone, Copy)]
struct Variant<'p, 'm> {
    planned: &'p PlannedCell<'m>,
    start_state: StartState,
    disruption: Option<Disruption>,
    fault: Option<&'static Fault>,
    /// A boot in place of what the case starts from.
    boots: bool,
    /// The QEMU that its guest moves to.
    other: Option<&'p Destination>,
}

impl Variant<'_, '_> {
    /// How it differs from the plain trial of its case, in the trial's name.
    fn variant(&self) -> Option<String> {
        match (self.other, self.disruption) {
            (Some(other), _) => Some(format!("to_{}", other.name)),
            (None, Some(disruption)) => Some(disruption.word().to_owned()),
            (None, None) => self.boots.then(|| BOOT.to_owned()),
        }
    }

    fn trial(&self, case: &'static Case, profile: &Profile) -> PlannedTrial {
        let Variant { planned, fault, .. } = *self;
        let (other, machine_version, obstacle) = match self.other.map(|other| &other.tested) {
            None => (None, None, None),
            Some(Err(why)) => (None, None, Some(why.clone())),
            Some(Ok((other, there))) => {
                let here = planned.facts.qemus.get(&planned.cell.qemu).ok();
                let version = here.and_then(|here| {
                    common_machine(planned.cell.guest.machine, &here.facts, &there.facts)
                });
                let obstacle =
                    obstacle_there(&planned.cell, &other.name, there, version.as_deref());
                (Some(other.clone()), version, obstacle)
            }
        };
        let variant = self.variant();
        let to = other.as_ref().map(|other| other.facts.version.as_str());
        let known = planned.known(case, variant.as_deref(), to);
        let action = planned.action(case, known.skip_reason(None, fault));
        let parts = TrialName {
            case: case.name.to_owned(),
            variant,
            fault: fault.map(|f| f.name.to_owned()),
            nic: planned.cell.nic.name.clone(),
            guest: planned.cell.guest.name.clone(),
            backend: planned.cell.backend.name().to_owned(),
            qemu: (planned.cell.qemu != DEFAULT_QEMU).then(|| planned.cell.qemu.clone()),
        };
        PlannedTrial {
            name: parts.to_string(),
            parts,
            case,
            cell: planned.cell.clone(),
            start_state: self.start_state,
            disruption: self.disruption,
            fault,
            other,
            machine_version,
            load: match case.load {
                Load::Alone if fault.is_some() || !profile.measures() => Load::Busy,
                load => load,
            },
            host: *planned.host.as_ref().unwrap_or(&Host::Direct),
            action: match (action, obstacle) {
                (Action::Run, Some(reason)) => Action::Skip(reason),
                (action, _) => action,
            },
            known,
        }
    }
}

/// A cell, with what decides about its trials.
struct PlannedCell<'m> {
    cell: Arc<Cell>,
    /// What the matrix file knows of it, whatever the case and the QEMU.
    known: Known,
    facts: &'m Capabilities,
    /// On which machine its trials run, or why on none.
    host: Result<Host, String>,
    /// Why nothing can run there, whatever the machine.
    obstacle: Option<String>,
}

impl<'m> PlannedCell<'m> {
    fn new(cell: Cell, matrix: &'m Matrix, facts: &'m Capabilities) -> Self {
        PlannedCell {
            known: Known::of_cell(&cell, matrix),
            obstacle: obstacle(&cell, facts),
            host: host_of(cell.backend, facts, matrix.host),
            facts,
            cell: Arc::new(cell),
        }
    }

    /// What the matrix file knows of a case and variant here, on this QEMU, from which the guest moves
    /// `to` one of that version, if it moves.
    fn known(&self, case: &Case, variant: Option<&str>, to: Option<&str>) -> Known {
        match self.facts.qemus.get(&self.cell.qemu) {
            Ok(tested) => (self.known).of(case.name, variant, &tested.facts.version, to),
            // It is skipped, for a reason of its own.
            Err(_) => Known::default(),
        }
    }

    /// Whether the plain case is known to fail here, on some QEMU and kernel, so that `fault` could not be
    /// told.
    fn may_hide(&self, case: &Case, fault: &Fault) -> bool {
        let mut all = self.known.expectations.iter();
        all.any(|expectation| {
            expectation.scope.has_case(case.name, None) && known::hides(&expectation.message, fault)
        })
    }

    /// Whether a case runs here, and why not; `known` is what the matrix file says against it.
    fn action(&self, case: &Case, known: Option<String>) -> Action {
        let of_cell = || self.obstacle.clone();
        let of_host = || self.host.as_ref().err().cloned();
        let of_case = || obstacle_to(case, &self.cell, self.facts);
        let reason = known.or_else(of_cell).or_else(of_host).or_else(of_case);
        reason.map_or(Action::Run, Action::Skip)
    }
}

fn obstacle(cell: &Cell, facts: &Capabilities) -> Option<String> {
    let tested = match facts.qemus.get(&cell.qemu) {
        Ok(tested) => tested,
        Err(why) => return Some(why.to_owned()),
    };
    let has = &tested.facts;
    let qemu = &has.version;
    let device = &cell.nic.device;
    if !has.has_device(device) {
        return Some(format!("QEMU {qemu} has no device model {device}"));
    }
    let machine = cell.guest.machine.name();
    if !has.machines.iter().any(|m| m == machine) {
        return Some(format!("QEMU {qemu} has no machine type {machine}"));
    }
    if let Some(refusal) = tested.refusal(&cell.nic, cell.guest.machine) {
        return Some(refusal.to_owned());
    }
    let suite = cell.guest.kernel_suite();
    suite.and_then(|suite| facts.missing_suites.get(suite).cloned())
}

/// What the case's VM needs beyond its cell, and this host lacks.
fn obstacle_to(case: &Case, cell: &Cell, facts: &Capabilities) -> Option<String> {
    let qemu = &facts.qemus.get(&cell.qemu).ok()?.facts;
    let spec = vm::sketch(case, cell);
    if let Boot::Network(firmware) = spec.boot {
        if cell.guest.image.is_some() {
            return Some(
                "the guest is a disk image, and has no kernel that a NIC could fetch".into(),
            );
        }
        if firmware == Firmware::Uefi && qemu.uefi.is_none() {
            return Some("OVMF is not installed here (Debian's package ovmf)".into());
        }
    }
    if spec.spice.is_some() && !qemu.spice {
        return Some(format!(
            "QEMU {} has no SPICE here (Debian from 13 on: qemu-system-modules-spice)",
            qemu.version
        ));
    }
    if spec.migratable && cell.guest.image.is_some() {
        return Some("the guest's disk image is not shared between two QEMUs".into());
    }
    None
}

/// Why the guest of a cell cannot move to another QEMU, on that version of its machine type.
fn obstacle_there(
    cell: &Cell,
    name: &str,
    there: &TestedQemu,
    machine: Option<&str>,
) -> Option<String> {
    let (device, version) = (&cell.nic.device, &there.facts.version);
    if let Some(refusal) = there.refusal(&cell.nic, cell.guest.machine) {
        return Some(refusal.to_owned());
    }
    if !there.facts.has_device(device) {
        return Some(format!(
            "QEMU {version} ({name}) has no device model {device}"
        ));
    }
    if machine.is_none() {
        return Some(format!(
            "QEMU {version} ({name}) has no version of machine type {} that this QEMU has",
            cell.guest.machine.name()
        ));
    }
    None
}

/// How much less alike than the best a further suggestion may be.
const ALMOST: f64 = 0.1;
/// How many suggestions are made.
const SUGGESTIONS: usize = 3;

/// What a filter that selected none of `names` probably meant, the likeliest first: filters that
/// select something, of as many parts as the given one (`ping_swep::virtio` gives
/// `ping_sweep::virtio`); for an `exact` one, full names.
pub fn nearest(names: &[String], filter: &str, exact: bool) -> Vec<String> {
    let parts = filter.split("::").count();
    let mut candidates: BTreeSet<String> = BTreeSet::new();
    for name in names {
        let words: Vec<&str> = name.split("::").collect();
        if exact || parts >= words.len() {
            candidates.insert(name.clone());
        } else {
            candidates.extend(words.windows(parts).map(|window| window.join("::")));
        }
    }
    let scored = words::alike(filter, candidates);
    let best = scored.first().map_or(0.0, |(likeness, _)| *likeness);
    scored
        .into_iter()
        .filter(|(likeness, _)| *likeness >= best - ALMOST)
        .take(SUGGESTIONS)
        .map(|(_, candidate)| candidate)
        .collect()
}

/// The error for a filter that selected none of `names`.
pub fn nothing_matches(names: &[String], filter: &str, exact: bool) -> anyhow::Error {
    let what = if exact { "is the name of" } else { "matches" };
    let hint = match nearest(names, filter, exact) {
        nearest if nearest.is_empty() => "`cargo xtask matrix list` shows all names".to_owned(),
        nearest => format!("nearest: {}", nearest.join(", ")),
    };
    anyhow::anyhow!(
        "{filter:?} {what} none of the {} trials planned; {hint}",
        names.len()
    )
}

#[cfg(test)]
mod nextest;
#[cfg(test)]
pub(crate) mod tests;
