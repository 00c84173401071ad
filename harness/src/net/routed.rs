//! Packets that the host sends through a guest, which is a router for them, and what comes back of each: a payload
//! says of each byte which one it is.

use super::addr::{HOST, HOST_MAC, IPV6_HOST, Mac};
use super::frame::Frame;
use super::probe::{OPTIONS, with_options};
use super::vnet_header::{self, Partial, Segmentation, TCPV4, TCPV6, VnetHeader, pseudo_sum};
use anyhow::Result;
use etherparse::{LaxSlicedPacket, PacketBuilder, TransportSlice};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Where the packets go, behind the guest: in the other half of what is set aside for tests (RFC 2544), and in another
/// network of RFC 5180's.
pub const FAR: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 7);
/// As [`FAR`].
pub const FAR6: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 1, 0, 0, 0, 7);

/// Ethernet's header, IPv4's and IPv6's, bytes.
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
/// Headers of UDP and TCP, and where their checksums are in them, bytes.
const UDP: (usize, usize) = (8, 6);
const TCP: (usize, usize) = (20, 16);
/// The first packet's port; each has its own.
const PORT: u16 = 4096;
/// The sequence number of a segment's first byte.
const FIRST: u32 = 1;

/// So many bytes of a payload are at no other place in it.
const TELLING: usize = 16;

/// What the packet's sender leaves to who takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Nothing: it is complete.
    Nothing,
    /// To complete its checksum.
    Checksum,
    /// To cut it into segments with so many bytes of payload, of which each has a checksum.
    Segments(u16),
}

/// A packet of the host's for [`FAR`] or [`FAR6`].
#[derive(Debug, Clone, Copy)]
pub struct Packet {
    /// Tells it from the others.
    pub number: u16,
    /// Over IPv6.
    pub ipv6: bool,
    /// Behind an IPv4 header with options, which is longer.
    pub options: bool,
    /// A TCP segment; else a UDP datagram.
    pub tcp: bool,
    /// Bytes of payload.
    pub payload: usize,
    /// What is left of it to do.
    pub left: Left,
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.tcp {
            "TCP segment"
        } else {
            "UDP datagram"
        };
        let over = match (self.ipv6, self.options) {
            (true, _) => "IPv6",
            (false, false) => "IPv4",
            (false, true) => "IPv4 with options",
        };
        write!(
            f,
            "a {what} over {over} with {} bytes of payload",
            self.payload
        )?;
        match self.left {
            Left::Nothing => Ok(()),
            Left::Checksum => f.write_str(" and its checksum left to be completed"),
            Left::Segments(size) => write!(f, " left to be cut into segments of {size}"),
        }
    }
}

impl Packet {
    fn byte(&self, at: usize) -> u8 {
        (at ^ (at >> 8) ^ usize::from(self.number)) as u8
    }

    /// So many bytes of the payload.
    pub fn bytes(&self, from: usize, length: usize) -> Vec<u8> {
        (from..from + length).map(|at| self.byte(at)).collect()
    }

    /// The most payload that fits an MTU in one packet.
    pub fn room(&self, mtu: usize) -> usize {
        mtu - self.network() - self.transport().0
    }

    /// Bytes of IP's header.
    fn network(&self) -> usize {
        match (self.ipv6, self.options) {
            (true, _) => IPV6,
            (false, false) => IPV4,
            (false, true) => IPV4 + OPTIONS.len(),
        }
    }

    fn transport(&self) -> (usize, usize) {
        if self.tcp { TCP } else { UDP }
    }

    /// A frame of its own, complete, with `payload` for the bytes from `at` on.
    ///
    /// # Errors
    /// For more than an IP packet holds.
    pub fn piece(&self, (from, to): (Mac, Mac), at: usize, payload: &[u8]) -> Result<Vec<u8>> {
        let port = PORT + self.number;
        let ethernet = PacketBuilder::ethernet2(from.0, to.0);
        let ip = match self.ipv6 {
            true => ethernet.ipv6(IPV6_HOST.octets(), FAR6.octets(), 64),
            false => ethernet.ipv4(HOST.octets(), FAR.octets(), 64),
        };
        let mut frame = Vec::new();
        match self.tcp {
            true => ip
                .tcp(port, port, FIRST + at as u32, 1000)
                .ack(1)
                .write(&mut frame, payload)?,
            false => ip.udp(port, port).write(&mut frame, payload)?,
        }
        match self.options {
            true => with_options(&frame),
            false => Ok(frame),
        }
    }

