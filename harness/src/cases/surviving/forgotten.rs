//! That a NIC has forgotten all of it, once its driver was loaded anew.

use super::{GROUPS, State, under_new_mac, watch};
use crate::base::deadline;
use crate::guest::link::{self, Link};
use crate::net::bridge;
use crate::testbed::Testbed;
use anyhow::ensure;
use qapi::qmp::RxState;

impl State {
    /// Fails unless the NIC, whose driver begins anew, is as it was before [`State::set`].
    ///
    /// # Errors
    /// What is left of it, as the guest, QEMU or the wire shows it.
    pub(in crate::cases) fn expect_forgotten(mut self, bed: &mut Testbed) -> anyhow::Result<()> {
        let link = await_driver(bed)?;
        self.expect_own(bed, &link)?;
        bed.addressed = false;
        bridge::flush_neighbour(bed.address())?;
        let link = bed.up()?;
        self.promiscuous = false;
        self.expect_own_for_qemu(bed)?;
        bed.expect_rx_filter(&link, &[])?;
        watch(bed, &link.name)?;
        self.expect_heard_no_more(bed)?;
        self.expect_features(bed, &link)
    }

    /// The NIC's own MAC and MTU, and for QEMU no filter.
    fn expect_own(&self, bed: &Testbed, link: &Link) -> anyhow::Result<()> {
        ensure!(
            link.mac == self.first,
            "the NIC begins anew with the MAC {}, and its own is {}",
            link.mac,
            self.first
        );
        let default = bed.cell.nic.default_mtu();
        ensure!(
            link.mtu == default,
            "the NIC begins anew with an MTU of {}, not {default}",
            link.mtu
        );
        let Some(filter) = bed.rx_filter()? else {
            return Ok(());
        };
        let groups: Vec<_> = filter
            .multicast_table
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect();
        let vlans = match filter.vlan {
            RxState::all => "all VLANs".to_owned(),
            _ => format!("VLANs {:?}", filter.vlan_table),
        };
        ensure!(
            filter.vlan_table.is_empty() && !GROUPS.iter().any(|group| groups.contains(group)),
            "the NIC begins anew, and QEMU's query-rx-filter has {vlans} and multicast groups {groups:?}"
        );
        Ok(())
    }

    /// QEMU shows the NIC's own MAC, which a driver may tell it when the NIC goes up.
    fn expect_own_for_qemu(&self, bed: &Testbed) -> anyhow::Result<()> {
        let qemu = bed.qemu_nic()?;
        ensure!(
            qemu.mac == self.first || !bed.cell.nic.shows_mac,
            "the NIC begins anew with the MAC {}, QEMU's `info network` shows {}",
            self.first,
            qemu.mac
        );
        Ok(())
    }

    /// Frames for the MAC and the groups of before stay outside, where the NIC filters them.
    fn expect_heard_no_more(&mut self, bed: &Testbed) -> anyhow::Result<()> {
        let seen = self.probe(bed)?;
        ensure!(
            seen.contains(&self.first),
            "the guest does not see a frame for {}, its own MAC",
            self.first
        );
        let own = (self.filters && self.mac != self.first).then_some(self.mac);
        let further = self.further.filter(|_| self.filters);
        let groups = GROUPS.into_iter().filter(|_| self.filters_groups);
        for left in own.into_iter().chain(further).chain(groups) {
            ensure!(
                !seen.contains(&left),
                "the guest sees a frame for {left}, of which the NIC was told before its driver began anew"
            );
        }
        Ok(())
    }

    /// What was switched off is on again.
    fn expect_features(&self, bed: &Testbed, link: &Link) -> anyhow::Result<()> {
        let text = bed.agent.sh(&format!("ethtool -k {}", link.name))?;
        let features = link::fields(&text);
        for (short, long) in &self.off {
            let now = features.get(*long).map_or("", String::as_str);
            ensure!(
                now.starts_with("on"),
                "{short} was on when the driver began before, `ethtool -k` reads back {long}: {now}"
            );
        }
        Ok(())
    }
}

/// The NIC's interface, once its driver has made one.
fn await_driver(bed: &Testbed) -> anyhow::Result<Link> {
    let driver = &bed.cell.nic.driver;
    let shows = format!("ls -d /sys/bus/*/drivers/{driver}/*/net/* >/dev/null 2>&1");
    bed.agent
        .until(&shows, deadline::LINK_APPEARS, "ls /sys/class/net")?;
    under_new_mac(bed)
}
