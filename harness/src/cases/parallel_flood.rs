//! Plan item 10: a guest with three NICs, all flooded at once.

use super::faults::{IN_TRAFFIC, TAP_UNPLUGGED};
use super::ping::{PANIC, SIZES};
use super::{Case, Fault, Moment, Red, StartState};
use crate::base::{deadline, delay};
use crate::guest::dialect::Op;
use crate::guest::link::{self, Link};
use crate::matrix::schema::{ETHERNET_MTU, Profile};
use crate::net::addr;
use crate::net::bridge;
use crate::net::capture::{Capture, Fence};
use crate::net::frame::{Direction, Frame, Icmp};
use crate::net::ping::Ping;
use crate::net::sabotage;
use crate::testbed::{Testbed, start};
use crate::vm::cmdline::{NicSpec, VmSpec};
use anyhow::{Context, anyhow, ensure};
use std::net::Ipv4Addr;
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
/// The guest's routing table of the NIC in place 0; the others' follow.
const FIRST_TABLE: u32 = 10;
/// ICMP's number in IPv4.
const ICMP: u8 = 1;

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
            red: Red::Says("the e1000 no longer answers"),
            ..TAP_UNPLUGGED
        },
        Fault {
            name: "one_way_out",
            breaks: "the guest forgets by which NIC to answer, and takes one for all",
            inject: |bed| {
                let forget: Vec<String> = (1..=BESIDE.len() as u32)
                    .map(|place| format!("ip rule del table {}", FIRST_TABLE + place))
                    .collect();
                bed.agent.sh(&forget.join(" && ")).map(drop)
            },
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

/// A NIC and what is flooded at it.
struct Lane {
    nic: NicSpec,
    address: Ipv4Addr,
    link: Link,
    sizes: &'static [u32],
    wire: Capture,
}

/// What ping says of a list of sizes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Flooded {
    sent: u64,
    answered: u64,
    /// The size after which the NIC answered nothing any more.
    dead: Option<u32>,
}

/// What a tap shows of a flood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct OnWire {
    /// Echo requests to the NIC's address.
    requests: u64,
    /// Echo requests to another.
    strays: u64,
    /// Echo replies from its address and MAC.
    replies: u64,
    /// Echo replies from another.
    foreign: u64,
    /// Frames with ICMP in them that the NIC sent.
    answered_frames: u64,
    /// First and last request, since the epoch.
    span: Option<(Duration, Duration)>,
}

