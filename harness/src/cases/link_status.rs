//! Plan items 2 and 20: operstate follows `set_link`, and so does the traffic.

use super::disruption::{boot_anew, stop_cont};
use super::faults::{self, AT_START, IN_TRAFFIC, TAP_UNPLUGGED};
use super::features;
use super::link_settings::speed_and_duplex;
use super::{Case, Fault, Load, Moment, Red, StartState};
use crate::base::deadline;
use crate::guest::dialect::Op;
use crate::guest::interrupts;
use crate::guest::link::Link;
use crate::net::addr::{self, Mac};
use crate::net::bridge;
use crate::net::frame::{Direction, Frame};
use crate::testbed::Testbed;
use crate::testbed::reception::LOOPBACKS;
use anyhow::{Context as _, bail, ensure};

/// With the link-status feature (`status=on`, the default).
pub static LINK_STATUS: Case = Case {
    name: "link_status",
    plan_item: "2, 20",
    passes: "operstate reads up, down after `set_link off` (through `stop` and `cont` too) and up again after `set_link on`, on the NIC and on its netdev; traffic stops and resumes with it, and the link's speed and duplex are the same again; e1000 and rtl8139 raise their interrupt line for it",
    load: Load::Waits,
    rearm: Some(faults::nothing),
    ops: &[Op::Address],
    faults: &[STATUS_OFF, LINK_ON, RECEIVES, SLOWER, MUTE, TAP_UNPLUGGED],
    run: link_status,
    ..Case::PLAIN
};

/// Without it (`status=off`).
pub static LINK_STATUS_OFF: Case = Case {
    name: "link_status_off",
    plan_item: "2, 20",
    passes: "with status=off the guest is not offered the feature, and operstate reads the same whatever `set_link` does (unknown on old kernels, up on those that assume a link), while traffic still stops and resumes with it, and what the guest goes on sending meanwhile is lost",
    applies: faults::virtio,
    start_state: StartState::Boot,
    load: Load::Waits,
    vm: |spec| spec.nics[0].properties.push("status=off".into()),
    ops: &[Op::Address],
    faults: &[
        Fault {
            name: "status_on",
            breaks: "QEMU offers the link-status feature (status=on)",
            applies: faults::virtio,
            vm: |spec, _| spec.nics[0].properties.push("status=on".into()),
            red: Red::Says("VIRTIO_NET_F_STATUS"),
            ..AT_START
        },
        Fault {
            name: "taken_down",
            breaks: "the guest takes the NIC down while its link is off",
            inject: |bed| {
                let link = bed.link()?;
                bed.apply(Op::Down, &link, "")
            },
            red: Red::Missed(deadline::OPERSTATE),
            ..IN_TRAFFIC
        },
        LEAKS,
        LINK_ON,
        TAP_UNPLUGGED,
    ],
    run: link_status_off,
    ..Case::PLAIN
};

/// Off through a boot.
pub static LINK_STATUS_RESET: Case = Case {
    name: "link_status_reset",
    plan_item: "2, 20",
    passes: "a link that is off stays off through a reset of the halted machine: operstate reads down after the boot and nothing crosses the tap until `set_link on`, when it reads up and traffic flows, and what came while it was off is lost",
    load: Load::Waits,
    ops: &[Op::Address],
    faults: &[STATUS_OFF, LINK_ON, KEPT, TAP_UNPLUGGED],
    run: link_status_reset,
    ..Case::PLAIN
};

/// The guest is not told of the link.
const STATUS_OFF: Fault = Fault {
    name: "status_off",
    breaks: "QEMU does not offer the link-status feature (status=off)",
    applies: faults::virtio,
    vm: |spec, _| spec.nics[0].properties.push("status=off".into()),
    red: Red::Missed(deadline::OPERSTATE),
    ..AT_START
};

