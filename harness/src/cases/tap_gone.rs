//! Beyond the plan: the host takes a NIC's tap away under a running guest, as a network daemon that starts anew may.

use super::disruption::boot_anew;
use super::faults::IN_TRAFFIC;
use super::{Case, Fault, Moment, Red};
use crate::guest::dialect::Op;
use crate::guest::link;
use crate::net::addr::{self, HOST};
use crate::net::{bridge, sabotage};
use crate::testbed::Testbed;
use crate::vm::cmdline::{NicSpec, VmSpec};
use crate::vm::start_state::StartState;
use anyhow::{Context as _, ensure};

/// The other NIC's place and model.
const OTHER: u8 = 1;
const MODEL: &str = "rtl8139";

/// A NIC whose tap has gone.
pub static TAP_GONE: Case = Case {
    name: "tap_gone",
    passes: "when the host deletes the NIC's tap and the guest is reset, QEMU runs on, the guest's driver takes the NIC again and brings it up, and another NIC of the guest works before and after that",
    start_state: StartState::ColdDriver,
    vm: beside,
    ops: &[Op::Address, Op::Up],
    faults: &[
        Fault {
            name: "both_unplugged",
            breaks: "the other NIC's tap is taken out of the bridge as well",
            inject: |bed| sabotage::unplug(&bed.bridge, &bed.vm.spec.nics[usize::from(OTHER)].tap),
            red: Red::Says("by the other NIC"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "quits",
            breaks: "QEMU ends with its NIC's tap",
            inject: |bed| bed.vm.call(&qapi::qmp::quit {}).map(drop),
            red: Red::Says("QEMU ended"),
            ..IN_TRAFFIC
        },
    ],
    run: tap_gone,
    ..Case::PLAIN
};

fn beside(spec: &mut VmSpec) {
    spec.nics.push(NicSpec {
        place: OTHER,
        id: format!("nic{OTHER}"),
        device: MODEL.into(),
        mac: addr::mac("tap_gone", OTHER),
        tap: format!("tap{OTHER}"),
        vhost: false,
        bare_tap: false,
        queues: 1,
        properties: Vec::new(),
        hotplug: false,
    });
}

fn tap_gone(bed: &mut Testbed) -> anyhow::Result<()> {
    bed.up()?;
    // They end with their interface.
    bed.stop_captures();
    bridge::delete(&bed.nic().tap)?;
    bed.moment(Moment::Traffic)?;
    boot_anew(bed, |bed| {
        bed.vm.call(&qapi::qmp::system_reset {}).map(drop)
    })?;
    let link = bed.link()?;
    ensure!(
        link.driver == bed.cell.nic.driver,
        "the NIC without a tap is bound by the driver {}",
        link.driver
    );
    let mac = bed.vm.spec.nics[usize::from(OTHER)].mac;
    let other = link::await_link(&bed.agent, mac)?;
    bed.apply(Op::Address, &other, &addr::guest_with_prefix(OTHER))?;
    reaches(bed).context("before the NIC without a tap is up")?;
    bed.apply(Op::Up, &link, "")?;
    reaches(bed).context("with the NIC without a tap up")?;
    bed.expect_quiet_kernel()
}

/// The guest reaches the host, and QEMU says that the guest runs.
fn reaches(bed: &Testbed) -> anyhow::Result<()> {
    bed.guest_expect_answered(2, "-i 0.1", HOST)
        .context("by the other NIC")
        .map_err(|error| bed.vm.explain(error))?;
    let status = bed.vm.call(&qapi::qmp::query_status {})?;
    ensure!(status.running, "QEMU says that the guest does not run");
    Ok(())
}
