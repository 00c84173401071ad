//! Plan item "2. ping the guest": every size at every interval, and floods.

use super::damage::HANG_TOLD;
use super::faults::{IN_TRAFFIC, LOSSY, TAP_UNPLUGGED};
use super::{Case, Fault, Load, Moment, Red};
use crate::base::deadline;
use crate::base::error::CannotRun;
use crate::guest::dialect::Op;
use crate::net::capture::Fence;
use crate::net::frame::Icmp;
use crate::testbed::Testbed;
use crate::testbed::reception::{KERNELS, counters};
use anyhow::{Context, ensure};

/// The plan's packet sizes, bytes of ICMP payload.
pub const SIZES: [u32; 12] = [
    0, 1, 48, 64, 512, 1440, 1500, 1505, 4096, 4192, 32767, 65507,
];
/// The plan's intervals, seconds.
const INTERVALS: [f64; 4] = [0.1, 0.01, 0.001, 0.0001];
/// One byte more than an IPv4 packet can carry.
const TOO_LARGE: u32 = 65508;

/// The guest does not live through a flood.
pub(super) const PANIC: Fault = Fault {
    name: "panic",
    breaks: "the guest panics (sysrq c) while it is flooded",
    inject: |bed| {
        // The agent cannot answer from a panicked guest.
        bed.agent
            .start_last("echo c >/proc/sysrq-trigger")
            .map(drop)
    },
    red: Red::Says("the guest's console shows a panic"),
    ..IN_TRAFFIC
};

/// Plan item "2. ping", steps 1 and 2.
pub static PING_SWEEP: Case = Case {
    name: "ping_sweep",
    plan_item: "2. ping, 1) and 2)",
    passes: "12 sizes × 4 intervals without loss, as ping, the guest's ICMP counters and the tap all count it; 65508 bytes are refused by the host's kernel, and get no reply at all",
    load: Load::Waits,
    ops: &[Op::Address],
    seconds: |profile| {
        // Of each size the intervals come to 0.11 s a request, and a reply of 64 KiB to as much again.
        // Each ping may then wait for late replies.
        let requests = f64::from(profile.ping_count) * SIZES.len() as f64;
        let pings = (SIZES.len() * INTERVALS.len()) as f64;
        requests * 0.5 + pings * deadline::LATE_REPLY.seconds
    },
    faults: &[
        LOSSY,
        Fault {
            red: Red::Says("replies came back"),
            ..TAP_UNPLUGGED
        },
    ],
    run: ping_sweep,
    ..Case::PLAIN
};

/// Plan item "2. ping", step 3.
pub static PING_FLOOD: Case = Case {
    name: "ping_flood",
    plan_item: "2. ping, 3)",
    passes: "after a flood of every size the guest's console shows no panic, oops, call trace, NETDEV WATCHDOG or stall, and the guest still answers ping and agent",
    ops: &[Op::Address],
    seconds: |profile| {
        // ping floods with at least 100 requests a second, and waits at its end where there were no
        // replies.
        SIZES.len() as f64 * (f64::from(profile.flood_count) * 0.01 + 20.0)
    },
    faults: &[
        PANIC,
        Fault {
            name: "stopped",
            breaks: "QEMU stops the guest's CPUs while it is flooded",
            inject: |bed| bed.vm.call(&qapi::qmp::stop {}).map(drop),
            red: Red::Says("the guest no longer answers after the flood"),
            ..IN_TRAFFIC
        },
        HANG_TOLD,
    ],
    run: ping_flood,
    ..Case::PLAIN
};

/// Pings each size at each interval, and every request must be answered. The tap and the guest's kernel
/// must count as many echoes as ping does. At last a ping that is one byte too large must have no
/// reply.
fn ping_sweep(bed: &mut Testbed) -> anyhow::Result<()> {
    bed.up()?;
    bed.moment(Moment::Traffic)?;
    let count = bed.profile.ping_count;
    bed.expect_replies(1, 48)?;
    let fence = bed.fence()?;
    let echoes = answered_in_guest(bed, ECHOES)?;
    let mut asked = 0;
    for interval in INTERVALS {
        for size in SIZES {
            let ping = bed.ping().count(count).interval(interval).size(size);
            asked += bed.asked_until_answered(&ping, count)?;
        }
    }
    let sent = Sent {
        asked,
        total: count * (INTERVALS.len() * SIZES.len()) as u32,
    };
    sent.expect_counted(bed, fence, || {
        Ok(answered_in_guest(bed, ECHOES)?.saturating_sub(echoes))
    })?;
    let fence = bed.fence()?;
    let report = bed.ping().count(2).interval(0.1).size(TOO_LARGE).run()?;
    let (requests, replies) = echoes_on_wire(bed, fence)?;
    ensure!(
        report.received == 0 && requests == 0 && replies == 0,
        "{}: {} replies came back to more bytes than IPv4 can carry ({requests} requests and {replies} replies on the \
         wire)",
        report.command,
        report.received
    );
    // It is never the NIC that refuses them.
    let refused = report.is_refused_as_too_large();
    (refused.then_some(())).ok_or_else(|| {
        CannotRun(format!(
            "this host did not refuse to send more bytes than IPv4 can carry: {report}"
        ))
    })?;
    let why = report.refused.unwrap_or_default();
    bed.evidence(&format!("this host refuses -s {TOO_LARGE}: {why}"));
    Ok(())
}

