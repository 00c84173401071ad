//! Plan item 12: offloads switched off and on, with data that must stay whole in each state.

use super::faults::{self, AT_START, IN_TRAFFIC, wrap};
use super::offload::{self, State};
use super::transfer::{self, ALTERED};
use super::{Case, Fault, Moment, Red};
use crate::base::deadline;
use crate::guest::dialect::Op;
use crate::guest::link::Link;
use crate::matrix::offload::OFFLOADS;
use crate::net::addr::HOST;
use crate::net::frame::{Direction, Frame};
use crate::net::transfer::blocks;
use crate::testbed::Testbed;
use anyhow::{Context as _, ensure};
use std::collections::BTreeMap;
use std::time::Duration;

/// What crosses each way in each state, MiB: the capture keeps all of it.
const MIB: u32 = 1;
/// Ethernet's header, bytes.
const ETHERNET: usize = 14;

/// Plan item 12.
pub static OFFLOAD_TOGGLE: Case = Case {
    name: "offload_toggle",
    plan_item: "12",
    passes: "each of rx tx sg tso ufo gso gro lro that is not fixed reads off when switched off and on when switched on; in each state a file crosses by TCP both ways with its SHA-256, and frames beyond the MTU leave the guest only with tso on (on virtio they then do); at the end all are as before",
    rearm: Some(faults::nothing),
    ops: &[Op::Address],
    seconds: |_| {
        // Eight offloads, off and on: e1000 negotiates its link anew each time, and files cross.
        16.0 * 12.0
    },
    faults: &[
        Fault {
            name: "ignored",
            breaks: "the guest's ethtool says that it switched offloads and does not",
            applies: switchable,
            inject: faults::switch_no_offload,
            red: Red::Says("reads back"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "still_on",
            breaks: "the guest's ethtool switches nothing and shows every offload as off",
            applies: faults::virtio,
            inject: |bed| {
                wrap(
                    bed,
                    "ethtool",
                    "[ \"$1\" = -K ] || \"$REAL\" \"$@\" | sed 's/: on/: off/'",
                )
            },
            red: Red::Says("although tso is off"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "no_segments",
            breaks: "the guest's kernel is told to build no packet beyond the MTU (gso_max_segs 1)",
            applies: faults::virtio,
            inject: |bed| faults::in_guest(bed, "ip link set dev DEV gso_max_segs 1").map(drop),
            red: Red::Says("although tso is on"),
            ..IN_TRAFFIC
        },
        Fault {
            applies: switchable,
            ..ALTERED
        },
        Fault {
            name: "csum_off",
            breaks: "QEMU offers no checksum offload",
            applies: faults::virtio,
            vm: |spec, _| spec.nics[0].properties.push("csum=off".into()),
            red: Red::Says("tx cannot be switched"),
            ..AT_START
        },
        Fault {
            name: "all_fixed",
            breaks: "the guest's ethtool shows every offload as fixed",
            applies: switchable,
            inject: |bed| wrap(bed, "ethtool", "\"$REAL\" \"$@\" | sed 's/$/ [fixed]/'"),
            red: Red::Says("cannot be switched"),
            ..AT_START
        },
    ],
    run: offload_toggle,
    ..Case::PLAIN
};

/// Whether the model has something to be switched.
fn switchable(cell: &crate::matrix::Cell) -> bool {
    !cell.nic.offloads.is_empty()
}

type States = BTreeMap<&'static str, State>;

/// Reads all offloads, and demands that the model's own can be switched. Each that is not fixed is
/// switched off and on; it must read back, and files must cross in each state. At the end all must be
/// as before.
fn offload_toggle(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    let before = read(bed, &link)?;
    // Else a NIC with all of them fixed would pass. virtio's rx is the device's to say.
    for name in &bed.cell.nic.offloads {
        let fixed = before.get(name.as_str()).is_none_or(|state| state.fixed);
        let given = name == "rx" && bed.cell.nic.is_virtio();
        ensure!(
            !fixed || given,
            "{name} cannot be switched: {} has it and `ethtool -k` shows it as fixed",
            bed.cell.nic.name
        );
    }
    transfer::make_file(bed, blocks(MIB))?;
    bed.moment(Moment::Traffic)?;
    let mut fixed = Vec::new();
    for (name, _) in OFFLOADS {
        let was = before[name];
        if was.fixed {
            fixed.push(format!("{name} {}", word(was.on)));
            continue;
        }
        for on in [false, true] {
            let states = switch(bed, &link, name, on)?;
            crosses(bed, &states).with_context(|| format!("with {name} {}", word(on)))?;
        }
        if !was.on {
            switch(bed, &link, name, false)?;
        }
    }
    let after = read(bed, &link)?;
    ensure!(
        after == before,
        "each offload was put back, but they were {before:?} and are {after:?}"
    );
    bed.notes.push(match fixed.is_empty() {
        true => "none fixed".into(),
        false => format!("fixed: {}", fixed.join(", ")),
    });
    bed.expect_quiet_kernel()
}

fn read(bed: &Testbed, link: &Link) -> anyhow::Result<States> {
    offload::parse(&bed.agent.sh(&format!("ethtool -k {}", link.name))?)
}

/// Switches one; the states of all after it.
fn switch(bed: &Testbed, link: &Link, name: &str, on: bool) -> anyhow::Result<States> {
    let nic = &link.name;
    let command = format!("ethtool -K {nic} {name} {}", word(on));
    let read = format!("{command} >/dev/null && ethtool -k {nic}");
    let states = offload::parse(&bed.agent.sh(&read)?)?;
    let now = states[name].on;
    ensure!(
        now == on,
        "after `{command}` {name} reads back {}",
        word(now)
    );
    Ok(states)
}

/// Files cross both ways, and the guest's frames are as long as its tso says.
fn crosses(bed: &Testbed, states: &States) -> anyhow::Result<()> {
    // e1000 resets, and so negotiates its link anew.
    bed.reach(deadline::FIRST_PING)?;
    let fence = bed.fence()?;
    transfer::from_guest(bed, HOST.into(), blocks(MIB), Duration::ZERO)?;
    transfer::to_guest(bed, HOST.into(), blocks(MIB), Duration::ZERO)?;
    let tso = states["tso"].on;
    let most = bed.cell.nic.default_mtu() as usize + ETHERNET;
    let segments = |frame: &Frame| {
        frame.direction == Direction::FromGuest
            && frame.tcp_ports().is_some()
            && frame.length > most
    };
    let long = bed.wire()?.count(fence, segments)?;
    ensure!(
        tso || long == 0,
        "{long} frames of more than {most} bytes left the guest although tso is off"
    );
    // Other models may segment in QEMU.
    ensure!(
        !tso || long > 0 || !bed.cell.nic.is_virtio(),
        "no frame of more than {most} bytes left the guest although tso is on"
    );
    Ok(())
}

fn word(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}
