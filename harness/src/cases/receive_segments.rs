//! What a NIC hands up of TCP: segments that its tap left whole, where the guest has it take them, else none longer
//! than the MTU; and what the guest's kernel makes of those.

use super::counters::lay_over;
use super::faults::{self, IN_TRAFFIC, wrap};
use super::promisc::TCPDUMP;
use super::transfer::{self, APPENDED};
use super::{Case, Fault, Moment, Red};
use crate::base::deadline::{self, Limit};
use crate::base::error::Skip;
use crate::guest::dialect::Op;
use crate::guest::link::{self, Link};
use crate::matrix::Cell;
use crate::net::addr::{HOST, Mac};
use crate::net::bridge;
use crate::net::capture::Fence;
use crate::net::frame::{Direction, Frame};
use crate::net::probe::{self, Sender};
use crate::net::sabotage;
use crate::net::transfer::blocks;
use crate::testbed::Testbed;
use anyhow::{Context as _, bail, ensure};
use std::collections::BTreeMap;
use std::time::Duration;

/// What crosses in each state, MiB: the capture keeps all of it.
const MIB: u32 = 1;
/// Ethernet's header, bytes.
const ETHERNET: usize = 14;
/// Of a frame that is too long for every MTU here, bytes.
const TOO_LONG: usize = 4000;
/// Longer than a page, by which drivers divide what they receive into, bytes.
const LARGE_MTU: u32 = 4200;
/// IPv4's header and ICMP's of an echo, bytes.
const HEADERS: u32 = 20 + 8;
/// By which the guest tells its NIC whether it takes long segments, as its release calls it: ethtool's short name,
/// and the long one of `ethtool -k`.
const BY_NIC: [(&str, &str); 2] = [("rx-gro-hw", "rx-gro-hw"), ("lro", "large-receive-offload")];
/// The guest's kernel joins what its NIC hands up.
const GRO: (&str, &str) = ("gro", "generic-receive-offload");
/// In the guest: what tcpdump shows of what the host sent.
const SEEN: &str = "/tmp/nicmatrix-segments";
/// A driver may count a frame later than it hands it up.
const COUNTED: Limit = Limit {
    what: "the guest's counters to be what crossed the tap",
    seconds: 8.0,
};

