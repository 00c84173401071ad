//! Plan items 6 and 13: promiscuous mode, toggled under traffic, and that it means something.

use super::faults::{self, AT_START, IN_TRAFFIC, LOSSY, in_guest, wrap};
use super::{Case, Fault, Load, Moment, Red};
use crate::base::deadline::Limit;
use crate::base::error::OrCannotRun as _;
use crate::guest::dialect::Op;
use crate::guest::link::Link;
use crate::net::addr::{HOST, HOST_MAC, Mac};
use crate::net::bridge;
use crate::net::probe::{Sender, tagged_echo};
use crate::testbed::Testbed;
use anyhow::{Context, ensure};
use std::net::Ipv4Addr;
use std::time::Duration;

/// A MAC that no host here has.
pub(super) const FOREIGN_MAC: Mac = Mac([0x52, 0x54, 0x00, 0xf0, 0xf0, 0xf0]);
/// The address that the host believes to be there.
const FOREIGN: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 254);
/// A VLAN that the guest has not joined.
const VLAN: u16 = 1722;
/// The plan's toggling is checked with as many pings.
const PINGS_A_SECOND: u32 = 50;
/// QEMU's e1000 holds frames back for 1 s after each change of its RX control (e1000.c, flush_queue_timer), so all the
/// while. A tap's queue has room for 1000, and a guest that gets them all at once for some 170 replies.
const HELD_BACK: u32 = 100;
/// ping sends its first frame milliseconds after exec; on a host busy with other VMs it was 0.1 s.
const SENT: Limit = Limit {
    what: "the frame for the foreign MAC to leave the host",
    seconds: 10.0,
};
/// Where the guest's capture goes.
const SEEN: &str = "/tmp/nicmatrix-seen";
/// tcpdump says "listening" some 0.2 s after exec under TCG; a frame shows in milliseconds.
pub(super) const TCPDUMP: Limit = Limit {
    what: "tcpdump in the guest",
    seconds: 10.0,
};

