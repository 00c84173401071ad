//! What a guest has told its NIC, and what must still hold of the NIC when the guest has moved elsewhere:
//! its MAC, VLANs, multicast groups, promiscuous mode, its queues, its offloads, its MTU. Each is seen
//! on the wire, by QEMU where QEMU shows it, and by the guest.

mod counted;
mod forgotten;
mod probes;
mod queues;

use super::transfer;
use crate::base::deadline;
use crate::guest::dialect::Op;
use crate::guest::link::{self, Link};
use crate::matrix::Cell;
use crate::net::addr::{HOST, HOST_MAC, Mac};
use crate::net::bridge;
use crate::net::frame::{Direction, Frame, Icmp};
use crate::net::probe::{self, Sender};
use crate::testbed::Testbed;
use anyhow::{Context as _, ensure};
pub(super) use counted::Counted;
use probes::GROUPS;
pub(super) use probes::{GROUP, at_once, heard, watch};
use qapi::qmp::RxState;
pub(super) use queues::each_carries;
use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The VLAN that the guest joins.
pub(super) const VLAN: u16 = 10;
/// Those that it joins in all: in each half of a filter of 4096 bits one.
const VLANS: [u16; 2] = [VLAN, 3010];
/// A further unicast address of the NIC's.
const FURTHER: Mac = Mac([0x52, 0x54, 0xe0, 0x00, 0x00, 0x77]);
/// An MTU above Ethernet's, for which the driver sets up its NIC otherwise, and one below, for a NIC whose
/// largest is Ethernet's own.
const LARGE_MTU: u32 = 4000;
const SMALL_MTU: u32 = 1492;
/// Ethernet's header, and those of IPv4 and ICMP, bytes.
const ETHERNET: usize = 14;
const HEADERS: u32 = 28;
/// What crosses by TCP each way, KiB: enough that a kernel that may hand over more than the MTU does.
const BLOCKS: u32 = 64;
/// TCP connections from as many ports: enough that each of four queues gets some each way, but for one
/// time in ten million.
const FLOWS: u32 = 64;
/// Groups that Intel's drivers put where their NICs have room for a few whole addresses: of what is joined behind them
/// the NIC has a hash.
const FIRST_GROUPS: RangeInclusive<u8> = 10..=26;
/// What is switched off where the NIC has it on: ethtool's short name, and the long one of `ethtool -k`.
const OFFLOADS: [(&str, &str); 5] = [
    ("rx", "rx-checksumming"),
    ("tx", "tx-checksumming"),
    ("tso", "tcp-segmentation-offload"),
    ("lro", "large-receive-offload"),
    ("rx-gro-hw", "rx-gro-hw"),
];

/// The guest's address in a VLAN, and the host's: outside the bridge's own network.
fn addresses(vlan: u16) -> (Ipv4Addr, Ipv4Addr) {
    let net = if vlan == VLAN { 0 } else { 1 };
    (
        Ipv4Addr::new(198, 19, net, 2),
        Ipv4Addr::new(198, 19, net, 1),
    )
}

/// Whether the NIC has a filter with room for further unicast addresses; another is promiscuous with them.
pub(super) fn takes_further(cell: &Cell) -> bool {
    ["virtio_net", "e1000", "e1000e", "igb"].contains(&cell.nic.driver.as_str())
}

/// The NIC's interface by its driver: its MAC may be the first or the one that the case set.
pub(super) fn under_new_mac(bed: &Testbed) -> anyhow::Result<Link> {
    let driver = &bed.cell.nic.driver;
    let mut links = link::links(&bed.agent)?.into_iter();
    links
        .find(|link| link.driver == *driver)
        .with_context(|| format!("the guest has no NIC of {driver}"))
}