    /// It whole, behind the header that tells what is left of it to do, as [`Sender::open_with_headers`] takes it.
    ///
    /// [`Sender::open_with_headers`]: super::probe::Sender::open_with_headers
    ///
    /// # Errors
    /// For more than an IP packet holds.
    pub fn frame(&self, to: Mac) -> Result<Vec<u8>> {
        let mut frame = self.piece((HOST_MAC, to), 0, &self.bytes(0, self.payload))?;
        let start = ETHERNET + self.network();
        let (length, sum) = self.transport();
        let mut header = VnetHeader::default();
        if self.left != Left::Nothing {
            header.partial = Some(Partial {
                start: start as u16,
                offset: sum as u16,
            });
            let addresses = match self.ipv6 {
                true => ETHERNET + 8..ETHERNET + 40,
                false => ETHERNET + 12..ETHERNET + 20,
            };
            let protocol = if self.tcp { 6 } else { 17 };
            let carried = (length + self.payload) as u16;
            let partial = pseudo_sum(&frame[addresses], protocol, carried);
            frame[start + sum..start + sum + 2].copy_from_slice(&partial.to_be_bytes());
        }
        if let Left::Segments(size) = self.left {
            let kind = match (self.tcp, self.ipv6) {
                (false, _) => vnet_header::UDP,
                (true, false) => TCPV4,
                (true, true) => TCPV6,
            };
            header.segmentation = Some(Segmentation { kind, size });
        }
        Ok([&header.bytes((start + length) as u16)[..], &frame].concat())
    }

    /// Where a datagram's payload begins in that of the one from which it was cut: nothing but its bytes says so.
    fn place_of(&self, payload: &[u8]) -> usize {
        let Left::Segments(size) = self.left else {
            return 0;
        };
        let begin = &payload[..payload.len().min(TELLING)];
        (0..self.payload)
            .step_by(size.into())
            .find(|at| self.bytes(*at, begin.len()) == begin)
            .unwrap_or_default()
    }

    /// What `frame` has of it, if it is of this packet.
    pub fn part_in(&self, frame: &Frame) -> Option<Part> {
        let sliced = LaxSlicedPacket::from_ethernet(&frame.bytes).ok()?;
        let (ports, at, headers, payload) = match &sliced.transport? {
            TransportSlice::Tcp(tcp) => {
                let at = tcp.sequence_number().wrapping_sub(FIRST) as usize;
                let ports = (tcp.source_port(), tcp.destination_port());
                (ports, at, TCP.0, tcp.payload())
            }
            TransportSlice::Udp(udp) => {
                let ports = (udp.source_port(), udp.destination_port());
                (ports, self.place_of(udp.payload()), UDP.0, udp.payload())
            }
            _ => return None,
        };
        let port = PORT + self.number;
        let ip = frame.ip()?;
        let far = ip.destination == FAR || ip.destination == FAR6;
        (ports == (port, port) && far).then(|| Part {
            at,
            length: usize::from(ip.payload_length).saturating_sub(headers),
            changed: (payload.iter().zip(at..))
                .find(|(byte, at)| **byte != self.byte(*at))
                .map(|(_, at)| at),
            segment: frame.segment,
        })
    }
}

