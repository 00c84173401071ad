//! Echo requests and replies among captured frames, those of one ping kept apart from all others. Pure.

use super::frame::{Frame, Icmp, Ip};
use etherparse::IpNumber;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// Identifier and sequence number of an echo.
type Key = (u16, u16);

/// The replies to one ping.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answers {
    /// Requests that were answered.
    pub answered: u64,
    /// Replies beyond the first to each.
    pub duplicates: u64,
}

impl fmt::Display for Answers {
    /// "2", or "2 (and 1 duplicates)".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.answered)?;
        match self.duplicates {
            0 => Ok(()),
            duplicates => write!(f, " (and {duplicates} duplicates)"),
        }
    }
}

/// The whole replies among `frames` to the ping that sent `sent` requests to `target` in them. Its
/// identifier is learned from its requests, as not every ping can be given one. Replies to requests
/// that are not in `frames` belong to an earlier ping. Of two pings that sent equally many, the
/// one with fewer replies counts, as either may be meant.
pub fn to_ping(frames: &[Frame], target: IpAddr, sent: u64) -> Answers {
    // A sequence number begins again after 65535.
    let mut requests: BTreeMap<u16, BTreeMap<u16, u64>> = BTreeMap::new();
    for frame in frames {
        let (Some(ip), Some(Icmp::EchoRequest { id, seq })) = (frame.ip(), frame.icmp()) else {
            continue;
        };
        if ip.destination == target {
            *requests.entry(id).or_default().entry(seq).or_default() += 1;
        }
    }
    let replies = whole_replies(frames, target);
    let answers = |id: u16, requests: &BTreeMap<u16, u64>| {
        let mut answers = Answers::default();
        for (seq, asked) in requests {
            let replied = replies.get(&(id, *seq)).copied().unwrap_or_default();
            answers.answered += replied.min(*asked);
            answers.duplicates += replied.saturating_sub(*asked);
        }
        answers
    };
    let own = requests
        .iter()
        .filter(|(_, requests)| requests.values().sum::<u64>() == sent);
    own.map(|(id, requests)| answers(*id, requests))
        .min_by_key(|answers| answers.answered)
        .unwrap_or_default()
}

/// How often each echo was answered by `target`; of a fragmented reply, with every byte.
fn whole_replies(frames: &[Frame], target: IpAddr) -> BTreeMap<Key, u64> {
    let mut whole: BTreeMap<Key, u64> = BTreeMap::new();
    let mut pieces: BTreeMap<u32, Pieces> = BTreeMap::new();
    for frame in frames {
        let ours = |ip: &Ip| {
            [IpNumber::ICMP, IpNumber::IPV6_ICMP].contains(&IpNumber(ip.protocol))
                && ip.source == target
        };
        let Some(ip) = frame.ip().filter(ours) else {
            continue;
        };
        let icmp = match ip.is_fragment() {
            false => frame.icmp(),
            true => {
                let packet = pieces.entry(ip.identification).or_default();
                packet.take(&ip, frame.icmp());
                if !packet.is_whole() {
                    continue;
                }
                // Another packet may have this identification later.
                pieces.remove(&ip.identification).and_then(|p| p.icmp)
            }
        };
        if let Some(Icmp::EchoReply { id, seq }) = icmp {
            *whole.entry((id, seq)).or_default() += 1;
        }
    }
    whole
}

/// A fragmented ICMP packet.
#[derive(Default)]
struct Pieces {
    icmp: Option<Icmp>,
    /// Bytes of payload by where they belong.
    parts: BTreeMap<u32, u32>,
    /// All bytes of payload, once the last fragment is there.
    total: Option<u32>,
}

impl Pieces {
    fn take(&mut self, ip: &Ip, icmp: Option<Icmp>) {
        self.icmp = self.icmp.or(icmp);
        let length = u32::from(ip.payload_length);
        self.parts.insert(ip.fragment_offset, length);
        if !ip.more_fragments {
            self.total = Some(ip.fragment_offset + length);
        }
    }

