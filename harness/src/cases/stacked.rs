//! What a guest stacks on its NIC: a VLAN in a service provider's VLAN, a macvlan, a bond, a bridge. Each has frames
//! cross the NIC that are not the NIC's own: with two tags, or with another MAC.

use super::faults::{AT_START, wrap};
use super::migrate_state::takes_vlans;
use super::{Case, Fault, Red};
use crate::base::deadline;
use crate::guest::dialect::Op;
use crate::guest::link::Link;
use crate::net::addr::{self, HOST_MAC, Mac};
use crate::net::bridge;
use crate::net::frame::{Direction, Frame, Icmp};
use crate::net::probe::{self, Sender};
use crate::testbed::Testbed;
use anyhow::{Context as _, ensure};
use std::net::Ipv4Addr;

/// The provider's VLAN (IEEE 802.1ad) and the customer's in it.
const TAGS: [u16; 2] = [20, 30];
/// The guest's address there, and the host's.
const IN_TAGS: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 19, 0, 2), Ipv4Addr::new(198, 19, 0, 1)];
/// Bytes of ICMP of a small echo.
const SMALL: usize = 32;
/// Headers of IPv4 and ICMP, and a tag, bytes: with both tags a packet shorter by a tag than the MTU is as long as a full
/// frame with one.
const HEADERS: u32 = 28;
const TAG: u32 = 4;
/// Of what stands on the NIC, where it has a MAC of its own.
const OTHER_MAC: Mac = Mac([0x52, 0x54, 0xe0, 0x00, 0x00, 0x55]);

/// An interface on the NIC that has frames of its own MAC.
struct Upper {
    what: &'static str,
    /// Commands in the guest, `DEV` for the NIC, `TOP` for the interface, which gets the MAC `MAC` and, where it does not
    /// take the NIC's, the MTU `MTU`.
    make: &'static [&'static str],
    /// Whether the NIC takes its MAC; else the NIC is promiscuous, or takes a further one.
    gives_mac: bool,
}

const UPPERS: [Upper; 3] = [
    Upper {
        what: "a macvlan",
        make: &["ip link add link DEV name TOP address MAC type macvlan mode private"],
        gives_mac: false,
    },
    Upper {
        what: "a bond",
        make: &[
            "ip link set dev DEV down",
            "ip link add TOP address MAC mtu MTU type bond mode active-backup miimon 100",
            "ip link set dev DEV master TOP",
        ],
        gives_mac: true,
    },
    Upper {
        what: "a bridge",
        make: &[
            "ip link add TOP address MAC type bridge",
            "ip link set dev DEV master TOP",
        ],
        gives_mac: false,
    },
];

/// Beyond the plan.
pub static STACKED: Case = Case {
    name: "stacked",
    passes: "in a VLAN of 802.1Q within one of 802.1ad echoes are answered with both tags, up to a full frame; on a macvlan, a bond and a bridge that have another MAC than the NIC the host reaches the guest under that MAC, and under the NIC's own when they are gone, with the NIC's filter as before",
    ops: &[Op::Address, Op::Down, Op::Up],
    seconds: |_| 60.0,
    faults: &[
        Fault {
            name: "one_kind_of_tag",
            breaks: "the guest's outer VLAN is one of 802.1Q as well",
            applies: takes_vlans,
            inject: |bed| {
                let script = "all=\"$*\"; case $all in *802.1ad*) \
                              exec \"$REAL\" ${all%%proto 802.1ad*} ${all##*proto 802.1ad};; esac; exec \"$REAL\" \"$@\"";
                wrap(bed, "ip", script)
            },
            red: Red::Says("within VLAN 20 of 802.1ad"),
            ..AT_START
        },
        Fault {
            name: "own_mac",
            breaks: "the guest's ip does not give what it makes the MAC that it was told",
            inject: |bed| {
                let script = "all=\"$*\"; case $all in *' address '*) \
                              rest=${all##* address }; exec \"$REAL\" ${all%% address *} ${rest#* };; esac; exec \"$REAL\" \"$@\"";
                wrap(bed, "ip", script)
            },
            red: Red::Says("on a macvlan: its MAC is"),
            ..AT_START
        },
    ],
    run: stacked,
    ..Case::PLAIN
};

fn stacked(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    if takes_vlans(&bed.cell) {
        in_two_vlans(bed, &link)?;
    }
    // Below a macvlan the NIC would answer for the address as well.
    bed.agent.sh(&format!(
        "modprobe macvlan && modprobe bonding max_bonds=0 && modprobe bridge && \
         echo 1 >/proc/sys/net/ipv4/conf/{}/arp_ignore",
        link.name
    ))?;
    let takes_mac = bed.cell.nic.takes_mac;
    let takes = |upper: &&Upper| takes_mac || !upper.gives_mac;
    for upper in UPPERS.iter().filter(takes) {
        on_top(bed, &link, upper).with_context(|| format!("on {}", upper.what))?;
    }
    bed.expect_quiet_kernel()
}

