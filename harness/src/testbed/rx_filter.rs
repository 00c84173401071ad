//! QEMU's receive filter of a virtio NIC (`query-rx-filter`), held against what the guest has set of its NIC.

use super::Testbed;
use crate::base::deadline;
use crate::guest::link::Link;
use crate::net::addr::Mac;
use crate::vm::wire::WireEvent;
use anyhow::{Context as _, bail, ensure};
use qapi::qmp::{RxFilterInfo, RxState, query_rx_filter};
use std::collections::BTreeSet;

/// QEMU's event after a change of it, sent once for each time that it was queried.
const CHANGED: &str = "NIC_RX_FILTER_CHANGED";

/// Addresses that QEMU's virtio-net has room for (`MAC_TABLE_ENTRIES`).
const ROOM: usize = 64;

/// Flags of an interface (kernel: uapi/linux/if.h).
const PROMISC: u32 = 0x100;
const ALLMULTI: u32 = 0x200;

/// What a guest's kernel has set of a NIC.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Set {
    mac: Mac,
    flags: u32,
    unicast: BTreeSet<Mac>,
    multicast: BTreeSet<Mac>,
    vlans: BTreeSet<i64>,
}

impl Testbed {
    /// QEMU's receive filter of the NIC under test; none where the NIC is not virtio.
    ///
    /// # Errors
    /// QEMU's, or that it knows no such NIC.
    pub fn rx_filter(&self) -> anyhow::Result<Option<RxFilterInfo>> {
        if !self.cell.nic.is_virtio() {
            return Ok(None);
        }
        let name = Some(self.nic().id.clone());
        let filters = self.vm.call(&query_rx_filter { name })?;
        let filter = filters.into_iter().next();
        filter
            .context("QEMU's query-rx-filter knows no such NIC")
            .map(Some)
    }

    /// QEMU must tell by its event that `change` has changed the receive filter of the NIC under test, a virtio one.
    ///
    /// # Errors
    /// Those of `change`; no event within [`deadline::RX_FILTER`].
    pub fn expect_rx_filter_event(
        &self,
        change: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        // It is told once for each query.
        self.rx_filter()?;
        let mark = self.vm.qmp.mark();
        change()?;
        let is = |event: &WireEvent| event.name == CHANGED && event.data["name"] == *self.nic().id;
        let limit = deadline::RX_FILTER.start();
        let told = self
            .vm
            .qmp
            .event(mark, limit, |event| is(event).then_some(()));
        told.with_context(|| {
            format!("QEMU did not tell of its receive filter's change by {CHANGED}")
        })
    }

    /// On virtio, QEMU's receive filter must be what the guest's kernel has set: MAC, modes, multicast groups,
    /// no other unicast address, and `vlans`, the VLANs that the guest is in.
    ///
    /// # Errors
    /// What differs, when it still does after [`deadline::RX_FILTER`].
    pub fn expect_rx_filter(&self, link: &Link, vlans: &[u16]) -> anyhow::Result<()> {
        self.expect_rx_filter_with(link, vlans, &[])
    }

    /// As [`Testbed::expect_rx_filter`], of a guest that has set these further unicast addresses. QEMU has 64
    /// addresses at most, unicast ones first; of what does not fit it says so, and has none.
    ///
    /// # Errors
    /// As there.
    pub fn expect_rx_filter_with(
        &self,
        link: &Link,
        vlans: &[u16],
        unicast: &[Mac],
    ) -> anyhow::Result<()> {
        let limit = deadline::RX_FILTER.start();
        loop {
            let mark = self.vm.qmp.mark();
            let Some(filter) = self.rx_filter()? else {
                return Ok(());
            };
            let mut set = self.set(link, vlans)?;
            set.unicast.extend(unicast);
            let differences = set.differences(&filter);
            if differences.is_empty() {
                return Ok(());
            }
            // A driver may tell the device when it comes to it, after the kernel has noted it.
            let changed = self
                .vm
                .qmp
                .event(mark, limit, |event| (event.name == CHANGED).then_some(()));
            ensure!(
                changed.is_ok(),
                "QEMU's query-rx-filter is not what the guest has set: {}",
                differences.join("; ")
            );
        }
    }

