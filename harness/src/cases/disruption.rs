//! What a case goes on through in a variant `case@word`, to hold again afterwards: a NIC that works
//! once may not after a reboot, a reset or a reload of its driver.

use super::Case;
use crate::base::deadline;
use crate::guest::link;
use crate::matrix::disruption::Disruption;
use crate::testbed::Testbed;
use anyhow::{Context as _, ensure};
use serde_json::json;

/// Makes `disruption` happen to `bed`, and shows that it did.
///
/// # Errors
/// When the guest does not live through it, or is not then as it should be.
pub(crate) fn happen(disruption: Disruption, bed: &mut Testbed, case: &Case) -> anyhow::Result<()> {
    let rearm = |bed: &mut Testbed| {
        // Addresses that the case took away are set anew.
        bed.addressed = false;
        case.rearm.map_or(Ok(()), |rearm| rearm(bed))
    };
    match disruption {
        Disruption::Again => rearm(bed),
        Disruption::StopCont => {
            stop_cont(bed)?;
            rearm(bed)
        }
        Disruption::Reboot => boot_anew(bed, |bed| bed.agent.start_last("reboot -f").map(drop)),
        Disruption::SystemReset => boot_anew(bed, |bed| {
            bed.vm.call(&qapi::qmp::system_reset {}).map(drop)
        }),
        Disruption::Reload => reload(bed),
    }
}

/// Halts the guest and lets it go on: its interfaces must be as they were.
pub(super) fn stop_cont(bed: &mut Testbed) -> anyhow::Result<()> {
    let before = link::links(&bed.agent)?;
    bed.vm.call(&qapi::qmp::stop {})?;
    let status = bed.vm.call(&qapi::qmp::query_status {})?;
    ensure!(
        !status.running,
        "after `stop` QEMU says that the guest runs"
    );
    bed.vm.call(&qapi::qmp::cont {})?;
    let after = link::links(&bed.agent)?;
    ensure!(
        before == after,
        "`stop` and `cont` changed the guest's interfaces from {before:?} to {after:?}"
    );
    Ok(())
}

/// Has `begin` make the guest boot again; nothing that was set in the guest may be left then.
pub(super) fn boot_anew(
    bed: &mut Testbed,
    begin: impl FnOnce(&Testbed) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    // A panic reboots too, and ends the VM at all other times.
    let on_reboot = |action| bed.vm.call_raw("set-action", json!({ "reboot": action }));
    on_reboot("reset")?;
    let mark = bed.vm.qmp.mark();
    begin(bed)?;
    (bed.vm).await_event(mark, deadline::RESET, |event| event.name == "RESET")?;
    // SeaBIOS resets once more by itself.
    bed.await_guest().context("after the reset")?;
    on_reboot("shutdown")?;
    as_new(bed)
}

fn reload(bed: &mut Testbed) -> anyhow::Result<()> {
    load_driver_anew(bed)?;
    as_new(bed)
}

/// Has the guest unload its NIC's driver and load it again.
pub(super) fn load_driver_anew(bed: &mut Testbed) -> anyhow::Result<()> {
    let driver = &bed.cell.nic.driver;
    let module = format!("/sys/module/{driver}");
    let command = format!("modprobe -r {driver} && ! [ -e {module} ] && modprobe {driver}");
    bed.agent.sh(&command).map(drop)
}

/// Nothing that was set is left: the NIC, if it is plugged, has its own MAC and the default MTU.
fn as_new(bed: &mut Testbed) -> anyhow::Result<()> {
    bed.addressed = false;
    if bed.nic().hotplug {
        return Ok(());
    }
    let link = bed.link()?;
    ensure!(
        link.mtu == bed.cell.nic.default_mtu(),
        "the NIC begins anew, but with an MTU of {}, not {}",
        link.mtu,
        bed.cell.nic.default_mtu()
    );
    Ok(())
}
