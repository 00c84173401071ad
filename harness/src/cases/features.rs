//! Plan item 19: `indirect_desc` and `event_idx`; and what QEMU says of a virtio device.

use super::faults::{self, AT_START, IN_TRAFFIC, TAP_UNPLUGGED, UNBOUND};
use super::properties::version;
use super::{Case, Fault, Moment, Red, StartState};
use crate::base::error::{Skip, find};
use crate::guest::dialect::Op;
use crate::guest::link::Link;
use crate::matrix::Cell;
use crate::testbed::Testbed;
use crate::vm::cmdline::VmSpec;
use crate::vm::wire::Refused;
use anyhow::{Context as _, bail, ensure};
use serde_json::json;

/// A feature's bit (virtio 1.2, 6), the name that QEMU's `x-query-virtio-status` prints, and QEMU's
/// property for it.
const BITS: [(usize, &str, &str); 2] = [
    (28, "VIRTIO_RING_F_INDIRECT_DESC", "indirect_desc"),
    (29, "VIRTIO_RING_F_EVENT_IDX", "event_idx"),
];

/// What QEMU has offered by default since 2.12 or before, and Linux's driver takes: bit, name, and the property by which
/// a NIC may be without it.
const DEFAULTS: [(usize, &str, &str); 17] = [
    (0, "VIRTIO_NET_F_CSUM", "csum"),
    (1, "VIRTIO_NET_F_GUEST_CSUM", "guest_csum"),
    (2, "VIRTIO_NET_F_CTRL_GUEST_OFFLOADS", "ctrl_guest_offloads"),
    (5, "VIRTIO_NET_F_MAC", "mac"),
    (7, "VIRTIO_NET_F_GUEST_TSO4", "guest_tso4"),
    (8, "VIRTIO_NET_F_GUEST_TSO6", "guest_tso6"),
    (9, "VIRTIO_NET_F_GUEST_ECN", "guest_ecn"),
    (11, "VIRTIO_NET_F_HOST_TSO4", "host_tso4"),
    (12, "VIRTIO_NET_F_HOST_TSO6", "host_tso6"),
    (13, "VIRTIO_NET_F_HOST_ECN", "host_ecn"),
    (15, "VIRTIO_NET_F_MRG_RXBUF", "mrg_rxbuf"),
    (16, "VIRTIO_NET_F_STATUS", "status"),
    (17, "VIRTIO_NET_F_CTRL_VQ", "ctrl_vq"),
    (18, "VIRTIO_NET_F_CTRL_RX", "ctrl_rx"),
    (19, "VIRTIO_NET_F_CTRL_VLAN", "ctrl_vlan"),
    (21, "VIRTIO_NET_F_GUEST_ANNOUNCE", "guest_announce"),
    (23, "VIRTIO_NET_F_CTRL_MAC_ADDR", "ctrl_mac_addr"),
];

/// The first Linux, major and minor, whose driver takes a feature by that bit, where guests may be older.
const SINCE: [(usize, (u32, u32)); 3] = [(2, (4, 14)), (21, (3, 5)), (23, (3, 8))];

/// Where the legacy interface has the features that the driver accepted, bytes from the beginning of its
/// I/O ports (virtio 1.2, 4.1.4.10).
const DRIVER_FEATURES: i64 = 4;

/// What `x-query-virtio-status` calls a device whose driver is ready.
const DRIVER_OK: &str = "VIRTIO_CONFIG_S_DRIVER_OK";