/// What the guest has told its NIC.
pub(super) struct State {
    /// The NIC's interface as it was before.
    pub(super) link: Link,
    /// The MAC that the guest set; the first where the NIC takes no other.
    pub(super) mac: Mac,
    first: Mac,
    /// A further unicast address, where the NIC has room for such.
    further: Option<Mac>,
    mtu: u32,
    /// Whether the driver takes VLANs, and the guest is in [`VLANS`].
    vlan: bool,
    /// Short and long names of what was switched off.
    off: Vec<(&'static str, &'static str)>,
    /// Whether the NIC is in promiscuous mode.
    pub(super) promiscuous: bool,
    /// Whether frames for other MACs stay outside, but in promiscuous mode.
    filters: bool,
    /// Whether a frame for a group that was not joined stayed outside, when the guest had not moved yet:
    /// where a NIC filters by a hash or not at all, it does not.
    filters_groups: bool,
    /// How many times probes were sent.
    rounds: u8,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let off: Vec<&str> = self.off.iter().map(|(short, _)| *short).collect();
        write!(f, "MAC {}", self.mac)?;
        if self.mac == self.first {
            f.write_str(" (the first, the NIC takes no other)")?;
        }
        if let Some(further) = self.further {
            write!(f, ", further {further}")?;
        }
        write!(f, ", MTU {}", self.mtu)?;
        match self.vlan {
            true => write!(f, ", VLANs {VLANS:?}")?,
            false => f.write_str(", no VLAN (the driver takes none)")?,
        }
        write!(f, ", {} groups", GROUPS.len())?;
        if !self.filters_groups {
            f.write_str(" (the NIC passes other groups as well)")?;
        }
        match off.is_empty() {
            true => f.write_str(", no offload to switch off"),
            false => write!(f, ", off: {}", off.join(" ")),
        }
    }
}

impl State {
    /// Sets all of it, on a NIC that is up and addressed.
    ///
    /// # Errors
    /// What the guest refuses; a NIC that then does not answer.
    pub(super) fn set(bed: &mut Testbed, link: &Link) -> anyhow::Result<State> {
        let dev = &link.name;
        let first = bed.nic().mac;
        let mac = match bed.cell.nic.takes_mac {
            true => first.opposite(),
            false => first,
        };
        let mtu = match bed.cell.nic.max_mtu {
            // Without LRO it takes no longer frames, as receive_segments shows.
            _ if bed.cell.nic.driver == "vmxnet3" => SMALL_MTU,
            largest if largest >= LARGE_MTU => LARGE_MTU,
            largest => SMALL_MTU.min(largest),
        };
        bed.bridge.set_mtu(mtu.max(bridge::MTU))?;
        let features = link::fields(&bed.agent.sh(&format!("ethtool -k {dev}"))?);
        let is = |name: &str, value: &str| features.get(name).is_some_and(|is| is == value);
        let off: Vec<_> = (OFFLOADS.into_iter())
            .filter(|(_, long)| is(long, "on"))
            .collect();
        let vlan = !is("vlan-challenged", "on [fixed]");

        let mut script = vec![
            bed.command(Op::Down, link, ""),
            bed.command(Op::Mac, link, &mac.to_string()),
            bed.command(Op::Mtu, link, &mtu.to_string()),
        ];
        if !off.is_empty() {
            let words = off.iter().map(|(short, _)| format!(" {short} off"));
            script.push(format!("ethtool -K {dev}{}", words.collect::<String>()));
        }
        if bed.nic().queues > 1 {
            // ethtool refuses to set what is set already (code 80): 1 first, so that 4 is a change.
            let queues = bed.nic().queues;
            script.push(format!(
                "{{ ethtool -L {dev} combined 1; ethtool -L {dev} combined {queues}; }}"
            ));
        }
        script.push(bed.command(Op::Up, link, ""));
        for id in VLANS.into_iter().filter(|_| vlan) {
            let inner = format!("{dev}.{id}");
            let dialect = bed.cell.guest.dialect;
            let (guest, host) = addresses(id);
            script.extend([
                bed.command(Op::VlanAdd, link, &id.to_string()),
                dialect.command(Op::Address, &inner, &format!("{guest}/24")),
                format!("ip neigh replace {host} lladdr {HOST_MAC} nud permanent dev {inner}"),
            ]);
        }
        if ["e1000", "e1000e", "igb"].contains(&link.driver.as_str()) {
            script.extend(
                FIRST_GROUPS
                    .map(|last: u8| format!("ip maddr add 01:00:5e:13:00:{last} dev {dev}")),
            );
        }
        let further = takes_further(&bed.cell).then_some(FURTHER);
        script.extend(further.map(|mac| format!("bridge fdb add {mac} dev {dev} self permanent")));
        script.extend(GROUPS.map(|group| format!("ip maddr add {group} dev {dev}")));
        bed.agent.sh(&script.join(" && "))?;
        probes::watch(bed, dev)?;
        transfer::make_file(bed, BLOCKS)?;
        bridge::flush_neighbour(bed.address())?;
        bed.reach(deadline::FIRST_PING)
            .context("once the guest had set up its NIC")?;
        let mut state = State {
            link: link.clone(),
            mac,
            first,
            further,
            mtu,
            vlan,
            off,
            promiscuous: false,
            filters: bed.cell.backend.filters(),
            filters_groups: false,
            rounds: 0,
        };
        state.filters_groups = state.filters && state.keeps_groups_out(bed)?;
        Ok(state)
    }

