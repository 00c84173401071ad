//! TCP segments that push (RFC 9293, 3.9.1.2). A sender has the last segment of what a program wrote do so, and the one
//! behind which it waits for room, which may be two in a row. More do where a NIC that cuts a large segment leaves the
//! flag in each part, and not in the last alone as Linux does (`tcp_gso_segment`).

use super::transport::{Network, TCP};
use std::collections::VecDeque;

/// The flag, in the 14th byte of TCP's header (RFC 9293, 3.1).
const PUSH: u8 = 0x08;

/// Connections remembered.
const MOST: usize = 8;

/// Full segments in a row that a sound NIC does not have push: twice what was seen of one, as our programs write more
/// than two segments at a time.
const TOO_MANY: u32 = 4;

/// A full segment.
#[derive(Debug)]
struct Full {
    addresses: Vec<u8>,
    ports: [u8; 4],
    sequence: u32,
    /// Bytes that it carries.
    carries: u32,
    acknowledges: [u8; 4],
    /// How many push in a row, up to this one.
    pushing: u32,
}

/// Of each connection the full segment that came last.
#[derive(Debug, Default)]
pub(super) struct Pushes(VecDeque<Full>);

impl Pushes {
    /// Whether fewer than [`TOO_MANY`] of a connection's segments that fill the MTU push in a row, up to this one; none
    /// of another segment, and of one that follows none.
    pub(super) fn judge(&mut self, network: &Network<'_>, mtu: usize) -> Option<bool> {
        if network.protocol != TCP || network.length != mtu || network.fragment.is_some() {
            return None;
        }
        let mut this = full(network)?;
        let is_its = |full: &Full| (&full.addresses, full.ports) == (&this.addresses, this.ports);
        let place = self.0.iter().position(is_its);
        let earlier = place.and_then(|place| self.0.remove(place));
        let earlier = earlier.filter(|earlier| {
            earlier.acknowledges == this.acknowledges
                && earlier.sequence.wrapping_add(earlier.carries) == this.sequence
        });
        if let Some(earlier) = &earlier
            && this.pushing > 0
        {
            this.pushing += earlier.pushing;
        }
        let sound = this.pushing < TOO_MANY;
        self.0.truncate(MOST - 1);
        self.0.push_front(this);
        earlier.map(|_| sound)
    }
}

fn full(network: &Network<'_>) -> Option<Full> {
    let head: &[u8; 14] = network.payload.first_chunk()?;
    let header = usize::from(head[12] >> 4) * 4;
    Some(Full {
        addresses: network.addresses.to_vec(),
        ports: [head[0], head[1], head[2], head[3]],
        sequence: u32::from_be_bytes([head[4], head[5], head[6], head[7]]),
        carries: (network.length - network.header).checked_sub(header)? as u32,
        acknowledges: [head[8], head[9], head[10], head[11]],
        pushing: u32::from(head[13] & PUSH != 0),
    })
}
