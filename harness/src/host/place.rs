//! On which host a trial runs: this machine, or a lab.

use super::Capabilities;
use super::kernel_facts::ZCOPYTX;
use super::qemu_facts::QemuFacts;
use crate::matrix::Backend;
use report::flags::HostChoice;
use serde::{Deserialize, Serialize};

/// Whose kernel carries a trial's taps, bridge and vhost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Host {
    /// This machine's.
    Direct,
    /// That of a disposable VM ([`crate::lab`]).
    Lab,
}

/// Where the trials with `backend` run, or why nowhere.
pub fn host_of(backend: Backend, facts: &Capabilities, choice: HostChoice) -> Result<Host, String> {
    let here = obstacle_here(backend, facts);
    match (choice, here, &facts.lab_obstacle) {
        (HostChoice::Auto | HostChoice::Direct, None, _) => Ok(Host::Direct),
        (HostChoice::Direct, Some(why), _)
            if facts.kernel.vhost_obstacle.is_none() && facts.kernel.zcopytx.is_some() =>
        {
            Err(format!("{why}; with --allow-module-reload it is reloaded"))
        }
        (HostChoice::Direct, Some(why), _) => Err(why),
        (HostChoice::Auto | HostChoice::Lab, _, None) => Ok(Host::Lab),
        (HostChoice::Auto, Some(why), Some(no_lab)) => {
            Err(format!("{why}, and there can be no lab: {no_lab}"))
        }
        (HostChoice::Lab, _, Some(no_lab)) => Err(format!("there can be no lab: {no_lab}")),
    }
}

/// Why this kernel cannot carry `backend`.
fn obstacle_here(backend: Backend, facts: &Capabilities) -> Option<String> {
    let wanted = match backend {
        Backend::Tap => return None,
        Backend::Vhost => false,
        Backend::VhostZcopy => true,
    };
    if facts.kernel.vhost_obstacle.is_some() {
        return facts.kernel.vhost_obstacle.clone();
    }
    match facts.kernel.zcopytx {
        Some(is) if is == wanted || facts.module_reload => None,
        Some(is) => Some(format!(
            "vhost_net is loaded with experimental_zcopytx={}, this cell needs {}",
            u8::from(is),
            u8::from(wanted)
        )),
        None => Some(format!(
            "vhost_net does not say its experimental_zcopytx (no {ZCOPYTX})"
        )),
    }
}

/// What QEMU must have for a lab.
const DEVICES: [&str; 2] = ["virtio-9p-pci", "virtserialport"];

/// What the lab must leave of the machine's memory, MiB: the harness, and a guest that runs beside it.
const LEFT_MIB: u64 = 1024;

/// Why there can be no lab of `memory_mib` on a machine with `machine_mib`.
pub fn lab_obstacle(qemu: &QemuFacts, memory_mib: u32, machine_mib: u64) -> Option<String> {
    if let Some(missing) = DEVICES.iter().find(|device| !qemu.has_device(device)) {
        return Some(format!("QEMU {} has no device {missing}", qemu.version));
    }
    let needed = u64::from(memory_mib) + LEFT_MIB;
    (machine_mib < needed).then(|| {
        format!(
            "its memory of {memory_mib} MiB ([lab] in the matrix file) and {LEFT_MIB} MiB beside it \
             are more than this machine's {machine_mib} MiB"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::capable;
    use super::*;

    #[test]
    fn a_lab_needs_memory_and_9p() {
        let obstacle = |devices: &[&str], machine_mib| {
            let host = capable(|host| {
                host.qemus.default.facts.devices =
                    devices.iter().map(|d| (*d).to_owned()).collect();
            });
            lab_obstacle(&host.qemus.default.facts, 3072, machine_mib).unwrap_or_default()
        };
        assert_eq!(obstacle(&DEVICES, 8000), "");
        insta::assert_snapshot!(obstacle(&DEVICES, 4000), @"its memory of 3072 MiB ([lab] in the matrix file) and 1024 MiB beside it are more than this machine's 4000 MiB");
        insta::assert_snapshot!(obstacle(&DEVICES[1..], 8000), @"QEMU 7.2.0 has no device virtio-9p-pci");
    }

    #[test]
    fn a_module_that_may_be_reloaded_is_no_obstacle_where_there_is_one() {
        let host = |module_reload, zcopytx| {
            capable(|host| {
                host.kernel.zcopytx = zcopytx;
                host.module_reload = module_reload;
            })
        };
        let backends = [Backend::Tap, Backend::Vhost, Backend::VhostZcopy];
        for choice in [HostChoice::Auto, HostChoice::Direct] {
            for zcopytx in [false, true] {
                let host = host(true, Some(zcopytx));
                for backend in backends {
                    assert_eq!(host_of(backend, &host, choice), Ok(Host::Direct));
                }
            }
        }
        let direct = |host: &Capabilities| {
            host_of(Backend::VhostZcopy, host, HostChoice::Direct).unwrap_err()
        };
        insta::assert_snapshot!(direct(&host(false, Some(false))), @"vhost_net is loaded with experimental_zcopytx=0, this cell needs 1; with --allow-module-reload it is reloaded");
        insta::assert_snapshot!(direct(&host(true, None)), @"vhost_net does not say its experimental_zcopytx (no /sys/module/vhost_net/parameters/experimental_zcopytx)");
        let mut none = host(true, None);
        none.kernel.vhost_obstacle = Some("this kernel has no vhost_net".into());
        assert_eq!(direct(&none), "this kernel has no vhost_net");
    }
}
