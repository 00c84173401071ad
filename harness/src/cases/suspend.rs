//! A guest that sleeps, suspended to memory (ACPI S3) or to disk (S4), and wakes: its NIC has lost its power meanwhile,
//! and its driver gives it back all that it had.

mod hibernate;

use super::faults::{AT_START, IN_TRAFFIC};
use super::migrate::{Identity, STREAM};
use super::migrate_state::{leave_vlan, set, takes_vlans, with_queues};
use super::surviving::State;
use super::{Case, Fault, Moment, Red, StartState};
use crate::base::deadline::{self, Limit};
use crate::base::error::Skip;
use crate::guest::agent::{Running, said};
use crate::guest::dialect::Op;
use crate::guest::image;
use crate::matrix::Cell;
use crate::testbed::Testbed;
use crate::vm::cmdline::{Boot, VmSpec};
use anyhow::{Context as _, ensure};
pub use hibernate::HIBERNATE;
use serde_json::json;
use std::time::Duration;

/// Seconds between the echo requests that go on meanwhile.
const INTERVAL: f64 = 0.05;

/// How a guest is put to sleep, and woken.
struct Sleep {
    /// Linux's name of it, in `/sys/power/state`.
    state: &'static str,
    /// For messages, behind "suspend to".
    to: &'static str,
    /// Has the guest suspend itself; ends when it is awake again.
    command: &'static str,
    /// QEMU's event that says so, and the one behind which it sleeps.
    asleep: [&'static str; 2],
    /// How long that may take.
    limit: Limit,
    /// Whether requests come meanwhile.
    in_traffic: fn(&Cell) -> bool,
    /// Wakes it.
    wake: fn(&Testbed) -> anyhow::Result<()>,
}

const TO_MEMORY: Sleep = Sleep {
    state: "mem",
    to: "memory",
    command: "echo deep >/sys/power/mem_sleep; echo mem >/sys/power/state",
    asleep: ["SUSPEND"; 2],
    limit: deadline::SUSPENDED,
    in_traffic: |_| true,
    wake: wake_up,
};

/// Strikes when the guest sleeps.
const ASLEEP: Fault = Fault {
    applies: wakes,
    moment: Moment::Asleep,
    ..AT_START
};

/// Strikes when the guest has woken, as if its driver had not given back what is broken then.
const NOT_GIVEN_BACK: Fault = Fault {
    applies: wakes,
    moment: Moment::Awake,
    ..AT_START
};

/// Whether the NIC's driver brings it back each time. Linux's 8139cp, ne2k-pci and virtio_net do not always, when frames
/// come meanwhile: what such a trial says under a fault may be that.
fn wakes(cell: &Cell) -> bool {
    !cell.nic.is_virtio() && !["8139cp", "ne2k-pci"].contains(&cell.nic.driver.as_str())
}

const STAYS_AWAKE: Fault = Fault {
    name: "stays_awake",
    breaks: "the guest's kernel is not told to suspend",
    inject: |bed| {
        let command =
            "cat /sys/power/state >/tmp/state && mount --bind /tmp/state /sys/power/state";
        bed.agent.sh(command).map(drop)
    },
    red: Red::Missed(deadline::SUSPENDED),
    ..IN_TRAFFIC
};

const WAKES_EARLY: Fault = Fault {
    name: "wakes_early",
    breaks: "the guest is woken at once",
    inject: |bed| {
        wake_up(bed)?;
        bed.reach(deadline::FIRST_PING)
    },
    red: Red::Says("although it sleeps"),
    ..ASLEEP
};

const BOOTS_ANEW: Fault = Fault {
    name: "boots_anew",
    breaks: "the guest that has woken is another one",
    inject: |bed| {
        let command = "cat /proc/sys/kernel/random/uuid >/tmp/id && \
                       mount --bind /tmp/id /proc/sys/kernel/random/boot_id";
        bed.agent.sh(command).map(drop)
    },
    red: Red::Says("the guest is another one"),
    ..NOT_GIVEN_BACK
};

const DOWN: Fault = Fault {
    name: "down",
    breaks: "the guest's NIC is down when the guest has woken",
    inject: |bed| set(bed, "ip link set dev DEV down"),
    red: Red::Says("the stream of pings does not resume"),
    ..NOT_GIVEN_BACK
};

const MTU_LOST: Fault = Fault {
    name: "mtu_lost",
    breaks: "the guest has another MTU when it has woken",
    inject: |bed| set(bed, "ip link set dev DEV mtu 1300"),
    red: Red::Says("the MTU was set to"),
    ..NOT_GIVEN_BACK
};

const OFFLOADS_LOST: Fault = Fault {
    name: "offloads_lost",
    breaks: "segmentation is on again when the guest has woken",
    applies: |cell| wakes(cell) && cell.nic.offloads.iter().any(|name| name == "tso"),
    inject: |bed| set(bed, "ethtool -K DEV tx on sg on tso on"),
    red: Red::Says("switched off"),
    ..NOT_GIVEN_BACK
};

const VLAN_LOST: Fault = Fault {
    name: "vlan_lost",
    breaks: "the guest has left the VLAN when it has woken",
    applies: |cell| wakes(cell) && takes_vlans(cell),
    inject: leave_vlan,
    red: Red::Says("VLAN 10"),
    ..NOT_GIVEN_BACK
};

/// What sets what it gives back.
const OPS: &[Op] = &[Op::Address, Op::Down, Op::Mac, Op::Mtu, Op::Up, Op::VlanAdd];

/// Suspended to memory.
pub static SUSPEND: Case = Case {
    name: "suspend",
    passes: "under a stream of pings the guest suspends to memory as QEMU says, answers nothing while it sleeps, and is woken by `system_wakeup`; boot id and uptime are its own, the stream resumes, and a MAC, an MTU, a VLAN, a multicast group, offloads switched off and (virtio) four queues, set by the guest, hold on the wire, for QEMU and for the guest",
    // What is saved with it is of use to no other case.
    start_state: StartState::Boot,
    vm: suspend_vm,
    ops: OPS,
    seconds: |_| 120.0,
    faults: &[
        STAYS_AWAKE,
        WAKES_EARLY,
        BOOTS_ANEW,
        DOWN,
        MTU_LOST,
        OFFLOADS_LOST,
        VLAN_LOST,
    ],
    run: |bed| suspend(bed, &TO_MEMORY),
    ..Case::PLAIN
};

fn suspend_vm(spec: &mut VmSpec) {
    with_queues(spec);
    // A Linux that began at its PVH entry does not come back: it triple faults behind the vector to which SeaBIOS
    // jumps (seen with 5.10 and 6.1).
    if let Boot::Kernel { kernel, .. } = &mut spec.boot {
        *kernel = image::with_setup_code(kernel);
    }
}

/// Has the guest set up its NIC, sleep once and wake. Filters, which some drivers do not give back, are judged last.
fn suspend(bed: &mut Testbed, how: &Sleep) -> anyhow::Result<()> {
    let states = bed.agent.sh("cat /sys/power/state")?;
    if !states.split_whitespace().any(|state| state == how.state) {
        let reason = format!(
            "the guest's kernel cannot suspend to {}: its /sys/power/state has {:?}",
            how.to,
            states.trim()
        );
        return Err(Skip(reason).into());
    }
    let link = bed.up()?;
    let was = Identity::of(bed)?;
    let mut state = State::set(bed, &link)?;
    (state.expect(bed))
        .and_then(|()| state.expect_vlans(bed))
        .context("before the guest slept")?;
    bed.notes.push(state.to_string());
    once(bed, &was, how)?;
    state.expect_all_but_filters(bed)?;
    state.expect_filters(bed)?;
    state.expect_rx_filter(bed)?;
    state.expect_vlans(bed)?;
    bed.expect_quiet_kernel()
}

/// One sleep under a stream of pings.
fn once(bed: &mut Testbed, was: &Identity, how: &Sleep) -> anyhow::Result<()> {
    let mut stream = None;
    if (how.in_traffic)(&bed.cell) {
        let begun = bed.ping().interval(INTERVAL).lasts(longest(how)).spawn()?;
        begun.wait_replies(STREAM, deadline::FIRST_PING.start())?;
        stream = Some(begun);
    }
    bed.moment(Moment::Traffic)?;
    let sleeping = fall_asleep(bed, how)?;
    bed.moment(Moment::Asleep)?;
    bed.expect_silence(bed.address(), "it sleeps")?;
    (how.wake)(bed)?;
    bed.await_guest()
        .with_context(|| format!("suspended to {}, and woken", how.to))?;
    let output = bed.agent.finish(sleeping, Duration::ZERO)?;
    ensure!(
        output.code == 0,
        "in the guest, `{}` ended with {}: {}",
        how.command,
        output.code,
        said(&output)
    );
    bed.moment(Moment::Awake)?;
    was.expect_same(bed)?;
    let stream = match stream {
        Some(stream) => stream,
        None => bed.ping().interval(INTERVAL).spawn()?,
    };
    let answered = stream.replies();
    stream
        .wait_replies(answered + STREAM, deadline::FIRST_PING.start())
        .context("the stream of pings does not resume")?;
    stream.interrupt().map(drop)
}

/// Has the guest suspend itself, which QEMU must say; the command, which ends when the guest is awake.
fn fall_asleep(bed: &Testbed, how: &Sleep) -> anyhow::Result<Running> {
    let mark = bed.vm.qmp.mark();
    let sleeping = bed.agent.start_last(how.command)?;
    let mut events = how.asleep.into_iter();
    match events.try_for_each(|name| bed.vm.await_event(mark, how.limit, |e| e.name == name)) {
        Ok(()) => Ok(sleeping),
        Err(error) => Err(match bed.agent.finish(sleeping, Duration::ZERO) {
            Ok(output) => error.context(format!(
                "in the guest, `{}` said: {}",
                how.command,
                said(&output)
            )),
            Err(_) => error,
        }),
    }
}

fn wake_up(bed: &Testbed) -> anyhow::Result<()> {
    let mark = bed.vm.qmp.mark();
    bed.vm.call_raw("system_wakeup", json!({}))?;
    (bed.vm).await_event(mark, deadline::WOKEN, |event| event.name == "WAKEUP")
}

/// How long the stream may have to last.
fn longest(how: &Sleep) -> Duration {
    let limits = [
        deadline::FIRST_PING,
        how.limit,
        deadline::SILENCE,
        deadline::WOKEN,
        deadline::AGENT_UP,
        deadline::FIRST_PING,
    ];
    limits.iter().map(|limit| limit.start().span()).sum()
}
