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
    /// Everybody: the last probe, which shows that those before it have passed or not.
    Marker,
}

impl Target {
    const ALL: [Target; 6] = [
        Target::Own,
        Target::First,
        Target::Joined,
        Target::OtherGroup,
        Target::Foreign,
        Target::Marker,
    ];
}

/// Has a tcpdump in the guest show the probes that reach its interface `dev`, until the guest ends.
///
/// # Errors
/// When it does not begin to listen.
pub(super) fn watch(bed: &Testbed, dev: &str) -> anyhow::Result<()> {
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
    pub(super) fn expect_filters(&mut self, bed: &Testbed) -> anyhow::Result<()> {
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
        let round = self.rounds;
        let from = |target: Target| Mac([0x02, 0, 0, 0, round, target as u8]);
        let sender = Sender::open()?;
        let wire = bed.wire()?;
        let mark = wire.mark()?;
        for target in Target::ALL {
            let to = match target {
                Target::Own => self.mac,
                Target::First => self.first,
                Target::Joined => GROUP,
                Target::OtherGroup => OTHER_GROUP,
                Target::Foreign => FOREIGN_MAC,
                Target::Marker => Mac::BROADCAST,
            };
            sender.send(&probe::probe(to, from(target)))?;
        }
        // They are all on the tap, in this order.
        let limit = ON_TAP.start();
        for target in Target::ALL {
            wire.wait(mark, limit, |frame| frame.src() == Some(from(target)))
                .or_cannot_run(|| format!("send a frame from {}", from(target)))?;
        }
        let shown = bed
            .agent
            .once(
                &format!("grep -q {} {SEEN}", from(Target::Marker)),
                TCPDUMP,
                &format!("cat {SEEN}.err {SEEN}"),
                &format!("cat {SEEN}"),
            )
            .context("the guest does not see a broadcast")?;
        let sees = |target: &Target| shown.contains(&from(*target).to_string());
        Ok(Target::ALL.into_iter().filter(sees).collect())
    }
}
