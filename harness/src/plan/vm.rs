//! The VM of a trial: the standard one of its cell, then what its case and its fault ask for.

use super::PlannedTrial;
use crate::cases::Case;
use crate::matrix::Cell;
use crate::matrix::schema::Profile;
use crate::testbed::order::{Order, Strike};
use crate::vm::accel::Accel;
use crate::vm::cmdline::VmSpec;
use crate::vm::standard::{self, Kit};
use std::path::PathBuf;

impl PlannedTrial {
    /// What its testbed is built from.
    pub fn order(&self, profile: &Profile, kit: Kit) -> Order {
        Order {
            cell: self.cell.clone(),
            spec: self.vm_spec(&kit),
            plain: self.plain_vm_spec(&kit),
            start_state: self.start_state,
            profile: profile.clone(),
            strike: self.fault.map(|fault| Strike {
                name: fault.name,
                moment: fault.moment,
                inject: fault.inject,
            }),
            kit,
            other: self.other.clone(),
        }
    }

    /// Its VM.
    pub fn vm_spec(&self, kit: &Kit) -> VmSpec {
        let mut spec = self.plain_vm_spec(kit);
        if let Some(fault) = self.fault {
            (fault.vm)(&mut spec, &self.cell);
        }
        spec
    }

    /// Its VM as it would be without its fault.
    pub fn plain_vm_spec(&self, kit: &Kit) -> VmSpec {
        let mut spec = standard::bare(&self.cell, kit, 0);
        spec.machine_version.clone_from(&self.machine_version);
        (self.case.vm)(&mut spec);
        spec
    }
}

/// The VM of a case on a cell, with placeholders for what this host gives: shows what it needs of a host.
pub(super) fn sketch(case: &Case, cell: &Cell) -> VmSpec {
    let kit = Kit {
        accel: Accel::Tcg,
        kernel: PathBuf::new(),
        initrd: PathBuf::new(),
        parameters: String::new(),
        uefi: PathBuf::new(),
        generation_id: false,
    };
    let mut spec = standard::bare(cell, &kit, 0);
    (case.vm)(&mut spec);
    spec
}
