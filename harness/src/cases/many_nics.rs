//! As many NICs of one model as there is room for, plugged into a running guest.

use super::faults::{AT_START, IN_TRAFFIC, TAP_UNPLUGGED};
use super::hotplug::{arguments, expect_descriptors_closed, make_ready, typed};
use super::lanes::{self, Lane};
use super::{Case, Fault, Moment, Red, StartState};
use crate::base::deadline::Limit;
use crate::guest::dialect::Op;
use crate::guest::link::{self, Link};
use crate::matrix::schema::{Dialect, Machine};
use crate::net::addr;
use crate::net::bridge;
use crate::net::capture::Room;
use crate::net::frame::Direction;
use crate::net::ping::Ping;
use crate::net::sabotage;
use crate::testbed::Testbed;
use crate::vm::cmdline::{NicSpec, VmSpec, is_usb};
use anyhow::{Context, ensure};
use serde_json::json;
use std::collections::BTreeSet;

/// On an i440FX machine's one bus, which has 32 slots: chipset and virtio-serial take three, and some stay free.
const ON_PCI: u8 = 27;
/// In the one slot behind a Q35 machine's root port: its functions.
const IN_A_SLOT: u8 = 8;
/// The acpi-index of the NIC in place 0; the others' follow.
const FIRST_INDEX: u32 = 100;
/// Echo requests to each NIC, all NICs at once.
const COUNT: u32 = 5;
/// Between two to one NIC, seconds.
const INTERVAL: f64 = 0.2;
/// Bytes of ICMP payload.
const SIZE: u32 = 1440;

/// The devices of the guest's interfaces, one a NIC.
const DEVICES: &str = "/sys/class/net/*/device";

/// From the last `device_add`: a guest under TCG takes some 0.2 s for a NIC.
const ALL_APPEAR: Limit = Limit {
    what: "the guest to show all NICs",
    seconds: 30.0,
};
/// From the first `device_del`: it takes as long to lose one.
const ALL_DELETED: Limit = Limit {
    what: "DEVICE_DELETED of all NICs",
    seconds: 30.0,
};
/// From the last `DEVICE_DELETED`.
const ALL_GONE: Limit = Limit {
    what: "the guest to lose all NICs",
    seconds: 8.0,
};

