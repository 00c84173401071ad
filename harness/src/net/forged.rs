//! Frames as a broken NIC would send them, for faults: each has one kind of damage, and nobody here answers
//! any of them.

use super::addr::{HOST, HOST_MAC, IPV6_GUEST, IPV6_HOST, Mac, guest};
use super::probe;
use super::vnet_header::{Partial, SIZE, Segmentation, TCPV4, VnetHeader, pseudo_sum};
use anyhow::Result;
use etherparse::PacketBuilder;
use std::net::Ipv4Addr;

/// The discard service's port (RFC 863).
pub const DISCARD: u16 = 9;
/// Bytes of payload: fits a frame.
const PAYLOAD: usize = 1000;
/// The same, of frames that no MTU here has room for.
const LONG: usize = 60_000;
/// Where IPv4's header and what it carries begin in a frame, bytes.
const NETWORK: usize = 14;
const TRANSPORT: usize = NETWORK + 20;
/// Where TCP's checksum is.
const TCP_SUM: Partial = Partial {
    start: TRANSPORT as u16,
    offset: 16,
};

/// A frame, and the header by which it is handed to a tap (`struct virtio_net_hdr`).
#[derive(Debug, Clone)]
pub struct Forged {
    /// How much is left to the tap; all zeroes where the frame is complete.
    pub left: [u8; SIZE],
    /// From the destination's MAC on.
    pub bytes: Vec<u8>,
}

impl Forged {
    /// One of which nothing is left to do.
    pub fn complete(bytes: Vec<u8>) -> Forged {
        Forged {
            left: [0; SIZE],
            bytes,
        }
    }
}

fn tcp(from: Mac, payload: usize) -> Result<Vec<u8>> {
    tcp_between(from, (guest(0), HOST), payload)
}

fn tcp_between(from: Mac, ends: (Ipv4Addr, Ipv4Addr), payload: usize) -> Result<Vec<u8>> {
    segment_between(from, ends, (DISCARD, 1), payload)
}

/// From that port, and with that sequence number.
fn segment_between(
    from: Mac,
    ends: (Ipv4Addr, Ipv4Addr),
    (port, sequence): (u16, u32),
    payload: usize,
) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(from.0, HOST_MAC.0)
        .ipv4(ends.0.octets(), ends.1.octets(), 64)
        .tcp(port, DISCARD, sequence, 1000)
        .write(&mut bytes, &vec![0; payload])?;
    Ok(bytes)
}

fn udp(from: Mac, port: u16) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(from.0, HOST_MAC.0)
        .ipv4(guest(0).octets(), HOST.octets(), 64)
        .udp(DISCARD, port)
        .write(&mut bytes, &[0; PAYLOAD])?;
    Ok(bytes)
}

/// Changes one bit, `at` bytes from the begin.
fn flipped(mut bytes: Vec<u8>, at: usize) -> Forged {
    bytes[at] ^= 1;
    Forged::complete(bytes)
}

/// The first and the last of three segments of a connection of that port of the guest's.
pub fn two_of_three(from: Mac, port: u16) -> Result<[Forged; 2]> {
    let segment = |number: u32| {
        let at = (port, 1 + number * PAYLOAD as u32);
        segment_between(from, (guest(0), HOST), at, PAYLOAD).map(Forged::complete)
    };
    Ok([segment(0)?, segment(2)?])
}

/// A TCP segment, changed after its checksum was made.
pub fn changed_tcp(from: Mac) -> Result<Forged> {
    Ok(flipped(tcp(from, PAYLOAD)?, TRANSPORT + 20 + PAYLOAD - 1))
}

/// A TCP segment of a guest in a VLAN, without its tag.
pub fn untagged(from: Mac, source: Ipv4Addr, target: Ipv4Addr) -> Result<Forged> {
    tcp_between(from, (source, target), 0).map(Forged::complete)
}

/// As [`changed_tcp`], over IPv6.
pub fn changed_tcp6(from: Mac) -> Result<Forged> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(from.0, HOST_MAC.0)
        .ipv6(IPV6_GUEST.octets(), IPV6_HOST.octets(), 64)
        .tcp(DISCARD, DISCARD, 1, 1000)
        .write(&mut bytes, &vec![0; PAYLOAD])?;
    let last = bytes.len() - 1;
    Ok(flipped(bytes, last))
}

/// As [`changed_tcp`], of a UDP datagram.
pub fn changed_udp(from: Mac) -> Result<Forged> {
    Ok(flipped(udp(from, DISCARD)?, TRANSPORT + 8 + PAYLOAD - 1))
}

/// A UDP datagram to a port of the host's, of whose checksum its field says that there is none.
pub fn without_checksum(from: Mac, port: u16) -> Result<Forged> {
    probe::without_checksum(&udp(from, port)?).map(Forged::complete)
}

/// As [`changed_tcp`], of an ICMP echo reply.
pub fn changed_icmp(from: Mac) -> Result<Forged> {
    let bytes = echo_reply((from, guest(0)), (1, 1))?;
    Ok(flipped(bytes, TRANSPORT + 8 + PAYLOAD - 1))
}

/// The answer to an echo request of that identifier and sequence number.
pub fn answer(from: (Mac, Ipv4Addr), key: (u16, u16)) -> Result<Forged> {
    echo_reply(from, key).map(Forged::complete)
}

fn echo_reply((from, source): (Mac, Ipv4Addr), (id, seq): (u16, u16)) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(from.0, HOST_MAC.0)
        .ipv4(source.octets(), HOST.octets(), 64)
        .icmpv4_echo_reply(id, seq)
        .write(&mut bytes, &[0; PAYLOAD])?;
    Ok(bytes)
}