/// Plan items 6 and 13.
pub static PROMISC: Case = Case {
    name: "promisc",
    plan_item: "6, 13",
    passes: "toggling promiscuous mode under traffic loses nothing and leaves no trace; a frame for a foreign MAC, and one in a VLAN that the guest has not joined, reaches the guest in promiscuous mode and, but for vhost, not outside it; on virtio QEMU's query-rx-filter agrees",
    load: Load::Waits,
    ops: &[Op::Address, Op::PromiscOn, Op::PromiscOff],
    seconds: |profile| f64::from(profile.promisc_seconds) * 2.0,
    faults: &[
        Fault {
            name: "held",
            breaks: "another program in the guest holds the NIC in promiscuous mode",
            inject: |bed| {
                let link = in_guest(bed, "true")?;
                let dev = &link.name;
                bed.agent
                    .start(&format!("tcpdump -i {dev} -w /dev/null 2>/tmp/holder"))?;
                bed.agent
                    .until("grep -q listening /tmp/holder", TCPDUMP, "cat /tmp/holder")
            },
            red: Red::Says("outside promiscuous mode"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "no_filter",
            breaks: "QEMU's NIC has no RX filter (ctrl_rx=off), so it passes every frame",
            applies: faults::virtio,
            vm: |spec, _| spec.nics[0].properties.push("ctrl_rx=off".into()),
            red: Red::Says("outside promiscuous mode"),
            ..AT_START
        },
        Fault {
            name: "no_tags",
            breaks: "the guest's tcpdump shows no frame with a VLAN's tag",
            inject: |bed| {
                let script = "for word; do shift; [ $word = icmp ] && word='icmp and not vlan'; set -- \"$@\" \"$word\"; done; exec \"$REAL\" \"$@\"";
                wrap(bed, "tcpdump", script)
            },
            red: Red::Says("in promiscuous mode the guest does not see a frame in VLAN"),
            ..IN_TRAFFIC
        },
        Fault {
            red: Red::Says("while promiscuous mode was toggled"),
            ..LOSSY
        },
    ],
    run: promisc,
    ..Case::PLAIN
};

/// Shows that promiscuous mode means something, toggles it under a stream of pings that must lose
/// nothing, and shows the same again.
fn promisc(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    bed.moment(Moment::Traffic)?;
    means_something(bed, &link)?;
    let seconds = bed.profile.promisc_seconds;
    let span = Duration::from_secs(seconds.into());
    let (on, off) = (
        bed.command(Op::PromiscOn, &link, ""),
        bed.command(Op::PromiscOff, &link, ""),
    );
    let toggling = bed.agent.start(&format!(
        "n=0; end=$(($(date +%s)+{seconds})); while [ $(date +%s) -lt $end ]; do {on} && sleep 0.01 && {off} && sleep 0.01 || exit 1; n=$((n+1)); done; echo $n"
    ))?;
    let mut count = seconds * PINGS_A_SECOND;
    if bed.cell.nic.device == "e1000" {
        // Late is no loss, and is judged on the wire. The host would ask for the guest's MAC meanwhile, and give up.
        count = count.min(HELD_BACK);
        bridge::set_neighbour_permanent(bed.address(), bed.nic().mac)?;
    }
    let ping = (bed.ping().count(count)).interval(f64::from(seconds) / f64::from(count));
    bed.expect_answered(&ping, count)
        .context("while promiscuous mode was toggled")?;
    bridge::flush_neighbour(bed.address())?;
    let output = bed.agent.finish(toggling, span)?;
    let cycles: u32 = output.stdout.trim().parse().unwrap_or(0);
    ensure!(
        output.code == 0 && cycles > 0,
        "toggling promiscuous mode ended with {}: {}",
        output.code,
        crate::guest::agent::said(&output)
    );
    bed.notes
        .push(format!("{cycles} cycles under {count} pings"));
    means_something(bed, &link)?;
    bed.expect_quiet_kernel()
}

/// A foreign frame is not seen outside promiscuous mode, and is seen in it.
fn means_something(bed: &Testbed, link: &Link) -> anyhow::Result<()> {
    for (op, promiscuous) in [
        (Op::PromiscOff, false),
        (Op::PromiscOn, true),
        (Op::PromiscOff, false),
    ] {
        bed.apply(op, link, "")?;
        let filters = bed.cell.backend.filters();
        let [plain, tagged] = sees_foreign(bed, link)?;
        let tag = format!("in VLAN {VLAN} ");
        for (seen, tag) in [(plain, ""), (tagged, &*tag)] {
            ensure!(
                seen == promiscuous || (seen && !filters),
                "{} promiscuous mode the guest {} a frame {tag}for the foreign MAC {FOREIGN_MAC}",
                if promiscuous { "in" } else { "outside" },
                if seen { "sees" } else { "does not see" },
            );
        }
        if let Some(filter) = bed.rx_filter()? {
            ensure!(
                filter.promiscuous == promiscuous,
                "{} promiscuous mode QEMU's query-rx-filter says promiscuous: {}",
                if promiscuous { "in" } else { "outside" },
                filter.promiscuous
            );
        }
        bed.expect_rx_filter(link, &[])?;
    }
    Ok(())
}

/// Sends frames to a foreign MAC, the last in a VLAN, then one to the guest as a marker; whether the guest saw one
/// without a tag, and that in the VLAN, is judged once it has shown the marker.
fn sees_foreign(bed: &Testbed, link: &Link) -> anyhow::Result<[bool; 2]> {
    let dev = &link.name;
    let dump = bed.agent.start(&format!(
        "tcpdump -p -n -e -l -i {dev} icmp >{SEEN} 2>{SEEN}.err & echo $! >{SEEN}.pid; wait"
    ))?;
    bed.agent.until(
        &format!("grep -q listening {SEEN}.err"),
        TCPDUMP,
        &format!("cat {SEEN}.err"),
    )?;
    bridge::set_neighbour_permanent(FOREIGN, FOREIGN_MAC)?;
    let wire = bed.wire()?;
    let mark = wire.mark()?;
    let unanswered = bed.ping_to(FOREIGN).interval(0.01).spawn()?;
    let sent = SENT.start();
    wire.wait(mark, sent, |frame| frame.bytes.starts_with(&FOREIGN_MAC.0))
        .or_cannot_run(|| format!("send a frame for {FOREIGN_MAC}"))?;
    drop(unanswered);
    let foreign = (FOREIGN_MAC, FOREIGN);
    Sender::open()?.send(&tagged_echo(VLAN, (HOST_MAC, HOST), foreign, (VLAN, 1))?)?;
    bed.expect_replies(1, 48)?;
    let shown = format!("grep -q '{}: ICMP echo request' {SEEN}", bed.address());
    bed.agent.until(&shown, TCPDUMP, &format!("cat {SEEN}"))?;
    // Without its files, so that the next tcpdump is not taken to listen by the words of this one.
    let text = bed.agent.sh(&format!(
        "kill $(cat {SEEN}.pid); cat {SEEN}; rm {SEEN} {SEEN}.err"
    ))?;
    bed.agent.finish(dump, Duration::ZERO)?;
    let foreign: Vec<&str> = (text.lines())
        .filter(|line| line.to_lowercase().contains(&FOREIGN_MAC.to_string()))
        .collect();
    let tag = format!("vlan {VLAN},");
    Ok([false, true].map(|tagged| foreign.iter().any(|line| line.contains(&tag) == tagged)))
}
