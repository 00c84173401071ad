//! IP packets and what they carry, as far as it takes to judge lengths and checksums. Own code, as parsers
//! refuse or mend what is wrong, and here it is to be told.

use super::findings::Kind;
use crate::net::vnet_header::Partial;
use etherparse::checksum::Sum16BitWords;

/// IANA's numbers.
pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;

/// IPv6 extension headers that have their length in the second byte: hop-by-hop, routing, destination.
const EXTENSIONS: [u8; 3] = [0, 43, 60];
/// IPv6's fragment header.
const FRAGMENT: u8 = 44;

/// A part of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fragment {
    /// Where it belongs in the payload, bytes.
    pub(super) offset: usize,
    /// Whether it is not the last.
    pub(super) more: bool,
}

/// An IP packet.
#[derive(Debug)]
pub(super) struct Network<'a> {
    pub(super) version: u8,
    /// The header's own checksum, where it has one.
    pub(super) checksum_is_right: Option<bool>,
    /// Bytes of the header, extensions included.
    pub(super) header: usize,
    /// Bytes of all of it, as the header says.
    pub(super) length: usize,
    /// Set in fragments alone.
    pub(super) fragment: Option<Fragment>,
    /// IPv4's; 0 in IPv6.
    pub(super) identification: u16,
    pub(super) protocol: u8,
    /// IPv4's type of service; 0 in IPv6, whose answers need not have the request's.
    pub(super) service: u8,
    /// Source and destination.
    pub(super) addresses: &'a [u8],
    /// As much of the payload as there is.
    pub(super) payload: &'a [u8],
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

impl<'a> Network<'a> {
    /// From the first bytes of a packet; none where they make no sense.
    pub(super) fn ipv4(bytes: &'a [u8]) -> Option<Network<'a>> {
        let first = *bytes.first()?;
        let header = usize::from(first & 0xf) * 4;
        let length = usize::from(word(bytes, 2)?);
        if first >> 4 != 4 || header < 20 || length < header {
            return None;
        }
        let (own, payload) = bytes.split_at_checked(header)?;
        let place = word(bytes, 6)?;
        let fragment = Fragment {
            offset: usize::from(place & 0x1fff) * 8,
            more: place & 0x2000 != 0,
        };
        Some(Network {
            version: 4,
            checksum_is_right: Some(Sum16BitWords::new().add_slice(own).ones_complement() == 0),
            header,
            length,
            fragment: (fragment.more || fragment.offset > 0).then_some(fragment),
            identification: word(bytes, 4)?,
            protocol: own[9],
            service: own[1],
            addresses: &own[12..20],
            payload: &payload[..payload.len().min(length - header)],
        })
    }

    /// As [`Network::ipv4`].
    pub(super) fn ipv6(bytes: &'a [u8]) -> Option<Network<'a>> {
        let (own, _) = bytes.split_at_checked(40)?;
        if own[0] >> 4 != 6 {
            return None;
        }
        let length = 40 + usize::from(word(own, 4)?);
        let (mut header, mut protocol) = (40, own[6]);
        while EXTENSIONS.contains(&protocol) {
            let extension = bytes.get(header..header + 2)?;
            protocol = extension[0];
            header += (usize::from(extension[1]) + 1) * 8;
        }
        let payload = bytes.get(header..).filter(|_| header <= length)?;
        Some(Network {
            version: 6,
            checksum_is_right: None,
            header,
            length,
            fragment: None,
            identification: 0,
            protocol,
            service: 0,
            addresses: &own[8..40],
            payload: &payload[..payload.len().min(length - header)],
        })
    }

    /// What it carries, whole; it begins `start` bytes after the frame does.
    pub(super) fn datagram(&self, start: usize) -> Datagram<'a> {
        Datagram {
            version: self.version,
            protocol: self.protocol,
            start: start + self.header,
            length: self.length - self.header,
            addresses: self.addresses,
            head: self.payload,
            sum: (self.payload.len() == self.length - self.header)
                .then(|| Sum16BitWords::new().add_slice(self.payload)),
        }
    }
}

/// A TCP segment, a UDP datagram, an ICMP message.
#[derive(Debug)]
pub(super) struct Datagram<'a> {
    pub(super) version: u8,
    pub(super) protocol: u8,
    /// Where it begins, bytes from the frame's begin.
    pub(super) start: usize,
    pub(super) length: usize,
    pub(super) addresses: &'a [u8],
    /// Its beginning.
    pub(super) head: &'a [u8],
    /// The sum of all its words, where all was there.
    pub(super) sum: Option<Sum16BitWords>,
}

/// What is to be said of a datagram.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing: its protocol has no checksum.
    None,
    /// It could have a checksum, and says that none was made.
    Blank,
    /// Not all of it was there.
    Unknown,
    /// Its lengths make no sense.
    Malformed,
    /// Whether its checksum is right.
    Checksum(Kind, bool),
}

impl Datagram<'_> {
    /// Bytes of its header.
    pub(super) fn header(&self) -> usize {
        match self.protocol {
            TCP => self
                .head
                .get(12)
                .map_or(0, |byte| usize::from(byte >> 4) * 4),
            _ => 8,
        }
    }

    /// Looks at its lengths and its checksum, which may be left to the tap.
    pub(super) fn judge(&self, partial: Option<Partial>) -> Verdict {
        let (kind, field) = match (self.version, self.protocol) {
            (_, TCP) => (Kind::TcpChecksum, 16),
            (_, UDP) => (Kind::UdpChecksum, 6),
            (4, ICMP) => (Kind::IcmpChecksum, 2),
            (6, ICMPV6) => (Kind::IcmpChecksum, 2),
            (6, FRAGMENT) => return Verdict::Unknown,
            _ => return Verdict::None,
        };
        let least = match self.protocol {
            TCP => 20,
            UDP => 8,
            _ => 4,
        };
        let said = match self.protocol {
            UDP => word(self.head, 4).map_or(0, usize::from),
            _ => self.length,
        };
        if self.length < least || self.header() > self.length || said != self.length {
            return Verdict::Malformed;
        }
        let Some(checksum) = word(self.head, field) else {
            return Verdict::Unknown;
        };
        if let Some(Partial { start, offset }) = partial {
            let in_place = usize::from(start) == self.start && usize::from(offset) == field;
            // What the tap adds the rest to.
            let left = (self.pseudo_header()).add_2bytes((!checksum).to_be_bytes());
            return Verdict::Checksum(kind, in_place && left.ones_complement() == 0);
        }
        // RFC 768: none was made. IPv6 demands one (RFC 8200, 8.1).
        if self.protocol == UDP && checksum == 0 {
            return match self.version {
                6 => Verdict::Checksum(kind, false),
                _ => Verdict::Blank,
            };
        }
        let Some(sum) = &self.sum else {
            return Verdict::Unknown;
        };
        let sum = match (self.version, self.protocol) {
            (4, ICMP) => sum.clone(),
            // Words may be summed in any order and in parts.
            _ => sum.clone().add_2bytes(folded(&self.pseudo_header())),
        };
        Verdict::Checksum(kind, sum.ones_complement() == 0)
    }

    fn pseudo_header(&self) -> Sum16BitWords {
        let length = (self.length as u32).to_be_bytes();
        Sum16BitWords::new()
            .add_slice(self.addresses)
            .add_slice(&[0, self.protocol])
            .add_slice(&length)
    }
}

/// A sum as the word that adds the same to another, in the order of its bytes in memory.
pub(super) fn folded(sum: &Sum16BitWords) -> [u8; 2] {
    (!sum.ones_complement()).to_ne_bytes()
}
