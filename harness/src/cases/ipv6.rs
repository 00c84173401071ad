//! Beyond the plan: IPv6, which a NIC meets in other groups, other checksums and other segmentation.

use super::damage::CHANGED_TCP6;
use super::faults::{AT_START, IN_TRAFFIC, LOSSY, NO_PING, ignore, virtio};
use super::ping::{Sent, answered_in_guest};
use super::transfer::{self as files, ALTERED};
use super::{Case, Fault, Load, Moment, Red, udp_transfer};
use crate::base::deadline;
use crate::base::error::Skip;
use crate::guest::dialect::Op;
use crate::guest::link::Link;
use crate::net::addr::{IPV6_GUEST, IPV6_HOST, Mac};
use crate::net::frame::{Direction, Icmp};
use crate::net::sabotage;
use crate::net::transfer::{self, BLOCK};
use crate::testbed::Testbed;
use anyhow::{Context as _, ensure};
use std::time::Duration;

/// Sizes of echoes, bytes of payload: small ones, those around a frame's 1,500 bytes, and in fragments up to
/// what a ping can send.
const SIZES: [u32; 9] = [0, 1, 64, 1231, 1232, 1452, 1453, 4096, 65507];
/// IPv6's header and ICMPv6's or UDP's (RFC 8200, RFC 4443, RFC 768), bytes.
const HEADERS: usize = 40 + 8;
/// The least MTU that IPv6 works with (RFC 8200, 5), bytes.
const LEAST_MTU: u32 = 1280;
/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// The file, MiB.
const MIB: u32 = 1;
/// The address's group (RFC 4291, 2.7.1) in Ethernet (RFC 2464, 7).
const SOLICITED_NODE: Mac = Mac([0x33, 0x33, 0xff, 0, 0, 2]);

/// IPv6, which the manual plan leaves out.
pub static IPV6: Case = Case {
    name: "ipv6",
    passes: "with IPv6 on, the guest is found through its address's multicast group, and finds the host; pings of 9 sizes are answered as ping, the guest's ICMPv6 counters and the tap count them; a file by TCP both ways and datagrams that fill a frame cross whole, on virtio in segments left to the tap; at an MTU of 1280 as well",
    load: Load::Waits,
    ops: &[Op::Address, Op::Address6, Op::Mtu],
    seconds: |profile| {
        let requests = f64::from(profile.ping_count) * SIZES.len() as f64;
        requests * 0.5 + SIZES.len() as f64 * deadline::LATE_REPLY.seconds
    },
    faults: &[
        Fault {
            name: "not_advertised",
            breaks: "the guest's neighbour advertisements are dropped on its tap",
            inject: |bed| {
                let tap = bed.nic().tap.clone();
                sabotage::drop_advertisements(&tap)
            },
            red: NO_PING,
            ..AT_START
        },
        LOSSY,
        Fault {
            name: "odd_lost",
            breaks: "IPv6 packets a byte shorter than the MTU are dropped on the tap",
            inject: |bed| {
                let tap = bed.nic().tap.clone();
                sabotage::drop_length6(&tap, bed.cell.nic.default_mtu() as usize - 1)
            },
            red: Red::Says("were lost"),
            ..IN_TRAFFIC
        },
        Fault {
            red: Red::Says("corrupt"),
            ..ALTERED
        },
        CHANGED_TCP6,
        Fault {
            name: "never_segmented",
            breaks: "QEMU's virtio NIC does not segment TCP over IPv6 (`host_tso6=off`)",
            applies: virtio,
            vm: |spec, _| spec.nics[0].properties.push("host_tso6=off".into()),
            red: Red::Says("no TCP segment over IPv6 left it longer than its MTU"),
            ..AT_START
        },
        Fault {
            name: "mtu_unchanged",
            breaks: "the guest's tools leave the MTU as it is",
            inject: |bed| {
                ["ip", "ifconfig"]
                    .iter()
                    .try_for_each(|program| ignore(bed, program, "mtu"))
            },
            red: Red::Says("was to be refused"),
            ..AT_START
        },
    ],
    run: ipv6,
    ..Case::PLAIN
};

fn ipv6(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    if !bed.bridge.enable_ipv6()? {
        return Err(Skip("the host's kernel has no IPv6".into()).into());
    }
    bed.apply(Op::Address6, &link, &format!("{IPV6_GUEST}/64"))?;
    found_by_its_group(bed, &link)?;
    files::make_file(bed, transfer::blocks(MIB))?;
    bed.moment(Moment::Traffic)?;
    sweep(bed)?;
    files_cross(bed)?;
    bed.apply(Op::Mtu, &link, &LEAST_MTU.to_string())?;
    least_mtu(bed)?;
    bed.expect_quiet_kernel()
}

