//! VLANs that are refused.

use super::super::faults::{IN_TRAFFIC, TAP_UNPLUGGED};
use super::super::{Case, Fault, Moment, Red};
use super::{IDS, here, lie, vlans};
use crate::base::deadline;
use crate::guest::agent::said;
use crate::guest::dialect::Op;
use crate::testbed::Testbed;
use anyhow::{Context as _, ensure};

/// 802.1Q reserves it.
const RESERVED: u16 = 4095;
/// Plan item 7: what must be refused.
pub static VLAN_REFUSED: Case = Case {
    name: "vlan_refused",
    plan_item: "7",
    passes: "VLAN 4095, which 802.1Q reserves, and an id that is in use are refused with a message; what was there stays, and the guest and its NIC live on",
    ops: &[Op::Address, Op::VlanAdd, Op::VlanRemove],
    faults: &[
        Fault {
            name: "taken",
            breaks: "the guest's tool takes 4095 for 4094",
            inject: |bed| {
                lie(
                    bed,
                    "*4095*) exec \"$REAL\" $(echo \"$*\" | sed s/4095/4094/g)",
                )
            },
            red: Red::Says("was not refused"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "silent",
            breaks: "the guest's tool refuses without a word",
            inject: |bed| lie(bed, "*4095*) exit 1"),
            red: Red::Says("without a message"),
            ..IN_TRAFFIC
        },
        TAP_UNPLUGGED,
    ],
    run: vlan_refused,
    ..Case::PLAIN
};

/// Joins a VLAN, then asks for one with a reserved id, for one beyond all ids, and for the same once
/// more. Each must be refused with a message and change nothing; the NIC must still answer.
fn vlan_refused(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    bed.moment(Moment::Traffic)?;
    let member = here(bed, &link);
    let id = IDS[0];
    member.join(id)?;
    let before = vlans(&bed.agent)?;
    for (id, why) in [
        (RESERVED, "is reserved"),
        (RESERVED + 1, "is none"),
        (id, "is in use"),
    ] {
        let add = member.command(Op::VlanAdd, id);
        let output = bed.agent.run(&add)?;
        ensure!(
            output.code != 0,
            "`{add}` was not refused although VLAN {id} {why}: {}",
            said(&output)
        );
        ensure!(
            output.stderr.trim().len() + output.stdout.trim().len() > 0,
            "`{add}` was refused without a message, with {}",
            output.code
        );
        let after = vlans(&bed.agent)?;
        ensure!(
            after == before,
            "`{add}` was refused, but changed the VLANs from {before:?} to {after:?}"
        );
    }
    member.leave(id)?;
    bed.reach(deadline::FIRST_PING)
        .context("after VLANs were refused")?;
    bed.expect_quiet_kernel()
}
