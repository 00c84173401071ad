//! A program in the guest's driver that sees each frame first (XDP): what it drops nobody sees, what it sends back goes
//! out by the NIC's transmit queue as it came, and the NIC hands it no frame that is longer than the MTU.

use super::damage::FORGED;
use super::faults::{AT_START, IN_TRAFFIC, ignore, virtio};
use super::transfer::{self, ALTERED, APPENDED};
use super::{Case, Fault, Moment, Red, StartState};
use crate::base::deadline::{self, Limit};
use crate::guest::agent::said;
use crate::guest::dialect::Op;
use crate::guest::link::{self, Link};
use crate::guest::xdp::{self, Action};
use crate::matrix::Cell;
use crate::matrix::schema::Dialect;
use crate::net::addr::HOST;
use crate::net::forged::Forged;
use crate::net::frame::{Direction, Frame, Icmp};
use crate::net::probe::{self, Sender};
use crate::net::transfer::blocks;
use crate::testbed::Testbed;
use anyhow::{Context as _, bail, ensure};
use std::time::Duration;

/// What comes back comes at once; under TCG within some 0.1 s.
const BACK: Limit = Limit {
    what: "the guest to answer or send back what it was sent",
    seconds: 5.0,
};
/// The drivers that run such a program themselves, and the first Linux in which they do. For others, and for those before,
/// the kernel runs it behind them.
const NATIVE: [(&str, (u32, u32)); 3] = [
    ("virtio_net", (4, 10)),
    ("igb", (5, 10)),
    ("vmxnet3", (6, 6)),
];
/// Types of service, of DSCP's pool for local use (RFC 2474, 6), and what becomes of each.
const SORTED: [(u8, Action); 3] = [(0, Action::Pass), (0x0c, Action::Drop), (0x1c, Action::Tx)];
/// Payloads of the echo requests, bytes: the shortest frame, an odd one, and what is left of the MTU for a full one.
const SHORT: [usize; 2] = [18, 501];
const HEADERS: usize = 28;
/// Of each.
const TIMES: u16 = 8;
/// Tells these echo requests from others'.
const ID: u16 = 0x7864;
/// What crosses of a file, MiB.
const MIB: u32 = 1;
/// Ethernet's header, bytes.
const ETHERNET: usize = 14;
/// When something is looked at.
const WITHOUT: &str = "without a program";
const GONE: &str = "when the program is gone";
/// Where the program is in the guest.
const OBJECT: &str = "/tmp/nicmatrix-xdp.o";
/// Before Linux 5.13 virtio's program has a queue to send by for each processor, beside the driver's own.
const QUEUES: u32 = 2;

