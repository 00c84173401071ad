//! Plan item 17 beyond the plan's words: what the guest has told its NIC holds where it moves to, by the same
//! QEMU or by another.
//!
//! These are cases of their own and not a part of `migrate`: they move the guest there and back (one
//! direction shows that filters come along, the other that promiscuous mode does), on a NIC with four
//! queues where it can have them, and judge much more. `migrate` in the `smoke` profile moves it once, for
//! a third of the processor time.

use super::faults::{self, AT_START, IN_TRAFFIC};
use super::migrate::{self, Journey};
use super::multiqueue::QUEUES;
use super::promisc::TCPDUMP;
use super::surviving::{Counted, GROUP, State, VLAN, under_new_mac};
use super::{Case, Fault, Moment, Red};
use crate::guest::dialect::Op;
use crate::matrix::Cell;
use crate::net::addr::Mac;
use crate::net::sabotage;
use crate::testbed::Testbed;
use crate::testbed::destination::{self, Announcement};
use crate::vm::cmdline::VmSpec;
use crate::vm::qemu::Qemu;
use anyhow::{Context as _, ensure};

/// Strikes when the guest has arrived, as if what is broken then had been lost on the way.
const LOST: Fault = Fault {
    moment: Moment::Arrived,
    ..AT_START
};

/// The destination's VM is another than the source's.
const OTHER_VM: Fault = Fault {
    red: Red::Says("goes on at the source: the destination"),
    ..AT_START
};

