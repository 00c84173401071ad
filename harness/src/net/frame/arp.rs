//! ARP and RARP: who is where, and who tells so.

use super::{ETHERTYPE_OFFSET, Frame, RARP};
use crate::net::addr::Mac;
use etherparse::{ArpEthIpv4Packet, ArpOperation, ArpPacketSlice, LaxNetSlice};
use std::net::Ipv4Addr;

/// "Request reverse" (RFC 903).
const RARP_REQUEST: ArpOperation = ArpOperation(3);

/// Of an ARP packet for IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    /// Whether it asks; else it answers.
    pub request: bool,
    /// Who sends.
    pub sender: (Mac, Ipv4Addr),
    /// Whom it is for; the MAC means nothing in a request.
    pub target: (Mac, Ipv4Addr),
}

impl From<ArpEthIpv4Packet> for Arp {
    fn from(arp: ArpEthIpv4Packet) -> Arp {
        Arp {
            request: arp.operation == ArpOperation::REQUEST,
            sender: (Mac(arp.sender_mac), arp.sender_ipv4_addr()),
            target: (Mac(arp.target_mac), arp.target_ipv4_addr()),
        }
    }
}

impl Frame {
    /// ARP.
    pub fn arp(&self) -> Option<Arp> {
        let Some(LaxNetSlice::Arp(arp)) = self.sliced()?.net else {
            return None;
        };
        arp.to_packet().try_eth_ipv4().ok().map(Arp::from)
    }

    /// Whether it tells everybody where `mac` is, and how: "RARP", as QEMU does after a migration, or "gratuitous
    /// ARP", as a guest does.
    pub fn announcement_of(&self, mac: Mac) -> Option<&'static str> {
        if (self.src(), self.dst()) != (Some(mac), Some(Mac::BROADCAST)) {
            return None;
        }
        if let Some(rarp) = self.rarp_request() {
            return ((rarp.sender.0, rarp.target.0) == (mac, mac)).then_some("RARP");
        }
        let arp = self.arp()?;
        (arp.sender.1 == arp.target.1).then_some("gratuitous ARP")
    }

    /// RARP, whatever it says.
    pub fn is_rarp(&self) -> bool {
        self.ethertype() == Some(RARP)
    }

    /// A RARP request (RFC 903), which is laid out as ARP is.
    fn rarp_request(&self) -> Option<Arp> {
        let message = self.bytes.get(ETHERTYPE_OFFSET + 2..)?;
        let rarp = ArpPacketSlice::from_slice(message).ok()?.to_packet();
        let rarp = rarp.try_eth_ipv4().ok()?;
        let asks = self.is_rarp() && rarp.operation == RARP_REQUEST;
        asks.then(|| rarp.into())
    }
}
