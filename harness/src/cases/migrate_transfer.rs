//! Plan item 17 under load: a guest that moves amid a file that it sends, which goes on where it arrives.

use super::migrate::{self, CANCELLED};
use super::transfer;
use super::{Case, Moment};
use crate::base::deadline::{self, Deadline};
use crate::base::delay;
use crate::guest::dialect::Op;
use crate::net::addr::HOST;
use crate::net::transfer::{BLOCK, Crossed, Receiving, TcpPort, blocks};
use crate::testbed::Testbed;
use anyhow::{Context as _, anyhow};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The file, MiB.
const MIB: u32 = 8;
/// Until the guest has arrived the host reads so many bytes of it each time, and no more than half of it in all, so that
/// frames cross all the while and the file is not through before.
const STEP: u64 = 16 << 10;
const PAUSE: Duration = Duration::from_millis(5);
/// What the host's kernel holds of it, bytes.
const HELD: usize = 64 << 10;

/// Beyond the plan.
pub static MIGRATE_TRANSFER: Case = Case {
    name: "migrate_transfer",
    plan_item: "17",
    passes: "a guest that migrates amid a file that it sends by TCP goes on sending it where it arrives, and the file has its SHA-256",
    vm: |spec| spec.migratable = true,
    ops: &[Op::Address],
    seconds: |_| deadline::TRANSFER.seconds + 60.0,
    faults: &[transfer::CHANGED, CANCELLED],
    run: migrate_transfer,
    ..Case::PLAIN
};

fn migrate_transfer(bed: &mut Testbed) -> anyhow::Result<()> {
    bed.up()?;
    let blocks = blocks(MIB);
    transfer::make_file(bed, blocks)?;
    let there = bed.destination(&bed.own_qemu().clone(), 1)?;
    bed.ready_to_leave()?;
    let port = TcpPort::open(HOST.into())?;
    let more = deadline::MIGRATED.start().span() + deadline::ARRIVED.start().span();
    let limit = transfer::limit(blocks, more);
    let (sending, command) = transfer::begin_to_send(bed, HOST.into(), &port, limit)?;
    let receiving = port.begin_to_receive(limit)?;
    receiving.keep(HELD)?;

    let (moved, meter) = (AtomicBool::new(false), delay::meter());
    let (arrived, received) = std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            delay::join(&meter);
            read(receiving, limit, &moved)
        });
        let arrived = bed
            .migrate(&migrate::command(), &there, |bed| {
                bed.moment(Moment::Migrating)
            })
            .and_then(|_| bed.arrive(there))
            .and_then(|()| bed.await_guest())
            // What the reader waits for may not come, and a busy guest keeps other trials waiting.
            .and_then(|()| bed.settle());
        moved.store(true, Ordering::Release);
        let received = reading.join();
        (arrived, received)
    });
    arrived?;
    let (before, crossed) = received
        .map_err(|_| anyhow!("the reader's thread panicked"))?
        .context("on the destination")?;
    let crossed = transfer::ended(bed, (sending, &command), limit, Ok(crossed))?;
    transfer::expect_whole(&crossed, blocks)?;
    bed.notes.push(format!(
        "{before} bytes crossed before the guest had arrived, {} afterwards",
        crossed.bytes - before
    ));
    bed.reach(deadline::FIRST_PING)?;
    bed.expect_quiet_kernel()
}

/// Reads the file slowly until the guest has moved, and then the rest: how much had crossed by then, and all of it.
fn read(
    mut receiving: Receiving,
    limit: Deadline,
    moved: &AtomicBool,
) -> anyhow::Result<(u64, Crossed)> {
    let half = u64::from(blocks(MIB)) * BLOCK as u64 / 2;
    let mut wanted = 0;
    while !moved.load(Ordering::Acquire) {
        if wanted < half {
            wanted += STEP;
            receiving.read_up_to(wanted, limit)?;
        }
        // The pace at which the file crosses.
        std::thread::sleep(PAUSE);
    }
    let before = receiving.bytes();
    Ok((before, receiving.rest(limit)?))
}