/// Each end finds the other's MAC: the host by a solicitation to the group of the guest's address alone.
fn found_by_its_group(bed: &Testbed, link: &Link) -> anyhow::Result<()> {
    let fence = bed.fence()?;
    bed.reach_at(IPV6_GUEST.into(), deadline::FIRST_PING)?;
    let asked = bed.wire()?.count(fence, |frame| {
        let target = IPV6_GUEST;
        frame.direction == Direction::ToGuest
            && frame.dst() == Some(SOLICITED_NODE)
            && frame.icmp() == Some(Icmp::NeighbourSolicitation { target })
    })?;
    ensure!(
        asked > 0,
        "the host reached {IPV6_GUEST} without having asked {SOLICITED_NODE} for it"
    );
    let mac = bed.nic().mac;
    let found = bed.bridge.ipv6_neighbour(IPV6_GUEST)?;
    ensure!(
        found == Some(mac),
        "the host found {found:?} for {IPV6_GUEST}, and the NIC is {mac}"
    );
    bed.expect_rx_filter(link, &[])?;
    bed.guest_expect_answered(2, "-i 0.1", IPV6_HOST)
        .context("from the guest, by IPv6")
}

/// Echo requests, and replies that were not sent, in the guest's /proc/net/snmp6.
const ECHOES: [&str; 2] = ["Icmp6InEchos", "Icmp6OutErrors"];

/// Pings of each size, counted by ping, the tap and the guest's kernel.
fn sweep(bed: &Testbed) -> anyhow::Result<()> {
    let count = bed.profile.ping_count;
    let before = answered_in_guest(bed, ECHOES)?;
    let fence = bed.fence()?;
    let mut asked = 0;
    for size in SIZES {
        let ping = bed
            .ping_to(IPV6_GUEST)
            .count(count)
            .interval(0.01)
            .size(size);
        asked += bed.asked_until_answered(&ping, count)?;
    }
    let sent = Sent {
        asked,
        total: count * SIZES.len() as u32,
    };
    sent.expect_counted(bed, fence, || {
        Ok(answered_in_guest(bed, ECHOES)?.saturating_sub(before))
    })
    .context("by IPv6")
}

/// A file by TCP both ways, and its begin in datagrams that fill a frame and such as are a byte shorter.
fn files_cross(bed: &Testbed) -> anyhow::Result<()> {
    let blocks = transfer::blocks(MIB);
    let largest = bed.cell.nic.default_mtu() as usize - HEADERS;
    for size in [largest, largest - 1] {
        udp_transfer::send_framed(bed, IPV6_HOST.into(), size, blocks as usize * BLOCK)?;
    }
    let fence = bed.fence()?;
    files::from_guest(bed, IPV6_HOST.into(), blocks, Duration::ZERO)?;
    let longest = bed.cell.nic.default_mtu() as usize + ETHERNET;
    let unsegmented = bed.wire()?.count(fence, |frame| {
        frame.direction == Direction::FromGuest
            && frame.length > longest
            && frame.tcp_ports().is_some()
    })?;
    let segments = bed.cell.nic.is_virtio() && bed.cell.nic.offloads.iter().any(|o| o == "tso");
    ensure!(
        unsegmented > 0 || !segments,
        "virtio leaves segmentation to its tap, and of a file of {MIB} MiB no TCP segment over IPv6 left it longer than its MTU"
    );
    files::to_guest(bed, IPV6_HOST.into(), blocks, Duration::ZERO).map(drop)
}

/// At IPv6's least MTU a packet of that size crosses, one more byte is refused by the guest's own kernel, and
/// a file crosses.
fn least_mtu(bed: &Testbed) -> anyhow::Result<()> {
    // Some drivers set the NIC up anew, with the link.
    bed.reach_at(IPV6_GUEST.into(), deadline::FIRST_PING)?;
    let fits = LEAST_MTU as usize - HEADERS;
    bed.guest_expect_answered(2, &format!("-i 0.1 -M do -s {fits}"), IPV6_HOST)
        .with_context(|| format!("with an MTU of {LEAST_MTU}"))?;
    let over = bed.guest_ping(&format!("-c 1 -w 1 -M do -s {}", fits + 1), IPV6_HOST)?;
    ensure!(
        over.refused.is_some(),
        "with an MTU of {LEAST_MTU} a packet of one more byte was to be refused in the guest: {over}"
    );
    let blocks = transfer::blocks(MIB);
    files::from_guest(bed, IPV6_HOST.into(), blocks, Duration::ZERO)?;
    files::to_guest(bed, IPV6_HOST.into(), blocks, Duration::ZERO).map(drop)
}
