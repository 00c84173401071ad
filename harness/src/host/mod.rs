//! What this host can do. Answers are proved and cached under `target/nicmatrix/host/`.

pub mod accel;
mod build_id;
pub mod kernel_facts;
pub mod machine;
pub mod module;
pub mod place;
pub mod properties;
pub mod qemu_facts;
pub mod qemus;
pub mod vhost;
pub mod zero_copy;

use crate::vm::qemu::Qemu;
use kernel_facts::KernelFacts;
use qemus::Qemus;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The file of `cache_dir` that keeps what is known of `qemu`; `what` it is begins the file's name.
pub fn cache_file(cache_dir: &Path, what: &str, qemu: &Qemu) -> PathBuf {
    let place = Sha256::digest(qemu.program.as_os_str().as_encoded_bytes());
    cache_dir.join(format!("{what}-{:.16}.json", format!("{place:x}")))
}

/// All that decides whether a trial can run; cheap enough for `--list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// The QEMUs under test.
    pub qemus: Qemus,
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
    use super::qemu_facts::QemuFacts;
    use super::qemus::TestedQemu;
    use super::*;

    /// A host that can do everything, with zcopy off and no lab, but for what `change` says.
    pub(crate) fn capable(change: impl FnOnce(&mut Capabilities)) -> Capabilities {
        let mut capabilities = Capabilities {
            qemus: Qemus {
                default: tested("7.2.0"),
                others: BTreeMap::new(),
            },
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

    /// A QEMU of that version, with two NIC models.
    pub(crate) fn tested(version: &str) -> TestedQemu {
        TestedQemu {
            qemu: Qemu::at("qemu".into()),
            facts: QemuFacts {
                version: version.into(),
                devices: vec!["virtio-net-pci".into(), "e1000".into()],
                machines: vec!["pc".into(), "q35".into()],
                spice: true,
                sandbox: true,
                build: None,
                uefi: Some("OVMF.fd".into()),
                ipxe: Some("snponly.efi".into()),
            },
            refuses: Vec::new(),
        }
    }
}
