//! Plan item 3: a VM with no kernel and no disk boots from its NIC.

use super::faults::AT_START;
use super::{Case, Fault, Red, StartState};
use crate::base::deadline::{self, Deadline};
use crate::base::error::Skip;
use crate::guest::dialect::Op;
use crate::guest::image::USERSPACE_MARK;
use crate::matrix::schema::BootRom;
use crate::net::capture::{self, Mark};
use crate::net::frame::{BootClient, Direction, Frame};
use crate::testbed::{Testbed, netboot};
use crate::vm::cmdline::{Boot, Firmware, VmSpec};
use anyhow::{Context, bail, ensure};
use std::time::{Duration, Instant};

/// The boot ROM's last words when it has nothing left to try, and the firmware's.
const GAVE_UP: [&str; 5] = [
    "No more network devices",
    "No bootable device",
    "BdsDxe: failed to load",
    "PXE-E",  // an error of EDK2's PXE client
    "Shell>", // OVMF's last resort
];
/// The first words of EDK2's PXE client: the last ones of a ROM's iPXE before it.
const EDK2_BEGINS: &str = ">>Start PXE over";
/// Between two looks at the console while the wire is awaited.
const LOOK: Duration = Duration::from_millis(200);

/// Of the failure when a file was fetched in vain, or not whole.
const NOT_ASKED_FOR_AFTER: &str = "was not asked for after `";

