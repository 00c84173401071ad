//! In which variants a case runs, and on which cells. Pure.

use super::cell::{PlannedCell, obstacle_there};
use super::{Action, PlannedTrial};
use crate::cases::{Case, Fault, Load};
use crate::host::Capabilities;
use crate::host::place::Host;
use crate::host::qemu_facts::common_machine;
use crate::host::qemus::OtherQemu;
use crate::matrix::disruption::Disruption;
use crate::matrix::known::BOOT;
use crate::matrix::schema::{BootMode, Matrix, Profile};
use crate::matrix::{Backend, Cell};
use crate::vm::start_state::StartState;
use report::name::{DEFAULT_QEMU, TrialName};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The guest, by its place among those of a NIC, that trials with vhost have where one is enough: they may need a
/// lab, and what one lab makes of a guest serves the other.
const VHOST_GUEST: usize = 1;

/// Where `case` runs in this profile: on every NIC or on one for each backend, as the profile says of the case;
/// on every guest, or on one for each NIC and backend, as it says of the case or of the NIC. NICs and guests
/// take turns. Where only some cases run with vhost, they all do so on [`VHOST_GUEST`].
pub(super) fn on_its_guests<'p, 'm>(
    case: &Case,
    profile: &Profile,
    cells: Vec<&'p PlannedCell<'m>>,
) -> Vec<&'p PlannedCell<'m>> {
    let named = |names: &[String]| names.iter().position(|name| name == case.name);
    let one_nic = named(&profile.on_one_nic);
    let one = named(&profile.on_one_guest).or(one_nic);
    // No two cases begin with the same guest, whichever other cases there are.
    let of_case: usize = case.name.bytes().map(usize::from).sum();
    let with_vhost = profile.with_vhost.as_deref().and_then(named);
    let mut chosen: Vec<&PlannedCell> = Vec::new();
    let mut lanes = lanes(cells.clone());
    if let Some(turn) = one_nic {
        one_for_each_backend(&mut lanes, turn);
    }
    for (turn, lane) in lanes.into_iter().enumerate() {
        let nic = &lane[0].cell.nic.name;
        let of_nic = profile.nics_on_one_guest.contains(nic).then_some(of_case);
        let taken = one.or(of_nic).map(|first| first + turn);
        let taken = match lane[0].cell.backend {
            Backend::Tap => taken,
            Backend::Vhost | Backend::VhostZcopy => with_vhost.map(|_| VHOST_GUEST).or(taken),
        };
        match taken {
            None => chosen.extend(lane),
            Some(taken) => chosen.push(lane[taken % lane.len()]),
        }
    }
    let is_chosen = |planned: &&PlannedCell| chosen.iter().any(|one| std::ptr::eq(*one, *planned));
    cells.into_iter().filter(is_chosen).collect()
}

/// Keeps the lane of one NIC for each backend, another with each `turn`.
fn one_for_each_backend(lanes: &mut Vec<Vec<&PlannedCell>>, turn: usize) {
    let mut of_each: BTreeMap<Backend, Vec<Vec<&PlannedCell>>> = BTreeMap::new();
    for lane in lanes.drain(..) {
        let backend = lane[0].cell.backend;
        of_each.entry(backend).or_default().push(lane);
    }
    let one = |mut of: Vec<_>| of.swap_remove(turn % of.len());
    lanes.extend(of_each.into_values().map(one));
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

/// Whether `case` measures in this profile, for which it has the machine to itself.
fn measures(case: &Case, profile: &Profile) -> bool {
    case.load == Load::Alone && profile.measures()
}

/// `case` from each of the profile's starts (a case that always boots gets no second boot, and one that measures has
/// the first alone: minutes with the machine to itself, whose figures are the same from a boot) and, where it changes
/// something, after each of the profile's disruptions.
pub(super) fn plain_variants<'p, 'm>(
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
    if measures(case, profile) {
        wanted.truncate(1);
    }
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
/// is on trial is the case, not the guest. The guests take turns, with vhost it is [`VHOST_GUEST`], and neither is
/// one on which the case is known to fail by itself, where there is another. With vhost only those that cannot
/// be shown on the same NIC without it.
pub(super) fn fault_variants<'p, 'm>(
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
            let first = match lane[0].cell.backend {
                Backend::Tap => turn + index,
                Backend::Vhost | Backend::VhostZcopy => VHOST_GUEST,
            };
            if let Some(planned) = able.get(first % able.len().max(1)) {
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
pub(super) struct Destination {
    name: String,
    /// It, or why there is none here.
    other: Result<Arc<OtherQemu>, String>,
}

pub(super) fn destinations(matrix: &Matrix, facts: &Capabilities) -> Vec<Destination> {
    let destination = |name: &String| Destination {
        name: name.clone(),
        other: match facts.qemus.get(name) {
            Err(why) => Err(why.to_owned()),
            Ok(tested) => Ok(Arc::new(OtherQemu {
                name: name.clone(),
                tested: tested.clone(),
            })),
        },
    };
    matrix.axes.qemu.iter().map(destination).collect()
}

/// Each of `variants` once for each other QEMU, a fault for the first of them: what is on trial then is the
/// case. They start from what the case asks for, and are told apart by that QEMU.
pub(super) fn across_variants<'p, 'm>(
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
pub(super) struct Variant<'p, 'm> {
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

    pub(super) fn trial(&self, case: &'static Case, profile: &Profile) -> PlannedTrial {
        let Variant { planned, fault, .. } = *self;
        let (other, machine_version, obstacle) = match self.other.map(|to| &to.other) {
            None => (None, None, None),
            Some(Err(why)) => (None, None, Some(why.clone())),
            Some(Ok(other)) => {
                let here = planned.facts.qemus.get(&planned.cell.qemu).ok();
                let version = here.and_then(|here| {
                    let there = &other.tested.facts;
                    common_machine(planned.cell.guest.machine, &here.facts, there)
                });
                let obstacle = obstacle_there(&planned.cell, other, version.as_deref());
                (Some(other.clone()), version, obstacle)
            }
        };
        let variant = self.variant();
        let to = other
            .as_ref()
            .map(|other| other.tested.facts.version.as_str());
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
                Load::Alone if fault.is_some() || !measures(case, profile) => Load::Busy,
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