/// By default.
pub static FEATURES: Case = Case {
    name: "features",
    plan_item: "19",
    passes: "sysfs feature bits 28 and 29 are 1 by default, QEMU says that it offers both and that the driver accepted them, the 17 features of the NIC that QEMU has by default and Linux takes are 1 as well, and traffic flows",
    applies: has_defaults,
    start_state: StartState::ColdDriver,
    ops: &[Op::Address],
    faults: &[
        Fault {
            name: "indirect_off",
            breaks: "QEMU does not offer indirect_desc",
            applies: faults::virtio,
            vm: |spec, _| spec.nics[0].properties.push("indirect_desc=off".into()),
            red: Red::Says("feature bit 28 (VIRTIO_RING_F_INDIRECT_DESC) is 0"),
            ..AT_START
        },
        Fault {
            name: "event_idx_off",
            breaks: "QEMU does not offer event_idx",
            applies: faults::virtio,
            vm: |spec, _| spec.nics[0].properties.push("event_idx=off".into()),
            red: Red::Says("feature bit 29 (VIRTIO_RING_F_EVENT_IDX) is 0"),
            ..AT_START
        },
        Fault {
            name: "no_ecn",
            breaks: "QEMU does not offer to take segments with ECN (host_ecn=off)",
            applies: faults::virtio,
            vm: |spec, _| spec.nics[0].properties.push("host_ecn=off".into()),
            red: Red::Says("feature bit 13 (VIRTIO_NET_F_HOST_ECN) is 0"),
            ..AT_START
        },
        Fault {
            moment: Moment::Start,
            ..TAP_UNPLUGGED
        },
    ],
    run: |bed| features(bed, true),
    ..Case::PLAIN
};

/// Virtio whose properties say nothing of [`BITS`].
fn has_defaults(cell: &Cell) -> bool {
    let given = |(_, _, property): &(usize, _, &str)| cell.nic.variant.property(property).is_some();
    faults::virtio(cell) && !BITS.iter().any(given)
}

/// With both switched off.
pub static FEATURES_OFF: Case = Case {
    name: "features_off",
    plan_item: "19",
    passes: "with indirect_desc=off,event_idx=off both bits are 0 in sysfs and in QEMU, and traffic flows",
    applies: faults::virtio,
    start_state: StartState::ColdDriver,
    vm: off,
    ops: &[Op::Address],
    faults: &[
        Fault {
            name: "left_on",
            breaks: "QEMU offers both all the same",
            applies: faults::virtio,
            vm: |spec, _| {
                spec.nics[0]
                    .properties
                    .extend(["indirect_desc=on".into(), "event_idx=on".into()])
            },
            red: Red::Says("feature bit 28 (VIRTIO_RING_F_INDIRECT_DESC) is 1"),
            ..AT_START
        },
        Fault {
            moment: Moment::Start,
            ..TAP_UNPLUGGED
        },
    ],
    run: |bed| features(bed, false),
    ..Case::PLAIN
};

fn off(spec: &mut VmSpec) {
    spec.nics[0]
        .properties
        .extend(["indirect_desc=off".into(), "event_idx=off".into()]);
}

/// What QEMU says of the device as a whole.
pub static VIRTIO_STATUS: Case = Case {
    name: "virtio_status",
    passes: "QEMU answers x-query-virtio-status: the driver is ready, and both feature bits are as in the guest's sysfs",
    applies: faults::virtio,
    ops: &[Op::Address],
    faults: &[Fault {
        name: "unbound",
        breaks: UNBOUND.breaks,
        inject: UNBOUND.inject,
        red: Red::Says("expected VIRTIO_CONFIG_S_DRIVER_OK"),
        ..IN_TRAFFIC
    }],
    run: virtio_status,
    ..Case::PLAIN
};

/// Reads both feature bits in the guest's sysfs, asks QEMU whether it offers them and whether the driver
/// accepted them, and demands that traffic flows.
fn features(bed: &mut Testbed, expected: bool) -> anyhow::Result<()> {
    let link = bed.link()?;
    let bits = in_sysfs(bed, &link)?;
    for (bit, name, _) in BITS {
        let set = is_set(&bits, bit);
        ensure!(
            set == expected,
            "feature bit {bit} ({name}) is {}, expected {}; the guest's sysfs has {bits}",
            u8::from(set),
            u8::from(expected)
        );
    }
    if expected {
        defaults(bed, &bits)?;
    }
    for (_, _, property) in BITS {
        let offered = bed.vm.call(&qapi::qmp::qom_get {
            path: format!("/machine/peripheral/{}", bed.nic().id),
            property: property.into(),
        })?;
        ensure!(
            offered == json!(expected),
            "QEMU's device has {property}={offered}, expected {expected}"
        );
    }
    match accepted(bed)? {
        Some(accepted) => {
            for (bit, name, _) in BITS {
                let set = accepted >> bit & 1 == 1;
                ensure!(
                    set == expected,
                    "QEMU says that the driver accepted features {accepted:#010x}, where bit {bit} ({name}) is {}, expected {}",
                    u8::from(set),
                    u8::from(expected)
                );
            }
        }
        None => bed.notes.push(
            "the device has no legacy interface, where QEMU would say what the driver accepted"
                .into(),
        ),
    }
    bed.up()?;
    bed.expect_replies(10, 1440)
}

