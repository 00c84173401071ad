//! Plan item 7: 802.1Q VLANs, between two guests, and between guest and host.

mod file;
mod filters;
mod priority;
mod refused;

pub(super) use refused::VLAN_REFUSED;

use super::damage::FORGED;
use super::faults::{self, AT_START, IN_TRAFFIC, wrap, wrap_first};
use super::transfer::APPENDED;
use super::{Case, Fault, Load, Moment, Red};
use crate::base::deadline;
use crate::base::error::Skip;
use crate::guest::agent::Agent;
use crate::guest::dialect::Op;
use crate::guest::link::Link;
use crate::matrix::Backend;
use crate::matrix::schema::Dialect;
use crate::net::addr;
use crate::net::audit::Witness;
use crate::net::capture::{Capture, Fence};
use crate::net::forged;
use crate::net::frame::Icmp;
use crate::net::sabotage;
use crate::testbed::Testbed;
use crate::testbed::peer::Peer;
use crate::testbed::start;
use anyhow::{Context as _, ensure};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

/// The plan's two, and the largest there is. The guests begin apart, one in the first and the other
/// in the second.
const IDS: [u16; 3] = [10, 1, 4094];
/// The guests' addresses in the VLANs, outside the bridge's own network.
const HERE: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 2);
const THERE: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 3);
/// The host's.
const HOST: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);
/// Echo requests of each size in a VLAN.
const COUNT: u32 = 3;
/// ping's own ICMP payload, bytes.
const SMALL: u32 = 56;
/// IPv4 and ICMP headers, bytes.
const HEADERS: u32 = 28;

const NOT_LEFT: Fault = Fault {
    name: "not_left",
    breaks: "the guest's tool says that it left the VLAN and does not",
    inject: |bed| lie(bed, "*' rem '* | *' delete '*) exit 0"),
    red: Red::Says("is still there"),
    ..IN_TRAFFIC
};

