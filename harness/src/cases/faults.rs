//! Breakages that several cases share. A case takes one by struct update and names the words that
//! its own failure must contain.

use super::{Fault, Moment, Red};
use crate::base::deadline;
use crate::base::words::quote;
use crate::guest::link::Link;
use crate::matrix::Cell;
use crate::matrix::schema::Machine;
use crate::net::sabotage;
use crate::testbed::Testbed;
use crate::vm::cmdline::{VmSpec, is_usb};

/// The guest does not show the NIC.
pub const NO_LINK: Red = Red::Missed(deadline::LINK_APPEARS);
/// The host does not reach the guest at all.
pub const NO_PING: Red = Red::Missed(deadline::FIRST_PING);

/// No change of the VM.
pub fn same_vm(_: &mut VmSpec) {}

/// Nothing to do in the running testbed.
pub fn nothing(_: &mut Testbed) -> anyhow::Result<()> {
    Ok(())
}

/// Can be shown on every cell.
pub fn anywhere(_: &Cell) -> bool {
    true
}

/// Can be shown on virtio alone.
pub fn virtio(cell: &Cell) -> bool {
    cell.nic.is_virtio()
}

/// The tap is taken out of the bridge.
pub const TAP_UNPLUGGED: Fault = Fault {
    name: "tap_unplugged",
    breaks: "the NIC's tap is taken out of the bridge",
    applies: anywhere,
    vm: same_vm,
    moment: Moment::Traffic,
    inject: |bed| {
        let tap = bed.nic().tap.clone();
        sabotage::unplug(&bed.bridge, &tap)
    },
    red: NO_PING,
};

/// Every 20th frame from the guest is lost on the host.
pub const LOSSY: Fault = Fault {
    name: "lossy",
    breaks: "every 20th frame that the guest sends is dropped on its tap",
    inject: |bed| {
        let tap = bed.nic().tap.clone();
        sabotage::drop_every(&tap, 20)
    },
    ..TAP_UNPLUGGED
};

/// Frames from the host to the guest above a size are lost.
pub const SMALL_TAP: Fault = Fault {
    name: "small_tap",
    breaks: "the tap's MTU is lowered to 1000",
    inject: |bed| {
        let tap = bed.nic().tap.clone();
        sabotage::set_tap_mtu(&tap, 1000)
    },
    ..TAP_UNPLUGGED
};

/// The guest's driver is taken off the NIC.
pub const UNBOUND: Fault = Fault {
    name: "unbound",
    breaks: "the guest's driver is unbound from the NIC",
    moment: Moment::Start,
    inject: |bed| {
        let link = bed.link()?;
        let directory = Testbed::device_directory(&link);
        bed.agent
            .sh(&format!(
                "basename $(readlink -f {directory}) >{directory}/driver/unbind"
            ))
            .map(drop)
    },
    red: NO_LINK,
    ..TAP_UNPLUGGED
};

/// The guest may not load the NIC's driver.
pub const BLACKLISTED: Fault = Fault {
    name: "blacklisted",
    breaks: "the guest is booted with the NIC's driver on its module blacklist",
    moment: Moment::Start,
    vm: |spec| {
        spec.kernel_parameter(
            "module_blacklist=virtio_net,8139cp,8139too,e1000,e1000e,igb,vmxnet3,pcnet32,ne2k_pci,tulip,e100,rndis_host,cdc_ether",
        );
    },
    inject: nothing,
    red: NO_LINK,
    ..TAP_UNPLUGGED
};

/// QEMU is given another model than the cell says.
pub const OTHER_MODEL: Fault = Fault {
    name: "other_model",
    breaks: "QEMU is given another NIC model",
    moment: Moment::Start,
    vm: |spec| {
        let other = if spec.nics[0].device == "e1000" {
            "rtl8139"
        } else {
            "e1000"
        };
        spec.nics[0].device = other.into();
    },
    inject: nothing,
    red: Red::Says("is bound by the driver"),
    ..TAP_UNPLUGGED
};

/// Whether the cell's NIC is on the PCI bus of an i440FX machine.
pub fn on_i440fx_pci(cell: &Cell) -> bool {
    cell.guest.machine == Machine::Pc && !is_usb(&cell.nic.device)
}

/// Runs a shell command on the NIC under test's interface, `DEV` in its text.
///
/// # Errors
/// When the guest does not show the NIC or refuses the command.
pub fn in_guest(bed: &Testbed, command: &str) -> anyhow::Result<Link> {
    let link = bed.link()?;
    bed.agent.sh(&command.replace("DEV", &link.name))?;
    Ok(link)
}

/// Puts a script in the place of the guest's `program`; `"$REAL"` in it is the program itself.
///
/// # Errors
/// When the guest has no such program, or refuses.
pub fn wrap(bed: &Testbed, program: &str, script: &str) -> anyhow::Result<()> {
    let real = format!("/root/wrapped/{program}");
    let script = quote(&format!("#!/bin/sh\nREAL={real}\n{script}\n"));
    let command = format!(
        "path=$(command -v {program}) && mkdir -p /root/wrapped && cp -L $path {real} \
         && rm $path && printf %s {script} >$path && chmod +x $path"
    );
    bed.agent.sh(&command).map(drop)
}