    /// The multicast groups whose frames the guest's kernel has the NIC take: those of each address as well.
    ///
    /// # Errors
    /// When the guest does not say.
    pub fn groups(&self, link: &Link) -> anyhow::Result<Vec<Mac>> {
        Ok(Vec::from_iter(self.set(link, &[])?.multicast))
    }

    fn set(&self, link: &Link, vlans: &[u16]) -> anyhow::Result<Set> {
        let dev = &link.name;
        let text = self.agent.sh(&format!(
            "cd /sys/class/net/{dev}; cat address flags; \
             while read -r n name users all group; do [ $name = {dev} ] && echo $group; done </proc/net/dev_mcast; true"
        ))?;
        parse(&text, vlans).with_context(|| format!("the guest shows {dev} as {text:?}"))
    }
}

/// The MAC, the flags in hexadecimal, and a multicast group a line in digits alone.
fn parse(text: &str, vlans: &[u16]) -> anyhow::Result<Set> {
    let mut lines = text.lines().map(str::trim);
    let (Some(mac), Some(flags)) = (lines.next(), lines.next()) else {
        bail!("expected a MAC and flags");
    };
    let group = |digits: &str| -> anyhow::Result<Mac> {
        let number = u64::from_str_radix(digits, 16)?;
        ensure!(digits.len() == 12, "{digits} is no MAC");
        let [_, _, bytes @ ..] = number.to_be_bytes();
        Ok(Mac(bytes))
    };
    Ok(Set {
        mac: mac.parse()?,
        flags: u32::from_str_radix(flags.trim_start_matches("0x"), 16)?,
        unicast: BTreeSet::new(),
        multicast: lines.map(group).collect::<anyhow::Result<_>>()?,
        vlans: vlans.iter().copied().map(i64::from).collect(),
    })
}

