//! Plan item 22: four queue pairs.

use super::faults::{self, AT_START, IN_TRAFFIC, in_guest};
use super::link_status::{LINK_ON, expect_off_while};
use super::surviving::each_carries;
use super::{Case, Fault, Moment, Red, StartState};
use crate::base::deadline;
use crate::guest::dialect::Op;
use crate::matrix::Cell;
use crate::testbed::Testbed;
use anyhow::{Context, ensure};
use std::collections::BTreeMap;
use std::net::UdpSocket;

/// The plan's `queues=4` and `-smp 4`.
pub(super) const QUEUES: u32 = 4;
/// UDP flows from as many host ports: enough that the tap's hash cannot put all on one queue.
const FLOWS: u32 = 64;
/// Datagrams of each flow.
const PER_FLOW: u32 = 4;
/// Flows that fill queues: enough that the tap's hash leaves none out but once in a hundred times.
const BURSTS: u32 = 20;
/// Datagrams of each of those, at once: half as many again as a receive queue has buffers for.
const PER_BURST: u32 = 400;

/// Plan item 22.
pub static MULTIQUEUE: Case = Case {
    name: "multiqueue",
    plan_item: "22",
    passes: "`ethtool -L combined 4` takes and `-l` reads 4, there are four input and four output vectors, their affinity hints are 1 2 4 8, many flows raise interrupts on more than one input queue, each queue carries frames after it had no buffer left for more, and with the link off none of them reaches the guest",
    applies: has_vectors,
    start_state: StartState::ColdDriver,
    rearm: Some(faults::nothing),
    vm: |spec| {
        spec.cpus = QUEUES;
        spec.nics[0].queues = QUEUES;
        spec.nics[0]
            .properties
            .extend(["mq=on".into(), "vectors=9".into()]);
    },
    ops: &[Op::Address],
    faults: &[
        Fault {
            name: "single_queue",
            breaks: "QEMU's NIC has one queue pair",
            vm: |spec, _| {
                spec.nics[0].queues = 1;
                spec.nics[0].properties.push("mq=off".into());
            },
            red: Red::Says("ethtool -L"),
            ..AT_START
        },
        Fault {
            name: "no_vectors",
            breaks: "QEMU's NIC has 2 MSI-X vectors, so that queues share one",
            vm: |spec, _| spec.nics[0].properties.push("vectors=2".into()),
            red: Red::Says("input vectors"),
            ..AT_START
        },
        Fault {
            name: "back_to_one",
            breaks: "the guest goes back to one queue before the traffic",
            inject: |bed| in_guest(bed, "ethtool -L DEV combined 1").map(drop),
            red: Red::Says("on more than one queue"),
            ..IN_TRAFFIC
        },
        Fault {
            moment: Moment::Midway,
            ..LINK_ON
        },
    ],
    run: multiqueue,
    ..Case::PLAIN
};

/// On virtio, unless the NIC is one with vectors of its own choice: the case gives it nine.
pub(super) fn has_vectors(cell: &Cell) -> bool {
    cell.nic.is_virtio() && cell.nic.variant.property("vectors").is_none()
}