/// To another VM of the same QEMU.
pub static MIGRATE_STATE: Case = Case {
    name: "migrate_state",
    plan_item: "17",
    passes: "a MAC, an MTU, a VLAN, a multicast group, offloads switched off and (virtio) four queues, set by the guest, hold on the wire, for QEMU and for the guest when it has migrated and when it has come back; promiscuous and all-multicast mode come along and can be ended there, and none of the NIC's counters is less than before; the network is told of the guest's MAC, by virtio's guest itself in the VLAN as well",
    vm: state_vm,
    ops: &[
        Op::Address,
        Op::Down,
        Op::Mac,
        Op::Mtu,
        Op::Up,
        Op::VlanAdd,
        Op::PromiscOn,
        Op::PromiscOff,
    ],
    seconds: |_| 120.0,
    faults: &[
        Fault {
            name: "mac_lost",
            breaks: "the guest has the NIC's first MAC again when it has arrived",
            applies: |cell| cell.nic.takes_mac && LIVE_MAC.contains(&cell.nic.driver.as_str()),
            inject: |bed| {
                let first = bed.nic().mac;
                set(bed, &format!("ip link set dev DEV address {first}"))
            },
            red: Red::Says("the MAC that the guest set"),
            ..LOST
        },
        Fault {
            name: "vlan_lost",
            breaks: "the guest has left the VLAN when it has arrived",
            applies: takes_vlans,
            inject: leave_vlan,
            red: Red::Says("VLAN 10"),
            ..LOST
        },
        Fault {
            name: "vlan_retagged",
            breaks: "the host moves what the guest sends from there to another VLAN",
            applies: takes_vlans,
            inject: |bed| sabotage::retag(&bed.nic().tap, VLAN, VLAN + 1),
            red: Red::Says("VLAN 10"),
            ..LOST
        },
        Fault {
            name: "vlan_unannounced",
            breaks: "frames with a VLAN's tag that leave the destination's tap are dropped",
            applies: faults::virtio,
            inject: |_| sabotage::drop_tagged(destination::TAP),
            red: Red::Says("did not announce 198.19.0.2"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "group_lost",
            breaks: "the guest has left the multicast group when it has arrived",
            inject: |bed| set(bed, &format!("ip maddr del {GROUP} dev DEV")),
            red: Red::Says("the multicast group"),
            ..LOST
        },
        Fault {
            name: "mtu_lost",
            breaks: "the guest has another MTU when it has arrived",
            inject: |bed| set(bed, "ip link set dev DEV mtu 1300"),
            red: Red::Says("the MTU was set to"),
            ..LOST
        },
        Fault {
            name: "counters_lost",
            breaks: "the guest's ethtool says that the NIC has counted nothing when it has arrived",
            applies: |cell| LIVE_MAC.contains(&cell.nic.driver.as_str()),
            inject: |bed| {
                let script = "\"$REAL\" \"$@\" | sed 's/: [0-9][0-9]*$/: 0/'";
                faults::wrap(bed, "ethtool", script)
            },
            red: Red::Says("the NIC had counted"),
            ..LOST
        },
        Fault {
            name: "small_tap",
            breaks: "the destination's tap takes no more than 1000 bytes",
            inject: |bed| sabotage::set_tap_mtu(&bed.nic().tap, 1000),
            red: Red::Says("with the MTU at"),
            ..LOST
        },
        Fault {
            name: "offloads_lost",
            breaks: "segmentation is on again when the guest has arrived",
            applies: |cell| cell.nic.offloads.iter().any(|name| name == "tso"),
            inject: |bed| set(bed, "ethtool -K DEV tx on sg on tso on"),
            red: Red::Says("switched off"),
            ..LOST
        },
        Fault {
            name: "offloads_denied",
            breaks: "segmentation is on again when the guest has arrived, and its ethtool denies it",
            applies: faults::virtio,
            inject: |bed| {
                set(bed, "ethtool -K DEV tx on sg on tso on")?;
                faults::wrap(bed, "ethtool", "\"$REAL\" \"$@\" | sed 's/: on/: off/'")
            },
            red: Red::Says("a TCP segment of"),
            ..LOST
        },
        Fault {
            name: "long_segments_again",
            breaks: "the NIC takes long segments again when the guest has arrived, and its ethtool denies it",
            applies: faults::virtio,
            inject: |bed| {
                set(bed, "ethtool -K DEV rx-gro-hw on || ethtool -K DEV lro on")?;
                faults::wrap(bed, "ethtool", "\"$REAL\" \"$@\" | sed 's/: on/: off/'")
            },
            red: Red::Says("bytes went host→guest with the MTU at"),
            ..LOST
        },
        Fault {
            name: "queues_lost",
            breaks: "the guest uses one queue when it has arrived",
            applies: faults::virtio,
            inject: |bed| set(bed, "ethtool -L DEV combined 1"),
            red: Red::Says("the guest set 4 queues"),
            ..LOST
        },
        Fault {
            name: "queues_denied",
            breaks: "the guest uses one queue when it has arrived, and its ethtool denies it",
            applies: faults::virtio,
            inject: |bed| {
                set(bed, "ethtool -L DEV combined 1")?;
                faults::wrap(
                    bed,
                    "ethtool",
                    "\"$REAL\" \"$@\" | sed 's/^Combined:.*/Combined: 4/'",
                )
            },
            red: Red::Says("queues only"),
            ..LOST
        },
        Fault {
            name: "promisc_lost",
            breaks: "promiscuous mode is off when the guest has come back",
            moment: Moment::Returned,
            inject: |bed| {
                let link = under_new_mac(bed)?;
                bed.apply(Op::PromiscOff, &link, "")
            },
            red: Red::Says("in promiscuous mode the guest does not see"),
            ..LOST
        },
        Fault {
            name: "all_multicast_lost",
            breaks: "all-multicast mode is off when the guest has come back",
            applies: faults::virtio,
            moment: Moment::Returned,
            inject: |bed| set(bed, "ip link set dev DEV allmulticast off"),
            red: Red::Says("query-rx-filter has normal multicasts"),
            ..LOST
        },
        Fault {
            name: "promisc_stuck",
            breaks: "another program in the guest holds the NIC in promiscuous mode when it has come back",
            moment: Moment::Returned,
            inject: |bed| {
                set(
                    bed,
                    "tcpdump -i DEV -w /dev/null >/tmp/holder 2>&1 </dev/null &",
                )?;
                bed.agent
                    .until("grep -q listening /tmp/holder", TCPDUMP, "cat /tmp/holder")
            },
            red: Red::Says("outside promiscuous mode the guest sees"),
            ..LOST
        },
        Fault {
            name: "fewer_queues",
            breaks: "the destination's NIC has one queue",
            applies: faults::virtio,
            inject: |bed| {
                bed.alter_destination = Some(|spec| {
                    spec.nics[0].queues = 1;
                    spec.nics[0].properties.retain(|p| p != "mq=on");
                });
                Ok(())
            },
            ..OTHER_VM
        },
        NO_MRG_RXBUF,
        OTHER_MODEL,
    ],
    run: |bed| {
        let own = bed.own_qemu().clone();
        let whose = "the destination";
        there_and_back(bed, [(&own, whose), (&own, whose)])
    },
    ..Case::PLAIN
};

/// To each other QEMU of the run.
pub static MIGRATE_ACROSS: Case = Case {
    name: "migrate_across",
    passes: "as migrate_state, to another QEMU of the run and back, on the newest machine type that both have; a QEMU that refuses the guest says why, and the guest goes on where it was",
    across: true,
    faults: &[NO_MRG_RXBUF, OTHER_MODEL],
    run: |bed| {
        let other = bed.other.clone().context("the run has no other QEMU")?;
        let own = bed.own_qemu().clone();
        let name = format!("QEMU {} ({})", other.tested.facts.version, other.name);
        bed.notes.push(format!(
            "to {name} and back on machine type {}",
            bed.vm.spec.machine_type()
        ));
        there_and_back(bed, [(&other.tested.qemu, &name), (&own, "its first QEMU")])
    },
    ..MIGRATE_STATE
};

const NO_MRG_RXBUF: Fault = Fault {
    name: "no_mrg_rxbuf",
    breaks: "the destination's NIC lacks a feature that the driver has accepted (mrg_rxbuf=off)",
    applies: faults::virtio,
    inject: |bed| {
        bed.alter_destination = Some(|spec| spec.nics[0].properties.push("mrg_rxbuf=off".into()));
        Ok(())
    },
    ..OTHER_VM
};

const OTHER_MODEL: Fault = Fault {
    name: "other_model",
    breaks: "the destination's NIC is another model",
    inject: |bed| {
        bed.alter_destination = Some(|spec| {
            let nic = &mut spec.nics[0];
            nic.device = match nic.device.as_str() {
                "e1000" => "rtl8139",
                _ => "e1000",
            }
            .into();
            (nic.queues, nic.vhost) = (1, false);
            nic.properties.clear();
        });
        Ok(())
    },
    ..OTHER_VM
};

/// Drivers that take a MAC while their NIC is up.
const LIVE_MAC: [&str; 5] = ["virtio_net", "8139cp", "e1000", "e1000e", "igb"];

/// e100 takes no VLANs on an 82557.
pub(super) fn takes_vlans(cell: &Cell) -> bool {
    cell.nic.device != "i82557b"
}

/// Four queues, where the NIC has queues. One processor serves them all: what is under test is that the
/// device and its tap keep them apart.
fn state_vm(spec: &mut VmSpec) {
    spec.migratable = true;
    with_queues(spec);
}

/// As said of [`state_vm`], of the queues alone.
pub(super) fn with_queues(spec: &mut VmSpec) {
    if let Some(nic) = spec.nics.first_mut()
        && nic.device.starts_with("virtio-net")
    {
        nic.queues = QUEUES;
        nic.properties.extend(["mq=on".into(), "vectors=9".into()]);
    }
}

/// Runs a shell command on the NIC's interface, `DEV` in its text, whatever its MAC is.
pub(super) fn set(bed: &Testbed, command: &str) -> anyhow::Result<()> {
    let link = under_new_mac(bed)?;
    bed.agent.sh(&command.replace("DEV", &link.name)).map(drop)
}

/// A fault: the guest leaves a VLAN.
pub(super) fn leave_vlan(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = under_new_mac(bed)?;
    bed.apply(Op::VlanRemove, &link, &VLAN.to_string())
}

/// Has the guest set up its NIC, moves it to the first QEMU and from there to the second, each with the
/// name that messages give it. On arrival all must be as it was set. Then promiscuous mode is switched
/// on; it must be on after the second move, and can be ended, after which all must be as it was set. A VLAN
/// that is lost on the way is complained of last but one, and last that another MAC was announced than the
/// guest's, so that neither hides anything else.
fn there_and_back(bed: &mut Testbed, legs: [(&Qemu, &str); 2]) -> anyhow::Result<()> {
    let link = bed.up()?;
    let mut state = State::set(bed, &link)?;
    (state.expect(bed))
        .and_then(|()| state.expect_vlans(bed))
        .context("before the guest was moved anywhere")?;
    bed.notes.push(state.to_string());
    let (mut vlan_lost, mut announced) = (None, Ok(()));
    for (round, (to, whose)) in (1..).zip(legs) {
        let journey = Journey {
            round,
            command: migrate::command(),
            to: to.clone(),
            whose: whose.into(),
            mac: state.mac,
            vlan: state.in_vlan(),
        };
        let moved = format!("migration {round}");
        let counted = Counted::now(bed, &link)?;
        let announcement =
            migrate::once(bed, &journey, |_| Ok(())).with_context(|| moved.clone())?;
        announced = announced.and(of_guests_mac(announcement, state.mac, &moved));
        if state.promiscuous {
            bed.moment(Moment::Returned)?;
            state
                .expect_promiscuous(bed)
                .with_context(|| moved.clone())?;
            state.set_promiscuous(bed, false)?;
        } else {
            bed.moment(Moment::Arrived)?;
        }
        let arrived = Counted::now(bed, &link)?;
        // Who sets up the NIC anew has it count anew: what was set is judged first.
        state
            .expect(bed)
            .and_then(|()| counted.expect_kept(&arrived))
            .with_context(|| moved.clone())?;
        if vlan_lost.is_none()
            && let Err(error) = state.expect_vlans(bed)
        {
            vlan_lost = Some(error.context(moved));
        }
        if round == 1 {
            state.set_promiscuous(bed, true)?;
            state
                .expect_promiscuous(bed)
                .context("before the guest was moved back")?;
        }
    }
    bed.expect_quiet_kernel()?;
    vlan_lost.map_or(announced, Err)
}

/// Whether the network learned of the guest's own MAC.
fn of_guests_mac(announcement: Announcement, mac: Mac, moved: &str) -> anyhow::Result<()> {
    let Announcement { mac: first, by } = announcement;
    ensure!(
        first == mac,
        "{moved}: the NIC's first MAC, {first}, was announced by {by}, and not the guest's, {mac}"
    );
    Ok(())
}
