//! A host behind the trial's own, which routes to it, by a path that carries less than the bridge does.

use super::addr::IPV6_NETWORK;
use super::outside::{INTERFACE, Outside};
use super::transfer::TcpPort;
use super::{bridge, ip};
use crate::base::error::OrCannotRun as _;
use anyhow::Result;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Its IPv4 address, in a /24 that is on no bridge.
pub const BEYOND: Ipv4Addr = Ipv4Addr::new(198, 19, 1, 2);
/// Its IPv6 address, in such a /64.
pub const IPV6_BEYOND: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 1, 0, 0, 0, 2);
/// The host's addresses at its end of the path.
const NEAR: Ipv4Addr = Ipv4Addr::new(198, 19, 1, 1);
const IPV6_NEAR: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 1, 0, 0, 0, 1);

/// The host behind, until it is dropped.
pub struct Beyond(Outside);

impl Beyond {
    /// Joins it to the host, which from now on routes between it and the bridge, by IPv6 too where that is on. Packets
    /// to it may have `path_mtu` bytes; those that come from it as many as Ethernet's, so that its TCP does not ask
    /// for shorter ones.
    pub fn join(path_mtu: u32, ipv6: bool) -> Result<Beyond> {
        let host = Outside::start(bridge::MTU, None)?;
        let port = host.port().to_owned();
        let mut near = vec![
            format!("addr add {NEAR}/24 dev {port}"),
            format!("link set {port} up"),
            format!("route add {BEYOND} dev {port} mtu lock {path_mtu}"),
        ];
        let mut far = vec![
            format!("addr add {BEYOND}/24 dev {INTERFACE}"),
            format!("link set {INTERFACE} up"),
            format!("route add default via {NEAR}"),
        ];
        if ipv6 {
            near.extend([
                format!("addr add {IPV6_NEAR}/64 dev {port} nodad"),
                format!("route add {IPV6_BEYOND} dev {port} mtu lock {path_mtu}"),
            ]);
            far.extend([
                format!("addr add {IPV6_BEYOND}/64 dev {INTERFACE} nodad"),
                format!("route add {IPV6_NETWORK}/64 via {IPV6_NEAR}"),
            ]);
            set(&format!("ipv6/conf/{port}/disable_ipv6"), 0)?;
            set("ipv6/conf/all/forwarding", 1)?;
        }
        set("ipv4/ip_forward", 1)?;
        ip::batch(&near).or_cannot_run(|| "route to the host behind".into())?;
        host.run(move || {
            if ipv6 {
                set(&format!("ipv6/conf/{INTERFACE}/disable_ipv6"), 0)?;
            }
            ip::batch(&far).or_cannot_run(|| "set up the interface of the host behind".into())?;
            bridge::await_link(INTERFACE)
        })?;
        bridge::await_link(&port)?;
        Ok(Beyond(host))
    }

    /// Opens a TCP port there, at one of its addresses.
    pub fn listen(&self, address: IpAddr) -> Result<TcpPort> {
        self.0.run(move || TcpPort::open(address))
    }
}

/// Sets a value of /proc/sys/net, which is that of the thread's own network.
fn set(name: &str, value: u8) -> Result<()> {
    let file = format!("/proc/sys/net/{name}");
    std::fs::write(&file, value.to_string()).or_cannot_run(|| format!("write {file}"))
}
