//! Frames that the host puts on the bridge by hand, each known by the MAC that it comes from: shows which
//! destinations a NIC takes frames for.

use super::addr::{HOST, HOST_MAC, IPV6_HOST, Mac};
use super::bridge;
use super::ring::{bind, set_option};
use crate::base::error::OrCannotRun as _;
use anyhow::{Context as _, Result};
use etherparse::{
    IpDscp, IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Header,
    Ipv6RawExtHeader, PacketBuilder, PacketBuilderStep, VlanHeader, VlanId,
};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socket};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};

/// EtherType of a probe: IEEE 802's "local experimental 1", which no kernel answers.
pub const ETHERTYPE: u16 = 0x88b5;

/// EtherType of a VLAN's tag (IEEE 802.1Q, 9.6).
pub const VLAN_TAG: u16 = 0x8100;
/// A service provider's tag (IEEE 802.1ad), before that.
pub const PROVIDER_TAG: u16 = 0x88a8;

/// Options of IPv4 that ask for nothing (RFC 791: no operation).
pub const OPTIONS: [u8; 4] = [1; 4];

/// Ethernet's shortest frame without its checksum, bytes.
pub const SHORTEST: usize = 60;

/// Sends from the host's end of the bridge, which passes a frame on as any other.
pub struct Sender(OwnedFd);

impl Sender {
    /// On the bridge of the calling thread's network.
    pub fn open() -> Result<Sender> {
        let open = || -> Result<OwnedFd> {
            let index = nix::net::if_::if_nametoindex(bridge::NAME)?;
            // Protocol 0: nothing is received.
            let socket = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                None,
            )?;
            bind(&socket, index, 0)?;
            Ok(socket)
        };
        open()
            .or_cannot_run(|| format!("send frames on {}", bridge::NAME))
            .map(Sender)
    }

    /// As [`Sender::open`], of frames with a `struct virtio_net_hdr` before each, which says what of it is left to who
    /// takes it.
    pub fn open_with_headers() -> Result<Sender> {
        let sender = Sender::open()?;
        let on: libc::c_int = 1;
        set_option(&sender.0, libc::PACKET_VNET_HDR, &on)
            .or_cannot_run(|| format!("send frames on {} that are not complete", bridge::NAME))?;
        Ok(sender)
    }

    /// Sends a frame, whole with its Ethernet header.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        send(self.0.as_raw_fd(), frame, MsgFlags::empty())
            .or_cannot_run(|| format!("send a frame on {}", bridge::NAME))
            .map(drop)
    }
}

/// A probe: a frame of [`ETHERTYPE`] without content.
pub fn probe(to: Mac, from: Mac) -> Vec<u8> {
    let mut frame = [&to.0[..], &from.0, &ETHERTYPE.to_be_bytes()].concat();
    frame.resize(SHORTEST, 0);
    frame
}

/// A VLAN's id with a priority, which is the 3 bits before its 12 and one (IEEE 802.1Q, 9.6), as a tag has it.
pub fn prioritized(vlan: u16, priority: u8) -> u16 {
    u16::from(priority) << 13 | vlan
}

/// A probe with the tag of VLAN `vlan`, or with one that is [`prioritized`].
pub fn tagged_probe(vlan: u16, to: Mac, from: Mac) -> Vec<u8> {
    let tag = [VLAN_TAG.to_be_bytes(), vlan.to_be_bytes()].concat();
    let mut frame = [&to.0[..], &from.0, &tag, &ETHERTYPE.to_be_bytes()].concat();
    frame.resize(SHORTEST + tag.len(), 0);
    frame
}

/// An ICMP echo request with the tag of VLAN `vlan`; both ends are MAC and address.
///
/// # Errors
/// For a `vlan` of more than 12 bits.
pub fn tagged_echo(
    vlan: u16,
    (from, source): (Mac, Ipv4Addr),
    (to, target): (Mac, Ipv4Addr),
    key: (u16, u16),
) -> Result<Vec<u8>> {
    let tagged = PacketBuilder::ethernet2(from.0, to.0).single_vlan(vlan_id(vlan)?);
    echo_behind(tagged, (source, target), key, 32)
}

