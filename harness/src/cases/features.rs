//! Plan item 19: `indirect_desc` and `event_idx`.

use super::faults::{self, AT_START, TAP_UNPLUGGED};
use super::{Case, Fault, Moment, Red, StartState};
use crate::guest::dialect::Op;
use crate::testbed::Testbed;
use crate::vm::cmdline::VmSpec;
use anyhow::ensure;

/// VIRTIO_RING_F_INDIRECT_DESC and VIRTIO_RING_F_EVENT_IDX (virtio 1.2, 6), with the names that
/// QEMU's `x-query-virtio-status` prints.
const BITS: [(usize, &str); 2] = [
    (28, "VIRTIO_RING_F_INDIRECT_DESC"),
    (29, "VIRTIO_RING_F_EVENT_IDX"),
];

/// By default.
pub static FEATURES: Case = Case {
    name: "features",
    plan_item: "19",
    passes: "sysfs feature bits 28 and 29 are 1 by default, QEMU says they were negotiated, and traffic flows",
    applies: faults::virtio,
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
            moment: Moment::Start,
            ..TAP_UNPLUGGED
        },
    ],
    run: |bed| features(bed, true),
    ..Case::PLAIN
};

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

/// Reads both feature bits in the guest's sysfs, asks QEMU whether they were negotiated, and demands
/// that traffic flows.
fn features(bed: &mut Testbed, expected: bool) -> anyhow::Result<()> {
    let link = bed.link()?;
    let directory = Testbed::device_directory(&link);
    let bits = bed.agent.sh(&format!("cat {directory}/features"))?;
    let bits = bits.trim();
    for (bit, name) in BITS {
        let set = bits.as_bytes().get(bit) == Some(&b'1');
        ensure!(
            set == expected,
            "feature bit {bit} ({name}) is {}, expected {}; the guest's sysfs has {bits}",
            u8::from(set),
            u8::from(expected)
        );
    }
    // QEMU before 7.2 has no such command; then the guest and the traffic are the witnesses.
    let path = format!("/machine/peripheral/{}/virtio-backend", bed.nic().id);
    let status = bed
        .vm
        .call_raw("x-query-virtio-status", serde_json::json!({ "path": path }));
    match status {
        Ok(status) => {
            let negotiated = status["guest-features"].to_string();
            for (_, name) in BITS {
                ensure!(
                    negotiated.contains(name) == expected,
                    "QEMU's x-query-virtio-status disagrees on {name}: {negotiated}"
                );
            }
        }
        Err(error) if error.to_string().contains("CommandNotFound") => {
            bed.notes
                .push("this QEMU has no x-query-virtio-status: not asked".into());
        }
        Err(error) => return Err(error),
    }
    bed.up()?;
    bed.expect_replies(10, 1440)
}
