//! Pings of which each is sent once the one before was answered: an answer that a NIC keeps until something else
//! comes by is late here, and hidden by the next ping anywhere else.

use super::damage::FORGED;
use super::{Case, Fault, Moment, Red, faults, rings};
use crate::base::cpu::busy_so_far;
use crate::base::deadline;
use crate::guest::dialect::Op;
use crate::matrix::Backend;
use crate::net::frame::{Direction, Icmp};
use crate::net::probe::{Sender, echo};
use crate::testbed::Testbed;
use anyhow::{Context as _, bail};
use std::time::Duration;

/// How many at least.
const PINGS: u16 = 150;
/// How often the longer of the NIC's rings comes round, in pings of which each is one frame in and one out.
const ROUNDS: u16 = 8;
/// Longer rings come round less often. A ping takes under a millisecond.
const MOST: u16 = 8400;
/// ICMP's identifier of them, and of those that follow where one was late.
const IDS: [u16; 3] = [0x0b10, 0x0b11, 0x0b12];
/// Idle for so long at the same place of the ring in each round, a NIC has kept what it got there until something else
/// came by, if it is much longer than nearly all else.
const PAUSE: Duration = Duration::from_millis(5);
/// How long a ping may be on its way while QEMU neither runs nor waits for a processor. A guest answers within
/// milliseconds of its own; timers by which drivers find out what they were not told have a second or two.
const IDLE: Duration = Duration::from_millis(250);

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
    passes: "each of eight times as many pings as a ring of the NIC's has descriptors, and 150 at least, sent once the one before was answered, is answered without waiting while QEMU has nothing to do, and none waits each time that the ring comes round",
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
    let link = bed.up()?;
    bed.know_each_other(&link)?;
    // Drivers of old NICs do not tell; their rings are short.
    let ring = rings::read(bed, &link).map_or(0, |rings| rings.now.0.max(rings.now.1));
    let pings = u16::try_from(ring * u32::from(ROUNDS)).unwrap_or(MOST);
    bed.moment(Moment::Traffic)?;
    let pings = pings.clamp(PINGS, MOST);
    let mut lates: Vec<String> = Vec::new();
    for id in IDS {
        let answered = one_at_a_time(bed, id, pings)?;
        if let Some((place, least)) = waits_each_round(&answered.idle, ring as usize) {
            bail!(
                "each time that a ring of {ring} descriptors came round, a ping at its place {place} was on its way for {:.1} ms and more while QEMU had nothing to do, and half of all pings for {:.1} ms",
                millis(least),
                millis(part(&answered.idle, 50))
            );
        }
        bed.notes.push(answered.took);
        lates.extend(answered.late);
        match lates.len() {
            0 => break,
            // By the host's doing one may be, but hardly another so soon.
            1 => {}
            _ => bail!("pings were answered late: {}", lates.join("; ")),
        }
    }
    bed.notes.extend(lates);
    bed.expect_quiet_kernel()
}

/// The place of a ring, from where it was at first, at which something waited in each round, and the least that it
/// waited. Another frame now and then has the place move by one.
fn waits_each_round(idle: &[Duration], ring: usize) -> Option<(usize, Duration)> {
    const NEAR: usize = 2;
    let rounds = idle.len().checked_div(ring)?;
    if rounds < usize::from(ROUNDS) {
        return None;
    }
    let about = |at: usize| {
        let near = &idle[at.saturating_sub(NEAR)..(at + NEAR + 1).min(idle.len())];
        near.iter().max().copied().unwrap_or_default()
    };
    let least = |place| (0..rounds).map(|round| about(round * ring + place)).min();
    let (least, place) = (0..ring).filter_map(|at| Some((least(at)?, at))).max()?;
    // What waits at one place is one in a ring's length; where a busy host has more than that wait, chance has some do
    // so in each round.
    (least > PAUSE.max(part(idle, 97) * 3)).then_some((place, least))
}

/// The duration that so many percent of them do not exceed.
fn part(durations: &[Duration], percent: usize) -> Duration {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    let at = sorted.len() * percent / 100;
    sorted.get(at).copied().unwrap_or_default()
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
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
    let answered = one_at_a_time(bed, id, pings)?;
    bed.notes.extend(answered.late);
    Ok(answered.took)
}

/// Of pings that were all answered.
pub(super) struct Answered {
    /// How long they took, in words.
    pub(super) took: String,
    /// The one that was late, in words.
    pub(super) late: Option<String>,
    /// How long each was on its way while QEMU neither ran nor waited for a processor; nothing where that was not seen.
    idle: Vec<Duration>,
}

/// As [`answered_one_by_one`], and says which one was late.
///
/// # Errors
/// As there.
pub(super) fn one_at_a_time(bed: &Testbed, id: u16, pings: u16) -> anyhow::Result<Answered> {
    let sender = Sender::open()?;
    let pid = bed.vm.pid();
    let mut late: Option<String> = None;
    let (mut all, mut idle) = (Vec::new(), Vec::new());
    for seq in 1..=pings {
        let before = busy_so_far(pid);
        let took = round_trip(bed, &sender, (id, seq))
            .with_context(|| format!("of {pings} pings, one at a time"))?;
        all.push(took);
        let Some(((before, faults), (after, faults_now))) = before.zip(busy_so_far(pid)) else {
            idle.push(Duration::ZERO);
            continue;
        };
        let busy = after.saturating_sub(before);
        idle.push(took.saturating_sub(busy));
        if took.saturating_sub(busy) > IDLE && faults == faults_now {
            let this = format!(
                "ping {seq} took {:.3} s, in which QEMU ran or waited for a processor for {:.3} s",
                took.as_secs_f64(),
                busy.as_secs_f64()
            );
            // One may be late for a reason of the host's that nobody counts.
            if let Some(other) = late {
                bail!("pings were answered late: {other}; {this}");
            }
            late = Some(this);
        }
    }
    let took = format!(
        "half of {pings} pings took up to {:.1} ms, the longest {:.1} ms",
        millis(part(&all, 50)),
        millis(all.iter().max().copied().unwrap_or_default())
    );
    Ok(Answered { took, late, idle })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_at_one_place_of_a_ring_is_told_from_what_waits_now_and_then() {
        let short = Duration::from_micros(100);
        let mut idle = vec![short; 8 * 64];
        // By chance, at other places in each round.
        for at in [3, 70, 140, 220, 300, 370, 400, 500] {
            idle[at] = Duration::from_millis(30);
        }
        assert_eq!(waits_each_round(&idle, 64), None);
        // At one place, which other frames move on.
        let mut idle = vec![short; 8 * 64];
        for (round, more) in [0, 0, 0, 1, 1, 1, 1, 2].into_iter().enumerate() {
            idle[round * 64 + 40 + more] = Duration::from_millis(8);
        }
        let found =
            waits_each_round(&idle, 64).map(|(place, least)| (place.abs_diff(40) <= 2, least));
        assert_eq!(found, Some((true, Duration::from_millis(8))));
        // One in ten by chance, and so in each round near one place.
        let at_times =
            |at: usize| Duration::from_micros(if at.is_multiple_of(10) { 9000 } else { 100 });
        let busy: Vec<Duration> = (0..512).map(at_times).collect();
        assert_eq!(waits_each_round(&busy, 64), None);
        // Where each waits, none waits for its place.
        assert_eq!(waits_each_round(&[Duration::from_millis(8); 512], 64), None);
        assert_eq!(waits_each_round(&idle, 0), None);
        assert_eq!(waits_each_round(&idle, 128), None);
    }
}
