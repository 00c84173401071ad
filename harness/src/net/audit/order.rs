//! Echoes that overtake each other: a guest with one processor answers in the order in which it was asked, so its NIC
//! has changed the order where the answers come in another.

use super::transport::{ICMP, ICMPV6, Network};
use std::collections::{HashMap, VecDeque};

/// Requests remembered that were not answered yet.
const OPEN: usize = 1024;

/// ICMP's type of an echo request, and of the reply (RFC 792); ICMPv6's (RFC 4443).
const V4: [u8; 2] = [8, 0];
const V6: [u8; 2] = [128, 129];

/// Echoes that are asked one after the other: of one sender and one target, with one identifier, and of one service, as
/// a guest's queueing discipline may send one service before another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Stream {
    asker: Vec<u8>,
    asked: Vec<u8>,
    id: [u8; 2],
    service: u8,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Echo {
    stream: Stream,
    sequence: [u8; 2],
}

/// The echoes of one tap.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// Those not answered, each with its number.
    open: VecDeque<(u64, Echo)>,
    requests: u64,
    /// By stream, the latest request that was answered.
    answered: HashMap<Stream, u64>,
}

impl Order {
    /// The host asks, if that is what the packet does.
    pub(super) fn asked(&mut self, network: &Network<'_>) {
        let Some(echo) = echo(network, 0) else { return };
        self.requests += 1;
        self.open.push_back((self.requests, echo));
        if self.open.len() > OPEN {
            self.open.pop_front();
        }
    }

    /// Whether the guest answers no request that was asked before one that it has answered; none of a packet that is
    /// no answer to an open one.
    pub(super) fn answers(&mut self, network: &Network<'_>) -> Option<bool> {
        let echo = echo(network, 1)?;
        let place = self.open.iter().position(|(_, open)| *open == echo)?;
        let (number, echo) = self.open.remove(place)?;
        let latest = self.answered.entry(echo.stream).or_default();
        let in_order = number > *latest;
        *latest = number.max(*latest);
        Some(in_order)
    }
}

/// The echo that a packet is, with the request's type (`way` 0) or the reply's (1).
fn echo(network: &Network<'_>, way: usize) -> Option<Echo> {
    let kind = match network.protocol {
        ICMP => V4[way],
        ICMPV6 => V6[way],
        _ => return None,
    };
    let follows = network.fragment.is_some_and(|part| part.offset > 0);
    let head: &[u8; 8] = network.payload.first_chunk()?;
    if follows || head[0] != kind {
        return None;
    }
    let (source, destination) = network.addresses.split_at(network.addresses.len() / 2);
    let mut ends = [source.to_vec(), destination.to_vec()];
    ends.rotate_left(way);
    let [asker, asked] = ends;
    Some(Echo {
        stream: Stream {
            asker,
            asked,
            id: [head[4], head[5]],
            service: network.service,
        },
        sequence: [head[6], head[7]],
    })
}
