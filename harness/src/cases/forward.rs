//! A guest that is a router: it sends on what its NIC took, and with it all that the NIC said of it, such as that a
//! checksum is still to be completed, or how large the segments are into which it is to be cut.

use super::damage::FORGED;
use super::faults::{AT_START, IN_TRAFFIC, in_guest, virtio};
use super::features;
use super::{Case, Fault, Moment, Red};
use crate::base::deadline::Limit;
use crate::base::error::find;
use crate::guest::dialect::Op;
use crate::guest::link::{self, Link};
use crate::net::addr::{HOST, HOST_MAC, IPV6_GUEST, IPV6_HOST, Mac};
use crate::net::forged::Forged;
use crate::net::frame::{Direction, Frame};
use crate::net::probe::Sender;
use crate::net::routed::{FAR, FAR6, Left, Packet, Part};
use crate::testbed::Testbed;
use anyhow::{Context as _, bail, ensure};
use nix::errno::Errno;

/// A router sends on at once; under TCG within some 0.1 s.
const SENT_ON: Limit = Limit {
    what: "the guest to send on what is not for it",
    seconds: 10.0,
};
/// Segments that no MTU here makes, of each IP another, bytes; with a payload that is no multiple of either.
const SEGMENTS: [u16; 2] = [700, 640];
const PAYLOAD: usize = 3000;
/// VIRTIO_NET_F_GUEST_USO4 and 6 (virtio 1.3, 5.1.3): a tap takes both or neither.
const GUEST_USO: [usize; 2] = [54, 55];
/// What no NIC here has.
const NOBODY: Mac = Mac([2, 0, 0, 0, 0x66, 0]);
/// Full segments at once: fewer than the NIC with the smallest receive ring has room for.
const FULL: usize = 8;

/// The packet that a NIC spoils.
const SPOILED: Fault = Fault {
    applies: FORGED.applies,
    ..IN_TRAFFIC
};

