//! Fragments of IPv4 packets, added up: their words can be summed in any order, so the checksum of a packet
//! is judged without keeping it.

use super::IDENTIFIES;
use super::transport::{Datagram, Fragment, Network, folded};
use etherparse::checksum::Sum16BitWords;
use std::collections::VecDeque;
use std::time::Duration;

/// Packets of which more fragments are awaited; beyond them the oldest is given up.
const MOST: usize = 16;
/// Bytes kept of a payload's beginning: a header's fixed part.
const HEAD: usize = 20;

#[derive(Debug)]
struct Waiting {
    key: ([u8; 8], u16, u8),
    /// When the last fragment came.
    time: Duration,
    sum: Sum16BitWords,
    /// Bytes of payload so far, and in all, once the last fragment has come.
    bytes: usize,
    total: Option<usize>,
    head: Vec<u8>,
    /// Whether some of it was cut off by the capture.
    cut: bool,
}

/// The packets of one guest that are under way.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    waiting: VecDeque<Waiting>,
    done: Option<Waiting>,
}

/// What a fragment makes of its packet.
#[derive(Debug)]
pub(super) enum Added<'a> {
    /// All is there now.
    Whole(Datagram<'a>),
    /// More is awaited.
    Waits,
    /// A packet had to be given up: for this one, or as what is missing will not come.
    Unknown,
}

impl Fragments {
    /// A fragment that came at `time`.
    pub(super) fn add(
        &mut self,
        network: &Network<'_>,
        fragment: Fragment,
        time: Duration,
    ) -> Added<'_> {
        let Ok(addresses) = network.addresses.try_into() else {
            return Added::Unknown;
        };
        let key = (addresses, network.identification, network.protocol);
        // Its number may be another packet's by now; a capture that lost a frame leaves such ones.
        let before = self.waiting.len();
        (self.waiting).retain(|one| time.saturating_sub(one.time) < IDENTIFIES);
        let mut given_up = self.waiting.len() < before;
        let at = self.waiting.iter().position(|one| one.key == key);
        let at = at.unwrap_or_else(|| {
            given_up |= self.waiting.len() == MOST && self.waiting.pop_front().is_some();
            self.waiting.push_back(Waiting {
                key,
                time,
                sum: Sum16BitWords::new(),
                bytes: 0,
                total: None,
                head: Vec::new(),
                cut: false,
            });
            self.waiting.len() - 1
        });
        let one = &mut self.waiting[at];
        one.time = time;
        let length = network.length - network.header;
        one.cut |= network.payload.len() < length;
        let sum = Sum16BitWords::new().add_slice(network.payload);
        one.sum = one.sum.clone().add_2bytes(folded(&sum));
        one.bytes += length;
        if fragment.offset == 0 {
            one.head = network.payload[..network.payload.len().min(HEAD)].to_vec();
        }
        if !fragment.more {
            one.total = Some(fragment.offset + length);
        }
        if one.total != Some(one.bytes) {
            return match given_up {
                true => Added::Unknown,
                false => Added::Waits,
            };
        }
        self.done = self.waiting.remove(at);
        match &self.done {
            None => Added::Waits,
            Some(one) => Added::Whole(Datagram {
                version: 4,
                protocol: network.protocol,
                start: 0,
                length: one.bytes,
                addresses: &one.key.0,
                head: &one.head,
                sum: (!one.cut).then(|| one.sum.clone()),
            }),
        }
    }
}
