//! Plan item 3: a VM with no kernel and no disk boots from its NIC.

use super::faults::AT_START;
use super::{Case, Fault, Red, StartState};
use crate::base::deadline;
use crate::guest::dialect::Op;
use crate::guest::image::USERSPACE_MARK;
use crate::matrix::schema::BootRom;
use crate::net::capture::{self, Mark};
use crate::net::frame::{Direction, Frame};
use crate::testbed::{Testbed, netboot};
use crate::vm::cmdline::{Boot, Firmware, VmSpec};
use anyhow::{Context, bail, ensure};
use std::time::{Duration, Instant};

/// The boot ROM's last words when it has nothing left to try, and the firmware's.
const GAVE_UP: [&str; 5] = [
    "No more network devices",
    "No bootable device",
    "BdsDxe: failed to load",
    ">>Start PXE over", // OVMF's own, without the ROM
    "Shell>",           // OVMF's last resort
];
/// Between two looks at the console while the wire is awaited.
const LOOK: Duration = Duration::from_millis(200);

const FAULTS: &[Fault] = &[
    Fault {
        name: "no_tftp",
        breaks: "DHCP names the boot file, and there is no TFTP server",
        inject: |bed| bed.serve_boot(false),
        red: Red::Says("`kernel` was not asked for"),
        ..AT_START
    },
    Fault {
        name: "truncated",
        breaks: "TFTP serves the first 64 KiB of the initramfs",
        inject: |bed| netboot::truncate(&bed.boot_file(netboot::INITRD)?, 64 << 10),
        red: Red::Says("the guest's console shows a panic"),
        ..AT_START
    },
    Fault {
        name: "link_down",
        breaks: "QEMU takes the NIC's link down before the VM starts",
        inject: |bed| bed.set_link(false),
        red: Red::Says("`boot.ipxe` was not asked for"),
        ..AT_START
    },
];

/// Through SeaBIOS.
pub static PXE: Case = Case {
    name: "pxe",
    plan_item: "3",
    passes: "the NIC's boot ROM asks for the named file over TFTP (port 69 on the wire), and what it fetches, script, kernel and initramfs, is booted: its userspace answers, was fetched by that MAC, and reaches the host by that NIC",
    applies: |cell| cell.nic.boot_rom != BootRom::No,
    start_state: StartState::Boot,
    vm: |spec| from_nic(spec, Firmware::Bios),
    ops: &[Op::Address],
    seconds: |_| 120.0,
    faults: FAULTS,
    run: pxe,
    ..Case::PLAIN
};

/// Through OVMF.
pub static PXE_EFI: Case = Case {
    name: "pxe_efi",
    passes: "as pxe, by the UEFI driver in the NIC's boot ROM, under OVMF",
    applies: |cell| cell.nic.boot_rom == BootRom::Both,
    vm: |spec| from_nic(spec, Firmware::Uefi),
    ..PXE
};

fn from_nic(spec: &mut VmSpec, firmware: Firmware) {
    spec.boot = Boot::Network(firmware);
    spec.nics[0].properties.push("bootindex=1".into());
}

/// Lets the VM run, and follows the boot ROM over the wire: it asks for script, kernel and initramfs,
/// each of which must be asked for by the NIC under test. The userspace of what was fetched must start,
/// say that it was fetched by that NIC, and reach the host through it.
fn pxe(bed: &mut Testbed) -> anyhow::Result<()> {
    let nic = bed.nic().clone();
    let rom = bed.vm.call(&qapi::qmp::qom_get {
        path: format!("/machine/peripheral/{}", nic.id),
        property: "romfile".into(),
    })?;
    let rom = rom.as_str().unwrap_or_default().to_owned();
    ensure!(!rom.is_empty(), "QEMU has no boot ROM for {}", nic.device);
    let mark = bed.wire()?.mark()?;
    bed.vm.call(&qapi::qmp::cont {})?;
    let mut conversation = Vec::new();
    for file in netboot::FILES {
        let request = await_request(bed, mark, file)
            .map_err(|error| bed.vm.explain(error))
            .with_context(|| format!("`{file}` was not asked for"))?;
        match file {
            // With the DHCP before it. What follows it is too much to keep.
            netboot::SCRIPT => conversation.extend(bed.wire()?.frames(mark)?),
            _ => conversation.push(request),
        }
    }
    let pcap = bed.artifacts.dir().join("netboot.pcap");
    capture::write_frames(&conversation, &pcap)?;
    await_userspace(bed).map_err(|error| bed.vm.explain(error))?;
    bed.agent
        .await_anew()
        .map_err(|error| bed.vm.explain(error))?;
    bed.boot = bed.vm.started.elapsed();
    bed.notes.push(format!(
        "booted by {rom} in {:.1} s",
        bed.boot.as_secs_f64()
    ));
    let parameters = bed.agent.sh("cat /proc/cmdline")?;
    ensure!(
        parameters.contains(&format!("{}={}", netboot::FETCHED_BY, nic.mac)),
        "the guest's kernel was not fetched by {}: its parameters are {parameters}",
        nic.mac
    );
    bed.up().map(drop)
}

/// The request for `file`, awaited until the boot ROM gives up.
fn await_request(bed: &Testbed, mark: Mark, file: &str) -> anyhow::Result<Frame> {
    let asks = |frame: &Frame| {
        frame.direction == Direction::FromGuest && frame.tftp_request().as_deref() == Some(file)
    };
    let (mac, wire) = (bed.nic().mac, bed.wire()?);
    let deadline = deadline::TFTP_REQUEST.start();
    while let Some(left) = deadline.left() {
        if let Ok(frame) = wire.wait(mark, Instant::now() + left.min(LOOK), asks) {
            ensure!(
                frame.src() == Some(mac),
                "another NIC than {mac} asked for `{file}`: {frame}"
            );
            return Ok(frame);
        }
        if bed.vm.death().is_some() || gave_up(&bed.vm.serial.tail(usize::MAX)) {
            break;
        }
    }
    Err(deadline.missed(format!(
        "the tap showed: {}; the console: {}",
        wire.summary(mark)?,
        bed.vm.serial.tail(4).replace('\n', " / ")
    )))
}

fn gave_up(console: &str) -> bool {
    GAVE_UP.iter().any(|words| console.contains(words))
}

fn await_userspace(bed: &Testbed) -> anyhow::Result<()> {
    let deadline = deadline::FETCHED_BOOTS.start();
    let booted = bed.vm.serial.wait(deadline, |console| {
        if console.contains(USERSPACE_MARK) {
            return Some(true);
        }
        gave_up(console).then_some(false)
    });
    if booted == Some(true) {
        return Ok(());
    }
    // A kernel that panics ends QEMU.
    bed.expect_quiet_kernel()?;
    let tail = bed.vm.serial.tail(4).replace('\n', " / ");
    bail!(deadline.missed(format!("the console shows: {tail}")))
}
