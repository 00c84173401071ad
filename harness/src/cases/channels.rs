//! Plan item 22 beyond its four queue pairs: sixteen, and as many of them as the guest asks for, with rings as long as
//! QEMU's properties say.

use super::faults::{self, AT_START, IN_TRAFFIC, in_guest};
use super::multiqueue::{combined, has_vectors};
use super::rings::{self, MIB};
use super::surviving::each_carries;
use super::transfer::{self, ALTERED};
use super::{Case, Fault, Moment, Red, StartState};
use crate::guest::dialect::Op;
use crate::net::transfer::blocks;
use crate::testbed::Testbed;
use anyhow::{Context as _, ensure};

/// Queue pairs, of which each has two vectors; one more is for changes of the configuration, and the queue of commands
/// shares it.
const QUEUES: u32 = 16;
/// How many the guest uses, one count after the other: all, some, one and all.
const COUNTS: [u32; 4] = [QUEUES, 5, 1, QUEUES];
/// TCP connections: enough that each of sixteen queues gets some each way, but for one time in a million million.
const FLOWS: u32 = 512;
/// The longest ring in which QEMU has received frames wait, and the only one for frames to a tap, buffers.
const RINGS: (u32, u32) = (1024, 256);
/// As [`RINGS`], where each buffer must hold the longest segment, and Linux fills all of them: sixteen of the longest rings
/// do not fit the guest's memory.
const RINGS_UNMERGED: (u32, u32) = (256, 256);
/// What sixteen rings of buffers take of the guest's memory, MiB; without merging some 68 KiB a buffer.
const MORE_MEMORY: u32 = 384;

/// The rings of a NIC with these properties.
fn rings_of(properties: &[String]) -> (u32, u32) {
    match properties
        .iter()
        .any(|property| property == "mrg_rxbuf=off")
    {
        true => RINGS_UNMERGED,
        false => RINGS,
    }
}

/// Sixteen queue pairs.
pub static CHANNELS: Case = Case {
    name: "channels",
    plan_item: "22",
    passes: "with 16 queue pairs and `rx_queue_size=1024,tx_queue_size=256` (256 for each without merged buffers), of which QEMU takes two packets at a time (`x-txburst=2`), the guest's `ethtool -g` shows these sizes, `-L` takes 16, 5, 1 and 16 of at most 16, each queue in use carries frames both ways, and full frames and files cross with their SHA-256",
    applies: has_vectors,
    start_state: StartState::ColdDriver,
    rearm: Some(faults::nothing),
    vm: |spec| {
        spec.memory_mib += MORE_MEMORY;
        let (received, sent) = rings_of(&spec.nics[0].properties);
        spec.nics[0].queues = QUEUES;
        spec.nics[0].properties.extend([
            "mq=on".into(),
            format!("vectors={}", 2 * QUEUES + 1),
            format!("rx_queue_size={received}"),
            format!("tx_queue_size={sent}"),
            // What stands in a ring is more than QEMU takes at a time, as it is with a fast guest.
            "x-txburst=2".into(),
        ]);
    },
    ops: &[Op::Address],
    seconds: |_| 60.0,
    faults: &[
        Fault {
            name: "fewer_queues",
            breaks: "QEMU's NIC has eight queue pairs",
            vm: |spec, _| spec.nics[0].queues = QUEUES / 2,
            red: Red::Says("ethtool -L"),
            ..AT_START
        },
        Fault {
            name: "shorter_rings",
            breaks: "QEMU's rings for received frames are half as long",
            vm: |spec, _| spec.nics[0].properties.push("rx_queue_size=512".into()),
            red: Red::Says("the rings have"),
            ..AT_START
        },
        Fault {
            name: "back_to_one",
            breaks: "the guest goes back to one queue before the traffic",
            inject: |bed| in_guest(bed, "ethtool -L DEV combined 1").map(drop),
            red: Red::Says("nothing moved on"),
            ..IN_TRAFFIC
        },
        ALTERED,
    ],
    run: channels,
    ..Case::PLAIN
};

/// Looks at the rings, and has each count of queues carry traffic.
fn channels(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    let dev = &link.name;
    transfer::make_file(bed, blocks(MIB))?;
    let found = rings::read(bed, &link)?;
    let rings = rings_of(&bed.nic().properties);
    ensure!(
        found.now == rings,
        "the rings have {:?} buffers (received, sent), not {rings:?}",
        found.now
    );
    // ethtool refuses to set what is set already (code 80): 1 first, so that all is a change.
    bed.agent.run(&format!("ethtool -L {dev} combined 1"))?;
    for count in COUNTS {
        bed.agent
            .sh(&format!("ethtool -L {dev} combined {count}"))?;
        let now = combined(&bed.agent.sh(&format!("ethtool -l {dev}"))?)?;
        ensure!(
            now == (QUEUES, count),
            "`ethtool -l` shows {} of at most {} queues, not {count} of {QUEUES}",
            now.1,
            now.0
        );
        bed.moment(Moment::Traffic)?;
        each_carries(bed, &link, count, FLOWS)
            .and_then(|()| rings::crosses(bed))
            .with_context(|| format!("with {count} queues"))?;
    }
    bed.expect_quiet_kernel()
}