    /// A VLAN that the guest is in, and its address there.
    pub(super) fn in_vlan(&self) -> Option<(u16, Ipv4Addr)> {
        self.vlan.then_some((VLAN, addresses(VLAN).0))
    }

    /// Switches promiscuous mode, and all-multicast mode with it, which the one hides on the wire: QEMU shows both.
    ///
    /// # Errors
    /// The guest's refusal.
    pub(super) fn set_promiscuous(&mut self, bed: &Testbed, on: bool) -> anyhow::Result<()> {
        let op = match on {
            true => Op::PromiscOn,
            false => Op::PromiscOff,
        };
        bed.apply(op, &self.link, "")?;
        let word = if on { "on" } else { "off" };
        let all = format!("ip link set dev {} allmulticast {word}", self.link.name);
        bed.agent.sh(&all)?;
        self.promiscuous = on;
        Ok(())
    }

    /// Fails unless all of it holds, but for the VLANs.
    ///
    /// # Errors
    /// What does not hold, as the wire, QEMU or the guest shows it.
    pub(super) fn expect(&mut self, bed: &Testbed) -> anyhow::Result<()> {
        self.expect_filters(bed)?;
        self.expect_rx_filter(bed)?;
        self.expect_all_but_filters(bed)
    }

    /// As [`State::expect`], of what has nothing to do with which frames the NIC takes.
    ///
    /// # Errors
    /// As [`State::expect`].
    pub(super) fn expect_all_but_filters(&self, bed: &Testbed) -> anyhow::Result<()> {
        self.expect_in_guest(bed)?;
        if bed.nic().queues > 1 {
            each_carries(bed, &self.link, bed.nic().queues, FLOWS)?;
        }
        self.expect_sizes(bed)
    }

    /// As [`State::expect`], of what promiscuous mode changes.
    ///
    /// # Errors
    /// As [`State::expect`].
    pub(super) fn expect_promiscuous(&mut self, bed: &Testbed) -> anyhow::Result<()> {
        self.expect_filters(bed)?;
        self.expect_rx_filter(bed)
    }

    /// What QEMU shows of it: on virtio its receive filter.
    ///
    /// # Errors
    /// What it shows instead.
    pub(super) fn expect_rx_filter(&self, bed: &Testbed) -> anyhow::Result<()> {
        let Some(filter) = bed.rx_filter()? else {
            return Ok(());
        };
        ensure!(
            filter.main_mac.parse().ok() == Some(self.mac),
            "the MAC that the guest set is {}, QEMU's query-rx-filter has {}",
            self.mac,
            filter.main_mac
        );
        let groups = &filter.multicast_table;
        for joined in GROUPS {
            ensure!(
                groups
                    .iter()
                    .any(|group| group.parse().ok() == Some(joined)),
                "the guest joined the multicast group {joined}, QEMU's query-rx-filter has {groups:?}"
            );
        }
        let unicast = &filter.unicast_table;
        if let Some(further) = self.further {
            ensure!(
                unicast.iter().any(|mac| mac.parse().ok() == Some(further)),
                "the guest set the further MAC {further}, QEMU's query-rx-filter has {unicast:?}"
            );
        }
        ensure!(
            filter.promiscuous == self.promiscuous,
            "promiscuous mode is {}, QEMU's query-rx-filter says {}",
            self.promiscuous,
            filter.promiscuous
        );
        ensure!(
            (filter.multicast == RxState::all) == self.promiscuous,
            "all-multicast mode is {}, QEMU's query-rx-filter has {:?} multicasts",
            self.promiscuous,
            filter.multicast
        );
        Ok(())
    }

