//! Plan item 10: a guest with three NICs, all flooded at once.

use super::faults::{IN_TRAFFIC, TAP_UNPLUGGED};
use super::lanes::{self, Lane, OnWire};
use super::ping::{PANIC, SIZES};
use super::{Case, Fault, Moment, Red};
use crate::base::deadline;
use crate::guest::dialect::Op;
use crate::guest::link;
use crate::matrix::schema::Profile;
use crate::net::addr;
use crate::net::capture::Room;
use crate::net::ping::Ping;
use crate::net::sabotage;
use crate::testbed::{Testbed, start};
use crate::vm::cmdline::{NicSpec, VmSpec};
use anyhow::{Context, anyhow};
use std::time::Duration;

/// The plan's echo requests of each size.
const COUNT: u32 = 50;
/// The plan's sizes for an rtl8139, bytes of ICMP payload.
const RTL8139: [u32; 7] = [0, 1, 48, 64, 512, 1440, 1500];
/// Those for an e1000.
const E1000: [u32; 11] = [0, 1, 48, 64, 512, 1440, 1500, 1505, 4096, 4192, 16110];
/// The models beside the virtio NIC, which is the one under test, by place from 1.
const BESIDE: [&str; 2] = ["rtl8139", "e1000"];
/// Each NIC's sizes, by place.
const LISTS: [&[u32]; 3] = [&SIZES, &RTL8139, &E1000];

/// Plan item 10.
pub static PARALLEL_FLOOD: Case = Case {
    name: "parallel_flood",
    plan_item: "10",
    passes: "a guest's rtl8139, e1000 and virtio NIC are each flooded over their own sizes at the same time; each gets its own flood and answers it itself, by the taps and the guest's counters, the guest's console stays quiet, and all three answer afterwards",
    // Once a guest: the other two NICs are beside it.
    applies: super::faults::virtio,
    vm: beside,
    ops: &[Op::Address],
    seconds: |profile| f64::from(rounds(profile)) * 30.0,
    faults: &[
        PANIC,
        Fault {
            breaks: "the e1000's tap is taken out of the bridge while all are flooded",
            inject: |bed| {
                let tap = &bed.vm.spec.nics[2].tap;
                sabotage::unplug(&bed.bridge, tap)
            },
            red: Red::Says("the e1000 in place 2 no longer answers"),
            ..TAP_UNPLUGGED
        },
        Fault {
            name: "one_way_out",
            breaks: "the guest forgets by which NIC to answer, and takes one for all",
            inject: lanes::answer_by_one,
            red: Red::Says("of another NIC left through"),
            ..IN_TRAFFIC
        },
    ],
    run: parallel_flood,
    ..Case::PLAIN
};

fn beside(spec: &mut VmSpec) {
    for (place, device) in (1..).zip(BESIDE) {
        spec.nics.push(NicSpec {
            place,
            id: format!("nic{place}"),
            device: device.into(),
            mac: addr::mac("parallel_flood", place),
            tap: format!("tap{place}"),
            vhost: false,
            bare_tap: false,
            queues: 1,
            properties: Vec::new(),
            hotplug: false,
        });
    }
}

/// A round has the plan's count of each size; the profile says how often. It takes 0.5 s a size, or
/// longer where replies do.
fn rounds(profile: &Profile) -> u32 {
    profile.flood_count.div_ceil(COUNT)
}

/// What ping says of a list of sizes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Flooded {
    sent: u64,
    answered: u64,
    /// The size after which the NIC answered nothing any more.
    dead: Option<u32>,
}

