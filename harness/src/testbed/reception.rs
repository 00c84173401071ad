//! What the guest says of the frames that reached it: none of them may have been damaged.

use super::Testbed;
use crate::guest::link::Link;
use anyhow::{Context as _, ensure};
use std::collections::BTreeMap;

/// A shell command that prints the guest's kernel's counters, for [`counters`]: of IPv4's those that no standard names
/// are in a file of their own.
pub const KERNELS: &str =
    "cat /proc/net/snmp /proc/net/snmp6 2>/dev/null; grep ^IpExt: /proc/net/netstat; true";

/// Each NIC's.
const NICS: &str = "for nic in /sys/class/net/*/device; do nic=${nic%/device}; ethtool -S ${nic##*/} 2>/dev/null; done; true";

/// Where the guest says how many packets it has taken from its loopback.
pub const LOOPBACKS: &str = "/sys/class/net/lo/statistics/rx_packets";

/// The first line has the loopback's; then each processor's begins with what it has taken, in hexadecimal digits
/// (Linux, `softnet_seq_show`).
fn taken_by_all(table: &str) -> Option<u64> {
    let (loopbacks, processors) = table.split_once('\n')?;
    let counts = processors.lines().map(|line| {
        let count = line.split_whitespace().next()?;
        u64::from_str_radix(count, 16).ok()
    });
    let all: u64 = counts.sum::<Option<u64>>()?;
    all.checked_sub(loopbacks.parse().ok()?)
}

impl Testbed {
    /// Where the guest says how many frames its driver has taken from a NIC.
    pub fn rx_packets(link: &Link) -> String {
        packets(link, "rx")
    }

    /// Frames that the guest's driver has taken from a NIC.
    ///
    /// # Errors
    /// When the guest does not say.
    pub fn frames_taken(&self, link: &Link) -> anyhow::Result<u64> {
        self.frames_counted(link, "rx")
    }

    /// Frames that the guest's driver has taken from a NIC, `rx`, or given to it, `tx`.
    ///
    /// # Errors
    /// When the guest does not say.
    pub fn frames_counted(&self, link: &Link, way: &str) -> anyhow::Result<u64> {
        let file = packets(link, way);
        let count = self.agent.sh(&format!("cat {file}"))?;
        (count.trim().parse()).with_context(|| format!("the guest's {file} is {count:?}"))
    }

    /// Packets that the guest's kernel has taken from its interfaces but for the loopback, segments that it joined as
    /// one; a driver's own counters may lag, e1000's by all the time in which its link is off.
    ///
    /// # Errors
    /// When the guest does not say.
    pub fn packets_taken(&self) -> anyhow::Result<u64> {
        let table = self
            .agent
            .sh(&format!("cat {LOOPBACKS} /proc/net/softnet_stat"))?;
        taken_by_all(&table).with_context(|| format!("the guest's softnet_stat is {table:?}"))
    }

    /// Fails when the guest has counted a frame, to it, whose checksum was wrong or that was cut off: TCP sends again
    /// what is damaged, and the case would not see it. The host sends none, but for a case that
    /// [says so](crate::cases::Case::damages).
    ///
    /// # Errors
    /// The counters that have moved.
    pub fn expect_sound_reception(&self) -> anyhow::Result<()> {
        let moved: Vec<String> = counters(&self.agent.sh(&format!("{KERNELS}; {NICS}"))?)
            .into_iter()
            .filter(|(name, count)| *count > 0 && tells_damage(name))
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        ensure!(
            moved.is_empty(),
            "of the frames that reached the guest some were damaged, as it has counted: {}",
            moved.join(", ")
        );
        Ok(())
    }
}

/// Where the guest counts frames one way, `rx` or `tx`.
fn packets(link: &Link, way: &str) -> String {
    format!("/sys/class/net/{}/statistics/{way}_packets", link.name)
}

/// Whether a counter moves for damaged frames alone.
fn tells_damage(name: &str) -> bool {
    let kernels = [
        "InCsumErrors",
        "Ip InHdrErrors",
        "Ip6InHdrErrors",
        "IpExt InTruncatedPkts",
        "Ip6InTruncatedPkts",
    ];
    // QEMU's e1000e counts each frame that the host has not padded as too short, and hands it up.
    let drivers = ["rx_csum_offload_errors", "rx_crc_errors", "rx_align_errors"];
    kernels.iter().any(|end| name.ends_with(end)) || drivers.contains(&name)
}

/// Counters of /proc/net/snmp, by a protocol's name and theirs, and others, a line each, by theirs.
pub fn counters(text: &str) -> BTreeMap<String, u64> {
    let mut counters = BTreeMap::new();
    let mut names: (&str, Vec<&str>) = ("", Vec::new());
    for line in text.lines() {
        if let Some((label, rest)) = line.split_once(':') {
            let words: Vec<&str> = rest.split_whitespace().collect();
            let numbers: Vec<Option<u64>> = words.iter().map(|word| word.parse().ok()).collect();
            if numbers.len() > 1 && label == names.0 {
                let each = names.1.iter().zip(numbers);
                counters.extend(each.filter_map(|(name, n)| Some((format!("{label} {name}"), n?))));
            } else if let [Some(number)] = numbers[..] {
                counters.insert(label.trim().to_owned(), number);
            } else {
                names = (label, words);
            }
        } else if let Some((name, Ok(number))) = line
            .split_once(char::is_whitespace)
            .map(|(name, n)| (name, n.trim().parse()))
        {
            counters.insert(name.to_owned(), number);
        }
    }
    counters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_processor_has_taken_some_and_the_loopbacks_do_not_count() {
        let table = "16\n0000001f 00000000 00000001\n000000f1 00000000 00000000\n";
        assert_eq!(taken_by_all(table), Some(0x100));
        assert_eq!(taken_by_all("cat: not found"), None);
    }

    #[test]
    fn counters_of_a_protocol_have_its_name() {
        let text = "Ip: Forwarding DefaultTTL InReceives InHdrErrors\nIp: 2 64 9 1\n\
                    Tcp: RtoAlgorithm MaxConn InErrs InCsumErrors\nTcp: 1 -1 4 3\n\
                    Udp6InCsumErrors                \t2\n\
                    IpExt: InNoRoutes InTruncatedPkts\nIpExt: 7 1\n\
                    NIC statistics:\n     rx_csum_offload_errors: 3\n     rx_csum_offload_good: 3\n";
        let counters = counters(text);
        assert_eq!(counters["Ip InHdrErrors"], 1);
        assert_eq!(counters["Tcp InErrs"], 4);
        assert!(!counters.contains_key("Tcp MaxConn"));
        let damage: Vec<&String> = counters.keys().filter(|name| tells_damage(name)).collect();
        assert_eq!(
            damage,
            [
                "Ip InHdrErrors",
                "IpExt InTruncatedPkts",
                "Tcp InCsumErrors",
                "Udp6InCsumErrors",
                "rx_csum_offload_errors"
            ]
        );
    }
}
