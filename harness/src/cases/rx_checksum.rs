//! What a NIC says of the checksums of what it receives, and what its guest makes of that: frames that the host
//! damages on purpose.

use super::damage::FORGED;
use super::faults;
use super::offload::{self, State};
use super::{Case, Fault, Moment, Red};
use crate::base::deadline;
use crate::guest::dialect::Op;
use crate::guest::link::Link;
use crate::net::addr::{HOST_MAC, IPV6_GUEST, IPV6_HOST};
use crate::net::bridge;
use crate::net::forged;
use crate::net::probe::{
    Sender, change_end, change_header, datagram, in_two, segment, with_destination_options,
    with_options, without_checksum,
};
use crate::testbed::Testbed;
use crate::testbed::reception::{KERNELS, counters};
use anyhow::{Context as _, ensure};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Ethernet's header, bytes.
const ETHERNET: usize = 14;

/// An extension header of IPv6, bytes.
const EXTENSION: usize = 8;

/// Identifications of a sound and a damaged datagram in fragments.
const SOUND: u16 = 0x7001;
const DAMAGED: u16 = 0x7002;

/// Counters of the guest's kernel (/proc/net/snmp, snmp6), and by how much they move with each round.
const COUNTERS: [(&str, u64); 7] = [
    ("Ip InHdrErrors", 2),
    ("Udp InErrors", 5),
    ("Udp NoPorts", 6),
    ("Udp6InErrors", 4),
    ("Udp6NoPorts", 4),
    ("Tcp InErrs", 7),
    ("Tcp OutRsts", 7),
];
/// `ethtool -S` of e1000e, whose NIC looks at each frame's checksums while rx is on.
const BY_NIC: [(&str, u64); 2] = [("rx_csum_offload_good", 15), ("rx_csum_offload_errors", 17)];

/// What the guest makes of checksums.
pub static RX_CHECKSUM: Case = Case {
    name: "rx_checksum",
    passes: "UDP datagrams and TCP segments over IPv4 and IPv6, and IPv4 headers, that the host damaged are dropped and counted by the guest, also a datagram in fragments and those behind options, of IPv6 as well, and sound ones of the same sizes, and one without a checksum, are answered and not counted as bad, with rx as it was, off and on; e1000e counts each as good or bad while rx is on",
    rearm: Some(faults::nothing),
    damages: true,
    ops: &[Op::Address, Op::Address6],
    seconds: |_| 20.0,
    faults: &[
        Fault {
            name: "good_is_bad",
            breaks: "the NIC hands up a datagram otherwise than it came",
            inject: |bed| bed.forge_to_guest(&[forged::changed_from_host(bed.nic().mac)?]),
            red: Red::Says("Udp InErrors moved by 6, not by 5"),
            ..FORGED
        },
        Fault {
            name: "vouched_for",
            breaks: "the NIC says of a damaged datagram that its checksum is right",
            applies: |cell| (FORGED.applies)(cell) && faults::virtio(cell),
            inject: |bed| {
                let changed = forged::changed_from_host(bed.nic().mac)?;
                bed.forge_to_guest(&[forged::vouched_for(changed)])
            },
            red: Red::Says("Udp NoPorts moved by 7, not by 6"),
            ..FORGED
        },
        Fault {
            name: "good_is_bad_by_ipv6",
            breaks: "the NIC hands up a datagram over IPv6 otherwise than it came",
            inject: |bed| bed.forge_to_guest(&[forged::changed_from_host6(bed.nic().mac)?]),
            red: Red::Says("Udp6InErrors moved by 5, not by 4"),
            ..FORGED
        },
        Fault {
            name: "vouched_for_by_ipv6",
            breaks: "the NIC says of a damaged datagram over IPv6 that its checksum is right",
            applies: |cell| (FORGED.applies)(cell) && faults::virtio(cell),
            inject: |bed| {
                let changed = forged::changed_from_host6(bed.nic().mac)?;
                bed.forge_to_guest(&[forged::vouched_for(changed)])
            },
            red: Red::Says("Udp6NoPorts moved by 5, not by 4"),
            ..FORGED
        },
        Fault {
            name: "uncounted",
            breaks: "the NIC counts no frame with a wrong checksum",
            applies: |cell| cell.nic.driver == "e1000e",
            inject: |bed| {
                let script = "[ \"$1\" = -S ] || exec \"$REAL\" \"$@\"\n\
                              \"$REAL\" \"$@\" | sed 's/\\(csum_offload_errors: \\).*/\\10/'";
                faults::wrap(bed, "ethtool", script)
            },
            red: Red::Says("rx_csum_offload_errors moved by"),
            ..faults::AT_START
        },
        Fault {
            name: "ignored",
            breaks: "the guest's ethtool says that it switched offloads and does not",
            applies: |cell| {
                cell.nic.offloads.iter().any(|name| name == "rx") && !cell.nic.is_virtio()
            },
            inject: faults::switch_no_offload,
            red: Red::Says("reads back"),
            ..faults::AT_START
        },
    ],
    run: rx_checksum,
    ..Case::PLAIN
};

