//! Suspended to disk: the guest writes its memory to a disk and QEMU stops; reset and started, the guest's kernel boots,
//! finds what it wrote, and is as it was.

use super::{
    BOOTS_ANEW, DOWN, MTU_LOST, OFFLOADS_LOST, OPS, STAYS_AWAKE, Sleep, VLAN_LOST, WAKES_EARLY,
    suspend,
};
use crate::base::deadline;
use crate::base::error::{OrCannotRun as _, Skip};
use crate::cases::disruption::boot_anew;
use crate::cases::migrate_state::with_queues;
use crate::cases::{Case, Fault, Red};
use crate::matrix::schema::Machine;
use crate::testbed::Testbed;
use crate::vm::cmdline::{Boot, HOTPLUG_PORT, VmSpec, is_usb};
use anyhow::Context as _;
use serde_json::{Value, json};
use std::fs::File;

/// QEMU's name of the disk.
const DISK: &str = "swap";
/// What it holds, in units of the guest's memory.
const ROOM: u64 = 2;

const TO_DISK: Sleep = Sleep {
    state: "disk",
    to: "disk",
    command: "echo platform >/sys/power/disk; echo disk >/sys/power/state",
    asleep: ["SUSPEND_DISK", "STOP"],
    limit: deadline::HIBERNATED,
    // 8139cp leaves its NIC receiving when it is put to sleep, which here it is twice, the first time to go on at once:
    // with requests it then receives no more, one time in two.
    in_traffic: |cell| cell.nic.driver != "8139cp",
    wake: start_anew,
};

/// Beyond the plan.
pub static HIBERNATE: Case = Case {
    name: "hibernate",
    passes: "as suspend, to disk (ACPI S4): QEMU says so and stops; after `system_reset` and `cont` the guest boots and goes on from the disk",
    // Who carries the frames has no part in it.
    applies: |cell| cell.backend.filters() && !is_usb(&cell.nic.device),
    vm: hibernate_vm,
    ops: OPS,
    seconds: |_| 180.0,
    faults: &[
        Fault {
            red: Red::Missed(deadline::HIBERNATED),
            ..STAYS_AWAKE
        },
        Fault {
            inject: |bed| {
                start_anew(bed)?;
                bed.await_guest()?;
                bed.reach(deadline::FIRST_PING)
            },
            ..WAKES_EARLY
        },
        BOOTS_ANEW,
        DOWN,
        MTU_LOST,
        OFFLOADS_LOST,
        VLAN_LOST,
    ],
    run: |bed| {
        plug_disk(bed)?;
        // The firmware takes memory for a disk, and Linux refuses what was written under another map of it.
        boot_anew(bed, |bed| {
            bed.vm.call(&qapi::qmp::system_reset {}).map(drop)
        })?;
        bed.agent.sh("mkswap /dev/vda && swapon /dev/vda")?;
        stop_at_end(bed, true)?;
        suspend(bed, &TO_DISK)?;
        stop_at_end(bed, false)
    },
    ..Case::PLAIN
};

/// With room for a copy of what is in memory, where four queues of virtio's have buffers of 68 KiB too.
fn hibernate_vm(spec: &mut VmSpec) {
    with_queues(spec);
    spec.memory_mib += 128;
}

/// Gives the guest a disk for its swap when it boots anew, which ends with QEMU: its file has no name any more.
fn plug_disk(bed: &Testbed) -> anyhow::Result<()> {
    let spec = &bed.vm.spec;
    let Boot::Kernel { .. } = spec.boot else {
        let reason =
            "the guest boots from a disk, and would not look for its memory on another one";
        return Err(Skip(reason.into()).into());
    };
    let path = bed.artifacts.dir().join("swap.raw");
    let room = ROOM * (u64::from(spec.memory_mib) << 20);
    (File::create(&path).and_then(|file| file.set_len(room)))
        .or_cannot_run(|| format!("create {}", path.display()))?;
    let filename = path.to_str().context("no path in UTF-8")?;
    let call = |command: &str, options: Value| bed.vm.call_raw(command, options);
    let node = json!({ "driver": "file", "node-name": DISK, "filename": filename });
    call("blockdev-add", node)?;
    std::fs::remove_file(&path).or_cannot_run(|| format!("remove {}", path.display()))?;
    let bus = match spec.machine {
        Machine::Q35 => HOTPLUG_PORT,
        Machine::Pc => "pci.0",
    };
    let disk = json!({ "driver": "virtio-blk-pci", "id": "swap0", "drive": DISK, "bus": bus });
    call("device_add", disk).map(drop)
}

/// Whether QEMU stops where the guest has switched itself off, and starts anew where it is told to.
fn stop_at_end(bed: &Testbed, stop: bool) -> anyhow::Result<()> {
    let (at_end, at_reset) = match stop {
        true => ("pause", "reset"),
        false => ("poweroff", "shutdown"),
    };
    let actions = json!({ "shutdown": at_end, "reboot": at_reset });
    bed.vm.call_raw("set-action", actions).map(drop)
}

/// Starts the guest that has suspended itself to disk, as QEMU must have said.
fn start_anew(bed: &Testbed) -> anyhow::Result<()> {
    let mark = bed.vm.qmp.mark();
    bed.vm.call(&qapi::qmp::system_reset {})?;
    (bed.vm).await_event(mark, deadline::RESET, |event| event.name == "RESET")?;
    bed.vm.call(&qapi::qmp::cont {}).map(drop)
}
