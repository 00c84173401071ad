//! Which queue a NIC puts a flow on: by the hash of its addresses and ports, and a table that the guest can change.

use super::faults::{self, AT_START, IN_TRAFFIC, ignore, in_guest, wrap};
use super::multiqueue::{QUEUES, vectors};
use super::{Case, Fault, Moment, Red, StartState};
use crate::base::deadline;
use crate::guest::dialect::Op;
use crate::guest::link::Link;
use crate::matrix::Cell;
use crate::matrix::schema::Dialect;
use crate::net::addr::{HOST, HOST_MAC, IPV6_GUEST, IPV6_HOST};
use crate::net::probe::{self, Sender};
use crate::net::toeplitz;
use crate::testbed::Testbed;
use crate::vm::cmdline::VmSpec;
use anyhow::{Context as _, ensure};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Flows for each queue.
const FLOWS: usize = 8;
/// Frames of others meanwhile, at most.
const OTHERS: u64 = 2;
/// The first port that a flow comes from.
const FIRST_PORT: u16 = 20_000;
/// Nobody listens there (RFC 863), and the guest's kernel answers each segment with a reset.
const DISCARD: u16 = 9;

/// How the guest's table is set, and on how many queues flows are then, from the first.
const TABLES: [(&str, u32); 3] = [("equal 2", 2), ("weight 1 1 5 1", 4), ("equal 4", 4)];

