//! A captured frame, and what it is.

mod arp;

use super::addr::Mac;
pub use arp::Arp;
use etherparse::{
    Icmpv4Slice, Icmpv4Type, Icmpv6Slice, Icmpv6Type, IpNumber, Ipv6ExtensionSlice, LaxIpv6Slice,
    LaxNetSlice, LaxSlicedPacket, TcpHeaderSlice, UdpHeaderSlice,
};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Which way a frame went. On the bridge itself, everything plugged into it counts as the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The host sent it.
    ToGuest,
    /// The guest sent it.
    FromGuest,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Direction::ToGuest => "host→guest",
            Direction::FromGuest => "guest→host",
        })
    }
}

/// A frame. Questions about a part that it does not have, or that was not captured, are answered
/// with `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// When it passed, since the epoch; comparable also where the time of day was set meanwhile.
    pub time: Duration,
    /// Which way it went.
    pub direction: Direction,
    /// Its length on the wire, with Ethernet header and VLAN tag, bytes. A frame that the sender
    /// left to the hardware to segment counts whole.
    pub length: usize,
    /// Payload of the segments into which its receiver is to cut it, where its sender left it whole, bytes.
    pub segment: Option<u16>,
    /// Its beginning, VLAN tag in place: all of it, or as much as the capture kept.
    pub bytes: Box<[u8]>,
}

/// Of an IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ip {
    /// Sender.
    pub source: IpAddr,
    /// Receiver.
    pub destination: IpAddr,
    /// IANA's protocol number: 1 ICMP, 6 TCP, 17 UDP, 58 ICMPv6; behind IPv6's extension headers.
    pub protocol: u8,
    /// The same in all fragments of a packet; 0 in an IPv6 packet that is none.
    pub identification: u32,
    /// Where this fragment's payload belongs, bytes; 0 in the first one and in whole packets.
    pub fragment_offset: u32,
    /// Whether a fragment follows.
    pub more_fragments: bool,
    /// Bytes after the IP headers, as they say.
    pub payload_length: u16,
}

impl Ip {
    /// Whether it is a part of a packet.
    pub fn is_fragment(&self) -> bool {
        self.more_fragments || self.fragment_offset > 0
    }
}

/// Of an ICMP or ICMPv6 message; a fragmented one has it in its first fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Icmp {
    /// Type 8, ICMPv6: 128.
    EchoRequest {
        /// Identifier: one a ping process.
        id: u16,
        /// Sequence number, from 1.
        seq: u16,
    },
    /// Type 0, ICMPv6: 129.
    EchoReply {
        /// As in the request.
        id: u16,
        /// As in the request.
        seq: u16,
    },
    /// ICMPv6's question who has an address (RFC 4861, 4.3).
    NeighbourSolicitation {
        /// That address.
        target: Ipv6Addr,
    },
    /// Any other.
    Other {
        /// Type, for example 3: destination unreachable.
        kind: u8,
        /// Code.
        code: u8,
    },
}

/// Of a DHCP message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dhcp {
    /// The client's MAC, as the message gives it.
    pub client: Mac,
    /// Message type, RFC 2132 §9.6: 1 discover, 2 offer, 3 request, 5 ack …
    pub kind: u8,
    /// The address on offer; 0.0.0.0 in what a client sends.
    pub offered: Ipv4Addr,
    /// What boots from the network and sent it, if that did.
    pub boots: Option<BootClient>,
}

/// What boots from the network, by what it says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootClient {
    /// iPXE, by its user class (RFC 3004) or its own options (175). It takes scripts.
    Ipxe,
    /// A UEFI firmware's own, by the architecture (RFC 4578). It takes EFI programs.
    Uefi,
}

impl fmt::Display for BootClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BootClient::Ipxe => "iPXE",
            BootClient::Uefi => "the UEFI firmware's own client",
        })
    }
}

impl Dhcp {
    fn name(self) -> &'static str {
        const NAMES: [&str; 9] = [
            "message", "discover", "offer", "request", "decline", "ack", "nak", "release", "inform",
        ];
        NAMES
            .get(usize::from(self.kind))
            .copied()
            .unwrap_or(NAMES[0])
    }
}

const ETHERTYPE_OFFSET: usize = 12;
/// Ethernet's header without a VLAN tag, and such a tag, bytes.
const ETHERNET: usize = 14;
const VLAN_TAG: usize = 4;
/// EtherType of RFC 903.
const RARP: u16 = 0x8035;

impl Frame {
    /// Who sent it.
    pub fn src(&self) -> Option<Mac> {
        self.mac_at(6)
    }

