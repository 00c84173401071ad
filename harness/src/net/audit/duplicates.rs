//! IPv4 packets that leave a guest twice. A sender gives each packet another identification, also a segment
//! that TCP sends again; 0 says that it gave none, as in packets that must not be fragmented (RFC 6864).

use super::transport::{Fragment, Network};
use std::time::Duration;

/// Packets remembered: a power of two.
const PLACES: usize = 256;
/// Bytes of payload that are compared: a header's fixed part, with the sum over the rest in it.
const HEAD: usize = 20;
/// A sender begins anew with its identifications after 65,535, which takes longer.
const WITHIN: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Packet {
    addresses: [u8; 8],
    identification: u16,
    protocol: u8,
    length: usize,
    fragment: Option<Fragment>,
    head: [u8; HEAD],
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
    /// Whether this packet has passed already; none where it cannot be told.
    pub(super) fn twice(&mut self, network: &Network<'_>, time: Duration) -> Option<bool> {
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
            length: network.length,
            fragment: network.fragment,
            head,
        };
        // The fragments of a packet share their identification.
        let part = network.fragment.map_or(0, |fragment| fragment.offset / 8);
        let place = &mut self.0[(usize::from(identification) + part) % PLACES];
        let same = place.as_ref().is_some_and(|(earlier, then)| {
            *earlier == packet && time.saturating_sub(*then) < WITHIN
        });
        *place = Some((packet, time));
        Some(same)
    }
}
