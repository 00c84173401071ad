//! The priority in a VLAN's tag (IEEE 802.1Q, 9.6: PCP), which a NIC that puts tags on and takes them off carries
//! beside the id.

use super::super::faults::{ignore, program};
use super::{HERE, Member, THERE};
use crate::base::deadline::Limit;
use crate::guest::dialect::Op;
use crate::guest::link::Link;
use crate::matrix::Cell;
use crate::net::addr::{HOST, HOST_MAC};
use crate::net::capture::{Capture, Fence};
use crate::net::frame::{Direction, Frame, Icmp};
use crate::net::probe::{Sender, prioritized, tagged_echo, tagged_probe};
use crate::testbed::Testbed;
use anyhow::{Context as _, ensure};
use std::net::IpAddr;
use std::time::Duration;

/// What the guest sends with, and what the host sends it with: of 3 bits each, so that every one is 0 and 1.
const SENT: u8 = 5;
const RECEIVED: u8 = 2;
/// Echo requests of the guest's.
const PINGS: u32 = 2;
/// Where the guest's tcpdump prints.
const SEEN: &str = "/tmp/priority";
/// As any echo request.
const TAKEN: Limit = Limit {
    what: "the answer to a request in no VLAN",
    seconds: 5.0,
};
/// From its start to its first word, and from a frame to its line.
const TCPDUMP: Limit = Limit {
    what: "the guest's tcpdump to show a frame of that VLAN and priority",
    seconds: 10.0,
};

/// Has the guest's tool say that it set a priority and not do so.
///
/// # Errors
/// When the guest refuses.
pub(super) fn set_none(bed: &mut Testbed) -> anyhow::Result<()> {
    let command = bed.cell.guest.dialect.command(Op::VlanPriority, "", "");
    let words = match program(&command) {
        "ip" => "egress-qos-map",
        _ => "set_egress_map",
    };
    ignore(bed, program(&command), words)
}

/// Shows that what the guest sends in the VLAN with a priority has it on both taps, and that what the host sends it has
/// its own when the guest's NIC has handed it up.
///
/// # Errors
/// Another priority.
pub(super) fn expect_kept(
    bed: &Testbed,
    (link, here): (&Link, &Member),
    wires: [(&str, &Capture, Fence); 2],
    id: u16,
) -> anyhow::Result<()> {
    let dev = format!("{}.{id}", link.name);
    let set = |priority: u8| {
        let command = here
            .dialect
            .command(Op::VlanPriority, &dev, &priority.to_string());
        here.agent.sh(&command)
    };
    set(SENT)?;
    bed.guest_expect_answered(PINGS, "-i 0.2", THERE)
        .with_context(|| {
            format!("in VLAN {id}, with priority {SENT}, not all replies came back")
        })?;
    set(0)?;
    for (whose, wire, fence) in wires {
        let frames = wire.frames(fence)?;
        let asks = |frame: &&Frame| {
            let ours = frame.ip().is_some_and(|ip| ip.source == IpAddr::from(HERE));
            ours && matches!(frame.icmp(), Some(Icmp::EchoRequest { .. }))
        };
        let sent = frames.iter().filter(asks).count();
        let has =
            |frame: &&Frame| frame.vlan_id() == Some(id) && frame.vlan_priority() == Some(SENT);
        let with = frames.iter().filter(asks).filter(has).count();
        ensure!(
            with == sent && sent >= PINGS as usize,
            "in VLAN {id} the guest sent {PINGS} requests with priority {SENT}, and {whose} tap shows {sent}, {with} of them with it"
        );
    }
    if hands_up(&bed.cell) {
        received(bed, link, id)?;
    }
    Ok(())
}

/// Whether the guest's driver hands up the priority that its NIC took off: Linux's e1000 takes the id alone
/// (`E1000_RXD_SPC_VLAN_MASK`).
pub(super) fn hands_up(cell: &Cell) -> bool {
    cell.nic.driver != "e1000"
}

/// Shows that the guest takes a frame whose tag has a priority and no VLAN (id 0) as it takes one without a tag
/// (IEEE 802.1Q, 6.9).
///
/// # Errors
/// When it does not answer.
pub(super) fn expect_in_no_vlan(bed: &Testbed) -> anyhow::Result<()> {
    let wire = bed.wire()?;
    let mark = wire.mark()?;
    let key = (u16::from(RECEIVED), 1);
    let (from, to) = ((HOST_MAC, HOST), (bed.nic().mac, bed.address()));
    let mut request = tagged_echo(0, from, to, key)?;
    // Behind both MACs and the tag's own type.
    request[14..16].copy_from_slice(&prioritized(0, RECEIVED).to_be_bytes());
    Sender::open()?.send(&request)?;
    let answer = Icmp::EchoReply {
        id: key.0,
        seq: key.1,
    };
    let answers = |frame: &Frame| {
        let from_guest = frame.direction == Direction::FromGuest;
        from_guest && frame.icmp() == Some(answer)
    };
    (wire.wait(mark, TAKEN.start(), answers)).with_context(|| {
        format!(
            "the host's echo request with priority {RECEIVED} in no VLAN (id 0) was not answered"
        )
    })?;
    Ok(())
}

fn received(bed: &Testbed, link: &Link, id: u16) -> anyhow::Result<()> {
    // Without promiscuous mode, which would change what the NIC takes.
    let dump = bed.agent.start(&format!(
        "tcpdump -p -e -n -l -i {} ether src {HOST_MAC} >{SEEN} 2>{SEEN}.err & echo $! >{SEEN}.pid; wait",
        link.name
    ))?;
    bed.agent.until(
        &format!("grep -q listening {SEEN}.err"),
        TCPDUMP,
        &format!("cat {SEEN}.err"),
    )?;
    let tag = prioritized(id, RECEIVED);
    Sender::open()?.send(&tagged_probe(tag, bed.nic().mac, HOST_MAC))?;
    let shown = bed.agent.until(
        &format!("grep -q 'vlan {id}, p {RECEIVED},' {SEEN}"),
        TCPDUMP,
        &format!("cat {SEEN}"),
    );
    bed.agent.sh(&format!("kill -INT $(cat {SEEN}.pid)"))?;
    bed.agent.finish(dump, Duration::ZERO)?;
    bed.agent.sh(&format!("rm {SEEN} {SEEN}.err {SEEN}.pid"))?;
    shown.with_context(|| format!("the host sent a frame with priority {RECEIVED} in VLAN {id}"))
}
