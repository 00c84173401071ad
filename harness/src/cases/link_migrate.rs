//! Plan items 2, 17 and 20 at once: a link that is off when its guest moves is off where the guest arrives.

use super::faults::{AT_START, TAP_UNPLUGGED};
use super::link_status::{LINK_ON, expect_off};
use super::{Case, Fault, Moment, Red, migrate};
use crate::base::deadline;
use crate::guest::dialect::Op;
use crate::testbed::Testbed;
use anyhow::Context as _;

/// Off through a migration.
pub static LINK_STATUS_MIGRATE: Case = Case {
    name: "link_status_migrate",
    plan_item: "2, 17, 20",
    passes: "a link that is off stays off through a migration: nothing crosses the destination's tap, the guest receives nothing, and operstate reads down, until `set_link on`, when it reads up and traffic flows",
    vm: |spec| spec.migratable = true,
    ops: &[Op::Address],
    seconds: |_| 60.0,
    faults: &[
        Fault {
            moment: Moment::Arrived,
            ..LINK_ON
        },
        Fault {
            name: "shown_up",
            breaks: "the guest that has arrived shows its NIC's operstate as up",
            moment: Moment::Arrived,
            inject: |bed| {
                let file = format!("/sys/class/net/{}/operstate", bed.link()?.name);
                let command = format!("echo up >/tmp/state && mount --bind /tmp/state {file}");
                bed.agent.sh(&command).map(drop)
            },
            red: Red::Missed(deadline::OPERSTATE),
            ..AT_START
        },
        Fault {
            moment: Moment::Arrived,
            ..TAP_UNPLUGGED
        },
    ],
    run: link_status_migrate,
    ..Case::PLAIN
};

/// Switches the link off, moves the guest to another VM of the same QEMU, and switches the link on there.
fn link_status_migrate(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    bed.set_link(false)?;
    let there = bed.destination(&bed.own_qemu().clone(), 1)?;
    bed.ready_to_leave()?;
    bed.migrate(&migrate::command(), &there, |_| Ok(()))?;
    bed.arrive(there)?;
    bed.await_guest().context("on the destination")?;
    bed.settle()?;
    bed.moment(Moment::Arrived)?;
    expect_off(bed).context("the link was off when the guest left")?;
    bed.expect_operstate(&link, "down")
        .context("the link was off when the guest left")?;
    bed.set_link(true)?;
    bed.expect_operstate(&link, "up")?;
    bed.reach(deadline::FIRST_PING)?;
    bed.expect_quiet_kernel()
}