/// The NIC hands up what it should not hear.
const RECEIVES: Fault = Fault {
    name: "receives",
    breaks: "the guest's NIC counts further received frames while its link is off",
    applies: faults::virtio,
    inject: |bed| {
        let counted = Testbed::rx_packets(&bed.link()?);
        ping_itself(bed, &format!("mount --bind {LOOPBACKS} {counted}"), 0.2)
    },
    red: Red::Says("the guest's rx_packets moved"),
    ..IN_TRAFFIC
};

/// What the NIC should not hear is kept for it until its link is on.
const KEPT: Fault = Fault {
    name: "kept",
    breaks: "the guest's kernel takes further packets, from a loopback that does not count them",
    applies: faults::virtio,
    inject: |bed| {
        let counts_none = format!("echo 0 >/tmp/none && mount --bind /tmp/none {LOOPBACKS}");
        ping_itself(bed, &counts_none, 0.01)
    },
    red: Red::Says("sent while its link was off"),
    ..IN_TRAFFIC
};

/// After that command the guest takes further packets, from its loopback: it pings itself every `interval` seconds.
fn ping_itself(bed: &Testbed, after: &str, interval: f64) -> anyhow::Result<()> {
    let pings = format!("ping -i {interval} 127.0.0.1 >/dev/null 2>&1 </dev/null &");
    let script = format!("{after} && {{ ip link set dev lo up; {pings} }}");
    bed.agent.sh(&script).map(drop)
}

/// The NIC negotiates another speed.
const SLOWER: Fault = Fault {
    name: "slower",
    breaks: "the guest's sysfs shows another speed since its link was switched off",
    // Of the others some do not hear of it on some QEMU.
    applies: |cell| faults::virtio(cell) || HAS_LINE.contains(&cell.nic.device.as_str()),
    inject: |bed| {
        let speed = format!("/sys/class/net/{}/speed", bed.link()?.name);
        let script = format!("echo 7 >/tmp/slower && mount --bind /tmp/slower {speed}");
        bed.agent.sh(&script).map(drop)
    },
    red: Red::Says("speed and duplex read"),
    ..IN_TRAFFIC
};

/// The NIC has no interrupt any more.
const MUTE: Fault = Fault {
    name: "mute",
    breaks: "the guest forbids the NIC its interrupt line (PCI's command register, bit 10)",
    applies: |cell| HAS_LINE.contains(&cell.nic.device.as_str()),
    moment: Moment::Midway,
    inject: |bed| {
        let config = format!("{}/config", Testbed::device_directory(&bed.link()?));
        bed.agent
            .sh(&format!(
                "printf '\\004' | dd of={config} bs=1 seek=5 conv=notrunc 2>/dev/null"
            ))
            .map(drop)
    },
    red: Red::Says("raised no interrupt"),
    ..AT_START
};

/// The link comes up again by itself.
pub(super) const LINK_ON: Fault = Fault {
    name: "link_on",
    breaks: "QEMU has the link up again while it should be off",
    // Others negotiate for longer than the silence lasts.
    applies: faults::virtio,
    inject: |bed| bed.set_link(true),
    red: Red::Says("although the link is off"),
    ..IN_TRAFFIC
};

/// What the guest sends passes, and nothing comes back.
const LEAKS: Fault = Fault {
    name: "leaks",
    breaks: "QEMU has the link up again while it should be off, and the host sends to another MAC than the guest's",
    applies: faults::virtio,
    inject: |bed| {
        bridge::set_neighbour_permanent(bed.address(), bed.nic().mac.opposite())?;
        bed.set_link(true)
    },
    red: Red::Says("frames of the guest crossed its tap although the link is off"),
    ..IN_TRAFFIC
};

/// NICs that raise an interrupt line when their link changes: drivers see the change without it too, up to 2 s later.
const HAS_LINE: [&str; 2] = ["e1000", "rtl8139"];

/// How often the guest is halted for that: an e1000 puts off an interrupt that comes within 0.5 ms of another one.
const HALTS: u32 = 3;