impl Set {
    /// What QEMU has otherwise, a clause each.
    fn differences(&self, qemu: &RxFilterInfo) -> Vec<String> {
        let mut found = Vec::new();
        let mut differ = |what: &str, guest: String, qemu: String| {
            if guest != qemu {
                found.push(format!("{what} {guest}, QEMU has {qemu}"));
            }
        };
        let macs = |table: &[String]| -> BTreeSet<String> {
            table.iter().map(|mac| mac.to_lowercase()).collect()
        };
        differ("the MAC is", self.mac.to_string(), qemu.main_mac.clone());
        let promiscuous = self.flags & PROMISC != 0;
        differ(
            "promiscuous mode is",
            promiscuous.to_string(),
            qemu.promiscuous.to_string(),
        );
        let mode = if self.flags & ALLMULTI == 0 {
            RxState::normal
        } else {
            RxState::all
        };
        differ(
            "multicast is",
            format!("{mode:?}"),
            format!("{:?}", qemu.multicast),
        );
        differ("unicast is", "normal".into(), format!("{:?}", qemu.unicast));
        let fitting = |set: &BTreeSet<Mac>, room: usize| -> BTreeSet<String> {
            match set.len() <= room {
                true => set.iter().map(Mac::to_string).collect(),
                false => BTreeSet::new(),
            }
        };
        let unicast = fitting(&self.unicast, ROOM);
        let room = ROOM - unicast.len();
        let overflow = |unicast: bool, multicast: bool| match (unicast, multicast) {
            (false, false) => "none",
            (true, false) => "unicast",
            (false, true) => "multicast",
            (true, true) => "both",
        };
        differ(
            "the multicast groups are",
            format!("{:?}", fitting(&self.multicast, room)),
            format!("{:?}", macs(&qemu.multicast_table)),
        );
        differ(
            "the further unicast addresses are",
            format!("{unicast:?}"),
            format!("{:?}", macs(&qemu.unicast_table)),
        );
        differ(
            "tables that overflow are",
            overflow(self.unicast.len() > ROOM, self.multicast.len() > room).into(),
            overflow(qemu.unicast_overflow, qemu.multicast_overflow).into(),
        );
        // 0 is no VLAN, but the mark of frames with a priority alone: Linux lets them pass once it knows VLANs.
        let vlans: BTreeSet<i64> = qemu
            .vlan_table
            .iter()
            .copied()
            .filter(|id| *id != 0)
            .collect();
        let all = qemu.vlan == RxState::all;
        differ(
            "the VLANs are",
            format!("{:?}", self.vlans),
            if all {
                "all".into()
            } else {
                format!("{vlans:?}")
            },
        );
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter() -> RxFilterInfo {
        RxFilterInfo {
            broadcast_allowed: false,
            main_mac: "52:54:00:00:00:01".into(),
            multicast: RxState::normal,
            multicast_overflow: false,
            multicast_table: vec!["01:00:5e:00:00:01".into(), "33:33:00:00:00:01".into()],
            name: "net0".into(),
            promiscuous: false,
            unicast: RxState::normal,
            unicast_overflow: false,
            unicast_table: Vec::new(),
            vlan: RxState::normal,
            vlan_table: vec![0, 10],
        }
    }

    const TEXT: &str = "52:54:00:00:00:01\n0x1003\n333300000001\n01005e000001\n";

    #[test]
    fn what_the_guest_has_set_is_what_qemu_shows() {
        let set = parse(TEXT, &[10]).unwrap();
        assert!(set.differences(&filter()).is_empty());
        let promiscuous = parse("52:54:00:00:00:01\n0x1303\n", &[]).unwrap();
        let shown = RxFilterInfo {
            promiscuous: true,
            multicast: RxState::all,
            multicast_table: Vec::new(),
            vlan: RxState::none,
            vlan_table: Vec::new(),
            ..filter()
        };
        assert!(promiscuous.differences(&shown).is_empty());
        assert!(parse("52:54:00:00:00:01\n", &[]).is_err());
        assert!(parse("52:54:00:00:00:01\n0x1003\n3333\n", &[]).is_err());
    }

    #[test]
    fn what_does_not_fit_is_said_to_overflow_and_the_other_kind_stays() {
        let many = |first: u8, count: u8| (0..count).map(move |n| Mac([first, 0, 0, 0, 0, n]));
        let mut set = parse(TEXT, &[10]).unwrap();
        set.unicast.extend(many(2, 63));
        let unicast_table: Vec<String> = set.unicast.iter().map(Mac::to_string).collect();
        let shown = RxFilterInfo {
            multicast_overflow: true,
            multicast_table: Vec::new(),
            unicast_table,
            ..filter()
        };
        assert!(set.differences(&shown).is_empty());
        set.unicast.extend(many(6, 2));
        let shown = RxFilterInfo {
            unicast_overflow: true,
            ..filter()
        };
        assert!(set.differences(&shown).is_empty());
        let differences = set.differences(&filter()).join("; ");
        assert_eq!(
            differences,
            "tables that overflow are unicast, QEMU has none"
        );
    }

    #[test]
    fn each_part_that_qemu_has_otherwise_is_said() {
        let set = parse(TEXT, &[10]).unwrap();
        let said = |change: &dyn Fn(&mut RxFilterInfo)| {
            let mut shown = filter();
            change(&mut shown);
            set.differences(&shown).join("; ")
        };
        let all = [
            said(&|f| f.main_mac = "52:54:00:00:00:02".into()),
            said(&|f| f.promiscuous = true),
            said(&|f| f.multicast = RxState::all),
            said(&|f| f.unicast = RxState::none),
            said(&|f| drop(f.multicast_table.pop())),
            said(&|f| f.unicast_table = vec!["52:54:00:00:00:09".into()]),
            said(&|f| f.multicast_overflow = true),
            said(&|f| f.vlan_table = vec![]),
            said(&|f| f.vlan = RxState::all),
        ];
        insta::assert_snapshot!(all.join("\n"), @r#"
        the MAC is 52:54:00:00:00:01, QEMU has 52:54:00:00:00:02
        promiscuous mode is false, QEMU has true
        multicast is normal, QEMU has all
        unicast is normal, QEMU has none
        the multicast groups are {"01:00:5e:00:00:01", "33:33:00:00:00:01"}, QEMU has {"01:00:5e:00:00:01"}
        the further unicast addresses are {}, QEMU has {"52:54:00:00:00:09"}
        tables that overflow are none, QEMU has multicast
        the VLANs are {10}, QEMU has {}
        the VLANs are {10}, QEMU has all
        "#);
    }
}
