//! Who has which address: assigned here, never sniffed.

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The host's address on the bridge; 198.18.0.0/15 is set aside for tests of network devices
/// (RFC 2544).
pub const HOST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// Prefix length of the trial's network.
pub const PREFIX_LEN: u8 = 24;

/// The bridge's own MAC: fixed, as a bridge otherwise takes its lowest port's and changes it when
/// a port is plugged.
pub const HOST_MAC: Mac = Mac([0x02, 0x00, 198, 18, 0, 1]);

/// First address that DHCP hands to a MAC without a fixed address.
pub const DYNAMIC_FIRST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 200);

/// Last address that DHCP hands to a MAC without a fixed address.
pub const DYNAMIC_LAST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 250);

/// The network of a bridge that speaks IPv6, a /64: set aside as IPv4's is (RFC 5180).
pub const IPV6_NETWORK: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0);

/// The host's IPv6 address on the bridge.
pub const IPV6_HOST: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 1);

/// IPv6 address of a trial's first guest NIC.
pub const IPV6_GUEST: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 2);

/// Address of a trial's `index`-th guest NIC, from 0: 198.18.0.2 and on.
///
/// # Panics
/// If `index` is 198 or more: the dynamic range begins there.
pub fn guest(index: u8) -> Ipv4Addr {
    assert!(index < 198, "a trial has at most 198 guest NICs");
    Ipv4Addr::new(198, 18, 0, 2 + index)
}

/// As [`guest`], with the prefix length, as the guest's tools take it: `198.18.0.2/24`.
pub fn guest_with_prefix(index: u8) -> String {
    format!("{}/{PREFIX_LEN}", guest(index))
}

/// MAC of the `index`-th NIC of `machine` (NIC model and guest): the same in every run, so that a
/// checkpoint can hold it, distinct within a trial, and spread (22 bits) so that a frame that strayed
/// from another cell is recognized. It shares no bit of Intel's hash (of the last two bytes, from which QEMU 7.2 takes
/// unicast frames too) with a group: none of these has more than 0x3f in its fifth byte, and both this MAC and its
/// [opposite](Mac::opposite) do.
pub fn mac(machine: &str, index: u8) -> Mac {
    let hash = Sha256::digest(machine.as_bytes());
    let base = u32::from_be_bytes([0, hash[0], hash[1], hash[2]]);
    let [_, a, b, c] = base.wrapping_add(index.into()).to_be_bytes();
    Mac([0x52, 0x54, 0x00, a, b & 0x3f | 0x80, c])
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Another one, in which each byte differs: as local and as unicast as this one.
    pub fn opposite(self) -> Mac {
        let Mac([a, b, c, d, e, f]) = self;
        // The two lowest bits of the first byte say unicast and local (IEEE 802, 8.2).
        Mac([a ^ 0xfc, !b, !c, !d, !e, !f])
    }

    /// Whether it is a group's, or everybody's.
    pub fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl Mac {
    /// `ff:ff:ff:ff:ff:ff`
    pub const BROADCAST: Mac = Mac([0xff; 6]);
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An address as a packet has it: 4 bytes, or 16.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

impl FromStr for Mac {
    type Err = anyhow::Error;

    /// Six hexadecimal bytes separated by colons, in either case.
    fn from_str(text: &str) -> anyhow::Result<Mac> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().unwrap_or_default();
            ensure!(part.len() == 2, "`{text}` is not a MAC address");
            *byte = u8::from_str_radix(part, 16)
                .with_context(|| format!("`{text}` is not a MAC address"))?;
        }
        ensure!(parts.next().is_none(), "`{text}` is not a MAC address");
        Ok(Mac(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_of_the_opposite_mac_differs() {
        let first = Mac([0x52, 0x54, 0x00, 0x12, 0x34, 0x56]);
        let other = first.opposite();
        assert_eq!(other.to_string(), "ae:ab:ff:ed:cb:a9");
        assert_eq!(other.0[0] & 3, 2, "locally administered, unicast");
        assert!(first.0.iter().zip(other.0).all(|(a, b)| *a != b));
    }

    #[test]
    fn macs_are_stable_local_and_distinct() {
        let trial = "driver::virtio::rhel9::tap";
        assert_eq!(mac(trial, 0).to_string(), "52:54:00:f4:bc:72");
        assert_eq!(mac(trial, 0).0[0] & 3, 2, "locally administered, unicast");
        let mut all: Vec<Mac> = (0..=255).map(|i| mac(trial, i)).collect();
        all.push(mac("driver::virtio::rhel6::tap", 0));
        let hashed_apart = |mac: &Mac| mac.0[4] > 0x3f && mac.opposite().0[4] > 0x3f;
        assert!(all.iter().all(hashed_apart));
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 257);
    }

    #[test]
    fn mac_text_goes_both_ways_and_rejects_what_is_none() {
        let mac: Mac = "52:54:00:AB:cd:0f".parse().unwrap();
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:0f");
        for bad in [
            "",
            "52:54:00:ab:cd",
            "52:54:00:ab:cd:0f:11",
            "5:54:00:ab:cd:0f",
            "zz:54:00:ab:cd:0f",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    #[test]
    fn guests_follow_the_host() {
        assert_eq!(guest(0).to_string(), "198.18.0.2");
        assert_eq!(guest(197).to_string(), "198.18.0.199");
    }
}
