//! Breakages that several cases share, and the neutral ones that others begin from. A case takes one by
//! struct update and names what differs, such as the failure that it must see.

use super::{Fault, Moment, Red};
use crate::base::deadline;
use crate::base::words::quote;
use crate::guest::link::Link;
use crate::matrix::Cell;
use crate::matrix::schema::Machine;
use crate::net::sabotage;
use crate::testbed::Testbed;
use crate::vm::cmdline::is_usb;

/// The guest does not show the NIC.
pub const NO_LINK: Red = Red::Missed(deadline::LINK_APPEARS);
/// The host does not reach the guest at all.
pub const NO_PING: Red = Red::Missed(deadline::FIRST_PING);

/// Nothing to do in the running testbed.
pub fn nothing(_: &mut Testbed) -> anyhow::Result<()> {
    Ok(())
}

/// Can be shown on virtio alone.
pub fn virtio(cell: &Cell) -> bool {
    cell.nic.is_virtio()
}

/// Strikes before the case begins, on every cell, and breaks nothing yet. Name, sentence and what the
/// failure must be are still to be given, and a change of the VM or of the testbed.
pub const AT_START: Fault = Fault {
    name: "",
    breaks: "",
    applies: |_| true,
    vm: |_, _| (),
    moment: Moment::Start,
    inject: nothing,
    red: Red::Says(""),
};

/// As [`AT_START`], but strikes when the case has traffic under way.
pub const IN_TRAFFIC: Fault = Fault {
    moment: Moment::Traffic,
    ..AT_START
};

/// The tap is taken out of the bridge.
pub const TAP_UNPLUGGED: Fault = Fault {
    name: "tap_unplugged",
    breaks: "the NIC's tap is taken out of the bridge",
    inject: |bed| {
        let tap = bed.nic().tap.clone();
        sabotage::unplug(&bed.bridge, &tap)
    },
    red: NO_PING,
    ..IN_TRAFFIC
};

/// Every 20th frame from the guest is lost on the host.
pub const LOSSY: Fault = Fault {
    name: "lossy",
    breaks: "every 20th frame that the guest sends is dropped on its tap",
    inject: |bed| {
        let tap = bed.nic().tap.clone();
        sabotage::drop_every(&tap, 20)
    },
    red: Red::Says("replies came back"),
    ..IN_TRAFFIC
};

/// The guest's driver is taken off the NIC.
pub const UNBOUND: Fault = Fault {
    name: "unbound",
    breaks: "the guest's driver is unbound from the NIC",
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
    ..AT_START
};

/// The guest may not load the NIC's driver.
pub const BLACKLISTED: Fault = Fault {
    name: "blacklisted",
    breaks: "the guest is booted with the NIC's driver on its module blacklist",
    vm: |spec, cell| {
        let modules = modules_for(&cell.nic.driver).join(",");
        spec.kernel_parameter(&format!("module_blacklist={modules}"));
    },
    red: NO_LINK,
    ..AT_START
};

/// QEMU is given another model than the cell says.
pub const OTHER_MODEL: Fault = Fault {
    name: "other_model",
    breaks: "QEMU is given another NIC model",
    vm: |spec, cell| {
        let other = match cell.nic.device.as_str() {
            "e1000" => "rtl8139",
            _ => "e1000",
        };
        spec.nics[0].device = other.into();
    },
    red: Red::Says("is bound by the driver"),
    ..AT_START
};

/// Drivers that serve the same devices: where one may not be loaded, a guest takes the other.
const RIVALS: [[&str; 2]; 2] = [["8139cp", "8139too"], ["cdc_ether", "rndis_host"]];

/// The modules that would serve a NIC of `driver`, as the kernel names modules.
fn modules_for(driver: &str) -> Vec<String> {
    let rivals = RIVALS.iter().find(|rivals| rivals.contains(&driver));
    match rivals {
        Some(rivals) => rivals.map(str::to_owned).to_vec(),
        None => vec![driver.replace('-', "_")],
    }
}

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

/// As [`wrap`], of the program that a command of the guest begins with.
///
/// # Errors
/// As there.
pub fn wrap_first(bed: &Testbed, command: &str, script: &str) -> anyhow::Result<()> {
    wrap(bed, program(command), script)
}

/// What a command begins with.
pub fn program(command: &str) -> &str {
    command.split(' ').next().unwrap_or_default()
}

/// Has the guest's `program` succeed without doing anything where these words are among its arguments.
///
/// # Errors
/// As of [`wrap`].
pub fn ignore(bed: &Testbed, program: &str, words: &str) -> anyhow::Result<()> {
    let script = format!("case \" $* \" in *' {words} '*) exit;; esac; exec \"$REAL\" \"$@\"");
    wrap(bed, program, &script)
}

/// Has the guest's ethtool say that it switched offloads, and not do so.
///
/// # Errors
/// As of [`wrap`].
pub fn switch_no_offload(bed: &mut Testbed) -> anyhow::Result<()> {
    ignore(bed, "ethtool", "-K")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blacklist_names_modules_and_all_that_would_serve_the_nic() {
        assert_eq!(modules_for("ne2k-pci"), ["ne2k_pci"]);
        assert_eq!(modules_for("8139too"), ["8139cp", "8139too"]);
        assert_eq!(modules_for("cdc_ether"), ["cdc_ether", "rndis_host"]);
    }
}
