//! Several NICs of one guest that are asked at the same time, each of which must answer by itself.

use super::StartState;
use crate::base::{deadline, delay};
use crate::guest::dialect::Op;
use crate::guest::link::Link;
use crate::matrix::schema::ETHERNET_MTU;
use crate::net::addr::{self, HOST};
use crate::net::bridge;
use crate::net::capture::{Capture, Fence, Room};
use crate::net::frame::{Direction, Frame, Icmp};
use crate::net::ping::Ping;
use crate::testbed::{Testbed, start};
use crate::vm::cmdline::NicSpec;
use anyhow::{Context, anyhow, ensure};
use std::net::Ipv4Addr;
use std::thread::ScopedJoinHandle;
use std::time::Duration;

/// The guest's routing table of the NIC in place 0; the others' follow.
const FIRST_TABLE: u32 = 10;
/// ICMP's number in IPv4.
const ICMP: u8 = 1;

/// A NIC that is up, with an address of its own.
pub(super) struct Lane {
    pub nic: NicSpec,
    pub address: Ipv4Addr,
    pub link: Link,
    pub wire: Capture,
}

/// What a tap shows of pings at the NIC behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OnWire {
    /// Echo requests to the NIC's address.
    pub requests: u64,
    /// Echo requests to another.
    pub strays: u64,
    /// Echo replies from its address and MAC.
    pub replies: u64,
    /// Echo replies from another.
    pub foreign: u64,
    /// Frames with ICMP in them that the NIC sent.
    pub answered_frames: u64,
    /// First and last request, since the epoch.
    pub span: Option<(Duration, Duration)>,
}

/// Gives each NIC its address, but that in place 0, which has it, and has the guest answer by the NIC that was
/// asked: it has all on one network, and would else answer by any. `room` is for what is to cross each tap.
pub(super) fn ready(
    bed: &Testbed,
    nics: &[(NicSpec, Link)],
    room: Room,
) -> anyhow::Result<Vec<Lane>> {
    let mut script = "echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore".to_owned();
    let mut lanes = Vec::new();
    for (nic, link) in nics {
        if nic.place > 0 && bed.start_state != StartState::WarmNic {
            let address = addr::guest_with_prefix(nic.place);
            script += " && ";
            script += &bed.command(Op::Address, link, &address);
        }
        let address = addr::guest(nic.place);
        let table = FIRST_TABLE + u32::from(nic.place);
        script += &format!(
            " && ip route add {HOST}/32 dev {} src {address} table {table} && ip rule add from {address} table {table}",
            link.name
        );
        lanes.push(Lane {
            address,
            link: link.clone(),
            wire: match nic.place {
                // The testbed has it judged already.
                0 => Capture::start(&nic.tap, room)?,
                _ => {
                    bed.witness.allow_mtu(ETHERNET_MTU);
                    Capture::of_guest(&nic.tap, &bed.witness, room)?
                }
            },
            nic: nic.clone(),
        });
    }
    bed.agent.sh(&script)?;
    for lane in &lanes {
        // What the host learned before may be another NIC's.
        bridge::flush_neighbour(lane.address)?;
        settled(lane).with_context(|| name(&lane.nic))?;
        let neighbour = bridge::neighbour(lane.address)?;
        ensure!(
            neighbour == Some(lane.nic.mac),
            "the host's neighbour table has {neighbour:?} for {}'s address {}, its MAC is {}",
            name(&lane.nic),
            lane.address,
            lane.nic.mac
        );
    }
    Ok(lanes)
}

/// A NIC among several, in messages.
pub(super) fn name(nic: &NicSpec) -> String {
    format!("the {} in place {}", nic.device, nic.place)
}

/// A fault: the guest forgets by which NIC to answer, and takes one for all.
pub(super) fn answer_by_one(bed: &mut Testbed) -> anyhow::Result<()> {
    // The table of local addresses stays.
    let forget = "ip rule flush && ip rule add pref 32766 table main";
    bed.agent.sh(forget).map(drop)
}

/// Waits until the guest answers by that address, and has answered all that it was asked before: a NIC takes things
/// in turn, so the answer to one more request comes last. By which NIC it answers is judged by the frames.
pub(super) fn settled(lane: &Lane) -> anyhow::Result<()> {
    start::first_reply(lane.address, deadline::FIRST_PING)?;
    let last = Ping::new(lane.address).count(1).run()?;
    last.expect_all_answered(1)
}

/// Such a moment on each NIC's tap.
pub(super) fn fences(lanes: &[Lane]) -> anyhow::Result<Vec<Fence>> {
    let fence = |lane: &Lane| start::fence(&lane.wire, lane.address);
    lanes.iter().map(fence).collect()
}

/// Asks of all NICs at the same time, each in a thread of its own; `meanwhile` is done in this one.
pub(super) fn at_once<T: Send>(
    lanes: &[Lane],
    ask: impl Fn(&Lane) -> anyhow::Result<T> + Sync,
    meanwhile: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Vec<T>> {
    let (meter, ask) = (&delay::meter(), &ask);
    std::thread::scope(|scope| {
        let of_lane = |lane| {
            scope.spawn(move || {
                delay::join(meter);
                ask(lane)
            })
        };
        let asked: Vec<_> = lanes.iter().map(of_lane).collect();
        meanwhile()?;
        let answer = |thread: ScopedJoinHandle<'_, anyhow::Result<T>>| {
            let ended = thread.join();
            ended.map_err(|_| anyhow!("a NIC's thread panicked"))?
        };
        asked.into_iter().map(answer).collect()
    })
}

/// What the guest has received on each NIC's interface, packets.
pub(super) fn received(bed: &Testbed, lanes: &[Lane]) -> anyhow::Result<Vec<u64>> {
    let files: String = lanes
        .iter()
        .map(|lane| format!(" {}", Testbed::rx_packets(&lane.link)))
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

/// Whether each NIC got its own pings, all `sent` and nothing else, answered them itself, `answered` by ping's count,
/// and the guest counted it so since `before`.
pub(super) fn expect_own(
    bed: &Testbed,
    lanes: &[Lane],
    fences: &[Fence],
    before: &[u64],
    pings: &[(u64, u64)],
) -> anyhow::Result<Vec<OnWire>> {
    // In this order, so that a frame in between cannot look lost or invented.
    let wires = lanes
        .iter()
        .zip(fences)
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
        let (sent, answered) = pings[index];
        let (nic, tap) = (name(&lane.nic), &lane.nic.tap);
        ensure!(
            wire.requests >= sent && wire.strays == 0,
            "ping sent {sent} echo requests to {nic}; {tap} shows {} of them, and {} to another address",
            wire.requests,
            wire.strays
        );
        ensure!(
            wire.foreign == 0,
            "{} echo replies of another NIC left through {nic}, by {tap}",
            wire.foreign
        );
        ensure!(
            wire.replies >= answered,
            "ping has {answered} replies of {nic}, {tap} shows {}",
            wire.replies
        );
        ensure!(
            (wire.answered_frames..=to_guest as u64).contains(&counted),
            "the guest counts {counted} packets received on {}, {nic}; the tap shows {to_guest} frames to it and {} in answer",
            lane.link.name,
            wire.answered_frames
        );
    }
    Ok(wires)
}

/// What `frames` of a tap are to the NIC behind it.
pub(super) fn on_wire(frames: &[Frame], nic: &NicSpec, address: Ipv4Addr) -> OnWire {
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