/// Receive side scaling.
pub static RSS: Case = Case {
    name: "rss",
    passes: "each of many TCP flows, by IPv4 and by IPv6, raises its packets on the one of four queues that Toeplitz's hash with the guest's key and its table name, and no other does, with the table as it was and as `ethtool -X` sets it, which reads back",
    applies: spreads,
    start_state: StartState::ColdDriver,
    rearm: Some(faults::nothing),
    vm: rss_vm,
    ops: &[Op::Address, Op::Address6],
    faults: &[
        Fault {
            name: "other_key",
            breaks: "the guest shows another key than its NIC has",
            inject: |bed| {
                // igb has the kernel's own and does not show it.
                let key = "sed 's/[0-7]/8/g' /proc/sys/net/core/netdev_rss_key >/tmp/key && \
                           mount --bind /tmp/key /proc/sys/net/core/netdev_rss_key";
                bed.agent.sh(key)?;
                let script = "[ \"$1\" = -x ] || exec \"$REAL\" \"$@\"\n\
                              \"$REAL\" \"$@\" | sed '/:..:..:/s/[0-7]/8/g'";
                wrap(bed, "ethtool", script)
            },
            red: Red::Says("should have been on queue"),
            ..AT_START
        },
        Fault {
            name: "table_ignored",
            breaks: "the guest's ethtool says that it set the table and does not",
            inject: |bed| ignore(bed, "ethtool", "-X"),
            red: Red::Says("the table reads back"),
            ..AT_START
        },
        Fault {
            name: "other_table",
            breaks: "the guest's table has one queue alone when the flows come",
            inject: |bed| in_guest(bed, "ethtool -X DEV equal 1").map(drop),
            red: Red::Says("with the table as it was"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "no_ports",
            breaks: "of TCP over IPv6 the NIC hashes the addresses alone",
            // igb's driver has it no other way.
            applies: faults::virtio,
            inject: |bed| in_guest(bed, "ethtool -N DEV rx-flow-hash tcp6 sd").map(drop),
            red: Red::Says("by IPv6"),
            ..IN_TRAFFIC
        },
    ],
    run: rss,
    ..Case::PLAIN
};

/// virtio where its device has it and the driver knows of it (Linux 5.18, which RHEL 9 has taken over), and igb.
fn spreads(cell: &Cell) -> bool {
    let virtio = cell.nic.is_virtio()
        && cell.nic.variant.property("rss") == Some("on")
        && matches!(cell.guest.dialect, Dialect::Rhel9 | Dialect::Rhel10);
    virtio || cell.nic.driver == "igb"
}

/// A processor a queue: igb has no more queues than there are.
fn rss_vm(spec: &mut VmSpec) {
    spec.cpus = QUEUES;
    if let Some(nic) = spec.nics.first_mut()
        && nic.device.starts_with("virtio-net")
    {
        nic.queues = QUEUES;
        nic.properties.extend(["mq=on".into(), "vectors=9".into()]);
    }
}

/// Sends flows that the table puts on each queue, one queue after the other, and looks which queue has them; then
/// again with other tables.
fn rss(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    let ends = ends(bed, &link)?;
    let was = Spread::read(bed, &link)?;
    was.expect_on(QUEUES)?;
    bed.moment(Moment::Traffic)?;
    // A driver may not have told its NIC of it yet: judged last.
    let first = expect_flows(bed, &link, &ends, &was).context("with the table as it was");
    for (table, queues) in TABLES {
        let command = format!("ethtool -X {} {table}", link.name);
        bed.agent.sh(&command)?;
        let spread = Spread::read(bed, &link)?;
        (spread.expect_on(queues))
            .and_then(|()| expect_flows(bed, &link, &ends, &spread))
            .with_context(|| format!("after `{command}`"))?;
    }
    bed.expect_quiet_kernel()?;
    first
}

/// The host's address and the guest's, by IPv4 and, where the host has it, by IPv6: neither end asks for the other's MAC
/// any more, which would be counted with the flows.
fn ends(bed: &mut Testbed, link: &Link) -> anyhow::Result<Vec<(IpAddr, IpAddr)>> {
    bed.know_each_other(link)?;
    let mut ends = vec![(HOST.into(), bed.address().into())];
    if bed.bridge.enable_ipv6()? {
        // It still has the address where the case is run again.
        let shown = bed
            .agent
            .sh(&format!("ip -6 addr show dev {}", link.name))?;
        if !shown.contains(&format!(" {IPV6_GUEST}/")) {
            bed.apply(Op::Address6, link, &format!("{IPV6_GUEST}/64"))?;
        }
        bed.agent.sh(&format!(
            "ip neigh replace {IPV6_HOST} lladdr {HOST_MAC} nud permanent dev {}",
            link.name
        ))?;
        bed.reach_at(IPV6_GUEST.into(), deadline::FIRST_PING)?;
        ends.push((IPV6_HOST.into(), IPV6_GUEST.into()));
    } else {
        let note = "the host's kernel has no IPv6: by it nothing was sent";
        bed.notes.push(note.into());
    }
    Ok(ends)
}

/// How the guest has its NIC spread flows.
struct Spread {
    key: Vec<u8>,
    /// The queue for each value of the hash's last bits.
    table: Vec<u32>,
}

impl Spread {
    fn read(bed: &Testbed, link: &Link) -> anyhow::Result<Spread> {
        let text = bed.agent.sh(&format!(
            "ethtool -x {} && cat /proc/sys/net/core/netdev_rss_key",
            link.name
        ))?;
        Spread::parse(&text).with_context(|| format!("`ethtool -x` said: {text}"))
    }

    /// Rows `    8:      0     1 …`, and the first key that is shown: the NIC's, or the one that the kernel gives all
    /// NICs.
    fn parse(text: &str) -> Option<Spread> {
        let row = |line: &str| {
            let (first, queues) = line.split_once(':')?;
            first.trim().parse::<u32>().ok()?;
            let queues = queues.split_whitespace().map(|queue| queue.parse().ok());
            queues.collect::<Option<Vec<u32>>>()
        };
        let key = |line: &str| {
            let bytes = line
                .trim()
                .split(':')
                .map(|byte| u8::from_str_radix(byte, 16).ok());
            let key = bytes.collect::<Option<Vec<u8>>>()?;
            (key.len() >= 40).then_some(key)
        };
        let table: Vec<u32> = text.lines().filter_map(row).flatten().collect();
        let key = text.lines().find_map(key)?;
        table
            .len()
            .is_power_of_two()
            .then_some(Spread { key, table })
    }

    /// The table has so many queues, from the first.
    fn expect_on(&self, queues: u32) -> anyhow::Result<()> {
        let has = |queue| self.table.contains(&queue);
        ensure!(
            (0..QUEUES).all(|queue| has(queue) == (queue < queues)),
            "the table reads back as {:?}, and not with {queues} queues",
            self.table
        );
        Ok(())
    }

    /// The queue of what comes from one end for the other.
    fn queue(&self, from: SocketAddr, to: SocketAddr) -> u32 {
        let hash = toeplitz::of_tcp(&self.key, from, to) as usize;
        self.table[hash & (self.table.len() - 1)]
    }
}

/// Flows of each queue in the table, between each of the ends, raise packets, or interrupts, on that queue and on no
/// other.
fn expect_flows(
    bed: &mut Testbed,
    link: &Link,
    ends: &[(IpAddr, IpAddr)],
    spread: &Spread,
) -> anyhow::Result<()> {
    for &(host, guest) in ends {
        let to = SocketAddr::new(guest, DISCARD);
        let version = if guest.is_ipv4() { "IPv4" } else { "IPv6" };
        let mut seen = Vec::new();
        for queue in (0..QUEUES).filter(|queue| spread.table.contains(queue)) {
            let ports = (FIRST_PORT..)
                .filter(|port| spread.queue(SocketAddr::new(host, *port), to) == queue);
            let ports: Vec<u16> = ports.take(FLOWS).collect();
            let (before, least) = counts(bed, link)?;
            send(bed, guest, &ports)?;
            let (after, _) = counts(bed, link)?;
            let moved = |queue| {
                let of =
                    |counts: &BTreeMap<u32, u64>| counts.get(&queue).copied().unwrap_or_default();
                of(&after).saturating_sub(of(&before))
            };
            let moved: Vec<u64> = (0..QUEUES).map(moved).collect();
            // The host's IPv6 has a frame of its own to send now and then, to whatever queue.
            let all: u64 = moved.iter().sum();
            let right = moved[queue as usize];
            ensure!(
                right >= least && all - right <= OTHERS,
                "{FLOWS} flows by {version} from the ports {ports:?} should have been on queue {queue}, and the queues' counts moved by {moved:?}"
            );
            seen.push(moved[queue as usize]);
        }
        bed.notes
            .push(format!("counts moved by {version} and queue: {seen:?}"));
    }
    Ok(())
}

/// A segment from each port to that address, and the reset that answers it.
fn send(bed: &Testbed, guest: IpAddr, ports: &[u16]) -> anyhow::Result<()> {
    let sender = Sender::open()?;
    let wire = bed.wire()?;
    let mark = wire.mark()?;
    let to = (bed.nic().mac, guest);
    for port in ports {
        sender.send(&probe::opening(to, (*port, DISCARD))?)?;
    }
    let limit = deadline::FIRST_PING.start();
    for port in ports {
        wire.wait(mark, limit, |frame| {
            frame.tcp_ports() == Some((DISCARD, *port))
        })
        .with_context(|| format!("the guest did not answer what came from port {port}"))?;
    }
    Ok(())
}

/// What each receive queue has counted, and the least that it counts for so many flows: packets where the driver counts
/// them by queue, interrupts else, of which one may be for all.
fn counts(bed: &Testbed, link: &Link) -> anyhow::Result<(BTreeMap<u32, u64>, u64)> {
    let text = bed.agent.sh(&format!(
        "basename $(readlink -f {}); ethtool -S {}; cat /proc/interrupts",
        Testbed::device_directory(link),
        link.name
    ))?;
    let packets = packets(&text);
    if !packets.is_empty() {
        return Ok((packets, FLOWS as u64));
    }
    let device = text.lines().next().unwrap_or_default();
    let vectors = vectors(&text, device);
    let by_queue = (0..QUEUES)
        .filter_map(|queue| Some((queue, vectors.get(&format!("input.{queue}"))?.count)));
    let by_queue: BTreeMap<u32, u64> = by_queue.collect();
    ensure!(
        !by_queue.is_empty(),
        "the guest counts nothing by queue: {text}"
    );
    Ok((by_queue, 1))
}

/// Lines `rx_queue_0_packets: 12` of `ethtool -S`, or `rx0_packets`.
fn packets(text: &str) -> BTreeMap<u32, u64> {
    let count = |line: &str| {
        let (name, count) = line.trim().split_once(": ")?;
        let queue = name.strip_prefix("rx")?.strip_suffix("_packets")?;
        let queue = queue.trim_start_matches("_queue_");
        Some((queue.parse().ok()?, count.parse().ok()?))
    };
    text.lines().filter_map(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_and_a_key_are_read() {
        let key: Vec<String> = (0..52).map(|byte| format!("{byte:02x}")).collect();
        let text = format!(
            "RX flow hash indirection table for eth0 with 4 RX ring(s):\n    0:      0     1\n    2:      2     3\n\
             RSS hash key:\nOperation not supported\nRSS hash function:\n    toeplitz: on\n{}\n",
            key.join(":")
        );
        let spread = Spread::parse(&text).unwrap();
        assert_eq!(spread.table, [0, 1, 2, 3]);
        assert_eq!((spread.key[0], spread.key.len()), (0, 52));
        spread.expect_on(4).unwrap();
        assert!(spread.expect_on(2).is_err());
        assert!(Spread::parse("RSS hash key:\n").is_none());
    }

    #[test]
    fn packets_are_told_by_queue_under_either_name() {
        let text = "NIC statistics:\n     rx_queue_0_packets: 12\n     rx1_packets: 3\n     rx_packets: 15\n     tx0_packets: 9\n";
        assert_eq!(packets(text), BTreeMap::from([(0, 12), (1, 3)]));
    }
}