/// Sends echoes with both tags.
fn in_two_vlans(bed: &mut Testbed, link: &Link) -> anyhow::Result<()> {
    let [outer, inner] = TAGS;
    let [guest, host] = IN_TAGS;
    bed.witness.allow_vlan(outer);
    bed.witness.allow_vlan(inner);
    let (dev, mac) = (&link.name, bed.nic().mac);
    bed.agent.sh(&format!(
        "modprobe 8021q && \
         ip link add link {dev} name {dev}.s type vlan proto 802.1ad id {outer} && ip link set dev {dev}.s up && \
         ip link add link {dev}.s name {dev}.c type vlan id {inner} && ip link set dev {dev}.c up && \
         ip addr add {guest}/24 dev {dev}.c && ip neigh replace {host} lladdr {HOST_MAC} nud permanent dev {dev}.c"
    ))?;
    // Linux lets a raw socket send 4 bytes beyond the MTU for a tag of 802.1Q alone.
    let mtu = bed.cell.nic.default_mtu();
    bed.bridge.set_mtu(mtu + TAG)?;
    let longest = usize::try_from(mtu - TAG - HEADERS)?;
    let sender = Sender::open()?;
    for (seq, payload) in (1..).zip([SMALL, longest]) {
        let echo =
            probe::echo_in_two_vlans(TAGS, (HOST_MAC, host), (mac, guest), (outer, seq), payload)?;
        let mark = bed.bridge_mark()?;
        sender.send(&echo)?;
        let answers = |frame: &Frame| {
            frame.icmp() == Some(Icmp::EchoReply { id: outer, seq })
                && frame.tags() == [(probe::PROVIDER_TAG, outer), (probe::VLAN_TAG, inner)]
                && frame.length == echo.len()
        };
        bed.await_on_bridge(mark, deadline::FIRST_PING.start(), answers)
            .with_context(|| {
                format!(
                    "an echo request of {} bytes in VLAN {inner} within VLAN {outer} of 802.1ad was not answered by as many with both tags",
                    echo.len()
                )
            })?;
    }
    bed.agent.sh(&format!("ip link del {dev}.s"))?;
    bed.expect_rx_filter(link, &[])
}

/// Has the guest's address move to an interface on the NIC with another MAC, and back.
fn on_top(bed: &mut Testbed, link: &Link, upper: &Upper) -> anyhow::Result<()> {
    let address = addr::guest_with_prefix(0);
    let command = |text: &str| {
        text.replace("DEV", &link.name)
            .replace("TOP", "top")
            .replace("MAC", &OTHER_MAC.to_string())
            .replace("MTU", &link.mtu.to_string())
    };
    bed.witness.allow_mac(OTHER_MAC);
    let mut script = vec![format!("ip addr flush dev {}", link.name)];
    script.extend(upper.make.iter().map(|text| command(text)));
    script.push(format!("ip link set dev {} up", link.name));
    script.push(format!(
        "ip link set dev top up && ip addr add {address} dev top"
    ));
    bed.agent.sh(&script.join(" && "))?;
    reached_under(bed, OTHER_MAC)?;

    let dev = &link.name;
    bed.agent
        .sh(&format!("ip link del top && ip link set dev {dev} up"))?;
    bed.apply(Op::Address, link, &address)?;
    reached_under(bed, bed.nic().mac).context("when it is gone")?;
    bed.expect_rx_filter(link, &[])
}

/// The guest is found by ARP, answers, and what it sends has `mac`.
fn reached_under(bed: &Testbed, mac: Mac) -> anyhow::Result<()> {
    bridge::flush_neighbour(bed.address())?;
    bed.reach(deadline::FIRST_PING)?;
    let known = bridge::neighbour(bed.address())?;
    ensure!(
        known == Some(mac),
        "its MAC is {mac}, the host's neighbour table has {known:?}"
    );
    let fence = bed.fence()?;
    for size in [48, 1472] {
        bed.expect_replies(2, size)?;
    }
    let others = bed.wire()?.count(fence, |frame| {
        frame.direction == Direction::FromGuest
            && matches!(frame.icmp(), Some(Icmp::EchoReply { .. }))
            && frame.src() != Some(mac)
    })?;
    ensure!(
        others == 0,
        "of what the guest answered {others} frames had another MAC than {mac}"
    );
    Ok(())
}
