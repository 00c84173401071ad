//! The guest's counters against the frames that crossed its NIC's tap, frame by frame and byte by byte.

mod drivers;
mod reading;

use super::damage::FORGED;
use super::faults::{self, IN_TRAFFIC, in_guest, wrap};
use super::{Case, Fault, Load, Moment, Red};
use crate::base::deadline::{self, Limit};
use crate::guest::dialect::Op;
use crate::guest::link::Link;
use crate::net::addr::{HOST, Mac};
use crate::net::bridge;
use crate::net::capture::Mark;
use crate::net::forged;
use crate::net::frame::Direction;
use crate::net::probe::{self, Sender};
use crate::testbed::Testbed;
use anyhow::{Context as _, bail, ensure};
use drivers::Driver;
use reading::{Crossed, Reading};
use std::net::Ipv4Addr;
use std::time::Duration;

/// Headers of IPv4 and ICMP, and of Ethernet, bytes.
const HEADERS: u32 = 28;
const ETHERNET: u32 = 14;
/// Echo requests of each size.
const PINGS: u32 = 2;
/// Echo requests of one size besides, so that one frame in some hundred that is not counted shows; every so many seconds.
const MANY: (u32, f64) = (300, 0.002);
/// The network's broadcast address.
const BROADCAST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 255);
/// A group that the guest sends to, and those that the host sends to (RFC 5771 leaves them unassigned).
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 199);
const GROUPS: [u8; 5] = [201, 202, 203, 204, 205];
/// A driver may count a frame when its transmission is reported, or, as e1000 does, every two seconds what its
/// NIC has counted.
const SETTLED: Limit = Limit {
    what: "the guest's counters to be what crossed the tap",
    seconds: 8.0,
};
/// A guest's answers are over in milliseconds; e1000 and the like may hold frames for a second.
const QUIET: Limit = Limit {
    what: "the network to be quiet",
    seconds: 10.0,
};
/// ping's first frame leaves milliseconds after exec.
const SENT: Limit = Limit {
    what: "the guest's frames for everybody and for a group",
    seconds: 10.0,
};

/// One of the guest's counters stands still from now on: a copy of its file lies over it.
const FROZEN: Fault = Fault {
    name: "frozen",
    breaks: "the driver counts no received bytes any more",
    inject: |bed| lay_over(bed, "rx_bytes", "cat"),
    red: Red::Says("rx_bytes moved by 0"),
    ..IN_TRAFFIC
};

/// What the guest counts against what its tap carried.
pub static COUNTERS: Case = Case {
    name: "counters",
    passes: "after some hundred frames of 60 to as many bytes as the MTU allows, for one MAC, for a group and for everybody, in both directions, the packets, bytes and multicasts in the guest's sysfs, /proc/net/dev and `ethtool -S` are those that crossed the tap, no error is counted, and the NIC's interrupts are; also after the link was down",
    load: Load::Waits,
    rearm: Some(faults::nothing),
    ops: &[Op::Address, Op::Down, Op::Up],
    faults: &[
        Fault {
            name: "sent_uncounted",
            breaks: "the NIC sends frames that its driver did not give it",
            inject: |bed| bed.forge(&[forged::numbered(bed.nic().mac)?]),
            red: Red::Says("tx_packets moved by"),
            ..FORGED
        },
        Fault {
            name: "received_from_nowhere",
            breaks: "the NIC hands up a frame that did not cross its tap",
            inject: |bed| bed.forge_to_guest(&[forged::from_host(bed.nic().mac)?]),
            red: Red::Says("rx_packets moved by"),
            ..FORGED
        },
        FROZEN,
        Fault {
            name: "table_frozen",
            breaks: "/proc/net/dev stands still",
            inject: |bed| freeze(bed, "grep", "DEV: /proc/net/dev"),
            red: Red::Says("/proc/net/dev has"),
            ..FROZEN
        },
        Fault {
            name: "error_counted",
            breaks: "the driver counts a frame with a wrong CRC",
            inject: |bed| lay_over(bed, "rx_crc_errors", "echo 1; true"),
            red: Red::Says("rx_crc_errors moved by 1"),
            ..FROZEN
        },
        Fault {
            name: "multicast_uncounted",
            breaks: "the driver counts no multicasts any more",
            applies: |cell| Driver::of(&cell.nic.driver).multicast,
            inject: |bed| lay_over(bed, "multicast", "cat"),
            red: Red::Says("multicast moved by 0"),
            ..FROZEN
        },
        Fault {
            name: "ethtool_frozen",
            breaks: "what `ethtool -S` shows stands still",
            applies: |cell| !Driver::of(&cell.nic.driver).ethtool.is_empty(),
            inject: |bed| freeze(bed, "ethtool", "-S DEV"),
            red: Red::Says("ethtool's"),
            ..FROZEN
        },
        Fault {
            name: "interrupts_uncounted",
            breaks: "the guest counts no interrupts any more",
            inject: |bed| {
                let over = "cat /proc/interrupts >/tmp/interrupts && mount --bind /tmp/interrupts /proc/interrupts";
                bed.agent.sh(over).map(drop)
            },
            red: Red::Says("interrupts of the NIC"),
            ..FROZEN
        },
    ],
    run: counters,
    ..Case::PLAIN
};

