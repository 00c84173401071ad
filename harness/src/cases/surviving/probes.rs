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

/// The multicast group that the guest joins, and one that it does not.
pub(in crate::cases) const GROUP: Mac = Mac([0x01, 0x00, 0x5e, 0x12, 0x00, 0x01]);
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
fn at_once(driver: &str) -> usize {
    match driver {
        "ne2k-pci" => 7,
        _ => 28,
    }
}

/// Where a probe is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    /// The MAC that the guest set.
    Own,
    /// The NIC's first MAC.
    First,
    /// The multicast group that the guest has joined.
    Joined,
    /// Another group.
    OtherGroup,
    /// A MAC of nobody here.
    Foreign,
}

impl Target {
    const ALL: [Target; 5] = [
        Target::Own,
        Target::First,
        Target::Joined,
        Target::OtherGroup,
        Target::Foreign,
    ];
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
        let hears = |target, expected: bool, what: &str| {
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
        hears(
            Target::Own,
            true,
            &format!("{mac}, the MAC that the guest set"),
        )?;
        hears(
            Target::Joined,
            true,
            &format!("{GROUP}, the multicast group that it joined"),
        )?;
        if self.promiscuous || self.filters {
            let what = format!("the foreign MAC {FOREIGN_MAC}");
            hears(Target::Foreign, self.promiscuous, &what)?;
        }
        if mac != first && (self.promiscuous || self.filters) {
            let what = format!("{first}, the first MAC, and {mac} is the MAC that the guest set");
            hears(Target::First, self.promiscuous, &what)?;
        }
        if self.promiscuous || self.filters_groups {
            let what = format!("{OTHER_GROUP}, a multicast group that it did not join");
            hears(Target::OtherGroup, self.promiscuous, &what)?;
        }
        Ok(())
    }

    /// Whether a frame for a multicast group that was not joined stays outside now.
    pub(super) fn keeps_groups_out(&mut self, bed: &Testbed) -> anyhow::Result<bool> {
        Ok(!self.probe(bed)?.contains(&Target::OtherGroup))
    }

    /// Sends a probe to each target; those that the guest sees.
    fn probe(&mut self, bed: &Testbed) -> anyhow::Result<BTreeSet<Target>> {
        self.rounds += 1;
        let macs = Target::ALL.map(|target| match target {
            Target::Own => self.mac,
            Target::First => self.first,
            Target::Joined => GROUP,
            Target::OtherGroup => OTHER_GROUP,
            Target::Foreign => FOREIGN_MAC,
        });
        let heard = heard(bed, self.rounds, &macs)?;
        let targets = Target::ALL.into_iter().zip(heard);
        Ok(targets
            .filter_map(|(target, heard)| heard.then_some(target))
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