/// How many echo requests ping has sent, and how many of them were to be answered; the others asked again.
pub(super) struct Sent {
    pub(super) asked: u32,
    pub(super) total: u32,
}

impl Sent {
    /// The tap must have carried them and their answers since `fence`, and the guest have counted as many as it
    /// answered; `in_guest` says how many requests it has counted since then, and could answer.
    pub(super) fn expect_counted(
        &self,
        bed: &Testbed,
        fence: Fence,
        in_guest: impl FnOnce() -> anyhow::Result<u64>,
    ) -> anyhow::Result<()> {
        let Sent { asked, total } = *self;
        // Of what was asked twice some were answered twice.
        let answered = total as usize..=asked as usize;
        let (requests, replies) = echoes_on_wire(bed, fence)?;
        ensure!(
            requests == asked as usize && answered.contains(&replies),
            "ping sent {asked} echo requests, of which {total} were to be answered, the tap shows {requests} requests and {replies} replies"
        );
        let seen = in_guest()?;
        ensure!(
            seen == replies as u64,
            "the tap shows {replies} echo replies, the guest's kernel counts {seen} requests"
        );
        Ok(())
    }
}

/// Echo requests and replies on the tap since `fence`; of a fragmented one, the first fragment.
fn echoes_on_wire(bed: &Testbed, fence: Fence) -> anyhow::Result<(usize, usize)> {
    let wire = bed.wire()?;
    let count = |wanted: fn(&Icmp) -> bool| {
        wire.count(fence, |frame| frame.icmp().as_ref().is_some_and(wanted))
    };
    Ok((
        count(|icmp| matches!(icmp, Icmp::EchoRequest { .. }))?,
        count(|icmp| matches!(icmp, Icmp::EchoReply { .. }))?,
    ))
}

/// By IPv4, for [`answered_in_guest`].
const ECHOES: [&str; 2] = ["Icmp InEchos", "Icmp OutErrors"];

/// Echo requests that the guest's kernel has received, less the replies that it could not send: the counters of both in
/// /proc/net/snmp or snmp6.
pub(super) fn answered_in_guest(
    bed: &Testbed,
    [received, unsent]: [&str; 2],
) -> anyhow::Result<u64> {
    let text = bed.agent.sh(KERNELS)?;
    let counters = counters(&text);
    let number = |name: &str| counters.get(name).copied();
    number(received)
        .zip(number(unsent))
        .map(|(received, unsent)| received.saturating_sub(unsent))
        .with_context(|| format!("the guest counts no {received} and {unsent}: {text}"))
}

/// Floods each size, looking at the guest's console after each. Lost packets are only noted; a flood
/// that is not answered at all, and the end, demand that the guest still answers ping and agent.
fn ping_flood(bed: &mut Testbed) -> anyhow::Result<()> {
    bed.up()?;
    let count = bed.profile.flood_count;
    let mut lost = 0;
    for (index, size) in SIZES.into_iter().enumerate() {
        let flood = bed.ping().flood().count(count).size(size).spawn()?;
        if index == SIZES.len() / 2 {
            bed.moment(Moment::Traffic)?;
        }
        let report = flood.finish()?;
        bed.expect_quiet_kernel()?;
        lost += u64::from(count).saturating_sub(report.received);
        if report.received == 0 {
            still_answers(bed)?;
        }
    }
    if lost > 0 {
        bed.notes.push(format!(
            "{lost} of {} flood packets had no reply",
            count * SIZES.len() as u32
        ));
    }
    still_answers(bed)?;
    bed.expect_quiet_kernel()
}

fn still_answers(bed: &Testbed) -> anyhow::Result<()> {
    bed.reach(deadline::FIRST_PING)
        .and_then(|()| bed.agent.sh("true").map(drop))
        .context("the guest no longer answers after the flood")
}
