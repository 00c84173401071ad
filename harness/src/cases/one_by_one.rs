//! Pings of which each is sent once the one before was answered: an answer that a NIC keeps until something else
//! comes by is late here, and hidden by the next ping anywhere else.

use super::damage::FORGED;
use super::{Case, Fault, Moment, Red, faults};
use crate::base::cpu::busy_so_far;
use crate::base::deadline;
use crate::guest::dialect::Op;
use crate::matrix::Backend;
use crate::net::frame::{Direction, Icmp};
use crate::net::probe::{Sender, echo};
use crate::testbed::Testbed;
use anyhow::{Context as _, bail};
use std::time::Duration;

/// How many.
const PINGS: u16 = 150;
/// ICMP's identifier of them.
const ID: u16 = 0x0b10;
/// How long a ping may be on its way while QEMU neither runs nor waits for a processor. A guest answers within
/// milliseconds of its own; timers by which drivers find out what they were not told have a second or two.
const IDLE: Duration = Duration::from_millis(250);
/// One may be late for a reason of the host's that nobody counts.
const LATE: usize = 2;

/// What the NIC gets is late.
pub(super) const HELD_BACK: Fault = Fault {
    name: "held_back",
    breaks: "what comes for the NIC reaches it at the end of each second",
    inject: |bed| bed.hold_back(Duration::from_secs(1)),
    red: Red::Says("were answered late"),
    ..FORGED
};

/// No answer waits for the next ping.
pub static ONE_BY_ONE: Case = Case {
    name: "one_by_one",
    passes: "each of 150 pings, sent once the one before was answered, is answered without waiting while QEMU has nothing to do",
    // Whether vhost's workers have something to do is not known of each VM alone.
    applies: |cell| cell.backend == Backend::Tap,
    rearm: Some(faults::nothing),
    ops: &[Op::Address],
    faults: &[
        HELD_BACK,
        Fault {
            name: "kept",
            breaks: "what comes for the NIC stays on its way for minutes",
            inject: |bed| bed.hold_back(Duration::from_secs(600)),
            red: Red::Says("was not answered"),
            ..FORGED
        },
    ],
    run: one_by_one,
    ..Case::PLAIN
};

/// Sends one echo request, and waits for its answer: how long that took, by the tap.
///
/// # Errors
/// When it does not come; the host's.
pub(super) fn round_trip(
    bed: &Testbed,
    sender: &Sender,
    (id, seq): (u16, u16),
) -> anyhow::Result<Duration> {
    let wire = bed.wire()?;
    let mark = wire.mark()?;
    sender.send(&echo((bed.nic().mac, bed.address()), (id, seq))?)?;
    let limit = deadline::FIRST_PING.start();
    let request = wire.wait(mark, limit, |frame| {
        frame.direction == Direction::ToGuest && frame.icmp() == Some(Icmp::EchoRequest { id, seq })
    })?;
    let reply = wire
        .wait(mark, limit, |frame| {
            frame.icmp() == Some(Icmp::EchoReply { id, seq })
        })
        .with_context(|| format!("ping {seq} was not answered"))?;
    Ok(reply.time.saturating_sub(request.time))
}

fn one_by_one(bed: &mut Testbed) -> anyhow::Result<()> {
    bed.up()?;
    bed.moment(Moment::Traffic)?;
    let took = answered_one_by_one(bed, ID, PINGS)?;
    bed.notes.push(took);
    bed.expect_quiet_kernel()
}

/// Sends that many pings, and holds each one's time on its way against what QEMU did meanwhile; says how long they
/// took. Times are the tap's, and QEMU is looked at before and after: what it did is never too little.
///
/// # Errors
/// When one is not answered, or several are late; the host's.
pub(super) fn answered_one_by_one(
    bed: &mut Testbed,
    id: u16,
    pings: u16,
) -> anyhow::Result<String> {
    let sender = Sender::open()?;
    let pid = bed.vm.pid();
    let mut late = Vec::new();
    let mut all = Vec::new();
    for seq in 1..=pings {
        let before = busy_so_far(pid);
        let took = round_trip(bed, &sender, (id, seq))
            .with_context(|| format!("of {pings} pings, one at a time"))?;
        all.push(took);
        let Some(((before, faults), (after, faults_now))) = before.zip(busy_so_far(pid)) else {
            continue;
        };
        let busy = after.saturating_sub(before);
        if took.saturating_sub(busy) > IDLE && faults == faults_now {
            late.push(format!(
                "ping {seq} took {:.3} s, in which QEMU ran or waited for a processor for {:.3} s",
                took.as_secs_f64(),
                busy.as_secs_f64()
            ));
        }
        if late.len() >= LATE {
            bail!("pings were answered late: {}", late.join("; "));
        }
    }
    all.sort_unstable();
    let millis = |at: usize| all.get(at).copied().unwrap_or_default().as_secs_f64() * 1000.0;
    bed.notes.extend(late);
    Ok(format!(
        "half of {pings} pings took up to {:.1} ms, the longest {:.1} ms",
        millis(all.len() / 2),
        millis(all.len() - 1)
    ))
}