/// Sends sound and damaged frames with rx as it is, off, on, and as it was.
fn rx_checksum(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    bridge::set_neighbour_permanent(bed.address(), bed.nic().mac)?;
    bed.apply(Op::Address6, &link, &format!("{IPV6_GUEST}/64"))?;
    let knows_host = format!(
        "ip -6 neigh replace {IPV6_HOST} lladdr {HOST_MAC} nud permanent dev {}",
        link.name
    );
    bed.agent.sh(&knows_host)?;
    let was = rx(bed, &link)?;
    round(bed, &link, was.on).with_context(|| format!("with rx {}", word(was.on)))?;
    if !was.fixed {
        for on in [!was.on, was.on] {
            let command = format!("ethtool -K {} rx {}", link.name, word(on));
            bed.agent.sh(&command)?;
            let now = rx(bed, &link)?.on;
            ensure!(now == on, "after `{command}` rx reads back {}", word(now));
            // e1000 resets, and so negotiates its link anew.
            bed.reach(deadline::FIRST_PING)?;
            round(bed, &link, on).with_context(|| format!("with rx switched {}", word(on)))?;
        }
    }
    let without_ipv6 = format!("echo 1 >/proc/sys/net/ipv6/conf/{}/disable_ipv6", link.name);
    bed.agent.sh(&without_ipv6)?;
    bridge::flush_neighbour(bed.address())?;
    bed.expect_quiet_kernel()
}

fn rx(bed: &Testbed, link: &Link) -> anyhow::Result<State> {
    let shown = bed.agent.sh(&format!("ethtool -k {}", link.name))?;
    Ok(offload::parse(&shown)?["rx"])
}

fn word(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// Sends each kind of frame, and looks how the guest's counters have moved.
fn round(bed: &mut Testbed, link: &Link, rx: bool) -> anyhow::Result<()> {
    let before = read(bed, link)?;
    bed.moment(Moment::Traffic)?;
    let mac = bed.nic().mac;
    let (guest, guest6) = (
        (mac, IpAddr::from(bed.address())),
        (mac, IpAddr::from(IPV6_GUEST)),
    );
    let full = bed.cell.nic.default_mtu() as usize + ETHERNET;
    let sender = Sender::open()?;
    let sound_and_damaged = |frame: Vec<u8>| {
        sender.send(&frame)?;
        sender.send(&change_end(frame))
    };
    // The host does not pad the shortest. What a NIC or its tap puts behind a packet is not summed up.
    let lengths = [(43, 54), (60, 61), (full, full - 1)].map(|lengths| (guest, lengths));
    let lengths6 = [(63, 74), (80, 81), (full, full - 1)].map(|lengths| (guest6, lengths));
    for (to, (udp, tcp)) in lengths.into_iter().chain(lengths6) {
        for frame in [datagram(to, udp)?, segment(to, tcp)?] {
            sound_and_damaged(frame)?;
        }
        // Answered behind all of them, which is as many as each NIC has room for.
        bed.expect_replies(1, 48)?;
    }
    for frame in [datagram(guest, 61)?, segment(guest, full)?] {
        sender.send(&change_header(frame))?;
    }
    bed.expect_replies(1, 48)?;
    let [begin, end] = in_two(&datagram(guest, full)?, SOUND)?;
    let [begin_of_damaged, end_of_damaged] = in_two(&datagram(guest, full)?, DAMAGED)?;
    let behind_options = with_options(&datagram(guest, 99)?)?;
    for frame in [
        begin,
        end,
        begin_of_damaged,
        change_end(end_of_damaged),
        behind_options.clone(),
        change_end(behind_options),
        without_checksum(&datagram(guest, 98)?)?,
    ] {
        sender.send(&frame)?;
    }
    bed.expect_replies(1, 48)?;
    for frame in [datagram(guest6, 100)?, segment(guest6, full - EXTENSION)?] {
        sound_and_damaged(with_destination_options(&frame)?)?;
    }
    bed.expect_replies(1, 48)?;
    let after = read(bed, link)?;
    let by_nic = BY_NIC.into_iter().filter(|_| rx && link.driver == "e1000e");
    for (name, expected) in COUNTERS.into_iter().chain(by_nic) {
        let of = |counters: &BTreeMap<String, u64>| {
            let counter = counters.get(name).copied();
            counter.with_context(|| format!("the guest has no counter {name}"))
        };
        let moved = of(&after)? - of(&before)?;
        // The NIC has its own word on pings as well.
        let pings = name == "rx_csum_offload_good" && moved > expected;
        ensure!(
            moved == expected || pings,
            "{name} moved by {moved}, not by {expected}"
        );
    }
    Ok(())
}

/// The guest's counters of /proc/net/snmp, snmp6 and `ethtool -S`.
fn read(bed: &Testbed, link: &Link) -> anyhow::Result<BTreeMap<String, u64>> {
    let text = bed.agent.sh(&format!(
        "{KERNELS}; ethtool -S {} 2>/dev/null; true",
        link.name
    ))?;
    Ok(counters(&text))
}
