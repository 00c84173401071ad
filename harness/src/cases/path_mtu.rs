//! A path that carries less than the NIC's MTU: the guest is told so, and its NIC's segmentation must follow.

use super::damage;
use super::faults::{AT_START, virtio};
use super::transfer::{self as files, ALTERED};
use super::{Case, Fault, Moment, Red};
use crate::guest::dialect::Op;
use crate::net::addr::{HOST, IPV6_GUEST, IPV6_HOST};
use crate::net::beyond::{BEYOND, Beyond, IPV6_BEYOND};
use crate::net::frame::{Direction, Frame, Icmp};
use crate::net::sabotage;
use crate::net::transfer::blocks;
use crate::testbed::Testbed;
use anyhow::{Context as _, ensure};
use std::net::IpAddr;
use std::time::Duration;

/// What the path carries, bytes: IPv6 asks for 1280 (RFC 8200, 5).
const PATH: usize = 1300;
/// The file, MiB.
const MIB: u32 = 1;
/// Ethernet's header, bytes.
const ETHERNET: usize = 14;

/// To a host behind a narrow path.
pub static PATH_MTU: Case = Case {
    name: "path_mtu",
    passes: "a host behind a router's path of 1300 bytes: once the router has called a full frame too big, the guest itself refuses a packet of 1301 bytes and one of 1300 is answered; when the guest has forgotten that, TCP begins with longer segments, is told so, and from then on none is longer than 1300 bytes and the file arrives whole, on virtio in segments left to the tap; by IPv4 and by IPv6",
    ops: &[Op::Address, Op::Address6],
    seconds: |_| 30.0,
    faults: &[
        Fault {
            name: "not_told",
            breaks: "the router's answers that a packet is too big are lost",
            inject: |_| sabotage::drop_too_big(),
            red: Red::Says("was to be refused"),
            ..AT_START
        },
        Fault {
            name: "never_segmented",
            breaks: "QEMU's virtio NIC does not segment TCP over IPv4 (`host_tso4=off`)",
            applies: virtio,
            vm: |spec, _| spec.nics[0].properties.push("host_tso4=off".into()),
            red: Red::Says("none left it longer than its MTU"),
            ..AT_START
        },
        Fault {
            red: Red::Says("left the guest after it had begun to send"),
            ..damage::NEVER_CUT
        },
        ALTERED,
    ],
    run: path_mtu,
    ..Case::PLAIN
};

/// What differs by IP's version.
struct Version {
    host: IpAddr,
    beyond: IpAddr,
    /// Headers of IP and of an echo, bytes.
    headers: usize,
    /// How a router calls a packet too big.
    too_big: Icmp,
    /// In the guest: the way to the host behind, and to forget what is known of the path.
    route: &'static str,
    forget: &'static str,
}

const IPV4: Version = Version {
    host: IpAddr::V4(HOST),
    beyond: IpAddr::V4(BEYOND),
    headers: 20 + 8,
    too_big: Icmp::Other { kind: 3, code: 4 },
    route: "ip route replace",
    forget: "ip route flush cache",
};

const IPV6: Version = Version {
    host: IpAddr::V6(IPV6_HOST),
    beyond: IpAddr::V6(IPV6_BEYOND),
    headers: 40 + 8,
    too_big: Icmp::Other { kind: 2, code: 0 },
    route: "ip -6 route replace",
    forget: "ip -6 route flush cache",
};

/// Pings and sends a file to the host behind, by each version of IP that the host's kernel has.
fn path_mtu(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    let ipv6 = bed.bridge.enable_ipv6()?;
    let beyond = Beyond::join(PATH as u32, ipv6)?;
    let mut versions = vec![IPV4];
    if ipv6 {
        bed.apply(Op::Address6, &link, &format!("{IPV6_GUEST}/64"))?;
        versions.push(IPV6);
    } else {
        bed.notes.push("the host's kernel has no IPv6".into());
    }
    files::make_file(bed, blocks(MIB))?;
    for version in &versions {
        let Version {
            route,
            beyond,
            host,
            ..
        } = version;
        bed.agent.sh(&format!("{route} {beyond} via {host}"))?;
        ping_learns(bed, version).with_context(|| format!("to {beyond}"))?;
    }
    for version in &versions {
        segments_follow(bed, version, &beyond).with_context(|| format!("to {}", version.beyond))?;
    }
    bed.expect_quiet_kernel()
}

/// The guest's kernel learns by an echo that is too long what the path carries, and holds to it to the byte.
fn ping_learns(bed: &Testbed, version: &Version) -> anyhow::Result<()> {
    let Version {
        beyond, headers, ..
    } = *version;
    bed.guest_expect_answered(1, "", beyond)?;
    let full = bed.cell.nic.default_mtu() as usize - headers;
    let told = bed.guest_ping(&format!("-c 1 -w 1 -M do -s {full}"), beyond)?;
    let over = PATH + 1 - headers;
    let refused = bed.guest_ping(&format!("-c 1 -w 1 -M do -s {over}"), beyond)?;
    ensure!(
        refused.is_refused_as_too_large(),
        "a packet of {} bytes was to be refused in the guest, as the path carries {PATH}: {refused}; a full frame before it: {told}",
        PATH + 1
    );
    let fits = PATH - headers;
    bed.guest_expect_answered(2, &format!("-i 0.1 -M do -s {fits}"), beyond)
        .with_context(|| format!("in packets of {PATH} bytes"))
}

/// TCP begins with segments that are too long for the path, and goes on with such as fit.
fn segments_follow(bed: &mut Testbed, version: &Version, beyond: &Beyond) -> anyhow::Result<()> {
    bed.agent.sh(version.forget)?;
    let port = beyond.listen(version.beyond)?;
    let fence = bed.fence()?;
    files::from_guest_to(bed, version.beyond, &port, blocks(MIB), Duration::ZERO)?;
    bed.moment(Moment::Traffic)?;
    let frames = bed.wire()?.frames(fence)?;
    let told = frames.iter().filter(|frame| {
        frame.direction == Direction::ToGuest && frame.icmp() == Some(version.too_big)
    });
    let told = told.count();
    ensure!(
        told > 0,
        "TCP was to begin with segments too long for the path, and the router called none too big"
    );
    let from_guest = |frame: &&Frame| frame.direction == Direction::FromGuest;
    let sent: Vec<(usize, usize)> = (frames.iter().filter(from_guest))
        .filter_map(|frame| Some((frame.tcp_packet()?, frame.length)))
        .collect();
    let following = sent.iter().skip_while(|(packet, _)| *packet != PATH);
    let longest = following.clone().map(|(packet, _)| *packet).max();
    let longest = longest.with_context(|| {
        format!("the file arrived, and none of its segments made a packet of {PATH} bytes")
    })?;
    ensure!(
        longest == PATH,
        "a TCP packet of {longest} bytes left the guest after it had begun to send such of {PATH}, which the path carries"
    );
    let most = bed.cell.nic.default_mtu() as usize + ETHERNET;
    let unsegmented = following.filter(|(_, length)| *length > most).count();
    let segments = bed.cell.nic.is_virtio() && bed.cell.nic.offloads.iter().any(|o| o == "tso");
    ensure!(
        unsegmented > 0 || !segments,
        "virtio leaves segmentation to its tap, and of TCP segments for a path of {PATH} bytes none left it longer than its MTU"
    );
    bed.notes.push(format!(
        "to {}: {told} times too big, then {unsegmented} frames left to the tap",
        version.beyond
    ));
    Ok(())
}
