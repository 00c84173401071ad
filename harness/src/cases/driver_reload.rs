//! A NIC whose driver is unloaded and loaded again: of what the guest told it nothing is left.

use super::disruption::load_driver_anew;
use super::faults::{self, AT_START};
use super::migrate_state::{set, takes_vlans, with_queues};
use super::surviving::{GROUP, State, VLAN, takes_further, under_new_mac};
use super::{Case, Fault, Moment, Red};
use crate::guest::dialect::Op;
use anyhow::Context as _;

/// Strikes when the driver begins anew, as if what is broken then were left of before.
const LEFT: Fault = Fault {
    moment: Moment::Reloaded,
    ..AT_START
};

/// What of the first driver's is left, in the guest alone.
pub(super) const MAC_LEFT: Fault = Fault {
    name: "mac_left",
    breaks: "the guest's NIC has the MAC of before when its driver begins anew",
    applies: |cell| cell.nic.takes_mac,
    inject: |bed| {
        let mac = bed.nic().mac.opposite();
        set(bed, &format!("ip link set dev DEV address {mac}"))
    },
    red: Red::Says("begins anew with the MAC"),
    ..LEFT
};

/// As [`MAC_LEFT`].
pub(super) const MTU_LEFT: Fault = Fault {
    name: "mtu_left",
    breaks: "the guest's NIC has another MTU when its driver begins anew",
    inject: |bed| set(bed, "ip link set dev DEV mtu 1300"),
    red: Red::Says("begins anew with an MTU of 1300"),
    ..LEFT
};

/// What is left of it for QEMU too.
pub(super) const GROUP_LEFT: Fault = Fault {
    name: "group_left",
    breaks: "the guest is in a multicast group when its driver begins anew",
    applies: |cell| {
        ["virtio-net-pci", "e1000", "e1000e", "rtl8139"].contains(&cell.nic.device.as_str())
    },
    inject: |bed| set(bed, &format!("ip maddr add {GROUP} dev DEV")),
    red: Red::Says("01:00:5e:12:"),
    ..LEFT
};

/// What sets all that is then gone.
pub(super) const OPS: &[Op] = &[
    Op::Address,
    Op::Down,
    Op::Mac,
    Op::Mtu,
    Op::Up,
    Op::VlanAdd,
    Op::PromiscOn,
];

/// Beyond the plan.
pub static DRIVER_RELOAD: Case = Case {
    name: "driver_reload",
    passes: "a MAC, an MTU, VLANs, multicast groups, promiscuous and all-multicast mode, offloads switched off and (virtio) four queues, set by the guest, are gone when its driver was unloaded and loaded again: the NIC has its own MAC for the guest and for QEMU, answers, takes no frame of before, and offers its offloads",
    vm: with_queues,
    ops: OPS,
    faults: &[
        MAC_LEFT,
        MTU_LEFT,
        GROUP_LEFT,
        Fault {
            name: "vlan_left",
            breaks: "the guest is in a VLAN when its driver is loaded again",
            applies: |cell| faults::virtio(cell) && takes_vlans(cell),
            inject: |bed| bed.apply(Op::VlanAdd, &under_new_mac(bed)?, &VLAN.to_string()),
            red: Red::Says("QEMU's query-rx-filter has VLANs [10]"),
            ..LEFT
        },
        Fault {
            name: "offloads_left",
            breaks: "segmentation is off when the driver is loaded again",
            applies: |cell| cell.nic.offloads.iter().any(|name| name == "tso"),
            inject: |bed| set(bed, "ethtool -K DEV tso off"),
            red: Red::Says("tso was on when the driver began before"),
            ..LEFT
        },
        Fault {
            name: "mac_heard",
            breaks: "the guest's NIC still takes frames for the MAC of before when its driver is loaded again",
            applies: |cell| takes_further(cell) && !faults::virtio(cell),
            inject: |bed| {
                let old = bed.nic().mac.opposite();
                set(bed, &format!("bridge fdb add {old} dev DEV self permanent"))
            },
            red: Red::Says("of which the NIC was told before"),
            ..LEFT
        },
    ],
    run: |bed| {
        let link = bed.up()?;
        let mut state = State::set(bed, &link)?;
        state.set_promiscuous(bed, true)?;
        bed.notes.push(state.to_string());
        // Requests come all the while.
        let stream = bed.ping().interval(0.01).spawn()?;
        load_driver_anew(bed).context("the guest's driver was unloaded and loaded again")?;
        drop(stream);
        bed.moment(Moment::Reloaded)?;
        state.expect_forgotten(bed)?;
        bed.expect_quiet_kernel()
    },
    ..Case::PLAIN
};