/// Demands of the guest's sysfs each feature that QEMU has by default, unless the matrix file switches it for this NIC.
fn defaults(bed: &Testbed, bits: &str) -> anyhow::Result<()> {
    let release = bed.agent.sh("uname -r")?;
    let linux =
        version(&release).with_context(|| format!("the guest's kernel is {:?}", release.trim()))?;
    let variant = &bed.cell.nic.variant;
    for (bit, name, property) in DEFAULTS {
        let since = SINCE.iter().find(|(of, _)| *of == bit);
        let too_old = since.is_some_and(|(_, since)| linux < *since);
        ensure!(
            is_set(bits, bit) || too_old || variant.property(property).is_some(),
            "feature bit {bit} ({name}) is 0, expected 1, as QEMU offers it by default; the guest's sysfs has {bits}"
        );
    }
    Ok(())
}

/// Asks QEMU for the device's state while traffic flows.
fn virtio_status(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    let bits = in_sysfs(bed, &link)?;
    bed.moment(Moment::Traffic)?;
    let path = format!("/machine/peripheral/{}/virtio-backend", bed.nic().id);
    let asked = bed
        .vm
        .call_raw("x-query-virtio-status", json!({ "path": path }));
    let unknown = |error: &anyhow::Error| {
        find::<Refused>(error).is_some_and(|r| r.class == "CommandNotFound")
    };
    let status = match asked {
        Err(error) if unknown(&error) => {
            bail!(Skip("this QEMU has no x-query-virtio-status".into()))
        }
        asked => asked?,
    };
    let states = status["status"]["statuses"].to_string();
    ensure!(
        states.contains(DRIVER_OK),
        "expected {DRIVER_OK} in what QEMU's x-query-virtio-status says of the device, found {states}"
    );
    let accepted = status["guest-features"].to_string();
    for (bit, name, _) in BITS {
        let set = is_set(&bits, bit);
        ensure!(
            accepted.contains(name) == set,
            "the guest's sysfs has feature bit {bit} ({name}) as {}, and QEMU's x-query-virtio-status disagrees: {accepted}",
            u8::from(set)
        );
    }
    bed.expect_replies(10, 1440)
}

/// The features in the guest's sysfs, a digit a bit, from bit 0 on.
pub(super) fn in_sysfs(bed: &Testbed, link: &Link) -> anyhow::Result<String> {
    let directory = Testbed::device_directory(link);
    let bits = bed.agent.sh(&format!("cat {directory}/features"))?;
    Ok(bits.trim().to_owned())
}

/// Whether the bit is among features from sysfs.
pub(super) fn is_set(bits: &str, bit: usize) -> bool {
    bits.as_bytes().get(bit) == Some(&b'1')
}

/// Features 0 to 31 that the driver accepted, as QEMU keeps them; nothing where the device has no legacy
/// interface. QEMU's own command for it came with 7.2, and 11.1 aborts on it ([`VIRTIO_STATUS`]);
/// every version shows the device's I/O ports.
fn accepted(bed: &Testbed) -> anyhow::Result<Option<u32>> {
    let device = bed.pci_device(&bed.nic().id)?;
    let ports = device
        .regions
        .iter()
        .find(|region| region.type_ == "io" && region.address >= 0);
    let Some(ports) = ports else {
        return Ok(None);
    };
    let port = ports.address + DRIVER_FEATURES;
    let said = bed.vm.hmp(&format!("i /w {port:#x}"))?;
    let value = said
        .trim()
        .rsplit_once("= 0x")
        .and_then(|(_, value)| u32::from_str_radix(value, 16).ok());
    value.map(Some).with_context(|| {
        format!(
            "expected the value of port {port:#x}, found {:?}",
            said.trim()
        )
    })
}