/// Plan item 1, of many at once.
pub static MANY_NICS: Case = Case {
    name: "many_nics",
    plan_item: "1",
    passes: "into a running guest go as many NICs as there is room for, 27 on an i440FX machine's bus, or the eight functions of a slot behind a Q35 machine's root port; the guest has each MAC, and acpi-index, at the PCI address where QEMU has it; all answer at once, each its own pings over its own tap; two have the same MAC, and the one of them that is up answers; unplugged together all are gone, from the guest, QEMU and the host",
    // An igb's virtual functions take places on its bus that others would.
    applies: |cell| cell.backend.filters() && !is_usb(&cell.nic.device) && cell.nic.device != "igb",
    start_state: StartState::ColdDriver,
    vm: many,
    ops: &[Op::BeforeHotplug, Op::Address, Op::Down],
    seconds: |_| ALL_APPEAR.seconds + ALL_DELETED.seconds,
    faults: &[
        Fault {
            name: "mac_moved",
            breaks: "two NICs have each other's MAC in the guest",
            inject: |bed| {
                let links = link::links(&bed.agent)?;
                let of = |place: usize| {
                    let mac = bed.vm.spec.nics[place].mac;
                    let link = links.iter().find(|link| link.mac == mac);
                    link.with_context(|| format!("the guest shows no {mac}"))
                };
                let (one, other) = (of(1)?, of(2)?);
                let set = |link: &Link, to: &Link| {
                    format!("ip link set {} address {}", link.name, to.mac)
                };
                let script = [set(one, other), set(other, one)].join(" && ");
                bed.agent.sh(&script).map(drop)
            },
            red: Red::Says("the guest has another MAC there"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "one_fewer",
            breaks: "the guest lets go of one NIC",
            inject: |bed| {
                let pci = guest_address(bed, &bed.vm.spec.nics[3])?;
                let remove = format!("echo 1 >/sys/bus/pci/devices/{pci}/remove");
                bed.agent.sh(&remove).map(drop)
            },
            red: Red::Says("the guest has no NIC there"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "other_index",
            breaks: "a NIC has another's acpi-index",
            applies: |cell| has_index(cell.guest.dialect),
            vm: |spec, _| spec.nics[0].properties.push("acpi-index=77".into()),
            red: Red::Says("acpi_index"),
            ..AT_START
        },
        Fault {
            breaks: "the tap of one of them is taken out of the bridge",
            inject: |bed| {
                let tap = bed.vm.spec.nics[2].tap.clone();
                sabotage::unplug(&bed.bridge, &tap)
            },
            ..TAP_UNPLUGGED
        },
        Fault {
            name: "one_way_out",
            breaks: "the guest forgets by which NIC to answer, and takes one for all",
            moment: Moment::Crossed,
            inject: lanes::answer_by_one,
            red: Red::Says("of another NIC left through"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "twin_unplugged",
            breaks: "the tap of the second NIC with that MAC is taken out of the bridge",
            inject: |bed| {
                let tap = twin(&bed.vm.spec).tap.clone();
                sabotage::unplug(&bed.bridge, &tap)
            },
            red: Red::Says("while the other with its MAC is down"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "unplug_unheard",
            breaks: "the guest's CPUs stand still, so nobody answers the requests to unplug",
            moment: Moment::Unplug,
            inject: |bed| bed.vm.call(&qapi::qmp::stop {}).map(drop),
            red: Red::Missed(ALL_DELETED),
            ..IN_TRAFFIC
        },
    ],
    run: many_nics,
    ..Case::PLAIN
};

fn many(spec: &mut VmSpec) {
    spec.nics[0].hotplug = true;
    let first = spec.nics[0].clone();
    let count = match spec.machine {
        Machine::Pc => ON_PCI,
        Machine::Q35 => IN_A_SLOT,
    };
    for place in 1..count {
        spec.nics.push(NicSpec {
            place,
            id: format!("nic{place}"),
            mac: match place {
                place if place == count - 1 => first.mac,
                _ => addr::mac("many_nics", place),
            },
            tap: format!("tap{place}"),
            ..first.clone()
        });
    }
    if spec.machine == Machine::Q35 {
        for nic in &mut spec.nics {
            nic.properties.push("multifunction=on".into());
            nic.properties.push(format!("addr=0.{}", nic.place));
        }
    }
}

/// The NIC with the first one's MAC.
fn twin(spec: &VmSpec) -> &NicSpec {
    &spec.nics[spec.nics.len() - 1]
}

/// Whether its kernel tells the acpi-index (Linux 3.0 on).
fn has_index(dialect: Dialect) -> bool {
    !matches!(dialect, Dialect::Rhel4 | Dialect::Rhel5 | Dialect::Rhel6)
}

fn many_nics(bed: &mut Testbed) -> anyhow::Result<()> {
    make_ready(bed)?;
    let before = bed.vm.descriptors()?;
    let indexed = plug(bed)?;
    let count = bed.vm.spec.nics.len();
    bed.agent.until(
        &format!("[ $(ls -d {DEVICES} | wc -l) -ge {count} ]"),
        ALL_APPEAR,
        &format!("ls -d {DEVICES}"),
    )?;
    bed.moment(Moment::Traffic)?;
    let nics = matched(bed, indexed)?;
    // The twin waits, down, until its address is no longer the first one's.
    let (twin, others) = nics.split_last().context("no NIC was plugged")?;
    bed.apply(Op::Address, &others[0].1, &addr::guest_with_prefix(0))?;
    let lanes = lanes::ready(bed, others, Room::Few)?;
    at_once(bed, &lanes)?;
    twins(bed, &lanes[0], twin)?;
    bed.expect_sound_frames()?;
    for lane in &lanes {
        lane.wire.judge()?;
    }
    drop(lanes);
    unplug(bed)?;
    expect_descriptors_closed(bed, &before)?;
    bed.notes
        .push(format!("{count} NICs were plugged, and unplugged again"));
    bed.expect_quiet_kernel()
}

/// Adds a tap and a device for each NIC. Whether this QEMU gives devices an acpi-index (6.1 and on).
fn plug(bed: &mut Testbed) -> anyhow::Result<bool> {
    let mut nics = bed.vm.spec.nics.clone();
    let listed = bed.vm.call_raw(
        "device-list-properties",
        json!({ "typename": nics[0].device }),
    )?;
    let mut names = listed.as_array().into_iter().flatten();
    let indexed = names.any(|property| property["name"] == "acpi-index");
    for nic in &nics {
        let netdev = arguments("netdev_add", &nic.netdev());
        bed.vm.call_raw("netdev_add", netdev)?;
        match nic.place {
            0 => bed.attach()?,
            _ => {
                bed.bridge.attach_tap(&nic.tap)?;
                bed.witness.allow_mac(nic.mac);
            }
        }
    }
    // A slot is looked at once its function 0 is there.
    nics.reverse();
    for mut nic in nics {
        let own = |property: &String| property.starts_with("acpi-index=");
        if indexed && !nic.properties.iter().any(own) {
            nic.properties.push(format!("acpi-index={}", index(&nic)));
        }
        let device = nic.device(bed.vm.spec.machine);
        let device = typed(arguments("device_add", &device), &listed);
        bed.vm
            .call_raw("device_add", device)
            .with_context(|| lanes::name(&nic))?;
    }
    Ok(indexed)
}

fn index(nic: &NicSpec) -> u32 {
    FIRST_INDEX + u32::from(nic.place)
}

/// Where the guest should have a NIC, by QEMU.
fn guest_address(bed: &Testbed, nic: &NicSpec) -> anyhow::Result<String> {
    let device = bed.pci_device(&nic.id)?;
    Ok(format!(
        "0000:{:02x}:{:02x}.{}",
        device.bus, device.slot, device.function
    ))
}

/// Each NIC as the guest shows it, at the PCI address where QEMU has it, with its MAC there.
fn matched(bed: &Testbed, indexed: bool) -> anyhow::Result<Vec<(NicSpec, Link)>> {
    let links = link::links(&bed.agent)?;
    let mut matched = Vec::new();
    for nic in &bed.vm.spec.nics {
        let qemu = bed.qemu_nic_of(nic)?;
        let pci = guest_address(bed, nic)?;
        let place = format!("QEMU has {} at {pci} with {}", nic.id, qemu.mac);
        let link = links.iter().find(|link| link.pci == pci);
        let link =
            link.with_context(|| format!("{place}; the guest has no NIC there: {links:?}"))?;
        ensure!(
            link.mac == qemu.mac && link.mac == nic.mac,
            "{place}, where it was given {}; the guest has another MAC there, {}",
            nic.mac,
            link.mac
        );
        // Of the functions of a slot that can be plugged into, ACPI describes the first alone.
        let described = bed.vm.spec.machine == Machine::Pc || nic.place == 0;
        if indexed && described && has_index(bed.cell.guest.dialect) {
            let file = format!("/sys/bus/pci/devices/{pci}/acpi_index");
            let said = bed.agent.run(&format!("cat {file}"))?.stdout;
            ensure!(
                said.trim() == index(nic).to_string(),
                "{place} and acpi-index {}; the guest's acpi_index reads {said:?}",
                index(nic)
            );
        }
        matched.push((nic.clone(), link.clone()));
    }
    Ok(matched)
}

/// What each NIC is asked.
fn pings(lane: &Lane) -> Ping {
    let ping = Ping::new(lane.address).count(COUNT).interval(INTERVAL);
    ping.size(SIZE)
}

/// Pings all at the same time.
fn at_once(bed: &mut Testbed, lanes: &[Lane]) -> anyhow::Result<()> {
    let fences = lanes::fences(lanes)?;
    let before = lanes::received(bed, lanes)?;
    bed.moment(Moment::Crossed)?;
    let reports = lanes::at_once(lanes, |lane| pings(lane).run(), || Ok(()))?;
    let counts: Vec<(u64, u64)> = reports
        .iter()
        .map(|report| (report.transmitted, report.received))
        .collect();
    lanes::expect_own(bed, lanes, &fences, &before, &counts)?;
    for (lane, report) in lanes.iter().zip(&reports) {
        report
            .expect_all_answered(COUNT.into())
            .with_context(|| lanes::name(&lane.nic))?;
    }
    Ok(())
}

/// The first NIC goes down, and the last, which has its MAC, comes up.
fn twins(bed: &Testbed, first: &Lane, twin: &(NicSpec, Link)) -> anyhow::Result<()> {
    bed.apply(Op::Down, &first.link, "")?;
    // It is down: what it sends from now on it may not.
    let silence = first.wire.mark()?.nothing_under_way();
    let words = || {
        let (nic, mac) = (lanes::name(&twin.0), twin.0.mac);
        format!("{nic}, while the other with its MAC is down ({mac})")
    };
    let lanes = lanes::ready(bed, std::slice::from_ref(twin), Room::Few).with_context(words)?;
    let fences = lanes::fences(&lanes)?;
    let before = lanes::received(bed, &lanes)?;
    let report = pings(&lanes[0]).run()?;
    let counts = [(report.transmitted, report.received)];
    lanes::expect_own(bed, &lanes, &fences, &before, &counts).with_context(words)?;
    report
        .expect_all_answered(COUNT.into())
        .with_context(words)?;
    let sent = first
        .wire
        .count(silence, |frame| frame.direction == Direction::FromGuest)?;
    ensure!(
        sent == 0,
        "{} is down, and {sent} frames left through it",
        lanes::name(&first.nic)
    );
    Ok(())
}

/// Unplugs all together; nothing of them is left.
fn unplug(bed: &mut Testbed) -> anyhow::Result<()> {
    bed.moment(Moment::Unplug)?;
    let nics = &bed.vm.spec.nics;
    let mark = bed.vm.qmp.mark();
    // A slot's functions go together.
    let asked = match bed.vm.spec.machine {
        Machine::Pc => &nics[..],
        Machine::Q35 => &nics[..1],
    };
    for nic in asked {
        let id = nic.id.clone();
        bed.vm.call(&qapi::qmp::device_del { id })?;
    }
    let mut left: BTreeSet<&str> = nics.iter().map(|nic| nic.id.as_str()).collect();
    bed.vm.qmp.event(mark, ALL_DELETED.start(), |event| {
        if event.name == "DEVICE_DELETED" {
            left.remove(event.data["device"].as_str().unwrap_or_default());
        }
        left.is_empty().then_some(())
    })?;
    for nic in nics {
        let id = nic.netdev_id();
        bed.vm.call(&qapi::qmp::netdev_del { id })?;
        ensure!(
            !bridge::exists(&nic.tap),
            "after netdev_del the tap {} is still there",
            nic.tap
        );
    }
    bed.agent.until(
        &format!("! ls -d {DEVICES}"),
        ALL_GONE,
        &format!("ls -d {DEVICES}"),
    )?;
    let network = bed.vm.hmp("info network")?;
    ensure!(
        nics.iter()
            .all(|nic| !network.contains(&nic.mac.to_string())),
        "all NICs and netdevs were deleted, and QEMU's `info network` still shows: {network}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::cmdline::tests as cmdline;

    #[test]
    fn every_nic_has_a_place_of_its_own_and_two_have_the_same_mac() {
        for machine in [Machine::Pc, Machine::Q35] {
            let mut spec = cmdline::spec(vec![cmdline::nic("e1000e")]);
            spec.machine = machine;
            many(&mut spec);
            let nics = &spec.nics;
            let taps: BTreeSet<&str> = nics.iter().map(|nic| nic.tap.as_str()).collect();
            let macs: BTreeSet<_> = nics.iter().map(|nic| nic.mac).collect();
            let devices: BTreeSet<_> = nics.iter().map(|nic| nic.device(machine)).collect();
            assert_eq!(taps.len(), nics.len());
            assert_eq!(devices.len(), nics.len());
            assert_eq!(macs.len(), nics.len() - 1);
            assert_eq!(twin(&spec).mac, nics[0].mac);
        }
    }
}
