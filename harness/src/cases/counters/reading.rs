//! One reading of the guest's counters, and what crossed the tap in their terms.

use super::drivers::{Driver, Meaning};
use crate::guest::interrupts;
use crate::guest::link::Link;
use crate::net::bridge::Carried;
use crate::net::frame::{Direction, Frame};
use crate::testbed::Testbed;
use anyhow::{Context as _, ensure};
use std::collections::BTreeMap;
use std::fmt;

/// Between the parts of what a guest prints.
const PART: &str = "--";
/// Words in the names of counters that no sound frame moves.
const ERRORS: [&str; 15] = [
    "err",
    "drop",
    "fifo",
    "missed",
    "coll",
    "abort",
    "crc",
    "fail",
    "timeout",
    "no_buf",
    "oob",
    "underrun",
    "overrun",
    "frags",
    "heartbeat",
];

/// The columns of /proc/net/dev (kernel: `dev_seq_printf_stats`) that are one file of sysfs each.
const COLUMNS: [(usize, &str); 6] = [
    (0, "rx_bytes"),
    (1, "rx_packets"),
    (2, "rx_errors"),
    (7, "multicast"),
    (8, "tx_bytes"),
    (9, "tx_packets"),
];

/// What the guest has counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reading {
    /// By the names in sysfs (Documentation/ABI/testing/sysfs-class-net-statistics).
    kernel: BTreeMap<String, u64>,
    /// As /proc/net/dev has them, by the same names.
    table: BTreeMap<&'static str, u64>,
    /// By the names of `ethtool -S`, with `#` for each number: queues are added up.
    ethtool: BTreeMap<String, u64>,
    /// Of the NIC.
    interrupts: u64,
}

impl Reading {
    /// Reads what `link`'s guest has counted now.
    ///
    /// # Errors
    /// The agent's; text that is none of the kernel's.
    pub(super) fn take(bed: &Testbed, link: &Link) -> anyhow::Result<Reading> {
        let (dev, numbers) = (&link.name, interrupts::numbers_of(&link.pci));
        let text = bed.agent.sh(&format!(
            "cd /sys/class/net/{dev}/statistics && grep . *; echo {PART}; \
             grep {dev}: /proc/net/dev; echo {PART}; ethtool -S {dev} 2>/dev/null; echo {PART}; \
             {numbers}; echo {PART}; \
             cat /proc/interrupts"
        ))?;
        parse(&text).with_context(|| format!("the guest's counters are {text:?}"))
    }

    /// Whether nothing was counted between two readings. (A NIC may interrupt for other reasons.)
    pub(super) fn same_but_interrupts(&self, other: &Reading) -> bool {
        let interrupts = self.interrupts;
        *self
            == Reading {
                interrupts,
                ..other.clone()
            }
    }

    /// What has not moved since `before` as it should have, a clause each; without `ethtool -S` where that began
    /// anew meanwhile.
    pub(super) fn differences(
        &self,
        before: &Reading,
        driver: &Driver,
        crossed: &Crossed,
        with_ethtool: bool,
    ) -> Vec<String> {
        let mut found = Vec::new();
        let mut expect = |name: &str, moved: i128, meaning: Meaning| {
            let [expected, or] = crossed.sums(meaning).map(i128::from);
            let fits = match meaning {
                Meaning::TxKicks => (expected..=or).contains(&moved),
                _ => [expected, or].contains(&moved),
            };
            if !fits {
                found.push(format!("{name} moved by {moved}, not by {expected}"));
            }
        };
        for (name, moved) in moved(&before.kernel, &self.kernel) {
            let meaning = match name {
                "rx_packets" => Meaning::RxFrames,
                "tx_packets" => Meaning::TxFrames,
                "rx_bytes" => driver.bytes.0,
                "tx_bytes" => driver.bytes.1,
                "multicast" if driver.multicast => Meaning::RxMulticasts,
                "multicast" => continue,
                _ => Meaning::Errors,
            };
            expect(name, moved, meaning);
        }
        if with_ethtool {
            for (name, moved) in moved(&before.ethtool, &self.ethtool) {
                let told = driver.ethtool.iter().find(|(known, _)| *known == name);
                let meaning = match told {
                    Some((_, meaning)) => *meaning,
                    None if is_error(name) => Meaning::Errors,
                    None => continue,
                };
                expect(&format!("ethtool's {name}"), moved, meaning);
            }
        }
        for (name, count) in &self.table {
            let shown = self.kernel.get(*name).copied().unwrap_or_default();
            if *count != shown {
                found.push(format!(
                    "/proc/net/dev has {count} where sysfs has {shown} {name}"
                ));
            }
        }
        if self.interrupts <= before.interrupts {
            found.push("the guest counts no further interrupts of the NIC".into());
        }
        found
    }
}

/// By how much each counter moved, also where one has gone or is new.
fn moved<'a>(
    before: &'a BTreeMap<String, u64>,
    after: &'a BTreeMap<String, u64>,
) -> impl Iterator<Item = (&'a str, i128)> {
    let of = |counters: &BTreeMap<String, u64>, name: &str| {
        i128::from(counters.get(name).copied().unwrap_or_default())
    };
    let gone = before.keys().filter(|name| !after.contains_key(*name));
    let names = after.keys().chain(gone);
    names.map(move |name| (name.as_str(), of(after, name) - of(before, name)))
}

