//! The bridge that joins a trial's taps with the host, and the host's view of its neighbours.

use super::addr::{HOST, HOST_MAC, IPV6_HOST, Mac, PREFIX_LEN};
use super::ip;
use crate::base::deadline::LINK_PASSES;
use crate::base::error::OrCannotRun as _;
use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, AsRawFd as _};

/// The bridge's name.
pub const NAME: &str = "br0";

/// Ethernet's own MTU, bytes.
pub const MTU: u32 = 1500;

/// The largest MTU of a tap: 65535 less the Ethernet header, bytes.
pub const MAX_MTU: u32 = 65521;

/// `br0`, with the host's address on it. It goes with the namespace.
pub struct Bridge {
    mtu: u32,
}

impl Bridge {
    /// Makes the bridge: ports forward at once (no spanning tree, no delay), multicast goes
    /// everywhere, and it sends nothing of its own (snooping would announce itself by IGMP).
    pub fn create(mtu: u32) -> Result<Bridge> {
        ip::batch(&[
            format!(
                "link add {NAME} address {HOST_MAC} mtu {mtu} type bridge \
                 stp_state 0 forward_delay 0 mcast_snooping 0"
            ),
            format!("addr add {HOST}/{PREFIX_LEN} dev {NAME}"),
            format!("link set {NAME} up"),
        ])
        .or_cannot_run(|| format!("create the bridge {NAME}"))?;
        Ok(Bridge { mtu })
    }

    /// Plugs a tap (or another interface) in, with the bridge's MTU, and brings it up. A tap forwards
    /// at once, half of a veth pair does when [`await_link`] says so. QEMU has made the tap by then:
    /// `-netdev tap,ifname=NAME,script=no,downscript=no`.
    pub fn attach_tap(&self, tap: &str) -> Result<()> {
        ip::run(&format!("link set {tap} master {NAME} mtu {} up", self.mtu))
            .or_cannot_run(|| format!("plug {tap} into {NAME}"))
    }

    /// Plugs in a device that keeps no frame (the kernel's `dummy`), of that name.
    pub fn plug_sink(&self, name: &str) -> Result<()> {
        ip::run(&format!("link add {name} type dummy"))
            .or_cannot_run(|| "make a device that keeps no frame".into())?;
        self.attach_tap(name)
    }

    /// Has the host join VLAN `id` on the bridge, with that address (and a /24); false where its kernel
    /// has no VLANs.
    pub fn join_vlan(&self, id: u16, address: Ipv4Addr) -> Result<bool> {
        let link = ip::run(&format!(
            "link add link {NAME} name {NAME}.{id} type vlan id {id}"
        ));
        match link {
            // The kernel's EOPNOTSUPP, in ip's words.
            Err(error) if format!("{error:#}").contains("Unknown device type") => return Ok(false),
            other => other.or_cannot_run(|| format!("join VLAN {id} on {NAME}"))?,
        }
        ip::batch(&[
            format!("addr add {address}/24 dev {NAME}.{id}"),
            format!("link set {NAME}.{id} up"),
        ])
        .or_cannot_run(|| format!("give {NAME}.{id} an address"))?;
        Ok(true)
    }

    /// Has the host leave VLAN `id`.
    pub fn leave_vlan(&self, id: u16) -> Result<()> {
        ip::run(&format!("link delete {NAME}.{id}")).or_cannot_run(|| format!("leave VLAN {id}"))
    }

    /// Turns on the host's IPv6 on the bridge, which is off otherwise; false where its kernel has no
    /// IPv6.
    pub fn enable_ipv6(&self) -> Result<bool> {
        let file = format!("/proc/sys/net/ipv6/conf/{NAME}/disable_ipv6");
        match std::fs::write(&file, "0") {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            other => other.or_cannot_run(|| format!("write {file}"))?,
        }
        ip::run(&format!("addr replace {IPV6_HOST}/64 dev {NAME} nodad"))
            .or_cannot_run(|| format!("give {NAME} an IPv6 address"))?;
        Ok(true)
    }

    /// The MAC that the host has found for an IPv6 address on the bridge; none where it has found none.
    pub fn ipv6_neighbour(&self, address: Ipv6Addr) -> Result<Option<Mac>> {
        let found = ip::json(&format!("-6 neigh show {address} dev {NAME}"))
            .or_cannot_run(|| "list the host's IPv6 neighbours".into())?;
        let mac = found.first().and_then(|entry| entry["lladdr"].as_str());
        mac.map(str::parse).transpose()
    }

    /// Takes a tap out of the bridge; it stays up.
    pub fn detach(&self, tap: &str) -> Result<()> {
        ip::run(&format!("link set {tap} nomaster"))
            .or_cannot_run(|| format!("take {tap} out of {NAME}"))
    }

    /// Sets the MTU, in bytes, of the bridge, of its ports, and of those plugged in later.
    pub fn set_mtu(&mut self, mtu: u32) -> Result<()> {
        let ports = ip::json(&format!("link show master {NAME}"))?;
        let names = ports.iter().filter_map(|port| port["ifname"].as_str());
        let commands: Vec<String> = names
            .chain([NAME])
            .map(|name| format!("link set {name} mtu {mtu}"))
            .collect();
        ip::batch(&commands).or_cannot_run(|| format!("set the MTU of {NAME} to {mtu}"))?;
        self.mtu = mtu;
        Ok(())
    }

