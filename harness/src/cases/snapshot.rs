//! A guest that is set back to a snapshot in its own QEMU (`savevm`, `loadvm`): the NIC, which has done other things
//! meanwhile, is as it was then.

use super::disruption::load_driver_anew;
use super::faults::AT_START;
use super::migrate_state::{leave_vlan, set, takes_vlans, with_queues};
use super::surviving::{GROUP, State, under_new_mac};
use super::{Case, Fault, Moment, Red};
use crate::base::deadline;
use crate::base::error::OrCannotRun as _;
use crate::guest::dialect::Op;
use crate::net::bridge;
use crate::testbed::Testbed;
use crate::vm::cmdline::is_usb;
use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

/// The snapshot, in QEMU's words a tag.
const TAG: &str = "nicmatrix";
/// QEMU's name of the disk that it is on.
const DISK: &str = "snapshots";
/// That of the file below it.
const FILE: &str = "snapshots-file";
/// The job in which QEMU writes an empty one.
const JOB: &str = "create-snapshots";

/// Strikes when the guest was set back, as if what is broken then had not come back.
const NOT_BACK: Fault = Fault {
    moment: Moment::SetBack,
    ..AT_START
};

/// Beyond the plan.
pub static SNAPSHOT: Case = Case {
    name: "snapshot",
    passes: "a MAC, an MTU, VLANs, multicast groups, offloads switched off and (virtio) four queues, set by the guest before a snapshot, hold on the wire, for QEMU and for the guest when it was set back to it, although its driver was unloaded and loaded again meanwhile",
    // What is saved has nothing to do with who carries the frames, and QEMU saves no usb-net.
    applies: |cell| cell.backend.filters() && !is_usb(&cell.nic.device),
    vm: with_queues,
    ops: &[Op::Address, Op::Down, Op::Mac, Op::Mtu, Op::Up, Op::VlanAdd],
    seconds: |_| 60.0,
    faults: &[
        Fault {
            name: "driver_anew",
            breaks: "the guest's driver is unloaded and loaded again when it was set back",
            applies: |cell| cell.nic.takes_mac,
            inject: load_driver_anew,
            red: Red::Says("once it was set back"),
            ..NOT_BACK
        },
        Fault {
            name: "vlan_lost",
            breaks: "the guest has left the VLAN when it was set back",
            // QEMU before 10 has lost virtio's by itself.
            applies: |cell| takes_vlans(cell) && !cell.nic.is_virtio(),
            inject: leave_vlan,
            red: Red::Says("VLAN 10"),
            ..NOT_BACK
        },
        Fault {
            name: "group_lost",
            breaks: "the guest has left the multicast group when it was set back",
            inject: |bed| set(bed, &format!("ip maddr del {GROUP} dev DEV")),
            red: Red::Says("the multicast group"),
            ..NOT_BACK
        },
    ],
    run: snapshot,
    ..Case::PLAIN
};

/// Has the guest set up its NIC, takes a snapshot, has the guest forget all of it, and sets it back. A VLAN that is
/// lost is complained of last, so that it hides nothing else.
fn snapshot(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    add_disk(bed)?;
    let mut state = State::set(bed, &link)?;
    (state.expect(bed))
        .and_then(|()| state.expect_vlans(bed))
        .context("before the snapshot")?;
    bed.notes.push(state.to_string());
    bed.vm.type_in(&format!("savevm {TAG}"))?;
    load_driver_anew(bed)?;
    let anew = under_new_mac(bed)?;
    ensure!(
        anew.mtu == bed.cell.nic.default_mtu(),
        "the guest's driver was loaded again, and its MTU is {}",
        anew.mtu
    );
    bed.vm.type_in(&format!("loadvm {TAG}"))?;
    bed.await_guest().context("set back to its snapshot")?;
    bed.moment(Moment::SetBack)?;
    bridge::flush_neighbour(bed.address())?;
    let back = "once it was set back";
    bed.reach(deadline::FIRST_PING).context(back)?;
    state.expect(bed).context(back)?;
    state.expect_vlans(bed).context(back)?;
    bed.expect_quiet_kernel()
}

/// Gives QEMU a disk for snapshots, which no guest sees and which ends with QEMU: its file has no name any more.
fn add_disk(bed: &Testbed) -> anyhow::Result<()> {
    let path = bed.artifacts.dir().join("snapshots.qcow2");
    let filename = path.to_str().context("no path in UTF-8")?;
    create(
        bed,
        json!({ "driver": "file", "filename": filename, "size": 0 }),
    )?;
    let add = |options: Value| bed.vm.call_raw("blockdev-add", options);
    add(json!({ "driver": "file", "node-name": FILE, "filename": filename }))?;
    create(bed, json!({ "driver": "qcow2", "file": FILE, "size": 0 }))?;
    add(json!({ "driver": "qcow2", "node-name": DISK, "file": FILE }))?;
    std::fs::remove_file(&path).or_cannot_run(|| format!("remove {}", path.display()))
}

/// Has QEMU write an empty disk.
fn create(bed: &Testbed, options: Value) -> anyhow::Result<()> {
    let mark = bed.vm.qmp.mark();
    let arguments = json!({ "job-id": JOB, "options": options });
    bed.vm.call_raw("blockdev-create", arguments)?;
    bed.vm
        .qmp
        .event(mark, deadline::QMP_REPLY.start(), |event| {
            let ours = event.data["id"] == JOB && event.data["status"] == "concluded";
            (event.name == "JOB_STATUS_CHANGE" && ours).then_some(())
        })?;
    let jobs = bed.vm.call_raw("query-jobs", json!({}))?;
    ensure!(
        jobs.as_array()
            .into_iter()
            .flatten()
            .all(|job| job["error"].is_null()),
        "QEMU could not write an empty disk for snapshots: {jobs}"
    );
    bed.vm
        .call_raw("job-dismiss", json!({ "id": JOB }))
        .map(drop)
}