    fn is_whole(&self) -> bool {
        self.total == Some(self.parts.values().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::frame::Direction;
    use std::time::Duration;

    const HOST: [u8; 4] = [198, 18, 0, 1];
    const GUEST: [u8; 4] = [198, 18, 0, 2];

    /// An echo without payload, whole, between those two.
    fn echo(kind: u8, (from, to): ([u8; 4], [u8; 4]), id: u16, seq: u16) -> Frame {
        let ([i, d], [s, q]) = (id.to_be_bytes(), seq.to_be_bytes());
        // The guest numbers its packets anew now and then, so that two may have one identification.
        fragment((from, to), 1, 0, &[kind, 0, 0, 0, i, d, s, q], false)
    }

    fn fragment(
        (from, to): ([u8; 4], [u8; 4]),
        identification: u8,
        offset: u16,
        payload: &[u8],
        more: bool,
    ) -> Frame {
        let length = 20 + payload.len() as u8;
        let [high, low] = ((offset / 8) | (u16::from(more) << 13)).to_be_bytes();
        let ip = [
            0x45,
            0,
            0,
            length,
            0,
            identification,
            high,
            low,
            64,
            1,
            0,
            0,
        ];
        let bytes = [&[0; 12][..], &[8, 0], &ip, &from, &to, payload].concat();
        Frame {
            time: Duration::ZERO,
            direction: Direction::FromGuest,
            length: bytes.len(),
            segment: None,
            bytes: bytes.into(),
        }
    }

    fn request(id: u16, seq: u16) -> Frame {
        echo(8, (HOST, GUEST), id, seq)
    }

    fn reply(id: u16, seq: u16) -> Frame {
        echo(0, (GUEST, HOST), id, seq)
    }

    fn answers(frames: &[Frame], sent: u64) -> (u64, u64) {
        let found = to_ping(frames, GUEST.into(), sent);
        (found.answered, found.duplicates)
    }

    #[test]
    fn late_replies_to_an_earlier_ping_count_neither_as_replies_nor_as_too_many() {
        let earlier: Vec<Frame> = (40..51).map(|seq| reply(1, seq)).collect();
        let own = [request(2, 1), reply(2, 1), request(2, 2), request(2, 3)];
        let mut frames = [&own[..], &earlier].concat();
        assert_eq!(answers(&frames, 3), (1, 0));
        frames.extend([reply(2, 3), reply(2, 2)]);
        assert_eq!(answers(&frames, 3), (3, 0), "eleven more came for another");
    }

    #[test]
    fn a_reply_that_comes_again_stands_for_no_other() {
        let frames = [request(2, 1), request(2, 2), reply(2, 1), reply(2, 1)];
        assert_eq!(answers(&frames, 2), (1, 1));
        let text = to_ping(&frames, GUEST.into(), 2).to_string();
        assert_eq!(text, "1 (and 1 duplicates)");
    }

    #[test]
    fn a_ping_beside_is_known_by_how_many_requests_it_sent() {
        let frames = [
            request(1, 7),
            reply(1, 7),
            request(2, 1),
            request(1, 8),
            reply(1, 8),
            request(1, 9),
            reply(1, 9),
            request(2, 2),
            reply(2, 2),
        ];
        assert_eq!(answers(&frames, 2), (1, 0));
        assert_eq!(answers(&frames, 3), (3, 0));
        assert_eq!(answers(&frames, 4), (0, 0), "no ping sent four");
        // Of two that sent equally many the worse counts.
        let other = [&frames[..], &[request(1, 10)]].concat();
        let equal = [&other[2..], &[request(2, 3)]].concat();
        assert_eq!(answers(&equal, 3), (1, 0));
    }

    #[test]
    fn only_whole_replies_of_the_target_count() {
        let sent = request(2, 1);
        let way = (GUEST, HOST);
        let head = [&[0, 0, 0, 0, 0, 2, 0, 1][..], &[0; 8]].concat();
        let first = fragment(way, 9, 0, &head, true);
        let last = fragment(way, 9, 16, &[0; 8], false);
        let of = |frames: &[Frame]| answers(&[std::slice::from_ref(&sent), frames].concat(), 1);
        assert_eq!(of(&[first.clone(), last.clone()]), (1, 0));
        assert_eq!(of(&[last.clone(), first.clone()]), (1, 0), "in any order");
        assert_eq!(of(std::slice::from_ref(&first)), (0, 0));
        assert_eq!(of(&[first.clone(), first.clone()]), (0, 0));
        assert_eq!(of(&[last]), (0, 0));
        let elsewhere = echo(0, (HOST, GUEST), 2, 1);
        assert_eq!(of(&[elsewhere]), (0, 0));
    }

    #[test]
    fn sequence_numbers_that_begin_again_are_no_duplicates() {
        let twice = [request(2, 1), reply(2, 1), request(2, 1), reply(2, 1)];
        assert_eq!(answers(&twice, 2), (2, 0));
    }
}
