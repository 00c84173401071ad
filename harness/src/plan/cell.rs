//! A cell of a plan, and why nothing, or a case, cannot run on it here. Pure.

use super::known::{self, Known};
use super::{Action, vm};
use crate::cases::{Case, Fault};
use crate::host::Capabilities;
use crate::host::place::{Host, host_of};
use crate::host::qemus::OtherQemu;
use crate::matrix::Cell;
use crate::matrix::schema::Matrix;
use crate::vm::cmdline::{Boot, Firmware};
use std::sync::Arc;

/// A cell, with what decides about its trials.
pub(super) struct PlannedCell<'m> {
    pub(super) cell: Arc<Cell>,
    /// What the matrix file knows of it, whatever the case and the QEMU.
    pub(super) known: Known,
    pub(super) facts: &'m Capabilities,
    /// On which machine its trials run, or why on none.
    pub(super) host: Result<Host, String>,
    /// Why nothing can run there, whatever the machine.
    obstacle: Option<String>,
}

impl<'m> PlannedCell<'m> {
    pub(super) fn new(cell: Cell, matrix: &'m Matrix, facts: &'m Capabilities) -> Self {
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
    pub(super) fn known(&self, case: &Case, variant: Option<&str>, to: Option<&str>) -> Known {
        match self.facts.qemus.get(&self.cell.qemu) {
            Ok(tested) => (self.known).of(case.name, variant, &tested.facts.version, to),
            // It is skipped, for a reason of its own.
            Err(_) => Known::default(),
        }
    }

    /// Whether the plain case is known to fail here, on some QEMU and kernel, so that `fault` could not be
    /// told.
    pub(super) fn may_hide(&self, case: &Case, fault: &Fault) -> bool {
        let mut all = self.known.expectations.iter();
        all.any(|expectation| {
            expectation.scope.has_case(case.name, None) && known::hides(&expectation.message, fault)
        })
    }

    /// Whether a case runs here, and why not; `known` is what the matrix file says against it.
    pub(super) fn action(&self, case: &Case, known: Option<String>) -> Action {
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
pub(super) fn obstacle_there(
    cell: &Cell,
    OtherQemu {
        name,
        tested: there,
    }: &OtherQemu,
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
