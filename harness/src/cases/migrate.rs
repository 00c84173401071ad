//! Plan item 17: the guest moves to another QEMU under traffic, and its NIC with it.

use super::faults::{AT_START, IN_TRAFFIC, virtio};
use super::{Case, Fault, Moment, Red};
use crate::base::deadline;
use crate::base::error::{CannotRun, find};
use crate::guest::dialect::Op;
use crate::guest::link;
use crate::matrix::schema::Dialect;
use crate::net::addr::{self, Mac};
use crate::net::frame::{Frame, Icmp};
use crate::net::{sabotage, spice};
use crate::testbed::Testbed;
use crate::testbed::destination::{self, Announcement};
use crate::vm::process::RefusedInMonitor;
use crate::vm::qemu::Qemu;
use anyhow::{Context, ensure};
use std::net::Ipv4Addr;
use std::time::Duration;

/// Seconds between the echo requests that cross meanwhile.
const INTERVAL: f64 = 0.01;
/// Replies that show a stream.
pub(super) const STREAM: usize = 10;

/// Without SPICE.
pub static MIGRATE: Case = Case {
    name: "migrate",
    plan_item: "17",
    passes: "under a stream of pings the source ends as completed and the destination runs the guest; its MAC is announced there, five times by QEMU, by virtio's guest itself as well, the stream resumes within bounds, boot id, uptime, MAC and address are the guest's own, QEMU shows the NIC; N times, to and fro",
    vm: |spec| spec.migratable = true,
    ops: &[Op::Address],
    seconds: |profile| {
        // One more, where QEMU does not heed the words that are tried first.
        f64::from(profile.migrations + 1) * 40.0
    },
    faults: &[
        DESTINATION_UNPLUGGED,
        Fault {
            name: "guest_not_asked",
            breaks: "QEMU's NIC does not ask its driver for an announcement (guest_announce=off)",
            applies: virtio,
            vm: |spec, _| spec.nics[0].properties.push("guest_announce=off".into()),
            red: Red::Says("the guest itself did not announce"),
            ..AT_START
        },
        Fault {
            name: "unannounced",
            breaks: "ARP and RARP that leave the destination's tap are dropped",
            inject: |_| sabotage::drop_announcements(destination::TAP),
            red: Red::Says("no announcement of"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "qemu_mute",
            breaks: "RARP that leaves the destination's tap is dropped",
            applies: virtio,
            inject: |_| sabotage::drop_rarp(destination::TAP),
            red: Red::Says("QEMU itself did not announce"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "announced_wrongly",
            breaks: "RARP that leaves the destination's tap names another MAC than its sender's",
            applies: virtio,
            inject: |_| sabotage::change_rarp(destination::TAP),
            red: Red::Says("QEMU itself did not announce"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "announced_twice",
            breaks: "QEMU announces the NIC twice in place of five times (announce-rounds=2)",
            vm: |spec, _| spec.globals.push("migration.announce-rounds=2".into()),
            red: Red::Says("2 times, not 5"),
            ..AT_START
        },
        CANCELLED,
    ],
    run: migrate,
    ..Case::PLAIN
};

/// With SPICE.
pub static SPICE_MIGRATE: Case = Case {
    name: "spice_migrate",
    passes: "as migrate, with SPICE at both ends: `client_migrate_info` (rhel4, rhel5: first `migrate -d …,spiceport=…,spicehost=…`, where QEMU heeds it) sends the clients on, the source says that they were told, and the destination's server takes one",
    vm: |spec| {
        spec.migratable = true;
        spec.spice = Some(destination::SPICE[0]);
    },
    faults: &[
        Fault {
            name: "no_spice_port",
            breaks: "nothing is let through to the destination's SPICE port",
            inject: |_| sabotage::drop_tcp(destination::SPICE[1]),
            red: Red::Says("no SPICE server takes a client at 198.18.0.1:5931"),
            ..IN_TRAFFIC
        },
        DESTINATION_UNPLUGGED,
        CANCELLED,
    ],
    run: spice_migrate,
    ..MIGRATE
};

const DESTINATION_UNPLUGGED: Fault = Fault {
    name: "destination_unplugged",
    breaks: "the destination's tap is taken out of the bridge",
    inject: |bed| sabotage::unplug(&bed.bridge, destination::TAP),
    red: Red::Says("no announcement of"),
    ..IN_TRAFFIC
};

pub(super) const CANCELLED: Fault = Fault {
    name: "cancelled",
    breaks: "the migration is cancelled under way",
    moment: Moment::Migrating,
    inject: |bed| bed.vm.call(&qapi::qmp::migrate_cancel {}).map(drop),
    red: Red::Says("the migration ended as \"cancelled\""),
    ..IN_TRAFFIC
};

/// Migrates the guest to another QEMU and back, as often as the profile says.
fn migrate(bed: &mut Testbed) -> anyhow::Result<()> {
    bed.up()?;
    for round in 1..=bed.profile.migrations {
        let journey = Journey::home(bed, round, command());
        once(bed, &journey, |_| Ok(())).with_context(|| format!("migration {round}"))?;
    }
    bed.expect_quiet_kernel()
}

/// Migrates as `migrate` does, and has the SPICE clients sent on. For RHEL 4 and 5 the plan's command
/// is tried first; a migration by it counts only where QEMU heeds it.
fn spice_migrate(bed: &mut Testbed) -> anyhow::Result<()> {
    bed.up()?;
    let mut olden = matches!(bed.cell.guest.dialect, Dialect::Rhel4 | Dialect::Rhel5);
    let (mut round, mut heeded) = (0, 0);
    while heeded < bed.profile.migrations {
        round += 1;
        let moved = spice_once(bed, round, olden);
        match moved.with_context(|| format!("migration {round}"))? {
            true => heeded += 1,
            false => olden = false,
        }
    }
    bed.expect_quiet_kernel()
}

/// One migration whose SPICE clients are sent on, by the `olden` command or its successor; false when
/// QEMU does not heed the olden one.
fn spice_once(bed: &mut Testbed, round: u32, olden: bool) -> anyhow::Result<bool> {
    let (uri, host) = (destination::uri(), addr::HOST);
    let port = destination::spice_port(&bed.vm.spec).context("the source has no SPICE")?;
    let mark = bed.vm.qmp.mark();
    let command = match olden {
        true => format!("migrate -d {uri},spiceport={port},spicehost={host}"),
        false => {
            let line = format!("client_migrate_info spice {host} {port}");
            bed.vm.type_in(&line)?;
            bed.notes.push(format!("`{line}`"));
            format!("migrate -d {uri}")
        }
    };
    let mut told = false;
    let journey = Journey::home(bed, round, command.clone());
    let moved = once(bed, &journey, |bed| {
        told = bed.spice_clients_told(mark)?;
        Ok(())
    });
    match moved {
        Err(error) if olden && error.is::<RefusedInMonitor>() => {
            bed.notes.push(format!("QEMU does not take it: {error:#}"));
            return Ok(false);
        }
        other => drop(other?),
    }
    if olden && !told {
        let note = format!("QEMU migrates by `{command}`, and tells its SPICE clients nothing");
        bed.notes.push(note);
        return Ok(false);
    }
    ensure!(
        told,
        "after `{command}` the source's query-spice does not say that its clients were told"
    );
    spice::greet(host, port)?;
    Ok(true)
}

/// The monitor's command by which a guest moves to the destination that waits for it.
pub(super) fn command() -> String {
    format!("migrate -d {}", destination::uri())
}

/// One migration.
pub(super) struct Journey {
    /// Which it is in this trial, from 1.
    pub(super) round: u32,
    /// The monitor's command that begins it.
    pub(super) command: String,
    /// The destination's QEMU.
    pub(super) to: Qemu,
    /// What the destination is called, to follow "by".
    pub(super) whose: String,
    /// The NIC's MAC as the guest sees it.
    pub(super) mac: Mac,
    /// A VLAN that the guest is in, and its address there.
    pub(super) vlan: Option<(u16, Ipv4Addr)>,
}

impl Journey {
    /// To another VM of the trial's own QEMU, with the NIC's first MAC.
    pub(super) fn home(bed: &Testbed, round: u32, command: String) -> Journey {
        Journey {
            round,
            command,
            to: bed.own_qemu().clone(),
            whose: "the destination".into(),
            mac: bed.nic().mac,
            vlan: None,
        }
    }
}

/// Adds to the failure of a migration whether the guest goes on at the source, as it must.
fn refused(bed: &Testbed, whose: &str, error: anyhow::Error) -> anyhow::Error {
    let other_trouble = find::<RefusedInMonitor>(&error).is_some()
        || find::<CannotRun>(&error).is_some()
        || bed.vm.death_behind(&error).is_some();
    if other_trouble {
        return error;
    }
    error.context(match bed.stay() {
        Ok(()) => format!("the guest was not taken by {whose}, and goes on at the source"),
        Err(why) => format!(
            "the guest was not taken by {whose}, and does not answer at the source any more ({why:#})"
        ),
    })
}

/// One migration under a stream of pings; `left` looks at the source when the guest has gone. What told the
/// network of it is left to judge to the caller.
pub(super) fn once(
    bed: &mut Testbed,
    journey: &Journey,
    left: impl FnOnce(&mut Testbed) -> anyhow::Result<()>,
) -> anyhow::Result<Announcement> {
    let Journey { command, whose, .. } = journey;
    let was = Identity::of(bed)?;
    let there = bed
        .destination(&journey.to, journey.round)
        .map_err(|error| refused(bed, whose, error))?;
    bed.ready_to_leave()?;
    let stream = bed.ping().interval(INTERVAL).lasts(longest()).spawn()?;
    stream.wait_replies(STREAM, deadline::FIRST_PING.start())?;
    bed.moment(Moment::Traffic)?;
    let mark = bed.bridge_mark()?;
    let downtime = deadline::DOWNTIME.start();
    let moved = bed.migrate(command, &there, |bed| bed.moment(Moment::Migrating));
    let facts = moved.map_err(|error| refused(bed, whose, error))?;
    left(bed)?;
    bed.arrive(there)?;
    // What is waited for below may not come, and a guest that is busy meanwhile keeps other trials waiting.
    bed.settle()?;

    let announced = bed.await_announcement(mark, journey.mac)?;
    if bed.cell.nic.is_virtio() {
        bed.await_guest_announcement(mark, journey.mac, bed.address(), None)?;
        if let Some((id, address)) = journey.vlan {
            bed.await_guest_announcement(mark, journey.mac, address, Some(id))?;
        }
    }
    stream
        .wait_replies(STREAM, deadline::FIRST_PING.start())
        .context("the stream of pings does not resume")?;
    let report = stream.interrupt()?;
    let macs = [journey.mac, bed.nic().mac];
    let frames = bed.on_bridge(mark)?;
    announced_by_qemu(&frames, macs)?;
    bed.await_rounds(mark, macs, destination::ANNOUNCE_ROUNDS)?;
    let gap = longest_gap(&frames);
    let qemus = facts["downtime"].as_u64().unwrap_or_default();
    let mib = facts["ram"]["transferred"].as_u64().unwrap_or_default() >> 20;
    bed.notes.push(format!(
        "`{command}`: {mib} MiB in {} ms, downtime {qemus} ms as QEMU counts it, {} ms between two replies, {} of {} pings answered; {} announced by {}",
        facts["total-time"],
        gap.as_millis(),
        report.received,
        report.transmitted,
        announced.mac,
        announced.by,
    ));
    let bound = downtime.allowed();
    ensure!(
        gap <= bound,
        "for {:.1} s no ping was answered, at most {:.1} s may be",
        gap.as_secs_f64(),
        bound.as_secs_f64()
    );
    arrived(bed, &was, journey.mac)?;
    Ok(announced)
}

/// QEMU announces each NIC, whether its guest does or not: all RARP must say to everybody where one of these MACs is.
fn announced_by_qemu(frames: &[Frame], macs: [Mac; 2]) -> anyhow::Result<()> {
    let rarp: Vec<&Frame> = frames.iter().filter(|frame| frame.is_rarp()).collect();
    let sound = |frame: &&&Frame| macs.iter().any(|mac| frame.announcement_of(*mac).is_some());
    let told = rarp.iter().filter(sound).count();
    ensure!(
        told > 0 && told == rarp.len(),
        "QEMU itself did not announce {}: of {} RARP frames {told} say to everybody where a NIC of the guest's is",
        macs[0],
        rarp.len()
    );
    Ok(())
}

/// What a guest keeps when it moves.
pub(super) struct Identity {
    boot_id: String,
    uptime: f64,
}

impl Identity {
    pub(super) fn of(bed: &Testbed) -> anyhow::Result<Identity> {
        let text = bed
            .agent
            .sh("cat /proc/sys/kernel/random/boot_id /proc/uptime")?;
        let mut words = text.split_whitespace();
        let (boot_id, uptime) = (words.next(), words.next());
        Ok(Identity {
            boot_id: boot_id.context("the guest has no boot id")?.to_owned(),
            uptime: uptime.context("the guest has no uptime")?.parse()?,
        })
    }

    /// Fails unless the guest has booted since.
    pub(super) fn expect_other(&self, bed: &Testbed) -> anyhow::Result<()> {
        let is = Identity::of(bed)?;
        ensure!(
            is.boot_id != self.boot_id,
            "the guest's kernel has not started anew: its boot id is {} still, after {} s of uptime",
            is.boot_id,
            is.uptime
        );
        Ok(())
    }

    /// Fails unless the same guest still runs.
    pub(super) fn expect_same(&self, bed: &Testbed) -> anyhow::Result<()> {
        let is = Identity::of(bed)?;
        ensure!(
            is.boot_id == self.boot_id && is.uptime >= self.uptime,
            "the guest is another one: boot id {} with {} s of uptime became {} with {} s",
            self.boot_id,
            self.uptime,
            is.boot_id,
            is.uptime
        );
        Ok(())
    }
}

/// The same guest runs, with the same NIC, as it says and as QEMU does.
fn arrived(bed: &mut Testbed, was: &Identity, mac: Mac) -> anyhow::Result<()> {
    bed.await_guest().context("on the destination")?;
    was.expect_same(bed)?;
    let link = link::await_link(&bed.agent, mac)?;
    let shown = bed
        .agent
        .sh(&format!("ip -4 addr show dev {}", link.name))?;
    let address = format!("inet {}", addr::guest_with_prefix(0));
    ensure!(
        shown.contains(&address),
        "{} should still have {address}, it shows: {shown}",
        link.name
    );
    let qemu = bed.qemu_nic()?;
    let first = bed.nic().mac;
    // QEMU writes that line anew when the driver sets a MAC, and not when one arrives (seen on 7.2, every
    // model): it may show the first one, and query-rx-filter, where there is one, shows the one in force.
    ensure!(
        qemu.model == bed.nic().device && [mac, first].contains(&qemu.mac),
        "the destination should show a {} with {mac}, it shows {qemu:?}",
        bed.nic().device
    );
    if qemu.mac != mac {
        let note = format!("the destination's `info network` shows {first}, the first MAC");
        bed.notes.push(note);
    }
    if let Some(filter) = bed.rx_filter()? {
        ensure!(
            filter.main_mac == mac.to_string(),
            "the destination's query-rx-filter has {} for {mac}",
            filter.main_mac
        );
    }
    bed.expect_replies(3, 1440)
}

/// The longest time between two echo replies.
fn longest_gap(frames: &[Frame]) -> Duration {
    let replies = frames
        .iter()
        .filter(|frame| matches!(frame.icmp(), Some(Icmp::EchoReply { .. })));
    let times: Vec<Duration> = replies.map(|frame| frame.time).collect();
    let gaps = times.windows(2).map(|two| two[1].saturating_sub(two[0]));
    gaps.max().unwrap_or_default()
}

/// How long the stream may have to last.
fn longest() -> Duration {
    [
        deadline::FIRST_PING,
        deadline::MIGRATED,
        deadline::ARRIVED,
        deadline::ANNOUNCED,
        deadline::FIRST_PING,
    ]
    .iter()
    .map(|limit| limit.start().span())
    .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::frame::Direction;

    #[test]
    fn the_longest_gap_is_between_replies() {
        let frame = |kind: u8, milliseconds| {
            let mut bytes = vec![0; 14 + 20 + 8];
            bytes[12..14].copy_from_slice(&[0x08, 0x00]);
            bytes[14..24].copy_from_slice(&[0x45, 0, 0, 28, 0, 1, 0, 0, 64, 1]);
            bytes[34] = kind;
            Frame {
                time: Duration::from_millis(milliseconds),
                direction: Direction::FromGuest,
                length: bytes.len(),
                segment: None,
                bytes: bytes.into(),
            }
        };
        let (request, reply) = (8, 0);
        let frames = [
            frame(reply, 0),
            frame(reply, 10),
            frame(request, 20),
            frame(reply, 90),
            frame(request, 500),
        ];
        assert_eq!(longest_gap(&frames), Duration::from_millis(80));
        assert_eq!(longest_gap(&frames[..1]), Duration::ZERO);
    }
}