    /// The MTU, bytes.
    pub fn mtu(&self) -> u32 {
        self.mtu
    }
}

/// Deletes a tap, which QEMU may still have open.
pub fn delete(tap: &str) -> Result<()> {
    ip::run(&format!("link delete {tap}")).or_cannot_run(|| format!("delete {tap}"))
}

/// Whether the calling thread's network has an interface of that name.
pub fn exists(name: &str) -> bool {
    nix::net::if_::if_nametoindex(name).is_ok()
}

/// Waits until frames pass through half of a veth pair, both of which are up. The kernel activates it
/// from a queue of work that waits while other namespaces end, and loses what is sent before.
pub fn await_link(name: &str) -> Result<()> {
    try_await_link(name).or_cannot_run(|| format!("see {name} pass frames"))
}

fn try_await_link(name: &str) -> Result<()> {
    let events = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        SockProtocol::NetlinkRoute,
    )?;
    bind(
        events.as_raw_fd(),
        &NetlinkAddr::new(0, libc::RTMGRP_LINK.cast_unsigned()),
    )?;
    let deadline = LINK_PASSES.start();
    loop {
        let links = ip::json(&format!("-details link show dev {name}"))?;
        let link = links.first().context("no such interface")?;
        let (operstate, port) = (
            &link["operstate"],
            &link["linkinfo"]["info_slave_data"]["state"],
        );
        if operstate == "UP" && (port.is_null() || port == "forwarding") {
            return Ok(());
        }
        let Some(left) = deadline.left() else {
            return Err(deadline.missed(format!("its operstate is {operstate}, its port {port}")));
        };
        let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        poll(
            &mut [PollFd::new(events.as_fd(), PollFlags::POLLIN)],
            timeout,
        )?;
        // The events are dropped: the state is asked anew.
        while recv(events.as_raw_fd(), &mut [0; 4096], MsgFlags::empty()).is_ok() {}
    }
}

/// An interface's own MAC. (A tap's is the host side's, not the guest's.)
pub fn mac(name: &str) -> Result<Mac> {
    let links = ip::json(&format!("link show dev {name}"))?;
    let address = links.first().and_then(|link| link["address"].as_str());
    address
        .with_context(|| format!("{name} has no MAC"))?
        .parse()
}

/// Whether a tap has a virtio-net header before each frame (`IFF_VNET_HDR`).
pub fn has_vnet_header(tap: &str) -> Result<bool> {
    let links = ip::json(&format!("-details link show dev {tap}"))?;
    let told = links
        .first()
        .map(|link| &link["linkinfo"]["info_data"]["vnet_hdr"]);
    told.and_then(serde_json::Value::as_bool).with_context(|| {
        format!("`ip -details link` does not tell whether {tap} has a virtio-net header")
    })
}

/// What an interface has carried each way, frames and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carried {
    /// Received: on a tap, what the guest sent.
    pub received: (u64, u64),
    /// Sent: on a tap, what QEMU or vhost took for the guest.
    pub sent: (u64, u64),
}

impl Carried {
    /// What it has carried since it had carried `before`.
    pub fn since(&self, before: &Carried) -> Carried {
        let since = |now: (u64, u64), then: (u64, u64)| (now.0 - then.0, now.1 - then.1);
        Carried {
            received: since(self.received, before.received),
            sent: since(self.sent, before.sent),
        }
    }
}

/// What an interface has carried since it was made.
pub fn carried_frames(name: &str) -> Result<Carried> {
    let links = ip::json(&format!("-stats link show dev {name}"))?;
    let count = |way: &str, what: &str| {
        let stats = links.first().map(|link| &link["stats64"][way][what]);
        stats
            .and_then(serde_json::Value::as_u64)
            .with_context(|| format!("`ip -stats link` shows no {way} {what} of {name}"))
    };
    let both = |way| anyhow::Ok((count(way, "packets")?, count(way, "bytes")?));
    Ok(Carried {
        received: both("rx")?,
        sent: both("tx")?,
    })
}

/// Bytes that an interface has carried: received (on a tap, what the guest sent) and sent.
pub fn carried(name: &str) -> Result<(u64, u64)> {
    let carried = carried_frames(name)?;
    Ok((carried.received.1, carried.sent.1))
}

/// The host's neighbour table: who has `address`, as far as the host knows. `None` when it does
/// not know, or asked in vain.
pub fn neighbour(address: Ipv4Addr) -> Result<Option<Mac>> {
    let entries = ip::json(&format!("neigh show to {address} dev {NAME}"))?;
    entries
        .first()
        .and_then(|entry| entry["lladdr"].as_str())
        .map(str::parse)
        .transpose()
}

/// Makes the host forget who has `address`: the next packet asks anew.
pub fn flush_neighbour(address: Ipv4Addr) -> Result<()> {
    ip::run(&format!("neigh flush nud all to {address} dev {NAME}"))
        .or_cannot_run(|| format!("flush the neighbour {address}"))
}

/// Makes the host send to `mac` for `address`, without asking, until it is flushed.
pub fn set_neighbour_permanent(address: Ipv4Addr, mac: Mac) -> Result<()> {
    ip::run(&format!(
        "neigh replace {address} lladdr {mac} nud permanent dev {NAME}"
    ))
    .or_cannot_run(|| format!("set the neighbour {address} to {mac}"))
}