/// Readies the three NICs, then floods all at once, in as many rounds as the profile's count comes to.
fn parallel_flood(bed: &mut Testbed) -> anyhow::Result<()> {
    bed.up()?;
    let nics = (bed.vm.spec.nics.iter())
        .map(|nic| Ok((nic.clone(), link::await_link(&bed.agent, nic.mac)?)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let lanes = lanes::ready(bed, &nics, Room::Flood)?;
    let mut lost = 0;
    let rounds = rounds(&bed.profile);
    let mut together = Vec::new();
    for round in 1..=rounds {
        let (missed, overlap) =
            flood_all(bed, &lanes).with_context(|| format!("round {round} of {rounds}"))?;
        lost += missed;
        together.push(overlap.as_secs_f64());
    }
    let shortest = together.into_iter().fold(f64::INFINITY, f64::min);
    bed.notes.push(format!(
        "all three NICs were flooded at once for {shortest:.2} s or more a round; {lost} flood packets had no reply"
    ));
    Ok(())
}

/// One round. Gives how many packets were not answered, and how long all were flooded at once.
fn flood_all(bed: &mut Testbed, lanes: &[Lane]) -> anyhow::Result<(u64, Duration)> {
    let fences = lanes::fences(lanes)?;
    let before = lanes::received(bed, lanes)?;
    let of_lane = |lane: &Lane| flood(lane, LISTS[usize::from(lane.nic.place)]);
    let flooded = lanes::at_once(lanes, of_lane, || bed.moment(Moment::Traffic))?;
    bed.expect_quiet_kernel()?;
    for (lane, flooded) in lanes.iter().zip(&flooded) {
        if let Some(size) = flooded.dead {
            let seen = lane
                .wire
                .summary(fences[usize::from(lane.nic.place)].mark())?;
            let error = anyhow!(
                "{} no longer answers after a flood of {size} bytes; its tap showed: {seen}",
                lanes::name(&lane.nic)
            );
            return Err(bed.vm.explain(error));
        }
    }
    for lane in lanes {
        lanes::settled(lane)
            .with_context(|| format!("{}, after the floods", lanes::name(&lane.nic)))?;
    }
    bed.expect_quiet_kernel()?;

    let pings: Vec<(u64, u64)> = flooded.iter().map(|f| (f.sent, f.answered)).collect();
    let wires = lanes::expect_own(bed, lanes, &fences, &before, &pings)?;
    let overlap = overlap(&wires).with_context(|| {
        let spans: Vec<_> = wires.iter().map(|wire| wire.span).collect();
        format!("the NICs were not all flooded at the same time: {spans:?}")
    })?;
    let lost = flooded.iter().map(|f| f.sent.saturating_sub(f.answered));
    Ok((lost.sum(), overlap))
}

/// The plan's loop over sizes. A NIC that answers nothing of a size is asked once more, and given up.
fn flood(lane: &Lane, sizes: &[u32]) -> anyhow::Result<Flooded> {
    let mut flooded = Flooded::default();
    for size in sizes {
        let ping = Ping::new(lane.address).flood().count(COUNT).size(*size);
        let report = ping.run()?;
        flooded.sent += report.transmitted;
        flooded.answered += report.received;
        let dead =
            report.received == 0 && !start::answers(lane.address, deadline::FIRST_PING.start())?;
        if dead {
            flooded.dead = Some(*size);
            break;
        }
    }
    Ok(flooded)
}

/// How long every NIC was flooded; none when never all.
fn overlap(wires: &[OnWire]) -> Option<Duration> {
    let spans: Option<Vec<_>> = wires.iter().map(|wire| wire.span).collect();
    let spans = spans?;
    let last_to_begin = spans.iter().map(|span| span.0).max()?;
    let first_to_end = spans.iter().map(|span| span.1).min()?;
    first_to_end
        .checked_sub(last_to_begin)
        .filter(|time| !time.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::cmdline::tests as cmdline;

    fn wire(span: Option<(u64, u64)>) -> OnWire {
        let second = Duration::from_secs;
        OnWire {
            span: span.map(|(first, last)| (second(first), second(last))),
            ..lanes::on_wire(&[], &nic(), addr::guest(1))
        }
    }

    fn nic() -> NicSpec {
        three().nics.pop().expect("the last of three")
    }

    fn three() -> VmSpec {
        let mut spec = cmdline::spec(vec![cmdline::nic("virtio-net-pci")]);
        beside(&mut spec);
        spec
    }

    #[test]
    fn the_time_in_which_all_are_flooded() {
        let whole = overlap(&[wire(Some((1, 9))), wire(Some((2, 5))), wire(Some((0, 7)))]);
        assert_eq!(whole, Some(Duration::from_secs(3)));
        let after = overlap(&[wire(Some((1, 4))), wire(Some((4, 5)))]);
        assert_eq!(after, None, "one after the other");
        assert_eq!(overlap(&[wire(Some((1, 4))), wire(None)]), None);
    }

    #[test]
    fn the_three_nics_differ_in_place_mac_and_tap() {
        let spec = three();
        assert_eq!(spec.nics.len(), LISTS.len());
        for (place, nic) in spec.nics.iter().enumerate() {
            assert_eq!(usize::from(nic.place), place);
            let same = |other: &&NicSpec| other.mac == nic.mac || other.tap == nic.tap;
            assert_eq!(spec.nics.iter().filter(same).count(), 1);
        }
    }
}