/// Sets four queue pairs, which guest and QEMU must both show. Each queue must have vectors of its own
/// and a hint for a processor of its own. Then many flows must raise interrupts on more than one queue, each queue must live
/// through more than it has room for, and none is reached while the link is off.
fn multiqueue(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    let dev = &link.name;
    // ethtool refuses to set what is set already (code 80): 1 first, so that 4 is a change.
    bed.agent.run(&format!("ethtool -L {dev} combined 1"))?;
    bed.agent
        .sh(&format!("ethtool -L {dev} combined {QUEUES}"))?;
    let shown = bed.agent.sh(&format!("ethtool -l {dev}"))?;
    let (maximum, current) = combined(&shown)?;
    ensure!(
        (maximum, current) == (QUEUES, QUEUES),
        "`ethtool -l` shows {current} of at most {maximum} queues, not {QUEUES} of {QUEUES}"
    );
    let network = bed.vm.hmp("info network")?;
    let ends = network
        .matches(&format!("{}:", bed.nic().netdev_id()))
        .count();
    ensure!(
        ends == QUEUES as usize,
        "QEMU's `info network` shows {ends} queues of {}: {network}",
        bed.nic().netdev_id()
    );

    let device = bed.agent.sh(&format!(
        "basename $(readlink -f {})",
        Testbed::device_directory(&link)
    ))?;
    let device = device.trim();
    let before = vectors(&bed.agent.sh("cat /proc/interrupts")?, device);
    for kind in ["input", "output"] {
        let found = (0..QUEUES)
            .filter(|n| before.contains_key(&format!("{kind}.{n}")))
            .count();
        ensure!(
            found == QUEUES as usize,
            "the guest's /proc/interrupts has {found} of {QUEUES} {kind} vectors of {device}: {before:?}"
        );
    }
    for queue in 0..QUEUES {
        let irq = before[&format!("input.{queue}")].irq;
        let hint = bed
            .agent
            .sh(&format!("cat /proc/irq/{irq}/affinity_hint"))?;
        let mask = u64::from_str_radix(&hint.trim().replace(',', ""), 16)
            .with_context(|| format!("affinity_hint {hint:?}"))?;
        ensure!(
            mask == 1 << queue,
            "the affinity hint of {device}-input.{queue} (irq {irq}) is {mask:x}, not {:x}",
            1u64 << queue
        );
    }

    bed.moment(Moment::Traffic)?;
    let before = vectors(&bed.agent.sh("cat /proc/interrupts")?, device);
    send_flows(bed, FLOWS, PER_FLOW)?;
    // Three round trips behind the flows, more than one queue has been heard of.
    bed.expect_replies(3, 48)?;
    let after = vectors(&bed.agent.sh("cat /proc/interrupts")?, device);
    let moved: Vec<(u32, u64)> = (0..QUEUES)
        .map(|queue| {
            let count = |map: &BTreeMap<String, Vector>| {
                map.get(&format!("input.{queue}"))
                    .map_or(0, |vector| vector.count)
            };
            (queue, count(&after) - count(&before))
        })
        .collect();
    let busy = moved.iter().filter(|(_, count)| *count > 0).count();
    ensure!(
        busy > 1,
        "{FLOWS} flows did not raise interrupts on more than one queue: {moved:?}"
    );
    bed.notes
        .push(format!("interrupts by input queue: {moved:?}"));

    send_flows(bed, BURSTS, PER_BURST)?;
    each_carries(bed, &link, QUEUES, FLOWS)
        .context("after more came for each queue than it had buffers for")?;

    bed.set_link(false)?;
    bed.expect_operstate(&link, "down")?;
    bed.moment(Moment::Midway)?;
    expect_off_while(bed, || send_flows(bed, FLOWS, PER_FLOW))?;
    bed.set_link(true)?;
    bed.expect_operstate(&link, "up")?;
    bed.reach(deadline::FIRST_PING)
}

/// Datagrams from many ports to the guest's discard port, so many from each.
fn send_flows(bed: &Testbed, flows: u32, datagrams: u32) -> anyhow::Result<()> {
    for _ in 0..flows {
        let socket = UdpSocket::bind((crate::net::addr::HOST, 0))?;
        for _ in 0..datagrams {
            // The guest's "port unreachable" to an earlier one shows here as an error: expected.
            let _ = socket.send_to(&[0; 64], (bed.address(), 9));
        }
    }
    Ok(())
}

/// The "Combined" lines of `ethtool -l`: maximum, current.
pub(super) fn combined(text: &str) -> anyhow::Result<(u32, u32)> {
    let mut values = text
        .lines()
        .filter_map(|line| line.strip_prefix("Combined:"))
        .map(|value| value.trim().parse::<u32>());
    match (values.next(), values.next()) {
        (Some(Ok(maximum)), Some(Ok(current))) => Ok((maximum, current)),
        _ => anyhow::bail!("`ethtool -l` shows no Combined counts: {text}"),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Vector {
    irq: u32,
    /// Over all CPUs.
    pub(super) count: u64,
}

/// Lines `41: 0 1 … PCI-MSI-edge virtio1-input.0` of /proc/interrupts, by what follows the device.
pub(super) fn vectors(text: &str, device: &str) -> BTreeMap<String, Vector> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let irq = words.next()?.strip_suffix(':')?.parse().ok()?;
            let name = line.split_whitespace().last()?;
            let name = name.strip_prefix(device)?.strip_prefix('-')?;
            let count = words.map_while(|word| word.parse::<u64>().ok()).sum();
            Some((name.to_owned(), Vector { irq, count }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_are_summed_over_cpus_and_told_by_device() {
        let text = "           CPU0       CPU1\n 41:          0          0   PCI-MSI-edge      virtio1-config\n 42:        318          2   PCI-MSI-edge      virtio1-input.0\n 43:          1          0   PCI-MSI-edge      virtio10-input.0\n";
        let found = vectors(text, "virtio1");
        assert_eq!(
            found["input.0"],
            Vector {
                irq: 42,
                count: 320
            }
        );
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn both_combined_counts_are_needed() {
        let text = "Channel parameters for eth0:\nPre-set maximums:\nCombined:\t4\nCurrent hardware settings:\nCombined:\t1\n";
        assert_eq!(combined(text).expect("two counts"), (4, 1));
        assert!(combined("Combined:\t4\n").is_err());
    }
}
