//! Plan item 1 in its own words for RHEL 4 and 5: `host_net_add`, `pci_add`, `host_net_remove`,
//! `pci_del`. QEMU had them before `netdev_add` and `device_add`; each is tried first, and the report
//! says what became of it.

use crate::base::deadline;
use crate::guest::link::Link;
use crate::testbed::Testbed;
use anyhow::{bail, ensure};

/// The plan's `vlan=0`, and the name that QEMU gives the first tap on it.
const HUB: &str = "0";
const FIRST_TAP: &str = "tap.0";

/// Plugs the NIC under test so; whether this QEMU could, or else must be asked in other words.
///
/// # Errors
/// When QEMU knows the words and refuses.
pub(super) fn plug(bed: &mut Testbed) -> anyhow::Result<bool> {
    let nic = bed.nic().clone();
    let model = match nic.device.as_str() {
        "virtio-net-pci" => "virtio",
        other => other,
    };
    let vhost = if nic.vhost { ",vhost=on" } else { "" };
    let backend = tried(
        bed,
        &format!(
            "host_net_add tap sndbuf=0,vlan={HUB},ifname={},script=no,downscript=no{vhost}",
            nic.tap
        ),
        "netdev_add",
    )?;
    let device = tried(
        bed,
        &format!(
            "pci_add pci_addr=auto nic vlan={HUB},model={model},macaddr={}",
            nic.mac
        ),
        "device_add",
    )?;
    if let Some(said) = &backend {
        ensure!(said.is_empty(), "host_net_add was refused over HMP: {said}");
    }
    match (backend, device) {
        (None, None) => Ok(false),
        // One of them alone plugs nothing.
        (Some(_), None) => {
            bed.vm.hmp(&format!("host_net_remove {HUB} {FIRST_TAP}"))?;
            Ok(false)
        }
        (_, Some(said)) if !said.starts_with("OK") => {
            bail!("pci_add was refused over HMP: {said}")
        }
        (Some(_), Some(_)) => {
            let network = bed.vm.hmp("info network")?;
            ensure!(
                network.contains(&nic.mac.to_string()),
                "pci_add was accepted, but QEMU shows {network}"
            );
            Ok(true)
        }
        (None, Some(said)) => bail!("pci_add was accepted with no network to be on: {said}"),
    }
}

/// Unplugs the NIC behind `link` so, if `plug` plugged it; else only says what QEMU has to say to it.
///
/// # Errors
/// When QEMU refuses, or the guest does not let go of the NIC.
pub(super) fn unplug(bed: &mut Testbed, link: &Link, plugged: bool) -> anyhow::Result<()> {
    let mark = bed.vm.qmp.mark();
    let slot = slot(&link.pci);
    for (line, successor) in [
        (format!("host_net_remove {HUB} {FIRST_TAP}"), "netdev_del"),
        (format!("pci_del pci_addr={slot}"), "device_del"),
    ] {
        let said = tried(bed, &line, successor)?;
        ensure!(
            !plugged || said.as_deref() == Some(""),
            "`{line}` was refused over HMP: {said:?}"
        );
    }
    if plugged {
        // It has no id to be told by.
        bed.vm
            .qmp
            .event(mark, deadline::DEVICE_DELETED.start(), |event| {
                (event.name == "DEVICE_DELETED").then_some(())
            })?;
    }
    Ok(())
}

/// Types `line` into the human monitor: what QEMU said, `None` where it does not know the command.
/// Then `successor` is what does it, and the report says so, once.
fn tried(bed: &mut Testbed, line: &str, successor: &str) -> anyhow::Result<Option<String>> {
    let said = bed.vm.hmp(line)?;
    let said = said.trim();
    let (note, known) = match is_unknown(said) {
        true => (
            format!("`{line}`: QEMU says \"{said}\"; {successor} runs in its place"),
            None,
        ),
        false => (format!("`{line}` ran: {said:?}"), Some(said.to_owned())),
    };
    if !bed.notes.contains(&note) {
        bed.notes.push(note);
    }
    Ok(known)
}

/// The slot of a PCI function such as `0000:00:05.0`, as the plan writes it.
fn slot(pci: &str) -> &str {
    let device = pci.rsplit(':').next().unwrap_or(pci);
    device.split('.').next().unwrap_or(device)
}

/// Whether the human monitor has no such command.
fn is_unknown(said: &str) -> bool {
    said.to_lowercase().starts_with("unknown command")
}

#[cfg(test)]
mod tests {
    use super::{is_unknown, slot};

    #[test]
    fn a_slot_is_written_as_in_the_plan() {
        assert_eq!(slot("0000:00:05.0"), "05");
    }

    #[test]
    fn a_command_that_is_not_there_is_told_from_one_that_refuses() {
        assert!(is_unknown("unknown command: 'pci_add'"));
        for said in [
            "",
            "OK domain 0, bus 0, slot 5, function 0",
            "device type nic: unknown command line option",
            "Error: Device 'tap.0' not found",
        ] {
            assert!(!is_unknown(said), "{said}");
        }
    }
}