    /// Whom it is for.
    pub fn dst(&self) -> Option<Mac> {
        self.mac_at(0)
    }

    /// What it carries, behind any VLAN tags.
    pub fn ethertype(&self) -> Option<u16> {
        let at = ETHERTYPE_OFFSET + 4 * self.sliced()?.vlan_ids().len();
        self.bytes
            .get(at..at + 2)
            .map(|b| u16::from_be_bytes([b[0], b[1]]))
    }

    /// Id of the (outer) VLAN tag.
    pub fn vlan_id(&self) -> Option<u16> {
        self.sliced()?.vlan_ids().first().map(|id| id.value())
    }

    /// Its VLAN tags, the outer one first: protocol and id of each.
    pub fn tags(&self) -> Vec<(u16, u16)> {
        let ids = self.sliced().map(|sliced| sliced.vlan_ids());
        let tagged = ids.iter().flatten().enumerate().filter_map(|(nth, id)| {
            let at = ETHERTYPE_OFFSET + 4 * nth;
            let protocol = self.bytes.get(at..at + 2)?;
            Some((u16::from_be_bytes([protocol[0], protocol[1]]), id.value()))
        });
        tagged.collect()
    }

    /// Priority in the (outer) VLAN tag (IEEE 802.1Q, 9.6: PCP).
    pub fn vlan_priority(&self) -> Option<u8> {
        self.vlan_id()?;
        self.bytes.get(ETHERTYPE_OFFSET + 2).map(|byte| byte >> 5)
    }

    /// IP headers.
    pub fn ip(&self) -> Option<Ip> {
        self.ip_with_payload().map(|(header, _)| header)
    }

    /// ICMP header.
    pub fn icmp(&self) -> Option<Icmp> {
        if let Some(message) = self.transport(IpNumber::IPV6_ICMP) {
            return icmpv6(message);
        }
        let icmp = Icmpv4Slice::from_slice(self.transport(IpNumber::ICMP)?).ok()?;
        Some(match icmp.icmp_type() {
            Icmpv4Type::EchoRequest(echo) => Icmp::EchoRequest {
                id: echo.id,
                seq: echo.seq,
            },
            Icmpv4Type::EchoReply(echo) => Icmp::EchoReply {
                id: echo.id,
                seq: echo.seq,
            },
            _ => Icmp::Other {
                kind: icmp.type_u8(),
                code: icmp.code_u8(),
            },
        })
    }

    /// UDP ports: source, destination.
    pub fn udp_ports(&self) -> Option<(u16, u16)> {
        let udp = UdpHeaderSlice::from_slice(self.transport(IpNumber::UDP)?).ok()?;
        Some((udp.source_port(), udp.destination_port()))
    }

    /// The field of UDP's checksum.
    pub fn udp_checksum(&self) -> Option<u16> {
        let udp = UdpHeaderSlice::from_slice(self.transport(IpNumber::UDP)?).ok()?;
        Some(udp.checksum())
    }

    /// TCP ports: source, destination.
    pub fn tcp_ports(&self) -> Option<(u16, u16)> {
        let tcp = TcpHeaderSlice::from_slice(self.transport(IpNumber::TCP)?).ok()?;
        Some((tcp.source_port(), tcp.destination_port()))
    }

    /// Of a TCP frame, the sequence number of the first byte that it carries, and how many it carries: SYN and FIN
    /// count as one each (RFC 9293, 3.4).
    pub fn tcp_bytes(&self) -> Option<(u32, u32)> {
        let tcp = TcpHeaderSlice::from_slice(self.transport(IpNumber::TCP)?).ok()?;
        let payload = usize::from(self.ip()?.payload_length).checked_sub(tcp.slice().len())?;
        let marks = u32::from(tcp.syn()) + u32::from(tcp.fin());
        Some((tcp.sequence_number(), payload as u32 + marks))
    }

    /// Of a TCP frame, the bytes of its IP packet, or of the longest that it is to be cut into.
    pub fn tcp_packet(&self) -> Option<usize> {
        let tcp = TcpHeaderSlice::from_slice(self.transport(IpNumber::TCP)?).ok()?;
        let tags = self.sliced()?.vlan_ids().len();
        let packet = self.length.checked_sub(ETHERNET + VLAN_TAG * tags)?;
        let Some(segment) = self.segment else {
            return Some(packet);
        };
        let headers = packet.checked_sub(self.ip()?.payload_length.into())? + tcp.slice().len();
        Some(headers + usize::from(segment))
    }