/// A part of a packet's payload in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Which byte of the payload it begins with.
    pub at: usize,
    /// Bytes.
    pub length: usize,
    /// The first byte that is not what it was, of those that the capture kept.
    pub changed: Option<usize>,
    /// Payload of the segments into which it is still to be cut, bytes.
    pub segment: Option<u16>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::frame::Direction;
    use crate::net::vnet_header::SIZE;
    use std::time::Duration;

    const MACS: (Mac, Mac) = (Mac([0x52, 0x54, 0, 1, 2, 3]), HOST_MAC);

    fn read(bytes: &[u8], segment: Option<u16>) -> Frame {
        Frame {
            time: Duration::ZERO,
            direction: Direction::FromGuest,
            length: bytes.len(),
            segment,
            bytes: bytes.into(),
        }
    }

    #[test]
    fn a_packet_is_known_by_its_parts() {
        for ipv6 in [false, true] {
            let packet = Packet {
                number: 3,
                ipv6,
                options: false,
                tcp: true,
                payload: 3000,
                left: Left::Segments(700),
            };
            let piece = packet.piece(MACS, 1400, &packet.bytes(1400, 700)).unwrap();
            let part = packet.part_in(&read(&piece, None)).unwrap();
            assert_eq!((part.at, part.length, part.changed), (1400, 700, None));
            let mut other = piece.clone();
            *other.last_mut().unwrap() ^= 1;
            let part = packet.part_in(&read(&other, None)).unwrap();
            assert_eq!(part.changed, Some(2099));
            let next = Packet {
                number: 4,
                ..packet
            };
            assert_eq!(next.part_in(&read(&piece, None)), None);

            let whole = packet.frame(MACS.0).unwrap();
            let part = packet.part_in(&read(&whole[SIZE..], Some(700))).unwrap();
            assert_eq!((part.at, part.length, part.segment), (0, 3000, Some(700)));
        }
    }

    #[test]
    fn a_datagram_that_was_cut_is_placed_by_its_bytes() {
        let packet = Packet {
            number: 5,
            ipv6: true,
            options: false,
            tcp: false,
            payload: 3000,
            left: Left::Segments(640),
        };
        for at in (0..3000).step_by(640) {
            let length = 640.min(3000 - at);
            let piece = packet.piece(MACS, at, &packet.bytes(at, length)).unwrap();
            let part = packet.part_in(&read(&piece, None)).unwrap();
            assert_eq!((part.at, part.length, part.changed), (at, length, None));
        }
        let whole = packet.frame(MACS.0).unwrap();
        let header = VnetHeader::parse(whole[..SIZE].try_into().unwrap());
        let segmentation = header.segmentation.unwrap();
        assert_eq!(
            (segmentation.kind, segmentation.size),
            (vnet_header::UDP, 640)
        );
    }

    #[test]
    fn what_is_left_stands_before_the_frame() {
        let mut packet = Packet {
            number: 0,
            ipv6: false,
            options: false,
            tcp: false,
            payload: 1000,
            left: Left::Nothing,
        };
        let complete = packet.frame(MACS.0).unwrap();
        assert_eq!(complete[..SIZE], [0; SIZE]);
        packet.left = Left::Checksum;
        let partial = packet.frame(MACS.0).unwrap();
        let header = VnetHeader::parse(partial[..SIZE].try_into().unwrap());
        let expected = Partial {
            start: 34,
            offset: 6,
        };
        assert_eq!(header.partial, Some(expected));
        // The checksum alone differs: complemented and completed, it is the other one's.
        let at = SIZE + 34 + 6;
        assert_eq!(complete[SIZE..at], partial[SIZE..at]);
        assert_eq!(complete[at + 2..], partial[at + 2..]);
        assert_ne!(complete[at..at + 2], partial[at..at + 2]);
        assert_eq!(
            packet.to_string(),
            "a UDP datagram over IPv4 with 1000 bytes of payload and its checksum left to be completed"
        );
    }

    #[test]
    fn options_make_the_header_longer_and_no_more() {
        for tcp in [false, true] {
            let packet = Packet {
                number: 2,
                ipv6: false,
                options: true,
                tcp,
                payload: 100,
                left: Left::Checksum,
            };
            let frame = packet.frame(MACS.0).unwrap();
            let header = VnetHeader::parse(frame[..SIZE].try_into().unwrap());
            assert_eq!(header.partial.unwrap().start, 38);
            let part = packet.part_in(&read(&frame[SIZE..], None)).unwrap();
            assert_eq!((part.at, part.length, part.changed), (0, 100, None));
            let shorter = Packet {
                options: false,
                ..packet
            };
            assert_eq!(packet.room(1500) + 4, shorter.room(1500));
            // Both complete to the same sum: it is of addresses and payload.
            let plain = shorter.frame(MACS.0).unwrap();
            let at = packet.transport().1;
            assert_eq!(frame[SIZE + 38 + at..][..2], plain[SIZE + 34 + at..][..2]);
        }
    }
}