const FAULTS: &[Fault] = &[
    Fault {
        name: "no_tftp",
        breaks: "DHCP names the boot file, and there is no TFTP server",
        inject: |bed| bed.serve_boot(false),
        red: Red::Says(NOT_ASKED_FOR_AFTER),
        ..AT_START
    },
    Fault {
        name: "first_cut",
        breaks: "TFTP serves the first 16 bytes of the file that DHCP names, be it iPXE's script or an EFI program",
        inject: |bed| {
            for first in [netboot::EFI_PROGRAM, netboot::SCRIPT] {
                let file = bed.boot_file(first)?;
                if file.exists() {
                    netboot::truncate(&file, 16)?;
                }
            }
            Ok(())
        },
        red: Red::Says(NOT_ASKED_FOR_AFTER),
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
        red: Red::Missed(deadline::BOOT_CLIENT),
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
    passes: "as pxe, by the UEFI driver in the NIC's boot ROM, under OVMF; where OVMF's own client asks in place of the ROM's iPXE, it first fetches iPXE, an EFI program, and boots that",
    applies: |cell| cell.nic.boot_rom == BootRom::Both,
    vm: |spec| from_nic(spec, Firmware::Uefi),
    // OVMF's own client may take its time, and iPXE asks for an address once more.
    seconds: |_| 240.0,
    ..PXE
};

fn from_nic(spec: &mut VmSpec, firmware: Firmware) {
    spec.boot = Boot::Network(firmware);
    spec.nics[0].properties.push("bootindex=1".into());
}

/// Lets the VM run, and follows what boots over the wire: the client that asks for an address is told
/// apart, and asks for script, kernel and initramfs, OVMF's own for iPXE before; each file must be asked
/// for by the NIC under test. The userspace of what was fetched must start, say that it was fetched by
/// that NIC, and reach the host through it.
fn pxe(bed: &mut Testbed) -> anyhow::Result<()> {
    let nic = bed.nic().clone();
    let rom = bed.vm.call(&qapi::qmp::qom_get {
        path: format!("/machine/peripheral/{}", nic.id),
        property: "romfile".into(),
    })?;
    let rom = rom.as_str().unwrap_or_default().to_owned();
    ensure!(!rom.is_empty(), "QEMU has no boot ROM for {}", nic.device);
    // The guest has not run yet.
    let begin = bed.wire()?.mark()?.nothing_under_way();
    let mark = begin.mark();
    bed.vm.call(&qapi::qmp::cont {})?;
    let client = await_client(bed, mark).map_err(|error| bed.vm.explain(error))?;
    if client == BootClient::Uefi && !bed.boot_file(netboot::EFI_PROGRAM)?.exists() {
        bail!(Skip(format!(
            "{client} boots, which takes an EFI program, and iPXE is not installed as one (Debian's package `ipxe`)"
        )));
    }
    let mut conversation = Vec::new();
    let mut before: Option<&str> = None;
    let all = netboot::FILES.iter();
    for file in all.filter(|file| client == BootClient::Uefi || **file != netboot::EFI_PROGRAM) {
        let request = await_request(bed, mark, client, file)
            .map_err(|error| bed.vm.explain(error))
            .with_context(|| match before {
                None => format!("`{file}` was not asked for by {client}"),
                Some(before) => format!("`{file}` {NOT_ASKED_FOR_AFTER}{before}`"),
            })?;
        match before {
            // With the DHCP before it. What follows it is too much to keep.
            None => conversation.extend(bed.wire()?.frames(begin)?),
            Some(_) => conversation.push(request),
        }
        before = Some(file);
    }
    let pcap = bed.artifacts.dir().join("netboot.pcap");
    capture::write_frames(&conversation, &pcap)?;
    await_userspace(bed, client).map_err(|error| bed.vm.explain(error))?;
    bed.await_guest()?;
    bed.boot = bed.vm.started.elapsed();
    bed.notes.push(format!(
        "booted by {rom} in {:.1} s; first to ask was {client}",
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

/// What boots, by its first DHCP message.
fn await_client(bed: &Testbed, mark: Mark) -> anyhow::Result<BootClient> {
    let mac = bed.nic().mac;
    let mut client = None;
    await_frame(bed, mark, deadline::BOOT_CLIENT.start(), None, |frame| {
        let dhcp = frame.dhcp().filter(|dhcp| dhcp.client == mac);
        client = dhcp.and_then(|dhcp| dhcp.boots);
        client.is_some()
    })?;
    client.context("the frame that was awaited tells no client")
}

/// The request for `file`, awaited until `client` gives up.
fn await_request(
    bed: &Testbed,
    mark: Mark,
    client: BootClient,
    file: &str,
) -> anyhow::Result<Frame> {
    let deadline = match file {
        netboot::EFI_PROGRAM => deadline::TFTP_REQUEST.start_with(deadline::EDK2_OFFERS),
        _ => deadline::TFTP_REQUEST.start(),
    };
    let asks = |frame: &Frame| {
        frame.direction == Direction::FromGuest && frame.tftp_request().as_deref() == Some(file)
    };
    let request = await_frame(bed, mark, deadline, Some(client), asks)?;
    let mac = bed.nic().mac;
    ensure!(
        request.src() == Some(mac),
        "another NIC than {mac} asked for `{file}`: {request}"
    );
    Ok(request)
}

/// The first frame since `mark` that is `wanted`, awaited until the console says that there is none to
/// come.
fn await_frame(
    bed: &Testbed,
    mark: Mark,
    deadline: Deadline,
    client: Option<BootClient>,
    mut wanted: impl FnMut(&Frame) -> bool,
) -> anyhow::Result<Frame> {
    let wire = bed.wire()?;
    while let Some(left) = deadline.left() {
        if let Ok(frame) = wire.wait(mark, Instant::now() + left.min(LOOK), &mut wanted) {
            return Ok(frame);
        }
        if bed.vm.death().is_some() || gave_up(&bed.vm.serial.tail(usize::MAX), client) {
            break;
        }
    }
    Err(deadline.missed(format!(
        "the tap showed: {}; the console: {}",
        wire.summary(mark)?,
        bed.vm.serial.tail(4).replace('\n', " / ")
    )))
}

/// Whether `console` says that nothing more will be asked for. The firmware's own client after the ROM's
/// iPXE is no success of the ROM's.
fn gave_up(console: &str, client: Option<BootClient>) -> bool {
    let said = |words: &str| console.contains(words);
    GAVE_UP.into_iter().any(said) || (client == Some(BootClient::Ipxe) && said(EDK2_BEGINS))
}

fn await_userspace(bed: &Testbed, client: BootClient) -> anyhow::Result<()> {
    let deadline = deadline::FETCHED_BOOTS.start();
    let booted = bed.vm.serial.wait(deadline, |console| {
        if console.contains(USERSPACE_MARK) {
            return Some(true);
        }
        gave_up(console, Some(client)).then_some(false)
    });
    if booted == Some(true) {
        return Ok(());
    }
    // A kernel that panics ends QEMU.
    bed.expect_quiet_kernel()?;
    let tail = bed.vm.serial.tail(4).replace('\n', " / ");
    bail!(deadline.missed(format!("the console shows: {tail}")))
}