    /// DHCP (RFC 2131), by its ports and its cookie.
    pub fn dhcp(&self) -> Option<Dhcp> {
        let (67 | 68, 67 | 68) = self.udp_ports()? else {
            return None;
        };
        let message = self.transport(IpNumber::UDP)?.get(8..)?;
        let (fixed, mut options) = message.split_at_checked(240)?;
        if fixed[236..] != [99, 130, 83, 99] {
            return None;
        }
        let mut kind = 0;
        let (mut ipxe, mut uefi) = (false, false);
        while let &[code, ref rest @ ..] = options
            && code != 255
        {
            options = rest;
            if code == 0 {
                continue; // padding has no length
            }
            let (&length, rest) = rest.split_first()?;
            let (value, rest) = rest.split_at_checked(length.into())?;
            match (code, value) {
                (53, &[value]) => kind = value,
                (77, b"iPXE") | (175, _) => ipxe = true,
                (93, [0, 7 | 9]) => uefi = true, // both stand for x86-64
                _ => {}
            }
            options = rest;
        }
        Some(Dhcp {
            client: Mac(fixed[28..34].try_into().ok()?),
            kind,
            offered: <[u8; 4]>::try_from(&fixed[16..20]).ok()?.into(),
            boots: match (ipxe, uefi) {
                (true, _) => Some(BootClient::Ipxe),
                (false, true) => Some(BootClient::Uefi),
                (false, false) => None,
            },
        })
    }

    /// The file that a TFTP read request (RFC 1350) names.
    pub fn tftp_request(&self) -> Option<String> {
        let (_, 69) = self.udp_ports()? else {
            return None;
        };
        let [0, 1, name @ ..] = self.transport(IpNumber::UDP)?.get(8..)? else {
            return None;
        };
        let end = name.iter().position(|byte| *byte == 0)?;
        Some(String::from_utf8_lossy(&name[..end]).into_owned())
    }

    /// What it is, in a few words: "ARP request", "VLAN 10 ICMP echo reply" …
    pub fn kind(&self) -> String {
        let vlan = self
            .vlan_id()
            .map(|id| format!("VLAN {id} "))
            .unwrap_or_default();
        vlan + &self.untagged_kind()
    }

    fn untagged_kind(&self) -> String {
        if let Some(arp) = self.arp() {
            return if arp.request {
                "ARP request"
            } else {
                "ARP reply"
            }
            .into();
        }
        if let Some(icmp) = self.icmp() {
            return match icmp {
                Icmp::EchoRequest { .. } => "ICMP echo request".into(),
                Icmp::EchoReply { .. } => "ICMP echo reply".into(),
                Icmp::NeighbourSolicitation { .. } => "neighbour solicitation".into(),
                Icmp::Other { kind, code } => format!("ICMP type {kind} code {code}"),
            };
        }
        if let Some(dhcp) = self.dhcp() {
            return format!("DHCP {}", dhcp.name());
        }
        if self.tftp_request().is_some() {
            return "TFTP request".into();
        }
        if let Some(ip) = self.ip() {
            let protocol = match (ip.protocol, ip.source) {
                (1, _) => "ICMP".into(),
                (2, _) => "IGMP".into(),
                (6, _) => "TCP".into(),
                (17, _) => "UDP".into(),
                (58, _) => "ICMPv6".into(),
                (other, IpAddr::V4(_)) => format!("IPv4 protocol {other}"),
                (other, IpAddr::V6(_)) => format!("IPv6 protocol {other}"),
            };
            let part = if ip.fragment_offset > 0 {
                " fragment"
            } else {
                ""
            };
            return protocol + part;
        }
        match self.ethertype() {
            Some(RARP) => "RARP".into(),
            Some(0x86dd) => "IPv6".into(),
            Some(length) if length < 0x600 => "802.3 frame".into(),
            Some(ethertype) => format!("EtherType {ethertype:#06x}"),
            None => "runt".into(),
        }
    }

    fn mac_at(&self, at: usize) -> Option<Mac> {
        self.bytes.get(at..at + 6)?.try_into().ok().map(Mac)
    }

