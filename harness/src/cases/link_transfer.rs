//! Plan items 2 and 20 under traffic: a link that goes off amid a transfer, which goes on with it.

use super::faults::TAP_UNPLUGGED;
use super::link_status::{LINK_ON, expect_off};
use super::transfer;
use super::{Case, Fault, Load, Moment, Red};
use crate::base::deadline::{self, Deadline};
use crate::base::error::CannotRun;
use crate::guest::dialect::Op;
use crate::net::addr::HOST;
use crate::net::bridge;
use crate::net::transfer::{Crossed, TcpPort, blocks};
use crate::testbed::Testbed;
use anyhow::{Context as _, bail};
use std::time::Instant;

/// The file, MiB, and how many bytes of it the host has read when the link goes off.
const MIB: u32 = 1;
const READ: u64 = 256 << 10;
/// What the host's kernel holds of it beyond that, bytes: the guest must still have most of the file.
const HELD: usize = 64 << 10;

/// Off amid a transfer.
pub static LINK_STATUS_TRANSFER: Case = Case {
    name: "link_status_transfer",
    plan_item: "2, 20",
    passes: "`set_link off` amid a file that the guest sends by TCP: nothing crosses the tap any more; after `set_link on` the transfer goes on, and the file arrives with its SHA-256",
    load: Load::Waits,
    ops: &[Op::Address],
    seconds: |_| deadline::TRANSFER.seconds,
    faults: &[
        LINK_ON,
        Fault {
            red: Red::Missed(deadline::TRANSFER),
            ..TAP_UNPLUGGED
        },
        transfer::CHANGED,
    ],
    run: link_status_transfer,
    ..Case::PLAIN
};

/// Reads a part of the file that the guest sends, switches the link off and looks that nothing comes any more,
/// switches it on and reads the rest.
fn link_status_transfer(bed: &mut Testbed) -> anyhow::Result<()> {
    bed.up()?;
    let blocks = blocks(MIB);
    transfer::make_file(bed, blocks)?;
    let port = TcpPort::open(HOST.into())?;
    // What the off lasts, and what a link takes that is negotiated anew.
    let more = deadline::SILENCE.start().span() + deadline::FIRST_PING.start().span();
    let limit = transfer::limit(blocks, more);
    let (sending, command) = transfer::begin_to_send(bed, HOST.into(), &port, limit)?;
    let received = off_amid(bed, &port, limit);
    let crossed = transfer::ended(bed, (sending, &command), limit, received)?;
    transfer::expect_whole(&crossed, blocks)?;
    bed.reach(deadline::FIRST_PING)?;
    bed.expect_quiet_kernel()
}

/// The host's end of it.
fn off_amid(bed: &mut Testbed, port: &TcpPort, limit: Deadline) -> anyhow::Result<Crossed> {
    let carried = |bed: &Testbed| anyhow::Ok(bridge::carried(&bed.nic().tap)?.0);
    let mut receiving = port.begin_to_receive(limit)?;
    receiving.keep(HELD)?;
    receiving.read_up_to(READ, limit)?;
    bed.set_link(false)?;
    let before = carried(bed)?;
    bed.moment(Moment::Traffic)?;
    expect_off(bed).context("amid the file")?;
    bed.set_link(true)?;
    let on = Instant::now();
    let crossed = receiving.rest(limit);
    let crossed = crossed.context("once the link was on again")?;
    let rest = carried(bed)? - before;
    if rest < crossed.bytes / 2 {
        bail!(CannotRun(format!(
            "the link went off too late: {rest} bytes of {} crossed afterwards",
            crossed.bytes
        )));
    }
    bed.notes.push(format!(
        "{rest} bytes crossed within {:.1} s once the link was on again",
        on.elapsed().as_secs_f64()
    ));
    Ok(crossed)
}
