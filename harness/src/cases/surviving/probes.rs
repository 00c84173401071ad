//! Which frames a NIC takes: probes to several destinations, and what a tcpdump that is no cause of
//! promiscuous mode shows of them in the guest.

use super::State;
use crate::base::deadline::Limit;
use crate::base::error::OrCannotRun as _;
use crate::cases::promisc::{FOREIGN_MAC, TCPDUMP};
use crate::net::addr::Mac;
use crate::net::probe::{self, Sender};
use crate::testbed::Testbed;
use anyhow::{Context as _, ensure};
use std::collections::BTreeSet;

/// The multicast groups that the guest joins: in each eighth of a filter one, by the CRC of which Realtek's chips have
/// 64 bits and by the bits of which Intel's have 4096.
pub(super) const GROUPS: [Mac; 8] = [
    GROUP,
    Mac([0x01, 0x00, 0x5e, 0x12, 0x06, 0x22]),
    Mac([0x01, 0x00, 0x5e, 0x12, 0x08, 0x42]),
    Mac([0x01, 0x00, 0x5e, 0x12, 0x04, 0x62]),
    Mac([0x01, 0x00, 0x5e, 0x12, 0x03, 0x82]),
    Mac([0x01, 0x00, 0x5e, 0x12, 0x07, 0xa2]),
    Mac([0x01, 0x00, 0x5e, 0x12, 0x01, 0xc2]),
    Mac([0x01, 0x00, 0x5e, 0x12, 0x05, 0xe2]),
];
/// The first of them, and one that the guest does not join. No bit of theirs is that of 224.0.0.1, which each guest is
/// in.
pub(in crate::cases) const GROUP: Mac = Mac([0x01, 0x00, 0x5e, 0x12, 0x02, 0x02]);
const OTHER_GROUP: Mac = Mac([0x01, 0x00, 0x5e, 0x12, 0x00, 0x7e]);
/// In the guest: what tcpdump shows of the probes.
const SEEN: &str = "/tmp/nicmatrix-probes";
/// A frame sent to the bridge is on its port at once.
const ON_TAP: Limit = Limit {
    what: "a probe on the tap",
    seconds: 5.0,
};

/// Probes sent at once, with the one behind them: pcnet has room for 32. Of ne2k_pci's ring the driver takes nine
/// frames at an interrupt, and what is left stays there.
pub(in crate::cases) fn at_once(driver: &str) -> usize {
    match driver {
        "ne2k-pci" => 7,
        _ => 28,
    }
}

/// Has a tcpdump in the guest show the probes that reach its interface `dev`, until the guest ends.
///
/// # Errors
/// When it does not begin to listen.
pub(in crate::cases) fn watch(bed: &Testbed, dev: &str) -> anyhow::Result<()> {
    bed.agent.sh(&format!(
        "tcpdump -p -n -e -l -i {dev} ether proto {:#x} >{SEEN} 2>{SEEN}.err </dev/null &",
        probe::ETHERTYPE
    ))?;
    let listens = format!("grep -q listening {SEEN}.err");
    bed.agent
        .until(&listens, TCPDUMP, &format!("cat {SEEN}.err"))
}

impl State {
    /// Fails unless the NIC takes the frames that it should, and no others.
    ///
    /// # Errors
    /// Which it takes, or does not.
    pub(in crate::cases) fn expect_filters(&mut self, bed: &Testbed) -> anyhow::Result<()> {
        let seen = self.probe(bed)?;
        let mode = match self.promiscuous {
            true => "in",
            false => "outside",
        };
        let (mac, first) = (self.mac, self.first);
        let hears = |target: Mac, expected: bool, what: &str| {
            let heard = seen.contains(&target);
            let word = match heard {
                true => "sees",
                false => "does not see",
            };
            ensure!(
                heard == expected,
                "{mode} promiscuous mode the guest {word} a frame for {what}"
            );
            Ok(())
        };
        hears(mac, true, &format!("{mac}, the MAC that the guest set"))?;
        if let Some(further) = self.further {
            let what = format!("{further}, the further MAC that the guest set");
            hears(further, true, &what)?;
        }
        for group in GROUPS {
            let what = format!("{group}, the multicast group that it joined");
            hears(group, true, &what)?;
        }
        if self.promiscuous || self.filters {
            let what = format!("the foreign MAC {FOREIGN_MAC}");
            hears(FOREIGN_MAC, self.promiscuous, &what)?;
        }
        if mac != first && (self.promiscuous || self.filters) {
            let what = format!("{first}, the first MAC, and {mac} is the MAC that the guest set");
            hears(first, self.promiscuous, &what)?;
        }
        if self.promiscuous || self.filters_groups {
            let what = format!("{OTHER_GROUP}, a multicast group that it did not join");
            hears(OTHER_GROUP, self.promiscuous, &what)?;
        }
        Ok(())
    }

