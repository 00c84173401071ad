//! What this host can do. Answers are proved and cached under `target/nicmatrix/host/`.

pub mod accel;
mod build_id;
pub mod kernel_facts;
pub mod machine;
pub mod module;
pub mod place;
pub mod qemu_facts;
pub mod vhost;

use crate::vm::qemu::Qemu;
use kernel_facts::KernelFacts;
use qemu_facts::QemuFacts;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A QEMU of the run that is not the one under test: a guest can move to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherQemu {
    /// What the run calls it.
    pub name: String,
    /// Starts it.
    pub qemu: Qemu,
    /// What it has.
    pub facts: QemuFacts,
}

/// All that decides whether a trial can run; cheap enough for `--list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Of the QEMU under test.
    pub qemu: QemuFacts,
    /// The other QEMUs of the run.
    pub others: Vec<OtherQemu>,
    /// Of the kernel that carries taps and vhost.
    pub kernel: KernelFacts,
    /// Whether vhost_net may be reloaded with the other setting.
    pub module_reload: bool,
    /// Why there can be no lab here; a sentence for skips.
    pub lab_obstacle: Option<String>,
    /// Suites of the matrix whose kernel cannot be fetched here, each with why; a sentence for skips.
    pub missing_suites: BTreeMap<String, String>,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A host that can do everything, with zcopy off and no lab, but for what `change` says.
    pub(crate) fn capable(change: impl FnOnce(&mut Capabilities)) -> Capabilities {
        let mut capabilities = Capabilities {
            qemu: QemuFacts {
                version: "7.2.0".into(),
                devices: vec!["virtio-net-pci".into(), "e1000".into()],
                machines: vec!["pc".into(), "q35".into()],
                spice: true,
                build: None,
                uefi: Some("OVMF.fd".into()),
            },
            others: Vec::new(),
            kernel: KernelFacts {
                vhost_obstacle: None,
                zcopytx: Some(false),
            },
            module_reload: false,
            lab_obstacle: Some("none is wanted".into()),
            missing_suites: BTreeMap::new(),
        };
        change(&mut capabilities);
        capabilities
    }
}
