//! Plan item 18: vhost-net, with and without zero-copy transmission.

use super::faults::AT_START;
use super::transfer::{self as files, ALTERED};
use super::{Case, Fault, Moment, Red};
use crate::guest::dialect::Op;
use crate::guest::link::Link;
use crate::host::kernel_facts::{self, ZCOPYTX};
use crate::host::vhost;
use crate::host::zero_copy::{Counted, ZeroCopy};
use crate::matrix::{Backend, Cell};
use crate::net::addr::{self, HOST, Mac};
use crate::net::transfer;
use crate::testbed::Testbed;
use crate::testbed::backend::NOT_SERVED;
use anyhow::ensure;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::time::Duration;

/// Where frames go that nobody is to keep: whoever keeps a frame takes a copy of its pages.
const SINK: &str = "sink0";
/// The place of its address, which no NIC of the trial has.
const SINK_PLACE: u8 = 190;
const SINK_MAC: Mac = Mac([0x02, 0x00, 198, 18, 0, 190]);

/// Frames to the sink, and the bytes of their payload: vhost_net sends from the guest's pages from 256
/// bytes on (VHOST_GOODCOPY_LEN), and not all, as now and then it looks whether that is worth while.
const FRAMES: u32 = 200;
const PAYLOAD: u32 = 1400;

/// Of a file that crosses, the part that QEMU may read or write itself, of this many: what the monitor
/// and the agent say.
const OF_QEMU: u64 = 4;

/// Plan item 18.
pub static ZCOPY: Case = Case {
    name: "zcopy",
    plan_item: "18",
    passes: "vhost_net's experimental_zcopytx reads what the cell says; frames leave the guest's own pages with 1, and never with 0; a file crosses intact both ways, and not through QEMU",
    applies: with_vhost,
    ops: &[Op::Address],
    seconds: files::seconds,
    faults: &[
        NOT_USED,
        Fault {
            name: "other_setting",
            breaks: "experimental_zcopytx reads the other way round",
            applies: with_vhost,
            inject: read_otherwise,
            red: Red::Says("this cell needs"),
            ..AT_START
        },
        Fault {
            name: "small_frames",
            breaks: "the guest's MTU keeps its frames below what is sent without a copy",
            applies: |cell| cell.backend == Backend::VhostZcopy,
            inject: |bed| {
                let link = bed.link()?;
                bed.apply(Op::Mtu, &link, "200")
            },
            red: Red::Says("left the guest's own pages"),
            ..AT_START
        },
        Fault {
            applies: with_vhost,
            ..ALTERED
        },
    ],
    run: zcopy,
    ..Case::PLAIN
};

/// vhost is asked for, and the VM does not have it.
const NOT_USED: Fault = Fault {
    name: "vhost_not_used",
    breaks: "the netdev is added without vhost=on",
    applies: with_vhost,
    vm: |spec, _| spec.nics[0].vhost = false,
    red: Red::Says(NOT_SERVED),
    ..AT_START
};

fn with_vhost(cell: &Cell) -> bool {
    cell.backend != Backend::Tap
}

/// Reads the module's parameter, which must be the cell's. Counts which frames leave the guest's own
/// pages: some with zero copy, none without. At last a file must cross each way, past QEMU.
fn zcopy(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    let wanted = bed.cell.backend == Backend::VhostZcopy;
    let reads = kernel_facts::of_this_kernel().zcopytx;
    ensure!(
        reads == Some(wanted),
        "experimental_zcopytx reads {}, this cell needs {}",
        reads.map_or("nothing".into(), |on| u8::from(on).to_string()),
        u8::from(wanted)
    );
    let counted = to_sink(bed, &link)?;
    let Counted { sent, copied } = counted;
    bed.evidence(&format!(
        "experimental_zcopytx={}: of {FRAMES} frames to a device that keeps none, {sent} left the guest's own pages, {copied} more had to be copied on the way",
        u8::from(wanted)
    ));
    match wanted {
        true => ensure!(
            sent > 0,
            "of {FRAMES} frames none left the guest's own pages ({copied} were copied on the way), with experimental_zcopytx=1"
        ),
        false => ensure!(
            counted == Counted::default(),
            "{sent} frames left the guest's own pages and {copied} were copied on the way, with experimental_zcopytx=0"
        ),
    }
    transfer_past_qemu(bed)?;
    bed.expect_quiet_kernel()
}

/// Has the guest send frames to a device that keeps none, and counts.
fn to_sink(bed: &mut Testbed, link: &Link) -> anyhow::Result<Counted> {
    // A capture keeps every frame.
    bed.stop_captures();
    bed.bridge.plug_sink(SINK)?;
    let address = addr::guest(SINK_PLACE);
    let device = &link.name;
    bed.agent.sh(&format!(
        "ip neigh replace {address} lladdr {SINK_MAC} nud permanent dev {device}"
    ))?;
    let watching = ZeroCopy::watch()?;
    let netcat = bed.cell.guest.dialect.send_udp(address.into(), 9);
    bed.agent.sh(&format!(
        "dd if=/dev/zero bs={PAYLOAD} count={FRAMES} | {netcat}"
    ))?;
    let counted = watching.take(bed.vm.pid())?;
    bed.bridge.detach(SINK)?;
    Ok(counted)
}

/// A file each way, of which QEMU itself must see next to nothing.
fn transfer_past_qemu(bed: &mut Testbed) -> anyhow::Result<()> {
    let blocks = transfer::blocks(bed.profile.transfer_mib);
    files::make_file(bed, blocks)?;
    bed.moment(Moment::Traffic)?;
    let before = vhost::passed(bed.vm.pid())?;
    let from = files::from_guest(bed, HOST.into(), blocks, Duration::ZERO)?;
    let to = files::to_guest(bed, HOST.into(), blocks, Duration::ZERO)?;
    let passed = vhost::passed(bed.vm.pid())? - before;
    let file = u64::from(blocks) * transfer::BLOCK as u64;
    bed.evidence(&format!(
        "files of {file} bytes crossed in {from:?} and {to:?}; QEMU read and wrote {passed} bytes meanwhile"
    ));
    ensure!(
        passed < file / OF_QEMU,
        "files of {file} bytes crossed both ways, and QEMU itself read and wrote {passed} bytes: its own tap handlers are at work"
    );
    Ok(())
}

/// Covers the parameter, for this thread alone, by a file with the other value.
fn read_otherwise(bed: &mut Testbed) -> anyhow::Result<()> {
    let other = bed.artifacts.dir().join("experimental_zcopytx");
    let value = u8::from(bed.cell.backend != Backend::VhostZcopy);
    std::fs::write(&other, format!("{value}\n"))?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    Ok(mount(Some(&other), ZCOPYTX, none, MsFlags::MS_BIND, none)?)
}
