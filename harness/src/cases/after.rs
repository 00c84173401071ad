//! What a case goes on through in a variant `case@word`, to hold again afterwards: a NIC that works
//! once may not after a reboot, a reset or a reload of its driver.

use super::{Case, Start};
use crate::guest::link;
use crate::run::deadline;
use crate::testbed::Testbed;
use anyhow::{Context as _, ensure};
use serde::Serialize;
use serde_json::json;

/// Ethernet's, which a driver begins with.
const DEFAULT_MTU: u32 = 1500;

/// What happens between a case's first run and its second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum After {
    /// Nothing: it holds twice.
    Again,
    /// The VM stands still and goes on (`stop`, `cont`).
    StopCont,
    /// The guest reboots by itself.
    Reboot,
    /// The machine is reset (`system_reset`).
    SystemReset,
    /// The guest unloads the NIC's driver and loads it again.
    Reload,
}

impl After {
    /// Each, by its word in a profile's `after` and in a trial's name.
    pub const WORDS: [(&str, After); 5] = [
        ("again", After::Again),
        ("stop_cont", After::StopCont),
        ("reboot", After::Reboot),
        ("system_reset", After::SystemReset),
        ("reload", After::Reload),
    ];

    /// As in a trial's name.
    pub fn word(self) -> &'static str {
        let found = Self::WORDS.iter().find(|(_, after)| *after == self);
        found.map_or("", |(word, _)| word)
    }

    /// Makes it happen, and shows that it did.
    ///
    /// # Errors
    /// When the guest does not live through it, or is not then as it should be.
    pub(crate) fn happen(self, bed: &mut Testbed, case: &Case) -> anyhow::Result<()> {
        let again = |bed: &mut Testbed| {
            // Addresses that the case took away are set anew.
            bed.start = Start::Boot;
            case.again.map_or(Ok(()), |again| again(bed))
        };
        match self {
            After::Again => again(bed),
            After::StopCont => {
                stop_cont(bed)?;
                again(bed)
            }
            After::Reboot => boot_anew(bed, |bed| bed.agent.start("reboot -f").map(drop)),
            After::SystemReset => boot_anew(bed, |bed| {
                bed.vm.call(&qapi::qmp::system_reset {}).map(drop)
            }),
            After::Reload => reload(bed),
        }
    }
}

fn stop_cont(bed: &mut Testbed) -> anyhow::Result<()> {
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

fn boot_anew(
    bed: &mut Testbed,
    begin: impl FnOnce(&Testbed) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    // A panic reboots too, and ends the VM at all other times.
    let on_reboot = |action| bed.vm.call_raw("set-action", json!({ "reboot": action }));
    on_reboot("reset")?;
    let mark = bed.vm.qmp.mark();
    begin(bed)?;
    bed.vm
        .qmp
        .event(mark, deadline::RESET.start(), |event| {
            (event.name == "RESET").then_some(())
        })
        .map_err(|error| bed.vm.explain(error))?;
    // SeaBIOS resets once more by itself.
    bed.agent
        .await_anew()
        .map_err(|error| bed.vm.explain(error))
        .context("after the reset")?;
    on_reboot("shutdown")?;
    as_new(bed)
}

fn reload(bed: &mut Testbed) -> anyhow::Result<()> {
    let driver = bed.cell.nic.driver.clone();
    let module = format!("/sys/module/{driver}");
    bed.agent.sh(&format!(
        "modprobe -r {driver} && ! [ -e {module} ] && modprobe {driver}"
    ))?;
    as_new(bed)
}

/// Nothing that was set is left: the NIC, if it is plugged, has its own MAC and the default MTU.
fn as_new(bed: &mut Testbed) -> anyhow::Result<()> {
    bed.start = Start::Boot;
    if bed.nic().hotplug {
        return Ok(());
    }
    let link = bed.link()?;
    ensure!(
        link.mtu == DEFAULT_MTU,
        "the NIC begins anew, but with an MTU of {}",
        link.mtu
    );
    Ok(())
}