fn is_error(name: &str) -> bool {
    let name = name.to_lowercase();
    ERRORS.iter().any(|word| name.contains(word))
}

/// `name: value`, or `name:value`; what is no number is passed over.
fn counter(line: &str) -> Option<(&str, u64)> {
    let (name, value) = line.rsplit_once(':')?;
    Some((name.trim(), value.trim().parse().ok()?))
}

/// A counter's name with `#` for each number in it.
fn without_numbers(name: &str) -> String {
    let mut text = String::new();
    for character in name.chars() {
        match character.is_ascii_digit() {
            false => text.push(character),
            true if text.ends_with('#') => {}
            true => text.push('#'),
        }
    }
    text
}

fn parse(text: &str) -> anyhow::Result<Reading> {
    let parts: Vec<Vec<&str>> = text
        .split(&format!("{PART}\n"))
        .map(|part| part.lines().collect())
        .collect();
    let [kernel, table, ethtool, numbers, counts] = &parts[..] else {
        anyhow::bail!("{} parts in place of 5", parts.len());
    };
    let row = table.first().and_then(|line| line.split_once(':'));
    let (_, row) = row.context("/proc/net/dev does not have the NIC")?;
    let row: Vec<u64> = row
        .split_whitespace()
        .filter_map(|n| n.parse().ok())
        .collect();
    ensure!(row.len() == 16, "/proc/net/dev has {} columns", row.len());
    let mut sums = BTreeMap::new();
    for (name, count) in ethtool.iter().filter_map(|line| counter(line)) {
        *sums.entry(without_numbers(name)).or_default() += count;
    }
    let numbers: Vec<&str> = numbers.iter().map(|line| line.trim()).collect();
    let of_nic = interrupts::by_processor(counts.iter().copied(), &numbers);
    Ok(Reading {
        kernel: kernel
            .iter()
            .filter_map(|line| counter(line))
            .map(|(name, count)| (name.to_owned(), count))
            .collect(),
        table: COLUMNS.iter().map(|(at, name)| (*name, row[*at])).collect(),
        ethtool: sums,
        interrupts: of_nic.into_iter().sum(),
    })
}

/// Frames one way, and their bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Flow {
    frames: i64,
    bytes: i64,
    broadcasts: i64,
    multicasts: i64,
}

/// What crossed the tap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Crossed {
    to_guest: Flow,
    from_guest: Flow,
}

impl fmt::Display for Crossed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} frames to the guest and {} from it crossed the tap",
            self.to_guest.frames, self.from_guest.frames
        )
    }
}

impl Crossed {
    /// Adds `frames` up.
    pub(super) fn of(frames: &[Frame]) -> Crossed {
        let mut crossed = Crossed::default();
        for frame in frames {
            let flow = match frame.direction {
                Direction::ToGuest => &mut crossed.to_guest,
                Direction::FromGuest => &mut crossed.from_guest,
            };
            flow.frames += 1;
            flow.bytes += frame.length as i64;
            match frame.bytes.first_chunk::<6>() {
                Some([0xff, 0xff, 0xff, 0xff, 0xff, 0xff]) => flow.broadcasts += 1,
                // IEEE 802, 8.2: the lowest bit of the first byte says group.
                Some([first, ..]) if first & 1 == 1 => flow.multicasts += 1,
                _ => {}
            }
        }
        crossed
    }

    /// What a counter of that meaning must have moved by, the one or the other.
    fn sums(&self, meaning: Meaning) -> [i64; 2] {
        let (to, from) = (&self.to_guest, &self.from_guest);
        let sum = match meaning {
            Meaning::Errors => 0,
            Meaning::RxFrames => to.frames,
            Meaning::TxFrames => from.frames,
            Meaning::RxBytes(added) => to.bytes + to.frames * added,
            Meaning::TxBytes(added) => from.bytes + from.frames * added,
            Meaning::TxBytesOrMore(added) => {
                return [from.bytes, from.bytes + from.frames * added];
            }
            Meaning::TxKicks => return [from.frames.min(1), from.frames],
            Meaning::RxUnicasts => to.frames - to.broadcasts - to.multicasts,
            Meaning::TxUnicasts => from.frames - from.broadcasts - from.multicasts,
            Meaning::RxBroadcasts => to.broadcasts,
            Meaning::TxBroadcasts => from.broadcasts,
            Meaning::RxMulticasts => to.multicasts,
            Meaning::TxMulticasts => from.multicasts,
        };
        [sum, sum]
    }

    /// What the tap itself has counted otherwise, a clause each: it counts a frame for the guest once QEMU has
    /// taken it.
    pub(super) fn unlike_tap(&self, tap: &Carried) -> Vec<String> {
        let mut found = Vec::new();
        let mut expect = |what: &str, counted: u64, crossed: i64| {
            if i128::from(counted) != i128::from(crossed) {
                found.push(format!("{what} the tap counts {counted}, not {crossed}"));
            }
        };
        expect(
            "frames that QEMU took from it",
            tap.sent.0,
            self.to_guest.frames,
        );
        expect(
            "bytes that QEMU took from it",
            tap.sent.1,
            self.to_guest.bytes,
        );
        expect(
            "frames that QEMU gave it",
            tap.received.0,
            self.from_guest.frames,
        );
        expect(
            "bytes that QEMU gave it",
            tap.received.1,
            self.from_guest.bytes,
        );
        found
    }
}

#[cfg(test)]
mod tests;