/// Beyond the plan.
pub static FORWARD: Case = Case {
    name: "forward",
    passes: "what the host sends through the guest as a router comes back once, with each byte as it was: UDP datagrams and TCP segments over IPv4 and IPv6, complete, with a checksum left to be completed, also behind options of IPv4, and left to be cut, which is then cut into segments of that size; the latter reaches virtio's guest whole, a datagram where guest and NIC agree on its cutting (USO)",
    ops: &[Op::Address, Op::Address6],
    seconds: |_| 30.0,
    faults: &[
        Fault {
            name: "not_sent_on",
            breaks: "the guest sends nothing on any more",
            inject: |bed| in_guest(bed, "echo 0 >/proc/sys/net/ipv4/ip_forward").map(drop),
            red: Red::Says("0 bytes came back"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "changed",
            breaks: "a byte of a packet is another when the NIC sends it",
            inject: |bed| forge_part(bed, 0, (1, 600)),
            red: Red::Says("byte 0 of its payload is another"),
            ..SPOILED
        },
        Fault {
            name: "twice",
            breaks: "the NIC sends a part of a packet twice",
            inject: |bed| forge_part(bed, 700, (700, 700)),
            red: Red::Says("came back twice"),
            ..SPOILED
        },
        Fault {
            name: "cut_otherwise",
            breaks: "the NIC cuts a packet into other segments than it was to",
            inject: |bed| forge_part(bed, 0, (0, 701)),
            red: Red::Says("701 bytes of payload in a segment"),
            ..SPOILED
        },
        Fault {
            name: "cut_for_the_guest",
            breaks: "QEMU's virtio NIC takes no long segments of TCP over IPv6 (`guest_tso6=off`)",
            applies: virtio,
            vm: |spec, _| spec.nics[0].properties.push("guest_tso6=off".into()),
            red: Red::Says("reached the guest in parts"),
            ..AT_START
        },
    ],
    run: forward,
    ..Case::PLAIN
};

fn forward(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    bed.apply(Op::Address6, &link, &format!("{IPV6_GUEST}/64"))?;
    become_router(bed, &link)?;
    let fence = bed.fence()?;
    bed.moment(Moment::Traffic)?;
    let mut packets = packets(bed);
    let sender = Sender::open_with_headers()?;
    if !cuts_datagrams(bed, &sender, &packets)? {
        packets.retain(|packet| !is_cut_datagram(packet));
    }
    for packet in &packets {
        let mut back = 0;
        let mark = bed.wire()?.mark()?;
        sender.send(&packet.frame(bed.nic().mac)?)?;
        bed.wire()?
            .wait(mark, SENT_ON.start(), |frame| {
                back += part(packet, frame, Direction::FromGuest).map_or(0, |part| part.length);
                back >= packet.payload
            })
            .with_context(|| format!("of {packet} {back} bytes came back"))?;
    }
    // Behind what would come twice.
    bed.expect_replies(1, 48)?;
    let frames = bed.wire()?.frames(fence)?;
    let agreed = match virtio(&bed.cell) {
        true => features::in_sysfs(bed, &link)?,
        false => String::new(),
    };
    for packet in &packets {
        reached_whole(bed, packet, &agreed, &frames).with_context(|| packet.to_string())?;
        came_back_once(packet, &frames).with_context(|| packet.to_string())?;
    }
    bed.expect_quiet_kernel()
}

/// What the host has the guest send on, over each IP.
fn packets(bed: &Testbed) -> Vec<Packet> {
    let mtu = bed.cell.nic.default_mtu() as usize;
    let mut packets = Vec::new();
    for (ipv6, size) in [(false, SEGMENTS[0]), (true, SEGMENTS[1])] {
        let packet = |tcp, payload: &dyn Fn(&Packet) -> usize, left| {
            let packet = Packet {
                number: 0,
                ipv6,
                options: false,
                tcp,
                payload: 0,
                left,
            };
            Packet {
                payload: payload(&packet),
                ..packet
            }
        };
        let full = |packet: &Packet| packet.room(mtu);
        let mss = packet(true, &full, Left::Nothing).payload;
        packets.extend([
            // Padded by the host's end to Ethernet's shortest frame, which the guest is to take off.
            packet(false, &|_| 1, Left::Nothing),
            packet(false, &full, Left::Nothing),
            packet(true, &|packet| packet.room(mtu) - 1, Left::Nothing),
            packet(true, &full, Left::Nothing),
            packet(false, &|packet| packet.room(mtu) - 1, Left::Checksum),
            packet(true, &|_| 999, Left::Checksum),
            packet(true, &|_| PAYLOAD, Left::Segments(size)),
            packet(true, &|_| FULL * mss, Left::Segments(mss as u16)),
            packet(false, &|_| PAYLOAD, Left::Segments(size)),
        ]);
    }
    packets.extend([false, true].map(|tcp| Packet {
        number: 0,
        ipv6: false,
        options: true,
        tcp,
        payload: 999,
        left: Left::Checksum,
    }));
    for (number, packet) in packets.iter_mut().enumerate() {
        packet.number = number as u16;
    }
    packets
}

fn is_cut_datagram(packet: &Packet) -> bool {
    !packet.tcp && matches!(packet.left, Left::Segments(_))
}

/// Whether the host's kernel takes datagrams that are left to be cut, as Linux does from 6.2 on: shown by one for nobody.
fn cuts_datagrams(bed: &mut Testbed, sender: &Sender, packets: &[Packet]) -> anyhow::Result<bool> {
    let packet = packets.iter().find(|packet| is_cut_datagram(packet));
    let packet = Packet {
        number: packets.len() as u16,
        ..*packet.context("no datagram is left to be cut")?
    };
    match sender.send(&packet.frame(NOBODY)?) {
        Err(error) if find::<Errno>(&error) == Some(&Errno::EINVAL) => {
            let note =
                "the host's kernel takes no datagram that is left to be cut: none was sent so";
            bed.notes.push(note.into());
            Ok(false)
        }
        sent => sent.map(|()| true),
    }
}

/// Has the guest send on what is for [`FAR`] and [`FAR6`], to the host by the NIC that it came from.
fn become_router(bed: &Testbed, link: &Link) -> anyhow::Result<()> {
    let dev = &link.name;
    bed.know_each_other(link)?;
    // That the host could have sent it there itself is not to be told.
    bed.agent.sh(&format!(
        "cd /proc/sys/net && echo 0 | tee ipv4/conf/all/send_redirects >ipv4/conf/{dev}/send_redirects && \
         echo 1 | tee ipv4/ip_forward >ipv6/conf/all/forwarding && \
         ip route add {FAR}/32 via {HOST} dev {dev} && \
         ip -6 neigh replace {IPV6_HOST} lladdr {HOST_MAC} nud permanent dev {dev} && \
         ip -6 route add {FAR6}/128 via {IPV6_HOST} dev {dev}"
    ))?;
    // A router's kernel switches off what it calls LRO, as which older virtio drivers have the long segments that they
    // take. Theirs can be sent on.
    let features = link::fields(&bed.agent.sh(&format!("ethtool -k {dev}"))?);
    let lro = features.get("large-receive-offload");
    if virtio(&bed.cell) && lro.is_some_and(|state| state == "off") {
        bed.agent.sh(&format!("ethtool -K {dev} lro on"))?;
    }
    Ok(())
}

fn part(packet: &Packet, frame: &Frame, direction: Direction) -> Option<Part> {
    (frame.direction == direction).then(|| packet.part_in(frame))?
}

/// What is left to be cut reaches virtio's guest so, datagrams where their cutting is agreed on as well.
fn reached_whole(
    bed: &Testbed,
    packet: &Packet,
    agreed: &str,
    frames: &[Frame],
) -> anyhow::Result<()> {
    let Left::Segments(size) = packet.left else {
        return Ok(());
    };
    let as_it_was = match packet.tcp {
        true => virtio(&bed.cell),
        false => GUEST_USO.iter().all(|bit| features::is_set(agreed, *bit)),
    };
    let parts = (frames.iter()).filter_map(|frame| part(packet, frame, Direction::ToGuest));
    let parts: Vec<_> = parts.map(|part| (part.length, part.segment)).collect();
    ensure!(
        !as_it_was || parts == [(packet.payload, Some(size))],
        "it reached the guest in parts, or to be cut otherwise: of payload and segment size each has {parts:?}"
    );
    Ok(())
}

/// Each byte came back once, as it was, in segments of the size that was asked for.
fn came_back_once(packet: &Packet, frames: &[Frame]) -> anyhow::Result<()> {
    let back = (frames.iter()).filter_map(|frame| part(packet, frame, Direction::FromGuest));
    let mut back: Vec<_> = back.collect();
    back.sort_by_key(|part| part.at);
    let mut next = 0;
    for part in back {
        if let Some(at) = part.changed {
            bail!("byte {at} of its payload is another");
        }
        let (segment, most) = match (packet.left, part.segment) {
            (Left::Segments(size), Some(segment)) => (segment, size),
            (Left::Segments(size), None) => (part.length as u16, size),
            (_, segment) => (segment.unwrap_or_default(), 0),
        };
        let last = part.at + part.length == packet.payload;
        ensure!(
            segment == most || most > segment && last && part.segment.is_none(),
            "{segment} bytes of payload in a segment of it, and not {most}"
        );
        ensure!(
            part.at == next,
            "{}: there are {} bytes from byte {} on, behind {next}",
            if part.at < next {
                "a part came back twice"
            } else {
                "a part did not come back"
            },
            part.length,
            part.at,
        );
        next = part.at + part.length;
    }
    ensure!(
        next == packet.payload,
        "{next} of {} bytes came back",
        packet.payload
    );
    Ok(())
}

/// Has QEMU take a part of the first packet that is left to be cut for one that the NIC sent: at byte `at` so many bytes of
/// the payload from `from` on.
fn forge_part(bed: &Testbed, at: usize, (from, length): (usize, usize)) -> anyhow::Result<()> {
    let packets = packets(bed);
    let cut = (packets.iter()).find(|packet| matches!(packet.left, Left::Segments(_)));
    let packet = cut.context("no packet is left to be cut")?;
    let macs = (bed.nic().mac, HOST_MAC);
    let bytes = packet.piece(macs, at, &packet.bytes(from, length))?;
    bed.forge(&[Forged::complete(bytes)])
}