/// As [`tagged_echo`], with `payload` bytes in a VLAN of 802.1Q that is in one of 802.1ad, whose id comes first.
///
/// # Errors
/// For an id of more than 12 bits.
pub fn echo_in_two_vlans(
    [outer, inner]: [u16; 2],
    (from, source): (Mac, Ipv4Addr),
    (to, target): (Mac, Ipv4Addr),
    key: (u16, u16),
    payload: usize,
) -> Result<Vec<u8>> {
    let tagged =
        PacketBuilder::ethernet2(from.0, to.0).double_vlan(vlan_id(outer)?, vlan_id(inner)?);
    echo_behind(tagged, (source, target), key, payload)
}

fn vlan_id(id: u16) -> Result<VlanId> {
    VlanId::try_new(id).context("a VLAN's id has 12 bits")
}

/// An ICMP echo request behind these tags.
fn echo_behind(
    tagged: PacketBuilderStep<VlanHeader>,
    (source, target): (Ipv4Addr, Ipv4Addr),
    (id, seq): (u16, u16),
    payload: usize,
) -> Result<Vec<u8>> {
    let mut frame = Vec::new();
    tagged
        .ipv4(source.octets(), target.octets(), 64)
        .icmpv4_echo_request(id, seq)
        .write(&mut frame, &vec![0; payload])?;
    Ok(frame)
}

/// An ICMP echo request of the host's.
///
/// # Errors
/// None of a request so short.
pub fn echo(to: (Mac, Ipv4Addr), key: (u16, u16)) -> Result<Vec<u8>> {
    echo_with(to, key, &[0; 32])
}

/// As [`echo`], with this payload.
///
/// # Errors
/// For one that is longer than an IPv4 packet.
pub fn echo_with(to: (Mac, Ipv4Addr), key: (u16, u16), payload: &[u8]) -> Result<Vec<u8>> {
    echo_of_service(to, key, 0, payload)
}

/// As [`echo_with`], of this type of service.
///
/// # Errors
/// As there.
pub fn echo_of_service(
    (to, target): (Mac, Ipv4Addr),
    (id, seq): (u16, u16),
    service: u8,
    payload: &[u8],
) -> Result<Vec<u8>> {
    let header = Ipv4Header {
        source: HOST.octets(),
        destination: target.octets(),
        time_to_live: 64,
        dscp: IpDscp::try_new(service >> 2)?,
        ..Ipv4Header::default()
    };
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(HOST_MAC.0, to.0)
        .ip(IpHeaders::Ipv4(header, Ipv4Extensions::default()))
        .icmpv4_echo_request(id, seq)
        .write(&mut frame, payload)?;
    Ok(frame)
}

/// The discard service's port (RFC 863).
const DISCARD: u16 = 9;
/// Headers of Ethernet, IPv4, IPv6, UDP and TCP, bytes.
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const UDP: usize = 8;
const TCP: usize = 20;

/// A packet of the host's for `target`, and how long its headers are, bytes.
fn packet((to, target): (Mac, IpAddr)) -> (PacketBuilderStep<IpHeaders>, usize) {
    let ethernet = PacketBuilder::ethernet2(HOST_MAC.0, to.0);
    match target {
        IpAddr::V4(target) => {
            let packet = ethernet.ipv4(HOST.octets(), target.octets(), 64);
            (packet, ETHERNET + IPV4)
        }
        IpAddr::V6(target) => {
            let packet = ethernet.ipv6(IPV6_HOST.octets(), target.octets(), 64);
            (packet, ETHERNET + IPV6)
        }
    }
}

/// A frame of `length` bytes, at least 42, over IPv6 62: a UDP datagram of the host's for a port that nobody listens on.
///
/// # Errors
/// For a `length` that has no room for the headers.
pub fn datagram((to, target): (Mac, impl Into<IpAddr>), length: usize) -> Result<Vec<u8>> {
    let mut frame = Vec::new();
    let (packet, headers) = packet((to, target.into()));
    let payload = length.checked_sub(headers + UDP);
    let payload = payload
        .with_context(|| format!("a datagram's headers alone are {} bytes", headers + UDP))?;
    packet
        .udp(DISCARD, DISCARD)
        .write(&mut frame, &vec![0; payload])?;
    Ok(frame)
}

/// As [`datagram`], of at least 54 bytes, over IPv6 74: a TCP segment that asks for a connection with that port.
///
/// # Errors
/// As there.
pub fn segment((to, target): (Mac, impl Into<IpAddr>), length: usize) -> Result<Vec<u8>> {
    let mut frame = Vec::new();
    let (packet, headers) = packet((to, target.into()));
    let payload = length.checked_sub(headers + TCP);
    let payload = payload
        .with_context(|| format!("a segment's headers alone are {} bytes", headers + TCP))?;
    packet
        .tcp(DISCARD, DISCARD, 1, 1000)
        .syn()
        .write(&mut frame, &vec![0; payload])?;
    Ok(frame)
}

