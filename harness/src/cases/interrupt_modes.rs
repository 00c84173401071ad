//! A NIC that can send its interrupts as messages raises a line too, which its driver takes where a kernel, a machine or a
//! driver's parameter forbids messages. (No Linux takes MSI of QEMU's NICs: e1000e could, but finds that none comes when it
//! tries.)

use super::faults::{AT_START, IN_TRAFFIC};
use super::one_by_one::{HELD_BACK, answered_one_by_one};
use super::rings::MIB;
use super::transfer::{self, ALTERED};
use super::{Case, Fault, Moment, Red};
use crate::guest::dialect::Op;
use crate::guest::interrupts;
use crate::guest::link::Link;
use crate::guest::pci_config;
use crate::matrix::schema::{Dialect, Interrupts};
use crate::matrix::{Backend, Cell};
use crate::net::addr::HOST;
use crate::net::transfer::blocks;
use crate::testbed::Testbed;
use anyhow::{Context as _, ensure};
use std::time::Duration;

/// Pings by each.
const PINGS: u16 = 50;
/// ICMP's identifier of them with the first.
const ID: u16 = 0x696d;

/// Beyond the plan.
pub static INTERRUPT_MODES: Case = Case {
    name: "interrupt_modes",
    passes: "a NIC with MSI-X works by INTx too where the guest's kernel forbids messages, and then by MSI-X again: of 50 pings, one at a time, each is answered without waiting, its interrupts are counted, the guest notices a link that goes and comes, and a file crosses each way with its SHA-256",
    applies,
    ops: &[Op::Address],
    seconds: |_| 60.0,
    faults: &[
        Fault {
            name: "not_forbidden",
            breaks: "the guest's kernel takes messages from the NIC although they are forbidden",
            inject: |bed| {
                let file = msi_bus(&bed.link()?);
                bed.agent
                    .sh(&format!("mount --bind /dev/null {file}"))
                    .map(drop)
            },
            red: Red::Says("takes its interrupts by MSI-X"),
            ..AT_START
        },
        HELD_BACK,
        Fault {
            name: "uncounted",
            breaks: "the guest counts no interrupt of the NIC",
            inject: |bed| {
                let script = "cat /proc/interrupts >/tmp/stopped && \
                              mount --bind /tmp/stopped /proc/interrupts";
                bed.agent.sh(script).map(drop)
            },
            red: Red::Says("no interrupt was counted"),
            ..IN_TRAFFIC
        },
        ALTERED,
    ],
    run: interrupt_modes,
    ..Case::PLAIN
};

/// With vhost only messages are possible: QEMU carries the frames itself where the guest takes none. The kernel of RHEL 7
/// forbids messages to a whole bus alone.
fn applies(cell: &Cell) -> bool {
    use Dialect::{Rhel8, Rhel9, Rhel10};
    cell.nic.interrupts == Some(Interrupts::Msix)
        && cell.backend == Backend::Tap
        && matches!(cell.guest.dialect, Rhel8 | Rhel9 | Rhel10)
}

fn interrupt_modes(bed: &mut Testbed) -> anyhow::Result<()> {
    transfer::make_file(bed, blocks(MIB))?;
    for (id, mode) in [(ID, Interrupts::Intx), (ID + 1, Interrupts::Msix)] {
        take(bed, mode).with_context(|| format!("told to take its interrupts by {mode}"))?;
        works(bed, mode, id).with_context(|| format!("with interrupts by {mode}"))?;
    }
    bed.expect_quiet_kernel()
}

/// Whether the function may send messages (kernel: `msi_bus_store`); its driver heeds it when it takes the NIC.
fn msi_bus(link: &Link) -> String {
    format!("/sys/bus/pci/devices/{}/msi_bus", link.pci)
}

/// Has the driver begin anew, with interrupts by `mode`.
fn take(bed: &mut Testbed, mode: Interrupts) -> anyhow::Result<()> {
    let link = bed.link()?;
    let messages = u8::from(mode != Interrupts::Intx);
    let device = format!("/sys/bus/pci/devices/{}", link.pci);
    let script = format!(
        "echo {messages} >{} && echo {pci} >{device}/driver/unbind && \
         echo {pci} >/sys/bus/pci/drivers_probe",
        msi_bus(&link),
        pci = link.pci
    );
    bed.agent.sh(&script)?;
    bed.addressed = false;
    let link = bed.up()?;
    let taken = pci_config::interrupts(&bed.agent, &link.pci)?;
    ensure!(
        taken == mode,
        "{} takes its interrupts by {taken}",
        link.driver
    );
    Ok(())
}

/// Pings, the link, and a file each way.
fn works(bed: &mut Testbed, mode: Interrupts, id: u16) -> anyhow::Result<()> {
    let link = bed.link()?;
    bed.know_each_other(&link)?;
    bed.moment(Moment::Traffic)?;
    let before = counted(bed, &link)?;
    let took = answered_one_by_one(bed, id, PINGS)?;
    let came = counted(bed, &link)?.saturating_sub(before);
    ensure!(
        came > 0,
        "no interrupt was counted while {PINGS} pings were answered"
    );
    bed.notes.push(format!(
        "{mode}: {came} interrupts while {PINGS} pings were answered; {took}"
    ));
    // QEMU 7.2's e1000e tells its guest nothing of its link, which link_status looks at.
    if bed.cell.nic.device != "e1000e" {
        bed.expect_operstate(&link, "up")?;
        bed.set_link(false)?;
        bed.expect_operstate(&link, "down")?;
        bed.set_link(true)?;
        bed.expect_operstate(&link, "up")?;
    }
    let blocks = blocks(MIB);
    transfer::from_guest(bed, HOST.into(), blocks, Duration::ZERO)?;
    transfer::to_guest(bed, HOST.into(), blocks, Duration::ZERO)?;
    Ok(())
}

/// How many of the NIC's interrupts the guest has counted.
fn counted(bed: &Testbed, link: &Link) -> anyhow::Result<u64> {
    let numbers = interrupts::numbers(&bed.agent, &link.pci)?;
    Ok(interrupts::counts(&bed.agent, &numbers)?.iter().sum())
}
