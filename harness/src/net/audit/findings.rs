//! What was found of a guest's frames, and how it is told: not only that frames were damaged, but which.

use crate::net::ring::Raw;
use std::fmt::Write as _;

/// Bytes of a frame that it takes to tell what it is.
const TELLING: usize = 128;

/// What is judged of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Its source MAC is that of a NIC of a guest.
    Source,
    /// The guest has joined its VLAN.
    Vlan,
    /// It is no longer than the MTU, or says into what segments it is to be cut.
    Size,
    /// Those segments are no longer than the MTU.
    Segments,
    /// The lengths in its headers agree with it.
    Malformed,
    /// The checksum of an IPv4 header.
    Ipv4Checksum,
    /// The checksum of a TCP segment, or what is left to the tap to make it of.
    TcpChecksum,
    /// As of TCP.
    UdpChecksum,
    /// Whether a UDP datagram has one: each guest's kernel makes it.
    UdpBlank,
    /// The checksum of an ICMP message of either version.
    IcmpChecksum,
    /// It comes once.
    Duplicate,
    /// No other segment of its connection has its identification.
    Identification,
    /// It answers no echo that was asked before one that is answered.
    Order,
    /// A full TCP segment does not push right behind three that do.
    Push,
}

impl Kind {
    /// In the order in which they are told: what explains the rest comes first.
    const ALL: [Kind; 14] = [
        Kind::Malformed,
        Kind::Ipv4Checksum,
        Kind::TcpChecksum,
        Kind::UdpChecksum,
        Kind::UdpBlank,
        Kind::IcmpChecksum,
        Kind::Size,
        Kind::Segments,
        Kind::Source,
        Kind::Vlan,
        Kind::Duplicate,
        Kind::Identification,
        Kind::Order,
        Kind::Push,
    ];

    /// How many bad ones are none: one checksum of 65,536 comes to zero, which some NICs send as it is (see the case
    /// `zero_checksum`).
    fn by_chance(self) -> u64 {
        match self {
            Kind::UdpBlank => 2,
            _ => 0,
        }
    }

    /// Of what there are so many, and what is wrong with the bad ones.
    fn words(self) -> (&'static str, &'static str) {
        const CHECKSUM: &str = "with a wrong checksum";
        match self {
            Kind::Source => ("frames", "with a source MAC that none of its NICs has"),
            Kind::Vlan => ("tagged frames", "in a VLAN that it has not joined"),
            Kind::Size => ("frames", "longer than its MTU and not to be segmented"),
            Kind::Segments => (
                "frames to be segmented",
                "with segments longer than its MTU or of another protocol",
            ),
            Kind::Malformed => ("IP packets", "with lengths that make no sense"),
            Kind::Ipv4Checksum => ("IPv4 headers", CHECKSUM),
            Kind::TcpChecksum => ("TCP segments", CHECKSUM),
            Kind::UdpChecksum => ("UDP datagrams", CHECKSUM),
            Kind::UdpBlank => ("UDP datagrams", "without a checksum"),
            Kind::IcmpChecksum => ("ICMP messages", CHECKSUM),
            Kind::Duplicate => ("IPv4 packets", "twice"),
            Kind::Identification => (
                "IPv4 packets",
                "with the identification of another segment of their connection",
            ),
            Kind::Order => ("echo replies", "after the reply to a later request"),
            Kind::Push => (
                "full TCP segments",
                "with its push flag, as the three right before it",
            ),
        }
    }
}

/// How many, and how long the shortest and the longest of them is, bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Lengths {
    count: u64,
    least: usize,
    most: usize,
}

impl Lengths {
    fn add(&mut self, length: usize) {
        *self = match self.count {
            0 => Lengths {
                count: 1,
                least: length,
                most: length,
            },
            count => Lengths {
                count: count + 1,
                least: self.least.min(length),
                most: self.most.max(length),
            },
        };
    }
}

#[derive(Debug, Clone, Default)]
struct Tally {
    good: Lengths,
    bad: Lengths,
    first_bad: String,
}

impl Tally {
    /// "all 412 TCP segments over 1,300 bytes".
    fn which(&self, noun: &str) -> String {
        let (good, bad) = (self.good, self.bad);
        let count = grouped(bad.count);
        if bad.count > 1 && good.count == 0 {
            format!("all {count} {noun}")
        } else if bad.count > 1 && bad.least > good.most {
            format!(
                "all {count} {noun} over {} bytes",
                grouped(good.most as u64)
            )
        } else if bad.count > 1 && bad.most < good.least {
            format!(
                "all {count} {noun} under {} bytes",
                grouped(good.least as u64)
            )
        } else {
            let all = grouped(bad.count + good.count);
            let (least, most) = (grouped(bad.least as u64), grouped(bad.most as u64));
            let long = match least == most {
                true => least,
                false => format!("{least} to {most}"),
            };
            format!("{count} of {all} {noun} ({long} bytes)")
        }
    }
}

/// What was found of a trial's frames. A fixed number of counters, however many there are.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    frames: u64,
    not_judged: u64,
    lost: u64,
    tallies: [Tally; Kind::ALL.len()],
}

impl Findings {
    pub(super) fn frame(&mut self) {
        self.frames += 1;
    }

    /// Part of a packet was not there.
    pub(super) fn not_judged(&mut self) {
        self.not_judged += 1;
    }

    pub(super) fn lost(&mut self, frames: u64) {
        self.lost += frames;
    }

    pub(super) fn note(&mut self, kind: Kind, good: bool, raw: &Raw<'_>) {
        let tally = &mut self.tallies[kind as usize];
        if good {
            tally.good.add(raw.length);
            return;
        }
        if tally.bad.count == 0 {
            tally.first_bad = raw.keep(TELLING).to_string();
        }
        tally.bad.add(raw.length);
    }

    /// What kind of damage there was, as a sentence.
    pub fn damage(&self) -> Option<String> {
        let mut parts = Vec::new();
        for kind in Kind::ALL {
            let tally = &self.tallies[kind as usize];
            if tally.bad.count > kind.by_chance() {
                let (noun, what) = kind.words();
                let (which, first) = (tally.which(noun), &tally.first_bad);
                parts.push(format!("{which} left the guest {what}, the first: {first}"));
            }
        }
        let mut sentence = (!parts.is_empty()).then(|| parts.join("; "))?;
        if self.not_judged + self.lost > 0 {
            let _ = write!(sentence, "; {}", self.blind());
        }
        Some(sentence)
    }

    /// What could not be judged.
    fn blind(&self) -> String {
        format!(
            "of {} frames {} could not be judged whole, and {} more were lost to the capture",
            grouped(self.frames),
            grouped(self.not_judged),
            grouped(self.lost)
        )
    }

    /// How much was judged, as a sentence.
    pub fn summary(&self) -> String {
        format!("the guests' frames on the taps: {}", self.blind())
    }
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_apart() {
        assert_eq!(
            [7, 412, 1300, 1_234_567].map(grouped),
            ["7", "412", "1,300", "1,234,567"]
        );
    }
}