/// As [`segment`], the shortest, from one port for another.
///
/// # Errors
/// None of a frame's own.
pub fn opening((to, target): (Mac, IpAddr), (from_port, to_port): (u16, u16)) -> Result<Vec<u8>> {
    let mut frame = Vec::new();
    let (packet, _) = packet((to, target));
    packet
        .tcp(from_port, to_port, 1, 1000)
        .syn()
        .write(&mut frame, &[])?;
    Ok(frame)
}

/// Changes a bit of an IPv4 packet's header, after its checksum was made.
pub fn change_header(mut frame: Vec<u8>) -> Vec<u8> {
    const TIME_TO_LIVE: usize = 14 + 8;
    frame[TIME_TO_LIVE] ^= 1;
    frame
}

/// Changes a bit of the last byte of what a packet carries, after its checksum was made.
pub fn change_end(mut frame: Vec<u8>) -> Vec<u8> {
    if let Some(last) = frame.last_mut() {
        *last ^= 1;
    }
    frame
}

/// The IPv4 packet of `frame` in two fragments with that identification, the first of at least half of it.
///
/// # Errors
/// When it is no IPv4 packet, or one too short for two.
pub fn in_two(frame: &[u8], identification: u16) -> Result<[Vec<u8>; 2]> {
    let part = |first: bool| {
        with_header(frame, |header, payload| {
            let half = (payload.len() / 2).next_multiple_of(8);
            header.identification = identification;
            header.dont_fragment = false;
            header.more_fragments = first;
            if first {
                payload.truncate(half);
            } else {
                header.fragment_offset = IpFragOffset::try_new((half / 8) as u16)?;
                payload.drain(..half);
            }
            Ok(())
        })
    };
    Ok([part(true)?, part(false)?])
}

/// The IPv4 packet of `frame` behind options that ask for nothing, four bytes longer.
///
/// # Errors
/// When it is no IPv4 packet.
pub fn with_options(frame: &[u8]) -> Result<Vec<u8>> {
    with_header(frame, |header, _| {
        header.options = OPTIONS.into();
        Ok(())
    })
}

/// The IPv6 packet of `frame` behind an extension header of destination options that ask for nothing, eight bytes longer
/// (RFC 8200, 4.6).
///
/// # Errors
/// When it is no IPv6 packet.
pub fn with_destination_options(frame: &[u8]) -> Result<Vec<u8>> {
    let (ethernet, packet) = frame.split_at(ETHERNET);
    let (mut header, payload) = Ipv6Header::from_slice(packet)?;
    // PadN, 4.2: six bytes, of which four are padding.
    let options = Ipv6RawExtHeader::new_raw(header.next_header, &[1, 4, 0, 0, 0, 0])?;
    header.next_header = IpNumber::IPV6_DESTINATION_OPTIONS;
    header.set_payload_length(options.header_len() + payload.len())?;
    Ok([ethernet, &header.to_bytes(), &options.to_bytes(), payload].concat())
}

/// The UDP datagram of `frame`, over IPv4, without a checksum (RFC 768).
///
/// # Errors
/// When it is no IPv4 packet.
pub fn without_checksum(frame: &[u8]) -> Result<Vec<u8>> {
    with_header(frame, |_, payload| {
        payload[6..8].fill(0);
        Ok(())
    })
}