/// Beyond the plan.
pub static XDP: Case = Case {
    name: "xdp",
    passes: "with a program in the guest's driver that drops one kind of echo request, sends one back with its MACs exchanged and passes the rest, the first are not answered, the second come back once with each byte as it was, and the rest are answered; files cross with their SHA-256, in no frame longer than the MTU; before and after, all are answered",
    applies,
    start_state: StartState::ColdDriver,
    vm: |spec| {
        let nic = &mut spec.nics[0];
        if nic.device.starts_with("virtio-net") {
            nic.queues = QUEUES;
            nic.properties.push("mq=on".into());
        }
    },
    ops: &[Op::Address],
    seconds: |_| 30.0,
    faults: &[
        Fault {
            name: "not_attached",
            breaks: "the guest's ip does not attach the program, and does not say so",
            inject: |bed| ignore(bed, "ip", "obj"),
            red: Red::Says("shows no program"),
            ..AT_START
        },
        Fault {
            name: "not_offered",
            breaks: "QEMU's NIC does not let its driver switch what it takes (`ctrl_guest_offloads=off`)",
            applies: virtio,
            vm: |spec, _| {
                spec.nics[0]
                    .properties
                    .push("ctrl_guest_offloads=off".into())
            },
            red: Red::Says("the guest's driver takes no program"),
            ..AT_START
        },
        Fault {
            name: "detached",
            breaks: "the program is gone when the frames come",
            inject: |bed| {
                let link = bed.link()?;
                detach(bed, &link)
            },
            red: Red::Says("was answered by the guest's kernel"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "lost",
            breaks: "the program drops what it was to send back",
            inject: |bed| {
                let link = bed.link()?;
                let actions = SORTED.map(|(service, action)| match action {
                    Action::Tx => (service, Action::Drop),
                    _ => (service, action),
                });
                let mode = mode(bed, &link)?;
                attach(bed, &link, mode, "-force ", &actions)
            },
            red: Red::Says("came back or were answered, not"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "changed",
            breaks: "the NIC changes the last byte of what it was to send back",
            inject: |bed| {
                let kept = probe::change_end(sent_back(bed)?);
                bed.forge(&[Forged::complete(kept)])
            },
            red: Red::Says("came back with another byte"),
            ..SPOILED
        },
        Fault {
            name: "twice",
            breaks: "the NIC sends twice what it was to send back once",
            inject: |bed| bed.forge(&[Forged::complete(sent_back(bed)?)]),
            red: Red::Says("came back 2 times"),
            ..SPOILED
        },
        ALTERED,
        APPENDED,
    ],
    run: sorted,
    ..Case::PLAIN
};

/// A frame that a NIC spoils, by a tap with one queue: with it no guest before Linux 5.13 takes a program.
const SPOILED: Fault = Fault {
    applies: |cell| (FORGED.applies)(cell) && cell.guest.dialect != Dialect::Rhel8,
    vm: |spec, _| spec.nics[0].queues = 1,
    ..IN_TRAFFIC
};

/// Where a driver runs such a program; RHEL has it from 8 on.
fn applies(cell: &Cell) -> bool {
    use Dialect::{Rhel8, Rhel9, Rhel10};
    NATIVE.iter().any(|(driver, _)| *driver == cell.nic.driver)
        && matches!(cell.guest.dialect, Rhel8 | Rhel9 | Rhel10)
}

fn sorted(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    bed.know_each_other(&link)?;
    transfer::make_file(bed, blocks(MIB))?;
    let joined = longest_to_guest(bed).context(WITHOUT)?;
    echoes(bed, false).context(WITHOUT)?;

    let lro = joins(bed, &link)?;
    if lro {
        switch_lro(bed, &link, "off")?;
    }
    let mode = mode(bed, &link)?;
    attach(bed, &link, mode, "", &SORTED)?;
    let with = format!("with a program ({mode})");
    echoes(bed, true).with_context(|| with.clone())?;
    files(bed, &link).context(with)?;

    detach(bed, &link)?;
    if lro {
        switch_lro(bed, &link, "on")?;
    }
    echoes(bed, false).context(GONE)?;
    let after = longest_to_guest(bed).context(GONE)?;
    let full = full(&link);
    ensure!(
        (after > full) == (joined > full),
        "the tap carried frames of up to {joined} bytes to the guest before there was a program, and of up to {after} when it is gone"
    );
    bed.notes.push(format!(
        "{mode}; without it frames of up to {after} bytes to the guest"
    ));
    bed.expect_quiet_kernel()
}

/// Whether the driver has LRO on and is one that takes no program then; virtio's switches off by itself what it must.
fn joins(bed: &Testbed, link: &Link) -> anyhow::Result<bool> {
    let features = link::fields(&bed.agent.sh(&format!("ethtool -k {}", link.name))?);
    let lro = features.get("large-receive-offload");
    Ok(!virtio(&bed.cell) && lro.is_some_and(|state| state == "on"))
}

fn switch_lro(bed: &Testbed, link: &Link, state: &str) -> anyhow::Result<()> {
    bed.agent
        .sh(&format!("ethtool -K {} lro {state}", link.name))?;
    bed.reach(deadline::FIRST_PING)
}

/// How `ip` calls where the program runs.
fn mode(bed: &Testbed, link: &Link) -> anyhow::Result<&'static str> {
    let release = bed.agent.sh("uname -r")?;
    let version = (release.split_once('.'))
        .and_then(|(major, rest)| {
            let minor = rest.split(|c: char| !c.is_ascii_digit()).next()?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        })
        .with_context(|| format!("the guest's kernel calls itself {release:?}"))?;
    let native = |(driver, since): &(&str, (u32, u32))| link.driver == *driver && version >= *since;
    Ok(match NATIVE.iter().any(native) {
        true => "xdpdrv",
        false => "xdpgeneric",
    })
}

/// Attaches a program that does this; the guest's `ip` must show one there.
fn attach(
    bed: &Testbed,
    link: &Link,
    mode: &str,
    how: &str,
    actions: &[(u8, Action)],
) -> anyhow::Result<()> {
    let bytes = xdp::object(actions)?;
    let octal: String = bytes.iter().map(|byte| format!("\\{byte:03o}")).collect();
    bed.agent.sh(&format!("printf '{octal}' >{OBJECT}"))?;
    let dev = &link.name;
    let output = bed.agent.run(&format!(
        "ip {how}link set dev {dev} {mode} obj {OBJECT} sec {}",
        xdp::SECTION
    ))?;
    ensure!(
        output.code == 0,
        "the guest's driver takes no program: {}",
        said(&output)
    );
    let shown = bed.agent.sh(&format!("ip link show dev {dev}"))?;
    let shows = match mode {
        "xdpdrv" => " xdp ",
        _ => " xdpgeneric ",
    };
    ensure!(
        shown.contains(shows) && shown.contains("prog/xdp id "),
        "`ip link` shows no program of the driver's own ({mode}): {shown}"
    );
    // Some drivers take their link down to make room before each frame.
    bed.reach(deadline::FIRST_PING)
}

fn detach(bed: &Testbed, link: &Link) -> anyhow::Result<()> {
    let dev = &link.name;
    bed.agent.sh(&format!("ip link set dev {dev} xdp off"))?;
    let shown = bed.agent.sh(&format!("ip link show dev {dev}"))?;
    ensure!(
        !shown.contains("prog/xdp"),
        "`ip link` shows a program that was taken away: {shown}"
    );
    bed.reach(deadline::FIRST_PING)
}

/// An echo request of the host's, told from the others by its number.
#[derive(Debug, Clone, Copy)]
struct Echo {
    service: u8,
    action: Action,
    payload: usize,
    number: u16,
}

impl Echo {
    fn frame(&self, bed: &Testbed) -> anyhow::Result<Vec<u8>> {
        let payload: Vec<u8> = (0..self.payload).map(|at| (at * 7 + 3) as u8).collect();
        let key = (ID, self.number);
        probe::echo_of_service((bed.nic().mac, bed.address()), key, self.service, &payload)
    }
}

/// Of each type of service and length.
fn all(bed: &Testbed) -> Vec<Echo> {
    let full = bed.cell.nic.default_mtu() as usize - HEADERS;
    let kinds = [SHORT[0], SHORT[1], full]
        .map(|payload| SORTED.map(|(service, action)| (service, action, payload)));
    let times = (0..TIMES).flat_map(|_| kinds.as_flattened());
    let echo = |(number, &(service, action, payload))| Echo {
        service,
        action,
        payload,
        number,
    };
    (0..).zip(times).map(echo).collect()
}

/// Sends the host's echo requests, and looks at what comes of each: where there is no program the guest's kernel answers
/// them all.
fn echoes(bed: &mut Testbed, program: bool) -> anyhow::Result<()> {
    let fence = bed.fence()?;
    if program {
        bed.moment(Moment::Traffic)?;
    }
    let mark = bed.wire()?.mark()?;
    let sender = Sender::open()?;
    let all = all(bed);
    for echo in &all {
        sender.send(&echo.frame(bed)?)?;
    }
    let comes = |echo: &&Echo| !program || echo.action != Action::Drop;
    let due = all.iter().filter(comes).count();
    let mut seen = 0;
    bed.wire()?
        .wait(mark, BACK.start(), |frame| {
            seen += usize::from(number(frame).is_some());
            seen >= due
        })
        .with_context(|| {
            format!(
                "of {} echo requests {seen} came back or were answered, not {due}",
                all.len()
            )
        })?;
    // Behind what is not to come.
    bed.expect_replies(1, 48)?;
    let frames = bed.wire()?.frames(fence)?;
    for echo in &all {
        let of_this = |frame: &&Frame| number(frame) == Some(echo.number);
        let back: Vec<&Frame> = frames.iter().filter(of_this).collect();
        judge(bed, echo, program, &back).with_context(|| {
            format!(
                "an echo request of {} bytes and type of service {:#x}",
                echo.payload, echo.service
            )
        })?;
    }
    Ok(())
}

/// The number of an echo request that comes back, or of its answer.
fn number(frame: &Frame) -> Option<u16> {
    match frame.icmp()? {
        Icmp::EchoRequest { id: ID, seq } | Icmp::EchoReply { id: ID, seq }
            if frame.direction == Direction::FromGuest =>
        {
            Some(seq)
        }
        _ => None,
    }
}

/// What came from the guest of one echo request.
fn judge(bed: &Testbed, echo: &Echo, program: bool, back: &[&Frame]) -> anyhow::Result<()> {
    let action = if program { echo.action } else { Action::Pass };
    let answered = |frame: &&&Frame| matches!(frame.icmp(), Some(Icmp::EchoReply { .. }));
    let answers = back.iter().filter(answered).count();
    if action == Action::Pass {
        ensure!(
            (answers, back.len()) == (1, 1),
            "it was answered {answers} times and came back {} times",
            back.len() - answers
        );
        return Ok(());
    }
    ensure!(answers == 0, "it was answered by the guest's kernel");
    let times = usize::from(action == Action::Tx);
    let as_sent = exchanged(echo.frame(bed)?);
    if let Some(other) = back.iter().find(|frame| *frame.bytes != as_sent[..]) {
        let at = other.bytes.iter().zip(&as_sent).take_while(|(a, b)| a == b);
        bail!(
            "it came back with another byte: {} bytes of {}, the same up to byte {}",
            other.length,
            as_sent.len(),
            at.count()
        );
    }
    ensure!(
        back.len() == times,
        "it came back {} times, not {times}",
        back.len()
    );
    Ok(())
}

/// A frame with its two MACs exchanged.
fn exchanged(mut frame: Vec<u8>) -> Vec<u8> {
    let (to, rest) = frame.split_at_mut(6);
    to.swap_with_slice(&mut rest[..6]);
    frame
}

/// The first echo request that is to come back, as it is then.
fn sent_back(bed: &Testbed) -> anyhow::Result<Vec<u8>> {
    let first = all(bed).into_iter().find(|echo| echo.action == Action::Tx);
    Ok(exchanged(
        first.context("nothing is sent back")?.frame(bed)?,
    ))
}

/// A file each way, and no frame to the guest that is longer than the MTU.
fn files(bed: &Testbed, link: &Link) -> anyhow::Result<()> {
    transfer::from_guest(bed, HOST.into(), blocks(MIB), Duration::ZERO)?;
    let longest = longest_to_guest(bed)?;
    let full = full(link);
    ensure!(
        longest == full || !virtio(&bed.cell),
        "the tap carried a frame of {longest} bytes to the guest, whose driver can take none longer than {full} for its program"
    );
    Ok(())
}

/// The longest frame of the link's MTU, bytes.
fn full(link: &Link) -> usize {
    link.mtu as usize + ETHERNET
}

/// Sends the guest a file; the longest frame of it on the tap, bytes.
fn longest_to_guest(bed: &Testbed) -> anyhow::Result<usize> {
    let fence = bed.fence()?;
    transfer::to_guest(bed, HOST.into(), blocks(MIB), Duration::ZERO)?;
    let frames = bed.wire()?.frames(fence)?;
    let to_guest = |frame: &&Frame| frame.direction == Direction::ToGuest;
    let lengths = frames.iter().filter(to_guest).map(|frame| frame.length);
    Ok(lengths.max().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::addr::{HOST_MAC, Mac};

    #[test]
    fn what_is_sent_back_has_its_macs_exchanged_alone() {
        let guest = Mac([0x52, 0x54, 0, 0, 0, 1]);
        let sent = probe::probe(guest, HOST_MAC);
        let back = exchanged(sent.clone());
        assert_eq!(back, probe::probe(HOST_MAC, guest));
        assert_eq!(exchanged(back), sent);
    }
}
