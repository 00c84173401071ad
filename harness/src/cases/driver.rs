//! Plan items 5 and 8: which driver serves the NIC, and what it says of itself.

use super::faults::{AT_START, BLACKLISTED, OTHER_MODEL, UNBOUND};
use super::{Case, Fault, Red, StartState};
use crate::guest::dialect::Op;
use crate::guest::link::{await_link, fields};
use crate::guest::pci_config;
use crate::matrix::schema::Interrupts;
use crate::net::addr::Mac;
use crate::testbed::Testbed;
use crate::vm::cmdline::USB_CONTROLLER;
use anyhow::{Context, ensure};

/// The second NIC of a fault.
const OTHER_MAC: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);

/// Plan item 5.
pub static DRIVER: Case = Case {
    name: "driver",
    plan_item: "5",
    passes: "`ethtool -i` names the driver that matrix.toml expects for this model on this guest, and QEMU has that model at that MAC",
    start_state: StartState::ColdDriver,
    faults: &[OTHER_MODEL, BLACKLISTED, UNBOUND],
    run: driver,
    ..Case::PLAIN
};

/// Plan item 8.
pub static DRIVER_INFO: Case = Case {
    name: "driver_info",
    plan_item: "8",
    passes: "what `ethtool -i` says (driver, bus-info) agrees with sysfs, and the PCI function it names holds this NIC in QEMU's `query-pci`; its interrupts come by INTx, MSI or MSI-X, as matrix.toml expects",
    start_state: StartState::ColdDriver,
    faults: &[
        UNBOUND,
        Fault {
            name: "no_messages",
            breaks: "the guest's kernel takes interrupts by their lines alone (pci=nomsi)",
            applies: |cell| cell.nic.interrupts == Some(Interrupts::Msix),
            vm: |spec, _| spec.kernel_parameter("pci=nomsi"),
            red: Red::Says("takes its interrupts by INTx"),
            ..AT_START
        },
        Fault {
            name: "swapped",
            breaks: "the guest swaps the MACs of two NICs, so that the one under test is in another slot",
            vm: |spec, _| {
                let mut second = spec.nics[0].clone();
                second.place = 1;
                second.id = "nic1".into();
                second.tap = "tap1".into();
                second.mac = OTHER_MAC;
                spec.nics.push(second);
            },
            inject: |bed| {
                let (first, second) = (bed.link()?, await_link(&bed.agent, OTHER_MAC)?);
                bed.apply(Op::Mac, &first, &OTHER_MAC.to_string())?;
                bed.apply(Op::Mac, &second, &first.mac.to_string())
            },
            red: Red::Says("QEMU has"),
            ..AT_START
        },
    ],
    run: driver_info,
    ..Case::PLAIN
};

/// Compares the driver that `ethtool -i` names with the one that the matrix expects, then QEMU's model
/// and MAC with the cell's and the guest's.
fn driver(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.link()?;
    let info = fields(&bed.agent.sh(&format!("ethtool -i {}", link.name))?);
    let bound = info.get("driver").map(String::as_str).unwrap_or_default();
    let expected = &bed.cell.nic.driver;
    ensure!(
        bound == expected,
        "{} is bound by the driver {bound:?}; {} on {} expects {expected:?}",
        link.name,
        bed.cell.nic.name,
        bed.cell.guest.name
    );
    let qemu = bed.qemu_nic()?;
    ensure!(
        qemu.model == bed.cell.nic.device && qemu.mac == link.mac,
        "the guest's {} has MAC {}, but QEMU has {} with MAC {} there",
        link.name,
        link.mac,
        qemu.model,
        qemu.mac
    );
    Ok(())
}

/// Compares what `ethtool -i` says, driver and bus-info, with sysfs. Then QEMU must have the NIC under
/// test at the place that bus-info names.
fn driver_info(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.link()?;
    let text = bed.agent.sh(&format!("ethtool -i {}", link.name))?;
    let info = fields(&text);
    let field = |key: &str| {
        info.get(key)
            .with_context(|| format!("`ethtool -i` has no {key}: {text}"))
    };
    ensure!(
        *field("driver")? == link.driver,
        "`ethtool -i` says driver {}, sysfs says {}",
        info["driver"],
        link.driver
    );
    ensure!(
        *field("bus-info")? == link.bus_info(),
        "`ethtool -i` says bus-info {}, sysfs says {}",
        info["bus-info"],
        link.bus_info()
    );
    let mut holder = qdev_at(bed, &link.pci)?;
    if let (Some(port), USB_CONTROLLER) = (&link.usb_port, holder.as_str()) {
        let devices = bed.vm.hmp("info usb")?;
        holder = usb_qdev_on(&devices, port).unwrap_or_default().to_owned();
    }
    ensure!(
        holder == bed.nic().id,
        "the guest has MAC {} at {}, where QEMU has {holder:?} instead of {:?}",
        link.mac,
        link.bus_info(),
        bed.nic().id
    );
    if let Some(expected) = bed.cell.nic.interrupts {
        let taken = pci_config::interrupts(&bed.agent, &link.pci)?;
        ensure!(
            taken == expected,
            "{} on {} takes its interrupts by {taken}, and the matrix file expects {expected}",
            link.driver,
            bed.cell.guest.name
        );
    }
    for key in ["version", "firmware-version"] {
        bed.notes.push(format!("{key}: {}", field(key)?));
    }
    Ok(())
}

/// The id of the device that QEMU's `info usb` shows on `port` of the one controller.
fn usb_qdev_on<'a>(devices: &'a str, port: &str) -> Option<&'a str> {
    devices
        .lines()
        .find(|line| line.contains(&format!("Port {port},")))
        .and_then(|line| line.split_once("ID: "))
        .map(|(_, id)| id.trim())
}

/// The id of the device that QEMU's `query-pci` shows at `domain:bus:slot.function`.
fn qdev_at(bed: &Testbed, pci: &str) -> anyhow::Result<String> {
    let number = |text: &str| i64::from_str_radix(text, 16);
    let mut parts = pci.split([':', '.']).skip(1);
    let mut next = || {
        parts
            .next()
            .with_context(|| format!("{pci:?} is no PCI function"))
    };
    let (bus, slot, function) = (number(next()?)?, number(next()?)?, number(next()?)?);
    let buses = bed.vm.call_raw("query-pci", serde_json::json!({}))?;
    let mut found = None;
    let mut walk = vec![&buses];
    while let Some(value) = walk.pop() {
        match value {
            serde_json::Value::Array(items) => walk.extend(items),
            serde_json::Value::Object(map) => {
                let at = |key: &str| map.get(key).and_then(serde_json::Value::as_i64);
                if (at("bus"), at("slot"), at("function"))
                    == (Some(bus), Some(slot), Some(function))
                {
                    found = map.get("qdev_id").and_then(|id| id.as_str());
                }
                walk.extend(map.values());
            }
            _ => {}
        }
    }
    Ok(found.unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::usb_qdev_on;

    #[test]
    fn a_usb_device_is_found_by_its_port() {
        let devices = "\
  Device 0.1, Port 1, Speed 12 Mb/s, Product RNDIS/QEMU USB Network Device, ID: nic0\r
  Device 0.2, Port 10, Speed 12 Mb/s, Product RNDIS/QEMU USB Network Device, ID: nic1\r
";
        assert_eq!(usb_qdev_on(devices, "1"), Some("nic0"));
        assert_eq!(usb_qdev_on(devices, "10"), Some("nic1"));
        assert_eq!(usb_qdev_on(devices, "2"), None);
    }
}