/// What reaches the guest of TCP.
pub static RECEIVE_SEGMENTS: Case = Case {
    name: "receive_segments",
    passes: "with rx-gro-hw (or lro) on the host's TCP reaches the guest in segments longer than the MTU, and with it off, or on a NIC without it, in none on the tap; what the guest's tcpdump shows is as long with gro off, and longer than the MTU with gro on; where the NIC can be switched its driver counts the frames and bytes of the tap; a file arrives with its SHA-256 in each state, and where the NIC can be switched frames of 4,200 bytes with it off",
    rearm: Some(faults::nothing),
    ops: &[Op::Address, Op::Mtu],
    seconds: |_| 30.0,
    faults: &[
        Fault {
            name: "ignored",
            breaks: "the guest's ethtool says that it switched offloads and does not",
            applies: joins,
            inject: faults::switch_no_offload,
            red: Red::Says("reads back"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "no_longer_ones",
            breaks: "IPv4 packets of 4,200 bytes that the guest sends are dropped on its tap",
            applies: has_switch,
            inject: |bed| sabotage::drop_length(&bed.nic().tap, LARGE_MTU as usize),
            red: Red::Says("off and the MTU at 4200"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "still_on",
            breaks: "the guest's ethtool switches nothing and shows every offload as off",
            applies: faults::virtio,
            inject: |bed| {
                let script = "[ \"$1\" = -K ] || \"$REAL\" \"$@\" | sed 's/: on/: off/'";
                wrap(bed, "ethtool", script)
            },
            red: Red::Says("crossed the tap although"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "never_long",
            breaks: "QEMU's NIC takes no long segments of TCP over IPv4 (`guest_tso4=off`)",
            applies: faults::virtio,
            vm: |spec, _| spec.nics[0].properties.push("guest_tso4=off".into()),
            red: Red::Says("none longer crossed the tap although"),
            ..faults::AT_START
        },
        Fault {
            name: "not_offered",
            breaks: "QEMU's NIC does not let its driver switch what it takes (`ctrl_guest_offloads=off`)",
            applies: faults::virtio,
            vm: |spec, _| {
                spec.nics[0]
                    .properties
                    .push("ctrl_guest_offloads=off".into())
            },
            red: Red::Says("QEMU does not offer"),
            ..faults::AT_START
        },
        Fault {
            name: "too_long",
            breaks: "the tap carries a frame longer than the MTU to a NIC that takes none",
            applies: |cell| !has_switch(cell),
            inject: |bed| {
                bed.bridge.set_mtu(TOO_LONG as u32)?;
                let guest = (bed.nic().mac, bed.address());
                Sender::open()?.send(&probe::segment(guest, TOO_LONG)?)
            },
            red: Red::Says("crossed the tap although"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "never_joined",
            breaks: "gro is off, and the guest's ethtool shows it as on",
            applies: joins,
            inject: |bed| {
                faults::in_guest(bed, "ethtool -K DEV gro off")?;
                shows(bed, "off", "on")
            },
            red: Red::Says("the guest's kernel joined nothing although gro is on"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "still_joined",
            breaks: "the guest's ethtool does not switch gro, and shows it as off",
            applies: joins,
            inject: |bed| {
                let script = "case \" $* \" in *' gro off '*) touch /tmp/off; exit;; *' gro on '*) rm /tmp/off; exit;; esac\n\
                              [ -e /tmp/off ] || exec \"$REAL\" \"$@\"\n\
                              \"$REAL\" \"$@\" | sed 's/^generic-receive-offload: on/generic-receive-offload: off/'";
                wrap(bed, "ethtool", script)
            },
            red: Red::Says("the guest's kernel joined frames although gro is off"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "uncounted",
            breaks: "the driver counts no received frames any more",
            applies: has_switch,
            inject: |bed| lay_over(bed, "rx_packets", "cat"),
            red: Red::Says("its driver counted 0 frames"),
            ..IN_TRAFFIC
        },
        APPENDED,
    ],
    run: receive_segments,
    ..Case::PLAIN
};

/// Whether the guest's kernel joins what the driver hands up.
fn joins(cell: &Cell) -> bool {
    cell.nic.offloads.iter().any(|name| name == GRO.0)
}

/// Whether its driver tells the NIC whether it takes long segments.
fn has_switch(cell: &Cell) -> bool {
    cell.nic.is_virtio() || cell.nic.driver == "vmxnet3"
}

/// Has the guest's ethtool show gro as another state than it is in.
fn shows(bed: &Testbed, is: &str, shown: &str) -> anyhow::Result<()> {
    let name = GRO.1;
    let script = format!("\"$REAL\" \"$@\" | sed 's/^{name}: {is}/{name}: {shown}/'");
    wrap(bed, "ethtool", &script)
}

type Features = BTreeMap<String, String>;

/// What is switched, and whether it is on now.
struct State {
    by_nic: Option<((&'static str, &'static str), bool)>,
    gro: bool,
}

/// Sends the host's file to the guest with what its NIC does and what its kernel does on and off, and at the end as
/// they were.
fn receive_segments(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    let before = read(bed, &link)?;
    let by_nic = switch_of_nic(bed, &before)?;
    // Nothing but the file is to cross.
    bed.know_each_other(&link)?;
    watch(bed, &link)?;
    let mut state = State {
        by_nic: by_nic.map(|switch| (switch, true)),
        gro: true,
    };
    // A NIC that was restored may not have told its tap of what its guest sees as switched on: judged last.
    let mut first = round(bed, &link, &state, 1);
    if state.by_nic.is_none() {
        first = Ok(first?);
    }
    let mut notes = Vec::new();
    if let Some((switch, _)) = state.by_nic {
        set(bed, &link, switch, false)?;
        state.by_nic = Some((switch, false));
        notes.push(round(bed, &link, &state, 2)?);
    }
    set(bed, &link, GRO, false)?;
    state.gro = false;
    notes.push(round(bed, &link, &state, 3)?);
    if let Some((switch, _)) = state.by_nic {
        set(bed, &link, switch, true)?;
        state.by_nic = Some((switch, true));
        notes.push(round(bed, &link, &state, 4)?);
    }
    set(bed, &link, GRO, true)?;
    let after = read(bed, &link)?;
    ensure!(
        after == before,
        "each offload was put back, but they were {before:?} and are {after:?}"
    );
    bed.notes.extend(notes);
    bed.agent.sh(&format!(
        "kill $(cat {SEEN}.pid); ip neigh del {HOST} dev {}",
        link.name
    ))?;
    bridge::flush_neighbour(bed.address())?;
    bed.expect_quiet_kernel()?;
    if let Some((switch, _)) = state.by_nic
        && bed.cell.nic.max_mtu >= LARGE_MTU
    {
        longer_frames(bed, &link, switch)?;
    }
    bed.notes.push(first?);
    Ok(())
}

/// Shows that frames longer than a page reach the guest where its NIC takes no long segments. It comes behind the rest,
/// by which a NIC that is known not to take them is still to be judged.
fn longer_frames(bed: &mut Testbed, link: &Link, switch: (&str, &str)) -> anyhow::Result<()> {
    bed.bridge.set_mtu(LARGE_MTU)?;
    set(bed, link, switch, false)?;
    bed.apply(Op::Mtu, link, &LARGE_MTU.to_string())?;
    let ping = bed.ping().count(2).interval(0.01).size(LARGE_MTU - HEADERS);
    bed.reach(deadline::FIRST_PING)
        .and_then(|()| bed.expect_answered(&ping.dont_fragment(), 2))
        .with_context(|| format!("with {} off and the MTU at {LARGE_MTU}", switch.0))?;
    let usual = bed.cell.nic.default_mtu();
    bed.apply(Op::Mtu, link, &usual.to_string())?;
    set(bed, link, switch, true)?;
    bed.bridge.set_mtu(bridge::MTU)
}

/// What `ethtool -k` shows.
fn read(bed: &Testbed, link: &Link) -> anyhow::Result<Features> {
    let shown = bed.agent.sh(&format!("ethtool -k {}", link.name))?;
    Ok(link::fields(&shown))
}

/// What the guest can switch of what its NIC takes; it must be on.
fn switch_of_nic(
    bed: &Testbed,
    features: &Features,
) -> anyhow::Result<Option<(&'static str, &'static str)>> {
    let is = |long: &str, value: &str| features.get(long).is_some_and(|is| is == value);
    let on = BY_NIC.into_iter().find(|(_, long)| is(long, "on"));
    if on.is_some() || !has_switch(&bed.cell) {
        return Ok(on);
    }
    let shown = BY_NIC.map(|(_, long)| {
        format!(
            "{long}: {}",
            features.get(long).map_or("(none)", String::as_str)
        )
    });
    let shown = shown.join(", ");
    if bed.cell.nic.is_virtio() {
        let offered = bed.vm.call(&qapi::qmp::qom_get {
            path: format!("/machine/peripheral/{}", bed.nic().id),
            property: "ctrl_guest_offloads".into(),
        })?;
        ensure!(
            offered.as_bool() == Some(true),
            "QEMU does not offer the guest to switch what it takes (ctrl_guest_offloads), `ethtool -k` has {shown}"
        );
        return Err(Skip(format!(
            "the guest's driver has no switch for what its NIC takes: {shown}"
        ))
        .into());
    }
    bail!("what the NIC takes is not on and switchable, `ethtool -k` has {shown}")
}

fn set(bed: &Testbed, link: &Link, (short, long): (&str, &str), on: bool) -> anyhow::Result<()> {
    let command = format!("ethtool -K {} {short} {}", link.name, word(on));
    bed.agent.sh(&command)?;
    let features = read(bed, link)?;
    let now = features.get(long).map_or("(none)", String::as_str);
    ensure!(now == word(on), "after `{command}` {long} reads back {now}");
    // Some reset, and negotiate their link anew.
    bed.reach(deadline::FIRST_PING)
}

fn word(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// Has a tcpdump in the guest show the host's TCP that reaches it, and probes.
fn watch(bed: &Testbed, link: &Link) -> anyhow::Result<()> {
    let filter = format!(
        "(tcp and src host {HOST}) or ether proto {:#x}",
        probe::ETHERTYPE
    );
    bed.agent.sh(&format!(
        "tcpdump -p -n -e -l -s 64 -i {} '{filter}' >{SEEN} 2>{SEEN}.err </dev/null & echo $! >{SEEN}.pid",
        link.name
    ))?;
    let listens = format!("grep -q listening {SEEN}.err");
    (bed.agent).until(&listens, TCPDUMP, &format!("cat {SEEN}.err"))
}

/// A file crosses, and what the tap, the guest's driver and its tcpdump saw of it is as `state` says; a note of it.
fn round(bed: &mut Testbed, link: &Link, state: &State, nth: u8) -> anyhow::Result<String> {
    let by_nic = match state.by_nic {
        Some(((name, _), on)) => format!("{name} {} and ", word(on)),
        None => String::new(),
    };
    let with = format!("with {by_nic}gro {}", word(state.gro));
    let (wire, guest) = crosses(bed, link, state, nth).with_context(|| with.clone())?;
    Ok(format!(
        "{with} up to {wire} bytes on the tap, {guest} in the guest"
    ))
}

/// The longest of the host's frames of TCP on the tap and in the guest.
fn crosses(
    bed: &mut Testbed,
    link: &Link,
    state: &State,
    nth: u8,
) -> anyhow::Result<(usize, usize)> {
    let fence = bed.fence()?;
    let before = counted(bed, link)?;
    let seen = bed.agent.sh(&format!("wc -c <{SEEN}"))?;
    let seen: u64 = seen.trim().parse()?;
    bed.moment(Moment::Traffic)?;
    transfer::to_guest(bed, HOST.into(), blocks(MIB), Duration::ZERO)?;
    let in_guest = lengths(&shown(bed, seen, nth)?);
    let full = bed.cell.nic.default_mtu() as usize + ETHERNET;

    let tcp = |frame: &Frame| frame.direction == Direction::ToGuest && frame.tcp_ports().is_some();
    let frames = bed.wire()?.frames(fence)?;
    let on_wire = frames
        .iter()
        .filter(|frame| tcp(frame))
        .map(|frame| frame.length);
    let on_wire = on_wire.max().unwrap_or_default();
    match state.by_nic {
        Some(((name, _), true)) => ensure!(
            on_wire > full,
            "frames of up to {on_wire} bytes and none longer crossed the tap although {name} is on"
        ),
        Some(((name, _), false)) => ensure!(
            on_wire == full,
            "a frame of {on_wire} bytes, not {full}, crossed the tap although {name} is off"
        ),
        None => ensure!(
            on_wire == full,
            "a frame of {on_wire} bytes, not {full}, crossed the tap although the NIC takes no longer ones"
        ),
    }
    if state.by_nic.is_some() {
        expect_counted(bed, link, fence, before)?;
    }

    let longest = in_guest.into_iter().max().unwrap_or_default();
    if state.gro {
        ensure!(
            longest > full || !joins(&bed.cell),
            "the guest's kernel joined nothing although gro is on: its tcpdump shows frames of up to {longest} bytes"
        );
    } else {
        ensure!(
            longest <= on_wire,
            "the guest's kernel joined frames although gro is off: its tcpdump shows one of {longest} bytes, and the tap carried none longer than {on_wire}"
        );
        ensure!(
            longest == on_wire,
            "the tap carried a frame of {on_wire} bytes, and the guest's tcpdump shows none longer than {longest}"
        );
    }
    Ok((on_wire, longest))
}

/// What tcpdump shows behind so many bytes, up to a frame that is sent now.
fn shown(bed: &Testbed, behind: u64, nth: u8) -> anyhow::Result<String> {
    let from = Mac([0x02, 0, 0, 0, 0, nth]);
    Sender::open()?.send(&probe::probe(Mac::BROADCAST, from))?;
    bed.agent.once(
        &format!("grep -q {from} {SEEN}"),
        TCPDUMP,
        &format!("cat {SEEN}.err; tail -n 3 {SEEN}"),
        &format!("tail -c +{} {SEEN}", behind + 1),
    )
}

/// The lengths of the frames of IPv4 that `tcpdump -e` shows, bytes.
fn lengths(text: &str) -> Vec<usize> {
    let of = |line: &str| {
        let (_, rest) = line.split_once("ethertype IPv4 (0x0800), length ")?;
        rest.split(':').next()?.parse().ok()
    };
    text.lines().filter_map(of).collect()
}

/// Frames and bytes that the driver has received.
fn counted(bed: &Testbed, link: &Link) -> anyhow::Result<(u64, u64)> {
    let text = bed.agent.sh(&format!(
        "cd /sys/class/net/{}/statistics && cat rx_packets rx_bytes",
        link.name
    ))?;
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(frames)), Some(Ok(bytes))) => Ok((frames, bytes)),
        _ => bail!("the guest's counters of {} are {text:?}", link.name),
    }
}

/// The driver has counted what the tap carried to it since `fence`: each long segment once, with all its bytes.
fn expect_counted(
    bed: &Testbed,
    link: &Link,
    fence: Fence,
    before: (u64, u64),
) -> anyhow::Result<()> {
    let limit = COUNTED.start();
    loop {
        let now = counted(bed, link)?;
        let frames = bed.wire()?.frames(fence)?;
        let to_guest = (frames.iter()).filter(|frame| frame.direction == Direction::ToGuest);
        let on_wire = to_guest.fold((0, 0), |(frames, bytes), frame| {
            (frames + 1, bytes + frame.length as u64)
        });
        let moved = (now.0 - before.0, now.1 - before.1);
        if moved == on_wire {
            return Ok(());
        }
        if !limit.look_again() {
            let error = format!(
                "{} frames of {} bytes crossed the tap to the guest, and its driver counted {} frames of {} bytes",
                on_wire.0, on_wire.1, moved.0, moved.1
            );
            return Err(limit.excused(anyhow::Error::msg(error)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_length_of_a_line_is_the_frame_s() {
        let text = "\
09:41:03.3 02:00:c6:12:00:01 > 52:54:00:00:00:02, ethertype IPv4 (0x0800), length 7306: 198.18.0.1.4096 > 198.18.0.2.40000: Flags [.], seq 1:7241, ack 1, win 509, options [nop,nop,TS[|tcp]>
09:41:03.4 02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff, ethertype Unknown (0x88b5), length 60:
09:41:03.5 02:00:c6:12:00:01 > 52:54:00:00:00:02, ethertype IPv4 (0x0800), length 66: 198.18.0.1.4096 > 198.18.0.2.40000: Flags [F.], seq 7241, ack 1, win 509, length 0
";
        assert_eq!(lengths(text), [7306, 66]);
    }
}