    fn sliced(&self) -> Option<LaxSlicedPacket<'_>> {
        LaxSlicedPacket::from_ethernet(&self.bytes).ok()
    }

    fn ip_with_payload(&self) -> Option<(Ip, &[u8])> {
        let ipv4 = match self.sliced()?.net? {
            LaxNetSlice::Ipv4(ipv4) => ipv4,
            LaxNetSlice::Ipv6(ipv6) => return Some(ipv6_with_payload(&ipv6)),
            LaxNetSlice::Arp(_) => return None,
        };
        let header = ipv4.header();
        let facts = Ip {
            source: header.source_addr().into(),
            destination: header.destination_addr().into(),
            protocol: header.protocol().0,
            identification: header.identification().into(),
            fragment_offset: u32::from(header.fragments_offset().value()) * 8,
            more_fragments: header.more_fragments(),
            payload_length: header.payload_len().ok()?,
        };
        Some((facts, ipv4.payload().payload))
    }

    /// The payload of a whole packet or a first fragment of that protocol.
    fn transport(&self, protocol: IpNumber) -> Option<&[u8]> {
        let (header, payload) = self.ip_with_payload()?;
        (header.protocol == protocol.0 && header.fragment_offset == 0).then_some(payload)
    }
}

fn ipv6_with_payload<'a>(ipv6: &LaxIpv6Slice<'a>) -> (Ip, &'a [u8]) {
    let header = ipv6.header();
    let mut facts = Ip {
        source: header.source_addr().into(),
        destination: header.destination_addr().into(),
        protocol: ipv6.payload().ip_number.0,
        identification: 0,
        fragment_offset: 0,
        more_fragments: false,
        payload_length: header.payload_length(),
    };
    for extension in ipv6.extensions().clone() {
        let length = match extension {
            Ipv6ExtensionSlice::HopByHop(header)
            | Ipv6ExtensionSlice::Routing(header)
            | Ipv6ExtensionSlice::DestinationOptions(header) => header.slice().len(),
            Ipv6ExtensionSlice::Fragment(header) => {
                facts.identification = header.identification();
                facts.fragment_offset = u32::from(header.fragment_offset().value()) * 8;
                facts.more_fragments = header.more_fragments();
                header.slice().len()
            }
            Ipv6ExtensionSlice::Authentication(header) => header.slice().len(),
        };
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        facts.payload_length = facts.payload_length.saturating_sub(length);
    }
    (facts, ipv6.payload().payload)
}

fn icmpv6(message: &[u8]) -> Option<Icmp> {
    let icmp = Icmpv6Slice::from_slice(message).ok()?;
    Some(match icmp.icmp_type() {
        Icmpv6Type::EchoRequest(echo) => Icmp::EchoRequest {
            id: echo.id,
            seq: echo.seq,
        },
        Icmpv6Type::EchoReply(echo) => Icmp::EchoReply {
            id: echo.id,
            seq: echo.seq,
        },
        Icmpv6Type::NeighborSolicitation => Icmp::NeighbourSolicitation {
            target: <[u8; 16]>::try_from(message.get(8..24)?).ok()?.into(),
        },
        _ => Icmp::Other {
            kind: icmp.type_u8(),
            code: icmp.code_u8(),
        },
    })
}

impl fmt::Display for Frame {
    /// One line: way, MACs, what it is, length.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mac = |mac: Option<Mac>| mac.map_or_else(|| "?".into(), |mac| mac.to_string());
        write!(
            f,
            "{} {} > {} {}",
            self.direction,
            mac(self.src()),
            mac(self.dst()),
            self.kind()
        )?;
        if let Some(arp) = self.arp() {
            match arp.request {
                true => write!(f, " who has {} tell {}", arp.target.1, arp.sender.1)?,
                false => write!(f, " {} is at {}", arp.sender.1, arp.sender.0)?,
            }
        }
        if let Some(Icmp::EchoRequest { id, seq } | Icmp::EchoReply { id, seq }) = self.icmp() {
            write!(f, " id {id} seq {seq}")?;
        }
        if let Some((from, to)) = self.udp_ports().or_else(|| self.tcp_ports()) {
            write!(f, " port {from} > {to}")?;
        }
        if let Some(dhcp) = self.dhcp() {
            write!(f, " of {}", dhcp.client)?;
        }
        if let Some(ip) = self.ip().filter(Ip::is_fragment) {
            write!(f, " fragment at {}", ip.fragment_offset)?;
        }
        write!(f, ", {} bytes", self.length)
    }
}

/// What there is among frames, most frequent first: "3 × ARP request, 1 × ICMP echo reply", or
/// "nothing".
pub fn summary<'a>(frames: impl IntoIterator<Item = &'a Frame>) -> String {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for frame in frames {
        *counts.entry(frame.kind()).or_default() += 1;
    }
    let mut counts: Vec<(String, u64)> = counts.into_iter().collect();
    counts.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    if counts.is_empty() {
        return "nothing".into();
    }
    let each = counts
        .iter()
        .map(|(kind, count)| format!("{count} × {kind}"));
    each.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