    /// Whether a frame for a multicast group that was not joined stays outside now.
    pub(super) fn keeps_groups_out(&mut self, bed: &Testbed) -> anyhow::Result<bool> {
        Ok(!self.probe(bed)?.contains(&OTHER_GROUP))
    }

    /// Sends a probe to each MAC that the NIC should take or should not; those that the guest sees.
    pub(super) fn probe(&mut self, bed: &Testbed) -> anyhow::Result<BTreeSet<Mac>> {
        self.rounds += 1;
        let mut macs = vec![self.mac, self.first, OTHER_GROUP, FOREIGN_MAC];
        macs.extend(GROUPS.into_iter().chain(self.further));
        let heard = heard(bed, self.rounds, &macs)?;
        let seen = macs.into_iter().zip(heard);
        Ok(seen
            .filter_map(|(mac, heard)| heard.then_some(mac))
            .collect())
    }
}

/// Sends a probe to each of `targets`, some at once, and behind these one for everybody, which the guest must see.
/// Of each, whether [`watch`]'s tcpdump shows it; `round` is another one each time.
///
/// # Errors
/// When the guest does not see what is for everybody; of the host's, when a probe is not on the tap.
pub(in crate::cases) fn heard(
    bed: &Testbed,
    round: u8,
    targets: &[Mac],
) -> anyhow::Result<Vec<bool>> {
    let sender = Sender::open()?;
    let wire = bed.wire()?;
    let mut heard = Vec::new();
    for (part, targets) in targets.chunks(at_once(&bed.cell.nic.driver)).enumerate() {
        let from = |number: usize| Mac([0x02, 0, 0, round, part as u8, number as u8]);
        let marker = from(targets.len());
        let mark = wire.mark()?;
        for (number, to) in targets.iter().chain([&Mac::BROADCAST]).enumerate() {
            sender.send(&probe::probe(*to, from(number)))?;
        }
        // They are all on the tap, in this order.
        let limit = ON_TAP.start();
        for number in 0..=targets.len() {
            wire.wait(mark, limit, |frame| frame.src() == Some(from(number)))
                .or_cannot_run(|| format!("send a frame from {}", from(number)))?;
        }
        let shown = bed
            .agent
            .once(
                &format!("grep -q {marker} {SEEN}"),
                TCPDUMP,
                &format!("cat {SEEN}.err {SEEN}"),
                &format!("cat {SEEN}"),
            )
            .context("the guest does not see a broadcast")?;
        heard.extend((0..targets.len()).map(|number| shown.contains(&from(number).to_string())));
    }
    Ok(heard)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The CRC of a MAC by which chips of Realtek, AMD and National choose a bit, with its first bit first.
    fn crc(mac: Mac) -> u32 {
        let bits = mac
            .0
            .iter()
            .flat_map(|byte| (0..8).map(move |n| (byte >> n) & 1));
        bits.fold(u32::MAX, |crc, bit| {
            let carry = (crc >> 31) ^ u32::from(bit);
            (crc << 1) ^ (carry * 0x04c1_1db7)
        })
    }

    #[test]
    fn each_eighth_of_a_filter_has_a_group() {
        let each: Vec<u32> = (0..8).collect();
        let realtek = GROUPS.map(|group| crc(group) >> 29);
        let intel = GROUPS.map(|group| u32::from(group.0[5] >> 5));
        assert_eq!((realtek.to_vec(), intel.to_vec()), (each.clone(), each));
        let everybody = Mac([0x01, 0x00, 0x5e, 0, 0, 1]);
        for group in GROUPS {
            for other in [OTHER_GROUP, everybody] {
                assert_ne!(crc(group) >> 26, crc(other) >> 26, "{group}, {other}");
                assert_ne!(group.0[4..], other.0[4..], "{group}, {other}");
            }
        }
    }
}