/// Readies the three NICs, then floods all at once, in as many rounds as the profile's count comes to.
fn parallel_flood(bed: &mut Testbed) -> anyhow::Result<()> {
    bed.up()?;
    let lanes = lanes(bed)?;
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

/// Gives each NIC its address, and has the guest answer by the NIC that was asked: it has all three
/// on one network, and would else answer by any.
fn lanes(bed: &Testbed) -> anyhow::Result<Vec<Lane>> {
    let mut script = "echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore".to_owned();
    let mut lanes = Vec::new();
    for (nic, sizes) in bed.vm.spec.nics.iter().zip(LISTS) {
        let link = link::await_link(&bed.agent, nic.mac)?;
        if nic.place > 0 && bed.start_state != StartState::WarmNic {
            bed.apply(Op::Address, &link, &addr::guest_with_prefix(nic.place))?;
        }
        let address = addr::guest(nic.place);
        let table = FIRST_TABLE + u32::from(nic.place);
        script += &format!(
            " && ip route add {}/32 dev {} src {address} table {table} && ip rule add from {address} table {table}",
            addr::HOST,
            link.name
        );
        lanes.push(Lane {
            address,
            link,
            sizes,
            wire: match nic.place {
                // The testbed has it judged already.
                0 => Capture::start(&nic.tap)?,
                _ => {
                    bed.witness.allow_mtu(ETHERNET_MTU);
                    Capture::of_guest(&nic.tap, &bed.witness)?
                }
            },
            nic: nic.clone(),
        });
    }
    bed.agent.sh(&script)?;
    for lane in &lanes {
        // What the host learned before may be another NIC's.
        bridge::flush_neighbour(lane.address)?;
        settled(lane).with_context(|| format!("the {}", lane.nic.device))?;
        let neighbour = bridge::neighbour(lane.address)?;
        ensure!(
            neighbour == Some(lane.nic.mac),
            "the host's neighbour table has {neighbour:?} for the {}'s address {}, its MAC is {}",
            lane.nic.device,
            lane.address,
            lane.nic.mac
        );
    }
    Ok(lanes)
}

/// Waits until the guest answers by that address, and has answered all that it was asked before: a NIC takes things
/// in turn, so the answer to one more request comes last. By which NIC it answers is judged by the frames.
fn settled(lane: &Lane) -> anyhow::Result<()> {
    start::first_reply(lane.address, deadline::FIRST_PING)?;
    let last = Ping::new(lane.address).count(1).run()?;
    last.expect_all_answered(1)
}

/// One round. Gives how many packets were not answered, and how long all were flooded at once.
fn flood_all(bed: &mut Testbed, lanes: &[Lane]) -> anyhow::Result<(u64, Duration)> {
    let fences: Vec<Fence> = lanes
        .iter()
        .map(|lane| start::fence(&lane.wire, lane.address))
        .collect::<anyhow::Result<_>>()?;
    let before = received(bed, lanes)?;
    let meter = &delay::meter();
    let flooded: Vec<Flooded> = std::thread::scope(|scope| {
        let of_lane = |lane| {
            scope.spawn(move || {
                delay::join(meter);
                flood(lane)
            })
        };
        let floods: Vec<_> = lanes.iter().map(of_lane).collect();
        bed.moment(Moment::Traffic)?;
        floods
            .into_iter()
            .map(|flood| {
                flood
                    .join()
                    .map_err(|_| anyhow!("a flood's thread panicked"))?
            })
            .collect::<anyhow::Result<_>>()
    })?;
    bed.expect_quiet_kernel()?;
    for (lane, flooded) in lanes.iter().zip(&flooded) {
        if let Some(size) = flooded.dead {
            let seen = lane
                .wire
                .summary(fences[usize::from(lane.nic.place)].mark())?;
            let error = anyhow!(
                "the {} no longer answers after a flood of {size} bytes; its tap showed: {seen}",
                lane.nic.device
            );
            return Err(bed.vm.explain(error));
        }
    }
    for lane in lanes {
        settled(lane).with_context(|| format!("the {}, after the floods", lane.nic.device))?;
    }
    bed.expect_quiet_kernel()?;

    // In this order, so that a frame in between cannot look lost or invented.
    let wires = lanes
        .iter()
        .zip(&fences)
        .map(|(lane, fence)| {
            let frames = lane.wire.frames(*fence)?;
            Ok(on_wire(&frames, &lane.nic, lane.address))
        })
        .collect::<anyhow::Result<Vec<OnWire>>>()?;
    let after = received(bed, lanes)?;
    for (index, lane) in lanes.iter().enumerate() {
        let (wire, counted) = (wires[index], after[index] - before[index]);
        let to_guest = lane
            .wire
            .count(fences[index], |frame| frame.direction == Direction::ToGuest)?;
        own_flood(lane, flooded[index], wire)?;
        ensure!(
            (wire.answered_frames..=to_guest as u64).contains(&counted),
            "the guest counts {counted} packets received on {}, its {}; the tap shows {to_guest} frames to it and {} in answer",
            lane.link.name,
            lane.nic.device,
            wire.answered_frames
        );
    }
    let overlap = overlap(&wires).with_context(|| {
        let spans: Vec<_> = wires.iter().map(|wire| wire.span).collect();
        format!("the NICs were not all flooded at the same time: {spans:?}")
    })?;
    let lost = flooded.iter().map(|f| f.sent.saturating_sub(f.answered));
    Ok((lost.sum(), overlap))
}

/// The plan's loop over sizes. A NIC that answers nothing of a size is asked once more, and given up.
fn flood(lane: &Lane) -> anyhow::Result<Flooded> {
    let mut flooded = Flooded::default();
    for size in lane.sizes {
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

/// What the guest has received on each NIC's interface, packets.
fn received(bed: &Testbed, lanes: &[Lane]) -> anyhow::Result<Vec<u64>> {
    let files: String = lanes
        .iter()
        .map(|lane| format!(" /sys/class/net/{}/statistics/rx_packets", lane.link.name))
        .collect();
    let text = bed.agent.sh(&format!("cat{files}"))?;
    let counts: Vec<u64> = text.lines().map(str::parse).collect::<Result<_, _>>()?;
    ensure!(
        counts.len() == lanes.len(),
        "the guest's rx_packets of {} interfaces read {text:?}",
        lanes.len()
    );
    Ok(counts)
}

/// Whether the NIC got its own flood, all of it and nothing else, and answered it itself.
fn own_flood(lane: &Lane, flooded: Flooded, wire: OnWire) -> anyhow::Result<()> {
    let (device, tap) = (&lane.nic.device, &lane.nic.tap);
    ensure!(
        wire.requests >= flooded.sent && wire.strays == 0,
        "ping sent {} echo requests to the {device}; {tap} shows {} of them, and {} to another address",
        flooded.sent,
        wire.requests,
        wire.strays
    );
    ensure!(
        wire.foreign == 0,
        "{} echo replies of another NIC left through the {device}, by {tap}",
        wire.foreign
    );
    ensure!(
        wire.replies >= flooded.answered,
        "ping has {} replies of the {device}, {tap} shows {}",
        flooded.answered,
        wire.replies
    );
    Ok(())
}

/// What `frames` of a tap are to the NIC behind it.
fn on_wire(frames: &[Frame], nic: &NicSpec, address: Ipv4Addr) -> OnWire {
    let mut seen = OnWire {
        requests: 0,
        strays: 0,
        replies: 0,
        foreign: 0,
        answered_frames: 0,
        span: None,
    };
    for frame in frames {
        let Some(ip) = frame.ip().filter(|ip| ip.protocol == ICMP) else {
            continue;
        };
        let to_guest = frame.direction == Direction::ToGuest;
        seen.answered_frames += u64::from(!to_guest);
        match frame.icmp() {
            Some(Icmp::EchoRequest { .. }) if to_guest && ip.destination == address => {
                seen.requests += 1;
                let first = seen.span.map_or(frame.time, |(first, _)| first);
                seen.span = Some((first, frame.time));
            }
            Some(Icmp::EchoRequest { .. }) if to_guest => seen.strays += 1,
            Some(Icmp::EchoReply { .. }) if !to_guest => {
                let own = ip.source == address && frame.src() == Some(nic.mac);
                *if own {
                    &mut seen.replies
                } else {
                    &mut seen.foreign
                } += 1;
            }
            _ => {}
        }
    }
    seen
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
            ..on_wire(&[], &nic(), addr::guest(1))
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
