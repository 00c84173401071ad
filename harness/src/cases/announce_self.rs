//! QEMU announces a guest's NIC to the network when it is asked to, as what manages a host does when it has changed the
//! network behind the tap.

use super::faults::{self, IN_TRAFFIC, TAP_UNPLUGGED};
use super::{Case, Fault, Moment, Red};
use crate::guest::dialect::Op;
use crate::net::capture::Mark;
use crate::net::frame::Frame;
use crate::testbed::Testbed;
use anyhow::{Context as _, ensure};
use serde_json::json;

/// How often it is asked for by QMP.
const ROUNDS: u64 = 3;
/// How often by the human monitor, which takes it from the parameters of migrations.
const OWN_ROUNDS: u64 = 4;
/// Between two, milliseconds.
const STEP: u64 = 20;
/// What the guest is asked meanwhile: for longer than a further round would take to come.
const REQUESTS: u32 = 10;
const INTERVAL: f64 = 0.05;

/// Beyond the plan.
pub static ANNOUNCE_SELF: Case = Case {
    name: "announce_self",
    passes: "asked over QMP and by the human monitor QEMU sends as many RARP requests with the NIC's MAC as it was asked for, none more, and none where another NIC is named; virtio's guest announces its address by gratuitous ARP as well; the guest answers all the while",
    ops: &[Op::Address],
    faults: &[
        Fault {
            red: Red::Says("no such frame on br0"),
            ..TAP_UNPLUGGED
        },
        Fault {
            name: "once_more",
            breaks: "QEMU announces the NIC once more than it was asked to",
            moment: Moment::Crossed,
            inject: |bed| announce(bed, "more", &bed.nic().id, 1),
            red: Red::Says("4 in place of 3"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "guest_silent",
            breaks: "the guest's interface speaks no ARP",
            applies: faults::virtio,
            inject: |bed| faults::in_guest(bed, "ip link set dev DEV arp off").map(drop),
            red: Red::Says("the guest itself did not announce"),
            ..IN_TRAFFIC
        },
    ],
    run: announce_self,
    ..Case::PLAIN
};

fn announce_self(bed: &mut Testbed) -> anyhow::Result<()> {
    bed.up()?;
    let mac = bed.nic().mac;
    bed.moment(Moment::Traffic)?;
    let mark = bed.bridge_mark()?;
    announce(bed, "another", "another", ROUNDS)?;
    announce(bed, "this", &bed.nic().id, ROUNDS)?;
    bed.moment(Moment::Crossed)?;
    if bed.cell.nic.is_virtio() {
        bed.await_guest_announcement(mark, mac, bed.address(), None)?;
    }
    expect_rounds(bed, mark, ROUNDS).context("by QMP's announce-self, which named it once")?;
    let parameters = json!({
        "announce-initial": STEP, "announce-max": STEP, "announce-step": 1, "announce-rounds": OWN_ROUNDS,
    });
    bed.vm.call_raw("migrate-set-parameters", parameters)?;
    let mark = bed.bridge_mark()?;
    bed.vm.type_in("announce_self")?;
    expect_rounds(bed, mark, OWN_ROUNDS).context("by the human monitor's announce_self")?;
    bed.expect_quiet_kernel()
}

/// Asks QEMU over QMP to announce that NIC; an announcement of the same `id` would be ended.
fn announce(bed: &Testbed, id: &str, nic: &str, rounds: u64) -> anyhow::Result<()> {
    let arguments = json!({
        "initial": STEP, "max": STEP, "step": 0, "rounds": rounds, "interfaces": [nic], "id": id,
    });
    bed.vm.call_raw("announce-self", arguments).map(drop)
}

/// Waits for that many RARP requests with the NIC's MAC since `mark`; there are no more when the guest has answered what
/// takes longer than a further one.
fn expect_rounds(bed: &Testbed, mark: Mark, rounds: u64) -> anyhow::Result<()> {
    let mac = bed.nic().mac;
    bed.await_rounds(mark, [mac; 2], rounds)?;
    let ping = bed.ping().count(REQUESTS).interval(INTERVAL);
    bed.expect_answered(&ping, REQUESTS)?;
    let frames = bed.on_bridge(mark)?;
    let is_rarp = |frame: &&Frame| frame.announcement_of(mac) == Some("RARP");
    let sent = frames.iter().filter(is_rarp).count();
    ensure!(
        sent as u64 == rounds,
        "QEMU sent RARP requests with {mac}: {sent} in place of {rounds}"
    );
    Ok(())
}
