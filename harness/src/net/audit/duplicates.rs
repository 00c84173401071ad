//! IPv4 packets that leave a guest twice, and segments that share an identification. A sender gives each packet another
//! one, also a segment that TCP sends again; 0 says that it gave none, as in packets that must not be fragmented
//! (RFC 6864). A NIC that cuts segments counts it up, as Linux does.

use super::IDENTIFIES;
use super::transport::{Fragment, Network, TCP};
use std::time::Duration;

/// Packets remembered: a power of two.
const PLACES: usize = 256;
/// Bytes of payload that are compared: a header's fixed part, with the sum over the rest in it.
const HEAD: usize = 20;

/// What is known of a packet by those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// None was like it.
    New,
    /// It has passed already.
    Twice,
    /// Another segment of its connection had its identification.
    Shares,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Packet {
    addresses: [u8; 8],
    identification: u16,
    protocol: u8,
    /// Bytes behind IP's header.
    length: usize,
    fragment: Option<Fragment>,
    head: [u8; HEAD],
}

impl Packet {
    /// The ports of a TCP segment that carries something.
    fn segment(&self) -> Option<&[u8]> {
        let header = usize::from(self.head[12] >> 4) * 4;
        let carries = self.protocol == TCP && self.fragment.is_none() && self.length > header;
        carries.then(|| &self.head[..4])
    }

    /// What it is after `earlier`.
    fn after(&self, earlier: &Packet) -> Seen {
        let alike =
            (self.addresses, self.identification) == (earlier.addresses, earlier.identification);
        let ports = self.segment();
        match () {
            () if self == earlier => Seen::Twice,
            () if alike && ports.is_some() && ports == earlier.segment() => Seen::Shares,
            () => Seen::New,
        }
    }
}

/// The last packets of one guest.
#[derive(Debug)]
pub(super) struct Recent(Vec<Option<(Packet, Duration)>>);

impl Default for Recent {
    fn default() -> Recent {
        Recent(vec![None; PLACES])
    }
}

impl Recent {
    /// What is known of this packet; none where it cannot be told.
    pub(super) fn seen(&mut self, network: &Network<'_>, time: Duration) -> Option<Seen> {
        let identification = network.identification;
        let addresses = network.addresses.try_into().ok();
        let addresses = addresses.filter(|_| identification != 0)?;
        let mut head = [0; HEAD];
        for (to, from) in head.iter_mut().zip(network.payload) {
            *to = *from;
        }
        let packet = Packet {
            addresses,
            identification,
            protocol: network.protocol,
            length: network.length - network.header,
            fragment: network.fragment,
            head,
        };
        // The fragments of a packet share their identification.
        let part = network.fragment.map_or(0, |fragment| fragment.offset / 8);
        let place = &mut self.0[(usize::from(identification) + part) % PLACES];
        let seen = match place {
            Some((earlier, then)) if time.saturating_sub(*then) < IDENTIFIES => {
                packet.after(earlier)
            }
            _ => Seen::New,
        };
        *place = Some((packet, time));
        Some(seen)
    }
}