/// An IPv4 header, changed after its checksum was made.
pub fn changed_ipv4(from: Mac) -> Result<Forged> {
    const TIME_TO_LIVE: usize = 8;
    Ok(flipped(udp(from, DISCARD)?, NETWORK + TIME_TO_LIVE))
}

/// An IPv4 packet of which the NIC sends some bytes less than its header says.
pub fn cut_short(from: Mac) -> Result<Forged> {
    let mut bytes = udp(from, DISCARD)?;
    bytes.truncate(bytes.len() - 100);
    Ok(Forged::complete(bytes))
}

/// A segment as long as an IPv4 packet can be, sent as one plain frame.
pub fn never_cut(from: Mac) -> Result<Forged> {
    tcp(from, LONG).map(Forged::complete)
}

/// A segment that is to be cut into such as are longer than an MTU of 1,500.
pub fn cut_too_long(from: Mac) -> Result<Forged> {
    let header = VnetHeader {
        partial: Some(TCP_SUM),
        segmentation: Some(Segmentation {
            kind: TCPV4,
            size: 9000,
        }),
    };
    let mut bytes = tcp(from, LONG)?;
    let sum = pseudo_sum(&bytes[NETWORK + 12..TRANSPORT], 6, (LONG + 20) as u16);
    let at = TRANSPORT + usize::from(TCP_SUM.offset);
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    Ok(Forged {
        left: header.bytes((TRANSPORT + 20) as u16),
        bytes,
    })
}

/// A segment whose checksum is left to the tap, at a wrong place: the tap's host does not look at it.
pub fn completed_elsewhere(from: Mac) -> Result<Forged> {
    let header = VnetHeader {
        partial: Some(Partial {
            start: TCP_SUM.start + 2,
            ..TCP_SUM
        }),
        segmentation: None,
    };
    Ok(Forged {
        left: header.bytes(0),
        bytes: tcp(from, PAYLOAD)?,
    })
}

/// A frame without content, of a MAC that nobody has.
pub fn foreign(mac: Mac) -> Forged {
    Forged::complete(probe::probe(HOST_MAC, mac))
}

/// An echo request in a VLAN that nobody is in.
pub fn tagged(from: Mac, vlan: u16) -> Result<Forged> {
    let ends = ((from, guest(0)), (HOST_MAC, HOST));
    probe::tagged_echo(vlan, ends.0, ends.1, (1, 1)).map(Forged::complete)
}

/// A datagram with an identification, which is one packet's alone.
pub fn numbered(from: Mac) -> Result<Forged> {
    identified(udp(from, DISCARD)?)
}

/// Two segments of one connection with one identification, as of a NIC that cuts them and does not count it up.
pub fn cut_alike(from: Mac) -> Result<[Forged; 2]> {
    Ok([
        identified(tcp(from, PAYLOAD)?)?,
        identified(tcp(from, PAYLOAD / 2)?)?,
    ])
}

/// Four segments behind each other that fill an MTU of so many bytes and all push, as of a NIC that cuts them and leaves
/// the flag in each.
pub fn cut_pushing(from: Mac, mtu: u32) -> Result<Vec<Forged>> {
    let payload = mtu - 40;
    let segment = |number: u32| -> Result<Forged> {
        let mut bytes = Vec::new();
        PacketBuilder::ethernet2(from.0, HOST_MAC.0)
            .ipv4(guest(0).octets(), HOST.octets(), 64)
            .tcp(DISCARD, DISCARD, 1 + number * payload, 1000)
            .psh()
            .write(&mut bytes, &vec![0; payload as usize])?;
        Ok(Forged::complete(bytes))
    };
    (0..4).map(segment).collect()
}

/// The packet, with an identification.
fn identified(bytes: Vec<u8>) -> Result<Forged> {
    let bytes = probe::with_header(&bytes, |header, _| {
        header.identification = 1;
        Ok(())
    })?;
    Ok(Forged::complete(bytes))
}

/// A sound datagram of the host's, of 60 bytes.
pub fn from_host(to: Mac) -> Result<Forged> {
    probe::datagram((to, guest(0)), 60).map(Forged::complete)
}

/// As [`from_host`], changed after its checksum was made.
pub fn changed_from_host(to: Mac) -> Result<Forged> {
    let datagram = probe::datagram((to, guest(0)), 60)?;
    Ok(Forged::complete(probe::change_end(datagram)))
}

/// A datagram of the host's of which the NIC hands up some bytes less than its header says.
pub fn cut_from_host(to: Mac) -> Result<Forged> {
    let mut datagram = probe::datagram((to, guest(0)), 300)?;
    datagram.truncate(200);
    Ok(Forged::complete(datagram))
}

/// As [`changed_from_host`], over IPv6.
pub fn changed_from_host6(to: Mac) -> Result<Forged> {
    let datagram = probe::datagram((to, IPV6_GUEST), 80)?;
    Ok(Forged::complete(probe::change_end(datagram)))
}

/// `changed`, of which a NIC says that it is sound.
pub fn vouched_for(mut changed: Forged) -> Forged {
    const DATA_VALID: u8 = 2; // VIRTIO_NET_HDR_F_DATA_VALID
    changed.left[0] = DATA_VALID;
    changed
}

/// A sound frame, to know by that those before it have passed.
pub fn marker(from: Mac) -> Forged {
    foreign(from)
}