/// Lays a file over a counter of the guest's NIC; `make` makes it of the counter's own.
pub(super) fn lay_over(bed: &Testbed, counter: &str, make: &str) -> anyhow::Result<()> {
    let command = format!(
        "file=/sys/class/net/DEV/statistics/{counter}; {{ {make} $file; }} >/tmp/{counter} \
         && mount --bind /tmp/{counter} $file"
    );
    in_guest(bed, &command).map(drop)
}

/// Has a program of the guest print what it prints now, whenever it is given these arguments; `DEV` is the NIC under
/// test's interface.
fn freeze(bed: &Testbed, program: &str, arguments: &str) -> anyhow::Result<()> {
    let arguments = arguments.replace("DEV", &bed.link()?.name);
    let script = format!(
        "[ \"$*\" = '{arguments}' ] || exec \"$REAL\" \"$@\"\n\
         [ -e /tmp/frozen ] || \"$REAL\" \"$@\" >/tmp/frozen; cat /tmp/frozen"
    );
    wrap(bed, program, &script)?;
    bed.agent.sh(&format!("{program} {arguments}")).map(drop)
}

/// Reads the guest's counters while nothing crosses the tap, sends known frames both ways, and reads them again;
/// then takes the link down and up, after which they must go on from where they were.
fn counters(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    let dev = &link.name;
    let driver = Driver::of(&link.driver);
    // Without ARP, whose frames are shorter than Ethernet's shortest.
    bed.know_each_other(&link)?;
    let start = begin(bed, &link)?;
    bed.moment(Moment::Traffic)?;
    send_to_guest(bed)?;
    send_from_guest(bed, &link)?;
    expect_counted(bed, &link, &start, true)?;
    // Some models count a multicast that a filter's single entry lets pass as no multicast or as two (e1000 and
    // e1000e of QEMU 7.2), and with all-multicast e1000 counts broadcasts as such.
    bed.agent
        .sh(&format!("ip link set dev {dev} allmulticast on"))?;
    send_to_groups(bed)?;
    expect_counted(bed, &link, &start, true).context("in all-multicast mode")?;
    bed.agent
        .sh(&format!("ip link set dev {dev} allmulticast off"))?;

    bed.apply(Op::Down, &link, "")?;
    bed.apply(Op::Up, &link, "")?;
    bed.know_host(&link)?;
    // The guest asks first, once it has a link: what comes before is nobody's, and what it sends before is dropped.
    let asks = format!(
        "cd /sys/class/net/{dev} && grep -q 1 carrier && grep -qE 'up|unknown' operstate \
         && ping -n -c 1 -W 1 {HOST} >/dev/null 2>&1"
    );
    bed.agent.until(&asks, deadline::FIRST_PING, &asks)?;
    if driver.goes_on.0 {
        expect_counted(bed, &link, &start, driver.goes_on.1)
            .context("with the link down and up")?;
    }
    let anew = begin(bed, &link)?;
    bed.expect_replies(PINGS, 61 - ETHERNET - HEADERS)?;
    expect_counted(bed, &link, &anew, true).context("after the link was down")?;

    bed.agent.sh(&format!("ip neigh del {HOST} dev {dev}"))?;
    bridge::flush_neighbour(bed.address())?;
    bed.expect_quiet_kernel()
}

/// What the counters, and the tap's own, were before the traffic.
struct Start {
    mark: Mark,
    reading: Reading,
    carried: bridge::Carried,
}

