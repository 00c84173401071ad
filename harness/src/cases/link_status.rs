//! Plan items 2 and 20: operstate follows `set_link`, and so does the traffic.

use super::faults::{self, AT_START, TAP_UNPLUGGED};
use super::{Case, Fault, Load, Moment, Red, StartState};
use crate::base::deadline;
use crate::guest::dialect::Op;
use crate::guest::link::Link;
use crate::net::frame::Direction;
use crate::testbed::Testbed;
use anyhow::ensure;

/// With the link-status feature (`status=on`, the default).
pub static LINK_STATUS: Case = Case {
    name: "link_status",
    plan_item: "2, 20",
    passes: "operstate reads up, down after `set_link off` and up again after `set_link on`; traffic stops and resumes with it",
    load: Load::Waits,
    rearm: Some(faults::nothing),
    ops: &[Op::Address],
    faults: &[
        Fault {
            name: "status_off",
            breaks: "QEMU does not offer the link-status feature (status=off)",
            applies: faults::virtio,
            vm: |spec, _| spec.nics[0].properties.push("status=off".into()),
            red: Red::Missed(deadline::OPERSTATE),
            ..AT_START
        },
        TAP_UNPLUGGED,
    ],
    run: link_status,
    ..Case::PLAIN
};

/// Without it (`status=off`).
pub static LINK_STATUS_OFF: Case = Case {
    name: "link_status_off",
    plan_item: "2, 20",
    passes: "with status=off operstate reads the same whatever `set_link` does (unknown on old kernels, up on those that assume a link), while traffic still stops and resumes with it",
    applies: faults::virtio,
    start_state: StartState::Boot,
    load: Load::Waits,
    vm: |spec| spec.nics[0].properties.push("status=off".into()),
    ops: &[Op::Address],
    faults: &[
        Fault {
            name: "status_on",
            breaks: "QEMU offers the link-status feature (status=on)",
            applies: faults::virtio,
            vm: |spec, _| spec.nics[0].properties.push("status=on".into()),
            red: Red::Missed(deadline::OPERSTATE),
            ..AT_START
        },
        TAP_UNPLUGGED,
    ],
    run: link_status_off,
    ..Case::PLAIN
};

/// Brings the NIC up, then follows its link off and on: operstate must read up, down and up again.
fn link_status(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    // Some drivers report no link state before it changes for the first time.
    let unreported = !bed.cell.nic.is_virtio() && bed.link()?.operstate == "unknown";
    let first = if unreported { "unknown" } else { "up" };
    follow(bed, &link, [first, "down", "up"])
}

/// Brings the NIC up, notes its operstate, and switches the link off and on: operstate must stay as it
/// is, and traffic stop and resume all the same.
fn link_status_off(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    let state = bed.link()?.operstate;
    ensure!(
        ["unknown", "up"].contains(&state.as_str()),
        "operstate of a NIC without link status is {state:?}"
    );
    bed.notes
        .push(format!("operstate without link status: {state}"));
    follow(bed, &link, [&state; 3])
}

/// Switches the link off and on; `states` are what operstate must read before, between and after.
fn follow(bed: &mut Testbed, link: &Link, states: [&str; 3]) -> anyhow::Result<()> {
    bed.expect_operstate(link, states[0])?;
    bed.set_link(false)?;
    bed.expect_operstate(link, states[1])?;
    let mark = bed.wire()?.mark()?;
    bed.expect_silence(bed.address(), "the link is off")?;
    let heard = bed
        .wire()?
        .count(mark, |frame| frame.direction == Direction::FromGuest)?;
    ensure!(
        heard == 0,
        "{heard} frames of the guest crossed its tap although the link is off"
    );
    // Where it should not follow, it may not have had the time to, above.
    bed.expect_operstate(link, states[1])?;
    bed.moment(Moment::Traffic)?;
    bed.set_link(true)?;
    bed.expect_operstate(link, states[2])?;
    bed.reach(deadline::FIRST_PING)
}