/// Plan item 7.
pub static VLAN: Case = Case {
    name: "vlan",
    plan_item: "7",
    passes: "in VLAN 1, 10 and 4094 two guests answer each other, with that tag on both taps, up to full frames, and with the priority that the sender gave it, on the taps and up to the guest's tcpdump; a request with a priority and no VLAN is answered; a file crosses whole each way; in differing VLANs they do not although requests arrive; after leaving, the guest's kernel (and on virtio QEMU's query-rx-filter) shows the VLAN no more",
    load: Load::Waits,
    rearm: Some(faults::nothing),
    ops: &[Op::Address, Op::VlanAdd, Op::VlanPriority, Op::VlanRemove],
    seconds: |_| 60.0,
    faults: &[
        Fault {
            name: "joined",
            breaks: "the host carries frames from one VLAN to the other and back",
            inject: |bed| {
                let [first, second, _] = IDS;
                sabotage::retag(&bed.nic().tap, first, second)?;
                sabotage::retag(PEER_TAP, second, first)
            },
            red: Red::Says("were answered although"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "retagged",
            breaks: "the host moves the guest's frames to a VLAN that nobody is in",
            inject: |bed| sabotage::retag(&bed.nic().tap, IDS[0], 2),
            red: Red::Says("the other guest's tap shows no ARP request"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "dropped",
            breaks: "the tagged frames that the other guest sends are dropped on its tap",
            inject: |_| sabotage::drop_tagged(PEER_TAP),
            red: Red::Says("replies came back"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "no_filter",
            breaks: "QEMU's NIC has no VLAN filter (ctrl_vlan=off), so it passes frames of every VLAN",
            applies: |cell| faults::virtio(cell) && cell.backend.filters(),
            vm: |spec, _| spec.nics[0].properties.push("ctrl_vlan=off".into()),
            red: Red::Says("VLANs"),
            ..AT_START
        },
        Fault {
            name: "offload_kept",
            breaks: "the guest's ethtool says that it switched VLAN offloads off and does not",
            applies: filters::has_offload,
            inject: faults::switch_no_offload,
            red: Red::Says("did not take"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "priority_not_set",
            breaks: "the guest's tool says that it set a priority for the VLAN and does not",
            inject: priority::set_none,
            red: Red::Says("requests with priority"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "priority_not_shown",
            breaks: "the guest's tcpdump shows no priority",
            applies: priority::hands_up,
            inject: |bed| {
                let script = "for word; do shift; [ $word = -e ] || set -- \"$@\" $word; done; exec \"$REAL\" \"$@\"";
                wrap(bed, "tcpdump", script)
            },
            red: Red::Says("sent a frame with priority"),
            ..IN_TRAFFIC
        },
        APPENDED,
        Fault {
            name: "tag_lost",
            breaks: "the guest's NIC sends a segment of a file without the VLAN's tag",
            moment: Moment::Crossed,
            inject: |bed| bed.forge(&[forged::untagged(bed.nic().mac, HERE, THERE)?]),
            red: Red::Says("crossed the guest's tap with that tag, and 1 without it"),
            ..FORGED
        },
        Fault {
            name: "untagged_alone",
            breaks: "the guest has its address in the VLAN alone",
            moment: Moment::Crossed,
            inject: |bed| {
                let link = bed.link()?;
                bed.agent
                    .sh(&format!("ip addr flush dev {}", link.name))
                    .map(drop)
            },
            red: Red::Says("in no VLAN (id 0) was not answered"),
            ..AT_START
        },
        NOT_LEFT,
    ],
    run: vlan,
    ..Case::PLAIN
};

/// Plan item 7, with the host as the other end: where vhost is, so that a lab's kernel can be the host's,
/// which has 8021q though this machine's may not.
pub static VLAN_HOST: Case = Case {
    name: "vlan_host",
    plan_item: "7",
    passes: "in VLAN 1, 10 and 4094 the guest answers the host, whose own kernel tags, with that tag on the tap both ways, up to full frames; once it has left it answers no more",
    applies: |cell| cell.backend != Backend::Tap,
    load: Load::Waits,
    ops: &[Op::Address, Op::VlanAdd, Op::VlanRemove],
    faults: &[
        Fault {
            name: "filtered",
            breaks: "the bridge lets no frame of a VLAN pass",
            inject: |_| sabotage::filter_vlans(),
            red: Red::Missed(deadline::FIRST_PING),
            ..IN_TRAFFIC
        },
        NOT_LEFT,
    ],
    run: vlan_host,
    ..Case::PLAIN
};

/// The tap of the other guest, which is in place 1.
const PEER_TAP: &str = "tap1";

/// Puts a script in the place of the tool that the guest makes VLANs with: `arm` of its arguments,
/// or else the tool.
fn lie(bed: &Testbed, arm: &str) -> anyhow::Result<()> {
    let command = bed.command(Op::VlanRemove, &bed.link()?, "1");
    wrap_first(
        bed,
        &command,
        &format!("case \" $* \" in {arm};; esac\nexec \"$REAL\" \"$@\""),
    )
}

/// One of the two guests.
struct Member<'a> {
    agent: &'a Agent,
    dialect: Dialect,
    link: &'a Link,
    address: Ipv4Addr,
    witness: Witness,
}

impl Member<'_> {
    fn command(&self, op: Op, id: u16) -> String {
        self.dialect.command(op, &self.link.name, &id.to_string())
    }

    fn join(&self, id: u16) -> anyhow::Result<()> {
        let dev = format!("{}.{id}", self.link.name);
        let address = format!("{}/24", self.address);
        self.witness.allow_vlan(id);
        let add = self.command(Op::VlanAdd, id);
        let set = self.dialect.command(Op::Address, &dev, &address);
        let vlans = parse(&self.agent.sh(&format!("{add} && {set} && {SHOW}"))?);
        ensure!(
            vlans.get(&dev) == Some(&id),
            "after `{add}` the guest's /proc/net/vlan/config shows {vlans:?}, not {dev} with {id}"
        );
        Ok(())
    }

    fn leave(&self, id: u16) -> anyhow::Result<()> {
        let dev = format!("{}.{id}", self.link.name);
        let remove = self.command(Op::VlanRemove, id);
        let look = format!("ls /sys/class/net | grep -x {dev} || true");
        let shown = self
            .agent
            .sh(&format!("{remove} && {SHOW} && {{ {look}; }}"))?;
        let vlans = parse(&shown);
        ensure!(
            !vlans.contains_key(&dev) && shown.lines().all(|line| line != dev),
            "after `{remove}` {dev} is still there: /proc/net/vlan/config and sysfs show {}",
            shown.trim()
        );
        Ok(())
    }
}

/// Shows the VLAN interfaces that the guest's kernel has, with their ids.
const SHOW: &str = "cat /proc/net/vlan/config";

/// These interfaces.
fn vlans(agent: &Agent) -> anyhow::Result<BTreeMap<String, u16>> {
    Ok(parse(&agent.sh(SHOW)?))
}

/// Lines `eth0.10 | 10 | eth0`, below two of heading.
fn parse(config: &str) -> BTreeMap<String, u16> {
    let lines = config.lines().filter_map(|line| {
        let mut fields = line.split('|').map(str::trim);
        let (dev, id) = (fields.next()?, fields.next()?.parse().ok()?);
        Some((dev.to_owned(), id))
    });
    lines.collect()
}

/// Puts guest and peer into different VLANs, where neither must answer the other. Then both join each
/// of the plan's VLANs in turn, must answer each other there with that tag on both taps, and leave it.
fn vlan(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    let peer = bed.peer(1)?;
    let dialect = bed.cell.guest.dialect;
    let there = Member {
        agent: &peer.agent,
        dialect,
        link: &peer.link,
        address: THERE,
        witness: bed.witness.clone(),
    };
    let [first, second, _] = IDS;
    bed.expect_rx_filter(&link, &[])
        .context("before the guest joins a VLAN")?;
    here(bed, &link).join(first)?;
    there.join(second)?;
    bed.moment(Moment::Traffic)?;
    apart(bed, &peer, (first, second))?;
    // Both: the guest would else go on asking in vain for an address that has come meanwhile.
    here(bed, &link).leave(first)?;
    there.leave(second)?;
    for id in IDS {
        here(bed, &link).join(id)?;
        there.join(id)?;
        if id == first {
            filters::expect_only(bed, &link, id)?;
            priority_kept(bed, &peer, &link, id)?;
        }
        bed.expect_rx_filter(&link, &[id])?;
        together(bed, &peer, id)?;
        if id == second {
            let fence = fences(bed, &peer)?[0];
            let ours = here(bed, &link);
            let crossed = file::expect_whole(&ours, &there, "the other guest")
                .and_then(|()| file::expect_whole(&there, &ours, "the guest"));
            bed.moment(Moment::Crossed)?;
            crossed
                .and_then(|()| file::expect_tagged(bed.wire()?, fence, id))
                .with_context(|| format!("in VLAN {id}"))?;
            priority::expect_in_no_vlan(bed)?;
            filters::without_offload(bed, &link, || together(bed, &peer, id))?;
            if filters::has_offload(&bed.cell) {
                priority_kept(bed, &peer, &link, id)
                    .context("with the offloads for VLANs switched on again")?;
            }
        }
        here(bed, &link).leave(id)?;
        there.leave(id)?;
        bed.expect_rx_filter(&link, &[])?;
    }
    bed.expect_quiet_kernel()
}

/// Shows that a frame's priority is kept, on both taps and up to the guest.
fn priority_kept(bed: &Testbed, peer: &Peer, link: &Link, id: u16) -> anyhow::Result<()> {
    let [ours, theirs] = fences(bed, peer)?;
    let wires = [
        ("the guest's", bed.wire()?, ours),
        ("the other guest's", &peer.wire, theirs),
    ];
    priority::expect_kept(bed, (link, &here(bed, link)), wires, id)
}

fn here<'a>(bed: &'a Testbed, link: &'a Link) -> Member<'a> {
    Member {
        agent: &bed.agent,
        dialect: bed.cell.guest.dialect,
        link,
        address: HERE,
        witness: bed.witness.clone(),
    }
}

/// Moments of the guest's and the other guest's tap at which nothing is under way any more. What one has sent is at
/// the other's tap when its own answer is at the host's, and may be answered then: so each is asked twice.
fn fences(bed: &Testbed, peer: &Peer) -> anyhow::Result<[Fence; 2]> {
    let others = addr::guest(peer.vm.spec.nics[0].place);
    let both = || anyhow::Ok([bed.fence()?, start::fence(&peer.wire, others)?]);
    both()?;
    both()
}

/// Shows that a guest in one VLAN has no answer from a guest in another, and that it was asked.
fn apart(bed: &Testbed, peer: &Peer, (here, there): (u16, u16)) -> anyhow::Result<()> {
    let fence = fences(bed, peer)?[1];
    let seconds = deadline::SILENCE.start().span().as_secs_f64().ceil();
    let report = bed.guest_ping(&format!("-i 0.1 -w {seconds}"), THERE)?;
    ensure!(
        report.received == 0,
        "{} of {} requests from VLAN {here} were answered although the other guest is in VLAN {there}",
        report.received,
        report.transmitted
    );
    let asked = peer.wire.count(fence, |frame| {
        let arp = frame.arp().filter(|arp| arp.request);
        arp.is_some_and(|arp| arp.target.1 == THERE) && frame.vlan_id() == Some(here)
    })?;
    ensure!(
        asked > 0,
        "the other guest's tap shows no ARP request for {THERE} in VLAN {here}: {}",
        peer.wire.summary(fence.mark())?
    );
    Ok(())
}

/// Shows that the guests, both in `id`, answer each other, and that all of it has that tag.
fn together(bed: &Testbed, peer: &Peer, id: u16) -> anyhow::Result<()> {
    let wires = [
        ("the guest's", bed.wire()?),
        ("the other guest's", &peer.wire),
    ];
    let fences = fences(bed, peer)?;
    // e1000 holds frames back for 1 s after its filter was changed; then ping need not wait.
    let limit = deadline::FIRST_PING.start().span().as_secs_f64().ceil();
    let first = bed.guest_ping(&format!("-c 1 -W {limit}"), THERE)?;
    let answered = first.expect_all_answered(1).and_then(|()| {
        sizes(bed).into_iter().try_for_each(|size| {
            bed.guest_expect_answered(COUNT, &format!("-i 0.2 -M do -s {size}"), THERE)
        })
    });
    if let Err(error) = answered {
        let seen = peer.wire.summary(fences[1].mark())?;
        return Err(error.context(format!(
            "in VLAN {id} not all replies came back; the other guest's tap showed: {seen}"
        )));
    }
    let sent = 1 + sizes(bed).len() * COUNT as usize;
    for ((whose, wire), fence) in wires.into_iter().zip(fences) {
        expect_tagged((whose, wire), fence, (HERE, THERE), id, sent)?;
    }
    Ok(())
}

/// Shows that `sent` requests and as many replies between two addresses have the tag of `id` on a wire
/// since `fence`, and none has another.
fn expect_tagged(
    (whose, wire): (&str, &Capture),
    fence: Fence,
    ends: (Ipv4Addr, Ipv4Addr),
    id: u16,
    sent: usize,
) -> anyhow::Result<()> {
    let mut found = tags(wire, fence, ends)?;
    let tagged = found.remove(&Some(id)).unwrap_or_default();
    // A request that waited for an answer to ARP may have come late from the VLAN before.
    ensure!(
        tagged >= 2 * sent && found.is_empty(),
        "in VLAN {id}, {whose} tap shows {tagged} of {} requests and replies with that tag, and by other tags: {found:?}",
        2 * sent
    );
    Ok(())
}

/// ICMP payloads: a small one, and the one that fills a frame of the NIC's MTU, which the tag then makes
/// 4 bytes longer.
fn sizes(bed: &Testbed) -> [u32; 2] {
    [SMALL, bed.cell.nic.default_mtu() - HEADERS]
}

/// Echoes between two addresses since `fence`, by VLAN tag.
fn tags(
    wire: &Capture,
    fence: Fence,
    (one, other): (Ipv4Addr, Ipv4Addr),
) -> anyhow::Result<BTreeMap<Option<u16>, usize>> {
    let (one, other) = (IpAddr::from(one), IpAddr::from(other));
    let mut found = BTreeMap::new();
    for frame in wire.frames(fence)? {
        let ours = frame
            .ip()
            .is_some_and(|ip| [(one, other), (other, one)].contains(&(ip.source, ip.destination)));
        if let (true, Some(Icmp::EchoRequest { .. } | Icmp::EchoReply { .. })) =
            (ours, frame.icmp())
        {
            *found.entry(frame.vlan_id()).or_default() += 1;
        }
    }
    Ok(found)
}

/// Has host and guest join each of the plan's VLANs in turn: they answer each other there with that tag
/// on the tap. Once the guest has left, it must answer no more.
fn vlan_host(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    bed.moment(Moment::Traffic)?;
    for id in IDS {
        if !bed.bridge.join_vlan(id, HOST)? {
            return Err(Skip("the host's kernel has no 8021q".into()).into());
        }
        here(bed, &link).join(id)?;
        bed.expect_rx_filter(&link, &[id])?;
        let fence = bed.fence()?;
        start::first_reply(HERE, deadline::FIRST_PING)
            .with_context(|| format!("in VLAN {id} the guest does not answer the host"))?;
        for size in sizes(bed) {
            let ping = bed.ping_to(HERE).count(COUNT).size(size).dont_fragment();
            bed.expect_answered(&ping, COUNT)
                .with_context(|| format!("in VLAN {id}"))?;
        }
        let sent = COUNT as usize * sizes(bed).len();
        expect_tagged(("the guest's", bed.wire()?), fence, (HOST, HERE), id, sent)?;
        here(bed, &link).leave(id)?;
        bed.expect_rx_filter(&link, &[])?;
        if id == IDS[0] {
            bed.expect_silence(HERE, &format!("the guest has left VLAN {id}"))?;
        }
        bed.bridge.leave_vlan(id)?;
    }
    bed.expect_quiet_kernel()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vlan_interfaces_are_read_below_the_heading() {
        let text = "VLAN Dev name\t | VLAN ID\nName-Type: VLAN_NAME_TYPE_RAW_PLUS_VID_NO_PAD\n\
                    eth0.10        | 10  | eth0\neth0.4094      | 4094  | eth0\n";
        let found = parse(text);
        assert_eq!(
            found,
            BTreeMap::from([("eth0.10".into(), 10), ("eth0.4094".into(), 4094)])
        );
    }
}
