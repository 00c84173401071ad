//! Interrupts that move from processor to processor, as irqbalance moves them: each move masks the NIC's vector, tells it
//! another address and unmasks it, and what the NIC has to say meanwhile must not be lost.

use super::faults::{IN_TRAFFIC, TAP_UNPLUGGED, wrap};
use super::one_by_one::round_trip;
use super::{Case, Fault, Moment, Red, StartState};
use crate::guest::dialect::Op;
use crate::guest::interrupts;
use crate::net::probe::Sender;
use crate::testbed::Testbed;
use anyhow::{Context as _, ensure};
use std::time::Duration;

const CPUS: u32 = 4;
/// The identifier of our echo requests.
const ID: u16 = 0x6971;
/// Requests while interrupts move, one at a time: one whose interrupt is lost has no other after it that would bring it up.
const PINGS: u16 = 300;
/// Requests by which an affinity takes effect, which it does with an interrupt, and by which it shows.
const FIRST: u32 = 3;
const THEN: u32 = 10;
/// In the guest: there once its interrupts need not move any more.
const ENOUGH: &str = "/tmp/nicmatrix-enough";
/// How often they move at most: more often than the slowest guest answers all pings.
const MOVES: u32 = 100_000;

/// Beyond the plan.
pub static IRQ_AFFINITY: Case = Case {
    name: "irq_affinity",
    passes: "in a guest with four processors the NIC's interrupts come to the one that the guest gives them, each in turn; 300 pings, one at a time, are answered while they move from one to the next as fast as the guest can have them",
    start_state: StartState::ColdDriver,
    vm: |spec| spec.cpus = CPUS,
    ops: &[Op::Address],
    faults: &[
        Fault {
            name: "pinned",
            breaks: "what the guest writes to its interrupts' affinity has no effect",
            inject: |bed| {
                let files = affinities(&interrupts::numbers(&bed.agent, &bed.link()?.pci)?);
                let script = format!("for file in {files}; do mount --bind /dev/null $file; done");
                bed.agent.sh(&script).map(drop)
            },
            red: Red::Says("interrupts were to come to processor"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "silenced",
            breaks: "the NIC is down once its interrupts begin to move",
            inject: |bed| {
                let dev = bed.link()?.name;
                // Which is what they begin with.
                let script = format!("ip link set dev {dev} down; exec \"$REAL\" \"$@\"");
                wrap(bed, "rm", &script)
            },
            red: Red::Says("while the NIC's interrupts moved: ping"),
            ..IN_TRAFFIC
        },
        Fault {
            red: Red::Says("0 of 3 replies came back"),
            ..TAP_UNPLUGGED
        },
    ],
    run: irq_affinity,
    ..Case::PLAIN
};

fn irq_affinity(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    bed.know_each_other(&link)?;
    bed.moment(Moment::Traffic)?;
    let irqs = interrupts::numbers(&bed.agent, &link.pci)?;
    let files = affinities(&irqs);
    for cpu in (0..CPUS).rev() {
        // A vector that no handler has is not set.
        let set = format!("for file in {files}; do echo {cpu} >$file; done 2>/dev/null; true");
        bed.agent.sh(&set)?;
        bed.expect_replies(FIRST, 48)?;
        let before = interrupts::counts(&bed.agent, &irqs)?;
        bed.expect_replies(THEN, 48)?;
        let after = interrupts::counts(&bed.agent, &irqs)?;
        let came: Vec<u64> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
        // A vector that was silent until now moves with its first interrupt.
        let there = came.get(cpu as usize).copied().unwrap_or(0);
        let elsewhere = came.iter().sum::<u64>() - there;
        ensure!(
            there > 0 && elsewhere <= irqs.len() as u64,
            "the NIC's interrupts were to come to processor {cpu}; while {THEN} pings were answered, {came:?} came to \
             processors 0 to {}",
            CPUS - 1
        );
    }
    let command = format!(
        "rm -f {ENOUGH}; n=0; while [ ! -e {ENOUGH} ] && [ $n -lt {MOVES} ]; do \
         for file in {files}; do echo $((n % {CPUS})) >$file; done 2>/dev/null; n=$((n + 1)); done; echo $n"
    );
    let moving = bed.agent.start(&command)?;
    let sender = Sender::open()?;
    for seq in 1..=PINGS {
        round_trip(bed, &sender, (ID, seq)).context("while the NIC's interrupts moved")?;
    }
    bed.agent.sh(&format!("touch {ENOUGH}"))?;
    let ended = bed.agent.finish(moving, Duration::ZERO)?;
    bed.notes.push(format!(
        "the interrupts moved {} times while {PINGS} pings were answered",
        ended.stdout.trim()
    ));
    bed.expect_quiet_kernel()
}

/// The files of interrupts' affinities, by blanks.
fn affinities(irqs: &[String]) -> String {
    let files = irqs
        .iter()
        .map(|irq| format!("/proc/irq/{irq}/smp_affinity_list"));
    files.collect::<Vec<_>>().join(" ")
}