/// `frame` with another IPv4 header and payload, whose length and checksum follow.
///
/// # Errors
/// When it is no IPv4 packet, or as `change`.
pub fn with_header(
    frame: &[u8],
    change: impl FnOnce(&mut Ipv4Header, &mut Vec<u8>) -> Result<()>,
) -> Result<Vec<u8>> {
    let (ethernet, packet) = frame.split_at(ETHERNET);
    let (mut header, payload) = Ipv4Header::from_slice(packet)?;
    let mut payload = payload.to_vec();
    change(&mut header, &mut payload)?;
    header.set_payload_len(payload.len())?;
    header.header_checksum = header.calc_header_checksum();
    Ok([ethernet, &header.to_bytes(), &payload].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::addr::IPV6_GUEST;
    use crate::net::frame::{Direction, Frame, Icmp};
    use std::time::Duration;

    fn read(bytes: Vec<u8>) -> Frame {
        Frame {
            time: Duration::ZERO,
            direction: Direction::ToGuest,
            length: bytes.len(),
            segment: None,
            bytes: bytes.into(),
        }
    }

    #[test]
    fn fragments_options_and_no_checksum_are_as_the_kernel_reads_them() {
        let to = (Mac([0x52, 0x54, 0, 1, 2, 3]), Ipv4Addr::new(198, 18, 0, 2));
        let whole = datagram(to, 142).unwrap();
        let [first, second] = in_two(&whole, 7).unwrap();
        let headers = [&first, &second].map(|part| Ipv4Header::from_slice(&part[14..]).unwrap());
        let places = headers.each_ref().map(|(header, _)| {
            let offset = header.fragment_offset.byte_offset();
            (header.identification, header.more_fragments, offset)
        });
        assert_eq!(places, [(7, true, 0), (7, false, 56)]);
        assert_eq!([headers[0].1, headers[1].1].concat(), whole[34..]);

        let longer = with_options(&whole).unwrap();
        let (header, payload) = Ipv4Header::from_slice(&longer[14..]).unwrap();
        assert_eq!((longer.len(), header.ihl()), (146, 6));
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        assert_eq!(payload, &whole[34..]);

        let without = without_checksum(&whole).unwrap();
        assert_eq!((without.len(), &without[40..42]), (142, &[0, 0][..]));
        assert_eq!(without[..40], whole[..40]);

        let whole = datagram((to.0, IPV6_GUEST), 142).unwrap();
        let longer = with_destination_options(&whole).unwrap();
        let (header, payload) = Ipv6Header::from_slice(&longer[14..]).unwrap();
        assert_eq!((longer.len(), header.payload_length), (150, 96));
        assert_eq!(header.next_header, IpNumber::IPV6_DESTINATION_OPTIONS);
        assert_eq!(payload[..8], [17, 0, 1, 4, 0, 0, 0, 0]);
        assert_eq!(payload[8..], whole[54..]);
    }

    #[test]
    fn probes_are_read_as_what_they_are() {
        let (here, there) = (Mac([2, 0, 0, 0, 0, 1]), Mac([0x52, 0x54, 0, 1, 2, 3]));
        let frame = read(probe(there, here));
        assert_eq!((frame.src(), frame.dst()), (Some(here), Some(there)));
        assert_eq!((frame.ethertype(), frame.length), (Some(ETHERTYPE), 60));

        let frame = read(tagged_probe(10, there, here));
        assert_eq!((frame.vlan_id(), frame.length), (Some(10), 64));
        assert_eq!(frame.vlan_priority(), Some(0));
        let frame = read(tagged_probe(prioritized(4094, 5), there, here));
        assert_eq!(
            (frame.vlan_id(), frame.vlan_priority()),
            (Some(4094), Some(5))
        );

        let (source, target) = (Ipv4Addr::new(198, 19, 0, 1), Ipv4Addr::new(198, 19, 0, 2));
        let ends = ((here, source), (there, target));
        let frame = read(tagged_echo(10, ends.0, ends.1, (7, 8)).unwrap());
        assert_eq!(frame.vlan_id(), Some(10));
        assert_eq!(frame.icmp(), Some(Icmp::EchoRequest { id: 7, seq: 8 }));
        assert!(tagged_echo(4096, ends.0, ends.1, (7, 8)).is_err());

        let frame = read(echo_in_two_vlans([20, 30], ends.0, ends.1, (7, 8), 1468).unwrap());
        assert_eq!(frame.tags(), [(PROVIDER_TAG, 20), (VLAN_TAG, 30)]);
        assert_eq!((frame.ethertype(), frame.length), (Some(0x800), 1518));
        assert_eq!(frame.icmp(), Some(Icmp::EchoRequest { id: 7, seq: 8 }));

        let frame = read(echo((there, target), (7, 8)).unwrap());
        assert_eq!(frame.icmp(), Some(Icmp::EchoRequest { id: 7, seq: 8 }));
        assert_eq!((frame.src(), frame.dst()), (Some(HOST_MAC), Some(there)));

        let frame = read(datagram((there, target), 61).unwrap());
        assert_eq!((frame.src(), frame.length), (Some(HOST_MAC), 61));
        assert_eq!(frame.ip().map(|ip| ip.destination), Some(target.into()));
        assert!(datagram((there, target), 41).is_err());
        let frame = read(segment((there, target), 54).unwrap());
        assert_eq!((frame.tcp_ports(), frame.length), (Some((9, 9)), 54));
        assert!(segment((there, target), 53).is_err());
    }
}