/// The counters' first reading: twice the same, with nothing on the tap meanwhile.
fn begin(bed: &Testbed, link: &Link) -> anyhow::Result<Start> {
    let wire = bed.wire()?;
    let limit = QUIET.start();
    loop {
        let mark = wire.mark()?;
        let carried = bridge::carried_frames(&bed.nic().tap)?;
        let [reading, again] = [Reading::take(bed, link)?, Reading::take(bed, link)?];
        if reading.same_but_interrupts(&again) && wire.frames_with_late(mark)?.is_empty() {
            return Ok(Start {
                mark,
                reading,
                carried,
            });
        }
        ensure!(
            limit.look_again(),
            limit.missed(format!("the tap showed: {}", wire.summary(mark)?))
        );
    }
}

/// Frames for everybody or a group, bytes; the last as long as the MTU allows.
fn lengths(bed: &Testbed) -> [usize; 3] {
    [60, 61, (bed.cell.nic.default_mtu() + ETHERNET) as usize]
}

/// Pings of many sizes, so that each has an answer of its size; then frames for everybody.
fn send_to_guest(bed: &Testbed) -> anyhow::Result<()> {
    let mtu = bed.cell.nic.default_mtu();
    // Ethernet's shortest frame has 60 bytes before its checksum. The host does not pad what is shorter, and each
    // model counts such a frame in its own way; so does usbnet with multiples of 64, which an empty transfer ends.
    for frame in [60, 61, 127, mtu + ETHERNET - 1, mtu + ETHERNET] {
        bed.expect_replies(PINGS, frame - ETHERNET - HEADERS)?;
    }
    let (count, interval) = MANY;
    let many = bed.ping().count(count).size(61 - ETHERNET - HEADERS);
    bed.expect_answered(&many.interval(interval), count)?;
    let sender = Sender::open()?;
    for length in lengths(bed) {
        sender.send(&probe::datagram((Mac::BROADCAST, BROADCAST), length)?)?;
    }
    Ok(())
}

/// Frames for groups, which the guest's kernel itself has no use for.
fn send_to_groups(bed: &Testbed) -> anyhow::Result<()> {
    let sender = Sender::open()?;
    for (last, length) in GROUPS.into_iter().zip(lengths(bed).into_iter().cycle()) {
        let group = Mac([0x01, 0, 0x5e, 0, 0, last]);
        let address = Ipv4Addr::new(224, 0, 0, last);
        sender.send(&probe::datagram((group, address), length)?)?;
    }
    Ok(())
}

/// The guest sends to everybody and to a group, and nobody answers.
fn send_from_guest(bed: &Testbed, link: &Link) -> anyhow::Result<()> {
    let wire = bed.wire()?;
    let mark = wire.mark()?;
    let pings = bed.agent.start(&format!(
        "ping -n -b -c 1 -W 1 -s 1 {BROADCAST} & ping -n -c 1 -W 1 -s 60 -I {} {GROUP}; wait",
        link.name
    ))?;
    let limit = SENT.start();
    for target in [BROADCAST, GROUP] {
        wire.wait(mark, limit, |frame| {
            frame.direction == Direction::FromGuest
                && frame.ip().is_some_and(|ip| ip.destination == target)
        })
        .with_context(|| format!("the guest sends an echo request to {target}"))?;
    }
    bed.agent.finish(pings, Duration::ZERO).map(drop)
}

/// The counters must have moved by what crossed the tap since `start`.
fn expect_counted(
    bed: &Testbed,
    link: &Link,
    start: &Start,
    with_ethtool: bool,
) -> anyhow::Result<()> {
    let driver = Driver::of(&link.driver);
    let wire = bed.wire()?;
    let limit = SETTLED.start();
    loop {
        let frames = wire.frames_with_late(start.mark)?;
        let reading = Reading::take(bed, link)?;
        let carried = bridge::carried_frames(&bed.nic().tap)?;
        let late = wire.frames_with_late(start.mark)?.len() - frames.len();
        let crossed = Crossed::of(&frames);
        let mut differences = reading.differences(&start.reading, driver, &crossed, with_ethtool);
        if late == 0 && differences.is_empty() {
            return Ok(());
        }
        // Where a frame was lost.
        differences.extend(crossed.unlike_tap(&carried.since(&start.carried)));
        if !limit.look_again() {
            ensure!(
                late == 0,
                limit.missed(format!(
                    "{late} frames crossed the tap during the last reading"
                ))
            );
            bail!("{crossed}, but {}", differences.join("; "));
        }
    }
}