    /// What the guest's kernel shows of it.
    fn expect_in_guest(&self, bed: &Testbed) -> anyhow::Result<()> {
        let dev = &self.link.name;
        let text = bed.agent.sh(&format!(
            "cd /sys/class/net/{dev}; read -r mac <address; read -r mtu <mtu; read -r flags <flags\n\
             echo mac: $mac; echo mtu: $mtu; echo flags: $flags\n\
             ls /proc/net/vlan 2>/dev/null | sed -n 's/^{dev}\\.\\(.*\\)/vlan \\1: joined/p'\n\
             awk '$2 == \"{dev}\" {{ print \"group \" $5 \": joined\" }}' /proc/net/dev_mcast\n\
             ethtool -k {dev}; ethtool -l {dev} 2>/dev/null; true"
        ))?;
        let fields = link::fields(&text);
        let get = |name: &str| fields.get(name).map_or("", String::as_str);
        ensure!(
            get("mac") == self.mac.to_string(),
            "the MAC that the guest set is {}, it shows {}",
            self.mac,
            get("mac")
        );
        ensure!(
            get("mtu") == self.mtu.to_string(),
            "the MTU was set to {}, the guest reads back {}",
            self.mtu,
            get("mtu")
        );
        let flags = u32::from_str_radix(get("flags").trim_start_matches("0x"), 16)
            .with_context(|| format!("the guest's flags of {dev} are {:?}", get("flags")))?;
        ensure!(
            (flags & libc::IFF_PROMISC.cast_unsigned() != 0) == self.promiscuous,
            "promiscuous mode is {}, the guest's flags of {dev} are {flags:#x}",
            self.promiscuous
        );
        for id in VLANS.into_iter().filter(|_| self.vlan) {
            ensure!(
                get(&format!("vlan {id}")) == "joined",
                "the guest joined VLAN {id} and has no {dev}.{id} any more"
            );
        }
        for group in GROUPS {
            ensure!(
                get(&format!("group {}", group.to_string().replace(':', ""))) == "joined",
                "the guest joined the multicast group {group} and its /proc/net/dev_mcast does not show it"
            );
        }
        for (short, long) in &self.off {
            ensure!(
                get(long).starts_with("off"),
                "{short} was switched off, `ethtool -k` reads back {long}: {}",
                get(long)
            );
        }
        let queues = bed.nic().queues;
        ensure!(
            queues == 1 || get("Combined") == queues.to_string(),
            "the guest set {queues} queues, `ethtool -l` reads back {}",
            get("Combined")
        );
        Ok(())
    }

    /// Fails unless the NIC takes a request with each VLAN's tag, and the reply has that tag. It is apart from
    /// all else: a QEMU that is known to lose VLANs is still to be judged by the rest.
    ///
    /// # Errors
    /// What QEMU or the host's end of the bridge shows instead.
    pub(super) fn expect_vlans(&self, bed: &Testbed) -> anyhow::Result<()> {
        let joined = VLANS.into_iter().filter(|_| self.vlan);
        if let Some(filter) = bed.rx_filter()? {
            for id in joined.clone() {
                ensure!(
                    filter.vlan_table.contains(&i64::from(id)),
                    "the guest is in VLAN {id}, QEMU's query-rx-filter has {:?}",
                    filter.vlan_table
                );
            }
        }
        let (sender, round) = (Sender::open()?, u16::from(self.rounds));
        for id in joined {
            let mark = bed.bridge_mark()?;
            let (guest, host) = addresses(id);
            let request = probe::tagged_echo(id, (HOST_MAC, host), (self.mac, guest), (round, id))?;
            sender.send(&request)?;
            let limit = deadline::FIRST_PING.start();
            let reply = Icmp::EchoReply { id: round, seq: id };
            let replies =
                |frame: &Frame| frame.icmp() == Some(reply) && frame.vlan_id() == Some(id);
            bed.await_on_bridge(mark, limit, replies).with_context(|| {
                format!("in VLAN {id} no reply with that tag came back to an echo request")
            })?;
        }
        Ok(())
    }

    /// A packet of exactly the MTU crosses both ways; by TCP none is longer, though the guest's kernel and
    /// the host's would build longer ones for a NIC that segments.
    fn expect_sizes(&self, bed: &Testbed) -> anyhow::Result<()> {
        let mtu = self.mtu;
        let ping = bed.ping().count(2).size(mtu - HEADERS).interval(0.01);
        bed.expect_answered(&ping.dont_fragment(), 2)
            .with_context(|| format!("with the MTU at {mtu}"))?;
        let wire = bed.wire()?;
        let fence = bed.fence()?;
        transfer::from_guest(bed, HOST.into(), BLOCKS, Duration::ZERO)?;
        transfer::to_guest(bed, HOST.into(), BLOCKS, Duration::ZERO)?;
        let most = mtu as usize + ETHERNET;
        let frames = wire.frames(fence)?;
        let off: Vec<&str> = self.off.iter().map(|(short, _)| *short).collect();
        for direction in [Direction::FromGuest, Direction::ToGuest] {
            let segments = (frames.iter())
                .filter(|frame| frame.direction == direction && frame.tcp_ports().is_some());
            let longest = segments.map(|frame| frame.length).max().unwrap_or_default();
            ensure!(
                longest <= most,
                "a TCP segment of {longest} bytes went {direction} with the MTU at {mtu} and {} switched off",
                off.join(", ")
            );
            ensure!(
                longest == most,
                "with the MTU at {mtu} the longest TCP segment {direction} has {longest} bytes, not {most}"
            );
        }
        Ok(())
    }
}
