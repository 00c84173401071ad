//! A machine that is paused under traffic: what comes meanwhile waits, and is answered when it goes on.

use super::counters::lay_over;
use super::faults::{AT_START, IN_TRAFFIC, virtio};
use super::migrate::{Identity, STREAM};
use super::{Case, Fault, Load, Moment, Red};
use crate::base::deadline::{self, Limit};
use crate::guest::dialect::Op;
use crate::net::capture::Mark;
use crate::net::frame::{Direction, Frame, Icmp};
use crate::net::probe::{self, Sender};
use crate::testbed::Testbed;
use anyhow::{Context as _, ensure};
use qapi::qmp::RunState;

/// Seconds between the echo requests that go on meanwhile.
const INTERVAL: f64 = 0.05;
/// So many of them reach the tap of the paused machine: more than a NIC or QEMU takes in beforehand, and fewer than the
/// 1000 frames that the tap's queue has room for.
const REQUESTS: usize = 20;
/// So many more reach it at once: more than any ring has room for, and together fewer than those 1000.
const BURST: u16 = 600;
/// The identifier of these.
const ID: u16 = 0x7061;
/// Pauses under a flood: what the NIC has put off for a fraction of a millisecond, as an interrupt that comes soon after
/// another, is under way in one of several.
const PAUSES: usize = 20;
/// As many take a second.
const REACH_TAP: Limit = Limit {
    what: "requests on the tap of a paused machine",
    seconds: 10.0,
};
/// The stream outlives both waits.
const LASTS: [Limit; 4] = [
    deadline::FIRST_PING,
    REACH_TAP,
    deadline::FIRST_PING,
    deadline::FIRST_PING,
];

/// Beyond the plan.
pub static PAUSED: Case = Case {
    name: "paused",
    passes: "under a stream of pings the machine is paused by `stop`: it sends nothing, while requests go on reaching its tap; after `cont` each of these is answered, the stream goes on (behind more requests at once than a ring has room for, each of which virtio hands up); under a flood of pings it answers after each of 20 pauses, and the guest is the same",
    load: Load::Waits,
    ops: &[Op::Address],
    seconds: |_| 20.0,
    faults: &[
        Fault {
            name: "runs_on",
            breaks: "the machine goes on while it should be paused",
            inject: |bed| bed.vm.call(&qapi::qmp::cont {}).map(drop),
            red: Red::Says("although the machine is paused"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "link_off",
            breaks: "the NIC's link is off when the machine goes on, so that QEMU drops what has waited",
            inject: |bed| bed.set_link(false),
            red: Red::Says("sent while the machine was paused"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "link_off_later",
            breaks: "the NIC's link is switched off under the flood",
            moment: Moment::Midway,
            inject: |bed| bed.set_link(false),
            red: Red::Says("under a flood of pings"),
            ..AT_START
        },
        Fault {
            name: "uncounted",
            breaks: "the guest's driver counts no frame that it takes",
            applies: virtio,
            inject: |bed| lay_over(bed, "rx_packets", "cat"),
            red: Red::Says("its NIC has handed up 0"),
            ..AT_START
        },
    ],
    run: paused,
    ..Case::PLAIN
};

fn paused(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    let was = Identity::of(bed)?;
    let before = bed.frames_taken(&link)?;
    let fence = bed.fence()?;
    let lasts = LASTS.iter().map(|limit| limit.start().span()).sum();
    let stream = bed.ping().interval(INTERVAL).lasts(lasts).spawn()?;
    stream.wait_replies(STREAM, deadline::FIRST_PING.start())?;
    bed.vm.call(&qapi::qmp::stop {})?;
    let (requests, mark) = while_paused(bed)?;
    bed.vm.call(&qapi::qmp::cont {})?;
    let wire = bed.wire()?;
    let limit = deadline::FIRST_PING.start();
    for (id, seq) in requests {
        let answers = |frame: &Frame| frame.icmp() == Some(Icmp::EchoReply { id, seq });
        wire.wait(mark, limit, answers).with_context(|| {
            format!(
                "request {seq} of the stream, sent while the machine was paused, was not answered when it went on"
)
        })?;
    }
    stream
        .wait_replies(STREAM, deadline::FIRST_PING.start())
        .context("the stream of pings does not go on")?;
    stream.interrupt()?;
    bed.fence()?;
    let mac = bed.nic().mac;
    let to_guest =
        |frame: &Frame| frame.direction == Direction::ToGuest && frame.dst() == Some(mac);
    let sent = bed.wire()?.count(fence, to_guest)? as u64;
    let taken = bed.frames_taken(&link)? - before;
    // Some others drop what their ring has no room for; the guest's kernel drops some of its answers.
    ensure!(
        !bed.cell.nic.is_virtio() || taken >= sent,
        "of {sent} frames to the guest, most of them at once while the machine was paused, its NIC has handed up {taken}"
    );
    bed.notes.push(format!(
        "{taken} of {sent} frames reached the guest, {BURST} of them sent at once while the machine was paused"
    ));
    often(bed)?;
    was.expect_same(bed)?;
    bed.expect_quiet_kernel()
}

/// Pauses the machine again and again under a flood of pings: each time it answers when it goes on.
fn often(bed: &mut Testbed) -> anyhow::Result<()> {
    let lasts = deadline::FIRST_PING.start().span() * PAUSES as u32;
    let flood = bed.ping().flood().lasts(lasts).spawn()?;
    let answers = |bed: &Testbed, mark, pauses| -> anyhow::Result<()> {
        let reply = |frame: &Frame| matches!(frame.icmp(), Some(Icmp::EchoReply { .. }));
        (bed.wire()?.wait(mark, deadline::FIRST_PING.start(), reply)).with_context(|| {
            format!("under a flood of pings, after {pauses} of {PAUSES} pauses")
        })?;
        Ok(())
    };
    answers(bed, bed.wire()?.mark()?, 0)?;
    for pauses in 1..=PAUSES {
        bed.vm.call(&qapi::qmp::stop {})?;
        let mark = bed.wire()?.mark()?;
        bed.vm.call(&qapi::qmp::cont {})?;
        answers(bed, mark, pauses)?;
        if pauses == PAUSES / 2 {
            bed.moment(Moment::Midway)?;
        }
    }
    flood.interrupt().map(drop)
}

/// Has the stream go on for a while, and looks that nothing comes from the paused machine: the requests' identifiers and
/// sequence numbers, and the moment before them.
fn while_paused(bed: &mut Testbed) -> anyhow::Result<(Vec<(u16, u16)>, Mark)> {
    let state = bed.vm.call(&qapi::qmp::query_status {})?.status;
    ensure!(
        state == RunState::paused,
        "after `stop` QEMU's query-status says {state:?}"
    );
    let mark = bed.wire()?.mark()?;
    bed.moment(Moment::Traffic)?;
    let wire = bed.wire()?;
    let mut requests = Vec::new();
    wire.wait(mark, REACH_TAP.start(), |frame| {
        if let Some(Icmp::EchoRequest { id, seq }) = frame.icmp() {
            requests.push((id, seq));
        }
        requests.len() == REQUESTS
    })
    .with_context(|| format!("of {REQUESTS} requests"))?;
    let sender = Sender::open()?;
    let guest = (bed.nic().mac, bed.address());
    for seq in 0..BURST {
        sender.send(&probe::echo(guest, (ID, seq))?)?;
    }
    bed.expect_nothing_sent(mark.nothing_under_way(), "the machine is paused")?;
    Ok((requests, mark))
}
