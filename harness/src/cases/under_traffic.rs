//! Plan items 12, 14 and 22 again: what those change, changed while data crosses that must stay whole.

use super::faults::{self, AT_START, IN_TRAFFIC, ignore, program};
use super::multiqueue::{self, MULTIQUEUE, QUEUES};
use super::transfer::{self, ALTERED};
use super::{Case, Fault, Moment, Red, StartState};
use crate::base::deadline;
use crate::guest::agent::said;
use crate::guest::dialect::Op;
use crate::guest::link::Link;
use crate::net::addr::HOST;
use crate::net::transfer::blocks;
use crate::testbed::Testbed;
use anyhow::{Context as _, ensure};
use std::time::Duration;

/// There and back, so often. e1000 negotiates its link anew after each, which takes seconds.
const CYCLES: u32 = 3;
/// TCP segments that the guest must receive between two changes.
const SEGMENTS: u32 = 8;
/// What crosses each way before it is asked whether the changes are through, MiB.
const MIB: u32 = 1;
/// Where the guest says that they are.
const DONE: &str = "/tmp/nicmatrix-changed";

/// Plan item 14, under traffic.
pub static MTU_TRAFFIC: Case = Case {
    name: "mtu_traffic",
    plan_item: "14",
    passes: "while files cross by TCP both ways the MTU is set to 100 below its own and back, each time after data has moved; it reads back, and each file has the same SHA-256 at both ends",
    ops: &[Op::Address, Op::Mtu],
    seconds: |_| deadline::CHANGES.seconds,
    faults: &[
        ALTERED,
        Fault {
            name: "ignored",
            breaks: "the guest's tool says that it set the MTU and does not",
            inject: |bed| {
                let command = bed.command(Op::Mtu, &bed.link()?, "1400");
                ignore(bed, program(&command), "mtu")
            },
            red: Red::Says("did not take"),
            ..IN_TRAFFIC
        },
    ],
    run: |bed| {
        let link = bed.up()?;
        let change = |mtu: u32| Change {
            command: bed.command(Op::Mtu, &link, &mtu.to_string()),
            took: format!("grep -qx {mtu} /sys/class/net/{}/mtu", link.name),
        };
        let own = bed.cell.nic.default_mtu();
        let changes = [own - 100, own].map(change);
        under_traffic(bed, &link, &changes)
    },
    ..Case::PLAIN
};

/// Plan item 12, under traffic.
pub static OFFLOAD_TRAFFIC: Case = Case {
    name: "offload_traffic",
    plan_item: "12",
    passes: "while files cross by TCP both ways checksumming by the NIC (and with it scatter-gather and segmentation) is switched off and on, each time after data has moved; it reads back, and each file has the same SHA-256 at both ends",
    applies: |cell| cell.nic.offloads.iter().any(|name| name == "tx"),
    ops: &[Op::Address],
    seconds: |_| deadline::CHANGES.seconds,
    faults: &[
        ALTERED,
        Fault {
            name: "ignored",
            breaks: "the guest's ethtool says that it switched offloads and does not",
            inject: faults::switch_no_offload,
            red: Red::Says("did not take"),
            ..IN_TRAFFIC
        },
    ],
    run: |bed| {
        let link = bed.up()?;
        let dev = &link.name;
        let change = |state: &str| Change {
            command: format!("ethtool -K {dev} tx {state}"),
            took: format!("ethtool -k {dev} | grep -q '^tx-checksumming: {state}'"),
        };
        let changes = ["off", "on"].map(change);
        under_traffic(bed, &link, &changes)
    },
    ..Case::PLAIN
};

/// Plan item 22, under traffic.
pub static MULTIQUEUE_TRAFFIC: Case = Case {
    name: "multiqueue_traffic",
    plan_item: "22",
    passes: "while files cross by TCP both ways `ethtool -L` goes to one queue and back to four, each time after data has moved; `-l` reads it back, and each file has the same SHA-256 at both ends",
    applies: multiqueue::has_vectors,
    start_state: StartState::ColdDriver,
    vm: MULTIQUEUE.vm,
    ops: &[Op::Address],
    seconds: |_| deadline::CHANGES.seconds,
    faults: &[
        ALTERED,
        Fault {
            name: "single_queue",
            breaks: "QEMU's NIC has one queue pair",
            vm: |spec, _| {
                spec.nics[0].queues = 1;
                spec.nics[0].properties.push("mq=off".into());
            },
            red: Red::Says("was refused"),
            ..AT_START
        },
    ],
    run: |bed| {
        let link = bed.up()?;
        let dev = &link.name;
        // ethtool refuses to set what is set already: 4 first, so that 1 is a change.
        bed.agent
            .run(&format!("ethtool -L {dev} combined {QUEUES}"))?;
        let change = |count: u32| Change {
            command: format!("ethtool -L {dev} combined {count}"),
            took: format!("ethtool -l {dev} | tail -n 2 | grep -q 'Combined:[[:space:]]*{count}$'"),
        };
        let changes = [1, QUEUES].map(change);
        under_traffic(bed, &link, &changes)
    },
    ..Case::PLAIN
};

/// A command in the guest, and the condition there by which it took.
struct Change {
    command: String,
    took: String,
}

/// Lets files cross both ways until the guest has gone through `changes` again and again.
fn under_traffic(bed: &mut Testbed, link: &Link, changes: &[Change; 2]) -> anyhow::Result<()> {
    transfer::make_file(bed, blocks(MIB))?;
    // ARP gives up after 3 s, and a link that is negotiated anew may take longer; TCP does not.
    bed.know_host(link)?;
    bed.moment(Moment::Traffic)?;
    let changing = bed.agent.start(&script(changes))?;
    let limit = deadline::CHANGES.start();
    let mut rounds = 0;
    loop {
        let left = limit.left().unwrap_or(Duration::ZERO);
        for cross in [transfer::from_guest, transfer::to_guest] {
            cross(bed, HOST.into(), blocks(MIB), left)
                .context("while the guest's NIC was changed")?;
        }
        rounds += 1;
        if bed.agent.run(&format!("[ -e {DONE} ]"))?.code == 0 {
            break;
        }
        ensure!(
            limit.left().is_some(),
            limit.missed(format!("{rounds} files had crossed each way"))
        );
    }
    let output = bed.agent.finish(changing, Duration::ZERO)?;
    ensure!(
        output.code == 0,
        "in the guest, under traffic: {}",
        said(&output)
    );
    bed.notes.push(format!(
        "{} changes while {rounds} files of {MIB} MiB crossed each way",
        2 * CYCLES
    ));
    bed.expect_quiet_kernel()
}

/// Each change is awaited, and after it that TCP moves again.
fn script(changes: &[Change; 2]) -> String {
    let change = |Change { command, took }: &Change| {
        format!(
            "{command} || {{ echo \"{command} was refused\"; return 1; }}\n\
             {took} || {{ echo \"{command} did not take\"; return 1; }}\n\
             before=$(segments); until [ $(segments) -ge $((before + {SEGMENTS})) ]; do sleep 0.05; done\n"
        )
    };
    let [there, back] = changes.each_ref().map(change);
    format!(
        "segments() {{ awk '/^Tcp: [0-9]/ {{ print $11 }}' /proc/net/snmp; }}\n\
         changes() {{\nn=0; while [ $n -lt {CYCLES} ]; do\n{there}{back}n=$((n+1)); done\n}}\n\
         rm -f {DONE}; changes; code=$?; echo >{DONE}; exit $code"
    )
}