/// Virtio's feature by which a driver reads the link's state (virtio 1.2, 5.1.3).
const STATUS: usize = 16;

/// Brings the NIC up, then follows its link off and on: operstate must read up, down and up again.
fn link_status(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    let first = first_state(bed)?;
    follow(bed, &link, [first, "down", "up"])
}

/// What operstate must read before the link changes for the first time: some drivers report none until then.
fn first_state(bed: &Testbed) -> anyhow::Result<&'static str> {
    let unreported = !bed.cell.nic.is_virtio() && bed.link()?.operstate == "unknown";
    Ok(if unreported { "unknown" } else { "up" })
}

/// Switches the link off, halts and resets the machine, and lets it boot: the link must still be off, for
/// the guest and on the wire, and come up when it is switched on.
fn link_status_reset(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    bed.expect_operstate(&link, first_state(bed)?)?;
    bed.set_link(false)?;
    boot_anew(bed, |bed| {
        bed.vm.call(&qapi::qmp::stop {})?;
        bed.vm.call(&qapi::qmp::system_reset {})?;
        bed.vm.call(&qapi::qmp::cont {}).map(drop)
    })?;
    let link = bed.link()?;
    bed.apply(Op::Address, &link, &addr::guest_with_prefix(0))?;
    bed.expect_operstate(&link, "down")
        .context("booted with its link off")?;
    bed.moment(Moment::Traffic)?;
    expect_off(bed)?;
    switch_on(bed, &link)
}

/// Brings the NIC up, notes its operstate, and switches the link off and on: operstate must stay as it
/// is, and traffic stop and resume all the same.
fn link_status_off(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    let offered = features::in_sysfs(bed, &link)?;
    ensure!(
        !features::is_set(&offered, STATUS),
        "feature bit {STATUS} (VIRTIO_NET_F_STATUS) is 1 with status=off; the guest's sysfs has {offered}"
    );
    let state = bed.link()?.operstate;
    ensure!(
        ["unknown", "up"].contains(&state.as_str()),
        "operstate of a NIC without link status is {state:?}"
    );
    bed.notes
        .push(format!("operstate without link status: {state}"));
    follow(bed, &link, [&state; 3])
}

/// Switches the link off and on, by the NIC's id and by its netdev's; `states` are what operstate must read before,
/// between and after.
fn follow(bed: &mut Testbed, link: &Link, states: [&str; 3]) -> anyhow::Result<()> {
    bed.expect_operstate(link, states[0])?;
    let as_before = speed_and_duplex(bed, link)?;
    bed.set_link(false)?;
    bed.expect_operstate(link, states[1])?;
    bed.moment(Moment::Traffic)?;
    // Through a halt of the machine as well.
    stop_cont(bed)?;
    match states[1] {
        "down" => expect_off(bed)?,
        state => {
            bed.expect_operstate(link, state)?;
            expect_off_while(bed, || send(bed))?;
        }
    }
    // Where it should not follow, it may not have had the time to, above.
    bed.expect_operstate(link, states[1])?;
    bed.set_link(true)?;
    bed.expect_operstate(link, states[2])?;
    bed.reach(deadline::FIRST_PING)?;
    expect_speed(bed, link, &as_before)?;
    bed.moment(Moment::Midway)?;
    match HAS_LINE.contains(&bed.cell.nic.device.as_str()) {
        true => expect_raised(bed, link, states[2])?,
        false => bed.set_netdev_link(false)?,
    }
    bed.expect_operstate(link, states[1])
        .context("set_link off on its netdev")?;
    bed.set_netdev_link(true)?;
    bed.expect_operstate(link, states[2])
        .context("set_link on on its netdev")?;
    bed.reach(deadline::FIRST_PING)?;
    expect_speed(bed, link, &as_before)
}

/// Fails when the link's speed and duplex are not as they were.
fn expect_speed(bed: &Testbed, link: &Link, before: &str) -> anyhow::Result<()> {
    let again = speed_and_duplex(bed, link)?;
    ensure!(
        again == before,
        "since the link is on again, the guest's speed and duplex read {again:?}, and {before:?} before"
    );
    Ok(())
}

/// Has a guest that believes in its link send by it.
fn send(bed: &Testbed) -> anyhow::Result<()> {
    let report = bed.guest_ping("-c 5 -l 5 -W 0.1", addr::HOST)?;
    ensure!(
        report.transmitted > 0,
        "the guest sent nothing although it has heard of no link that is off: {report}"
    );
    Ok(())
}

/// Switches the link on, which the guest must see, and reaches it. It may not have taken more packets since then than
/// came to its tap: what came while the link was off is lost (QEMU's `qemu_deliver_packet_iov`).
fn switch_on(bed: &Testbed, link: &Link) -> anyhow::Result<()> {
    let before = bed.packets_taken()?;
    let fence = bed.wire()?.mark()?.nothing_under_way();
    // QEMU has looked at its taps by the time it has answered twice.
    for _ in 0..2 {
        bed.vm.call(&qapi::qmp::query_status {})?;
    }
    bed.set_link(true)?;
    bed.expect_operstate(link, "up")?;
    bed.reach(deadline::FIRST_PING)?;
    let taken = bed.packets_taken()?.saturating_sub(before);
    bed.fence()?;
    // A kernel hands what it sends to its own groups to itself as well (IPv6's search for duplicates).
    let counts = |frame: &Frame| {
        frame.direction == Direction::ToGuest || frame.dst().is_some_and(Mac::is_group)
    };
    let sent = bed.wire()?.count(fence, counts)? as u64;
    ensure!(
        taken <= sent,
        "since its link is on, the guest has taken {taken} packets, and {sent} frames came to its tap: {} were sent while its link was off",
        taken - sent
    );
    Ok(())
}

/// Switches the link off on the NIC's netdev while the guest is halted: its interrupt line must be up then, and was not
/// before. `on` is what operstate reads with the link on.
fn expect_raised(bed: &Testbed, link: &Link, on: &str) -> anyhow::Result<()> {
    let line = bed.agent.sh(&interrupts::numbers_of(&link.pci))?;
    let line = line.trim();
    let pin: u32 = (line.parse()).with_context(|| format!("the NIC's interrupt is {line:?}"))?;
    for _ in 0..HALTS {
        bed.vm.call(&qapi::qmp::stop {})?;
        let before = bed.pending_lines()?;
        bed.set_netdev_link(false)?;
        let after = bed.pending_lines()?;
        bed.vm.call(&qapi::qmp::cont {})?;
        if !before.contains(&pin) && after.contains(&pin) {
            return Ok(());
        }
        bed.set_netdev_link(true)?;
        bed.expect_operstate(link, on)?;
    }
    bail!(
        "the NIC raised no interrupt when its link was switched off while the guest was halted: {HALTS} times `info pic` showed pin {pin} of the I/O APIC not raised by it"
    )
}

/// Pings may not be answered, no frame of the guest may cross the tap, and the guest may receive none: the host's
/// requests and its ARP reach the tap all the while.
pub(super) fn expect_off(bed: &Testbed) -> anyhow::Result<()> {
    expect_off_while(bed, || Ok(()))
}

/// As [`expect_off`], and what `send` sends besides must not reach the guest.
pub(super) fn expect_off_while(
    bed: &Testbed,
    send: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let link = bed.link()?;
    let before = bed.frames_taken(&link)?;
    // QEMU hands on nothing that it held when it took the link down.
    let fence = bed.wire()?.mark()?.nothing_under_way();
    send()?;
    bed.expect_silence(bed.address(), "the link is off")?;
    bed.expect_nothing_sent(fence, "the link is off")?;
    let after = bed.frames_taken(&link)?;
    ensure!(
        after == before,
        "the guest's rx_packets moved from {before} to {after} although the link is off"
    );
    Ok(())
}
