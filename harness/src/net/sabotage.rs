//! Deliberate breakages of the trial's network, for faults. They last as long as the namespace,
//! unless said otherwise.

use super::addr::Mac;
use super::bridge::{self, Bridge};
use super::ip;
use super::outside::{INTERFACE, Outside};
use crate::base::child;
use crate::base::error::OrCannotRun as _;
use anyhow::Result;
use std::net::{Ipv4Addr, UdpSocket};

/// Drops every `n`-th frame (of any kind) that the guest sends through `tap`, by count and not by
/// chance: of a run of `n` one is lost for certain; 1 drops all. It takes `nft` and nf_tables'
/// ingress hook, which stock kernels have as modules; netem is missing in some, and is random.
pub fn drop_every(tap: &str, n: u32) -> Result<()> {
    let last = n.saturating_sub(1);
    on_ingress(tap, &format!("numgen inc mod {n} {last} drop"))
        .or_cannot_run(|| format!("drop every {n}th frame of {tap}"))
}

/// Drops the IPv4 packets of exactly so many bytes that the guest sends through `tap`.
pub fn drop_length(tap: &str, bytes: usize) -> Result<()> {
    on_ingress(tap, &format!("ip length {bytes} drop"))
        .or_cannot_run(|| format!("drop packets of {bytes} bytes of {tap}"))
}

/// As [`drop_length`], of IPv6 packets with their header.
pub fn drop_length6(tap: &str, bytes: usize) -> Result<()> {
    on_ingress(tap, &format!("ip6 length {} drop", bytes - 40))
        .or_cannot_run(|| format!("drop IPv6 packets of {bytes} bytes of {tap}"))
}

/// Drops what tells the network where a guest's IPv6 addresses are: neighbour advertisements that leave `tap`.
pub fn drop_advertisements(tap: &str) -> Result<()> {
    on_ingress(tap, "icmpv6 type nd-neighbor-advert drop")
        .or_cannot_run(|| format!("drop neighbour advertisements of {tap}"))
}

/// Drops what the host's kernel says of packets that are too long for a path (RFC 1191, RFC 8201).
pub fn drop_too_big() -> Result<()> {
    let rules = "table inet sabotage_too_big {
            chain output {
                type filter hook output priority 0
                icmp type destination-unreachable drop
                icmpv6 type packet-too-big drop
            }
        }
";
    load(rules).or_cannot_run(|| "drop what tells of packets that are too long".into())
}

/// Drops every frame with a VLAN tag that the guest sends through `tap`.
pub fn drop_tagged(tap: &str) -> Result<()> {
    on_ingress(tap, "ether type vlan drop").or_cannot_run(|| format!("drop tagged frames of {tap}"))
}

/// Moves what the guest sends through `tap` from one VLAN to another, behind the tap's capture.
pub fn retag(tap: &str, from: u16, to: u16) -> Result<()> {
    on_ingress(tap, &format!("vlan id {from} vlan id set {to}"))
        .or_cannot_run(|| format!("retag frames of {tap}"))
}

/// Has the bridge let frames pass that have no VLAN's tag, and no others.
pub fn filter_vlans() -> Result<()> {
    ip::run(&format!(
        "link set {} type bridge vlan_filtering 1",
        bridge::NAME
    ))
    .or_cannot_run(|| "filter VLANs on the bridge".into())
}

/// Drops what tells the network where a guest's MAC is: ARP and RARP that leave `tap`.
pub fn drop_announcements(tap: &str) -> Result<()> {
    on_ingress(tap, "meta protocol { 0x0806, 0x8035 } drop")
        .or_cannot_run(|| format!("drop ARP and RARP of {tap}"))
}

/// Drops QEMU's part of that.
pub fn drop_rarp(tap: &str) -> Result<()> {
    on_ingress(tap, "meta protocol 0x8035 drop").or_cannot_run(|| format!("drop RARP of {tap}"))
}

/// Has RARP that leaves `tap` name another MAC as its sender.
pub fn change_rarp(tap: &str) -> Result<()> {
    on_ingress(tap, "meta protocol 0x8035 @nh,64,48 set 0x020000000001")
        .or_cannot_run(|| format!("change RARP of {tap}"))
}

/// Has what the guest sends through `tap` by ICMP in IP packets of so many bytes have these two words 26 bytes behind
/// the IP header. Where they are what was there in the other order, no checksum shows it.
pub fn set_in_length(tap: &str, bytes: u16, [one, other]: [u16; 2]) -> Result<()> {
    on_ingress(
        tap,
        &format!("ip length {bytes} @th,208,16 set {one:#x} @th,224,16 set {other:#x}"),
    )
    .or_cannot_run(|| format!("change packets of {bytes} bytes of {tap}"))
}

/// Drops what comes to the host for a TCP port.
pub fn drop_tcp(port: u16) -> Result<()> {
    let rules = format!(
        "table ip sabotage_tcp {{
            chain input {{
                type filter hook input priority 0
                tcp dport {port} drop
            }}
        }}
"
    );
    load(&rules).or_cannot_run(|| format!("drop what comes for TCP port {port}"))
}

/// Has nf_tables apply a rule to what the guest sends through `tap`.
fn on_ingress(tap: &str, rule: &str) -> Result<()> {
    let rules = format!(
        "table netdev sabotage_{tap} {{
            chain ingress {{
                type filter hook ingress device \"{tap}\" priority 0
                {rule}
            }}
        }}
"
    );
    load(&rules)
}

fn load(rules: &str) -> Result<()> {
    let mut command = child::pdeath_command("nft");
    command.args(["-f", "-"]);
    child::run(&mut command, "nftables", rules).map(drop)
}

/// Pulls the tap's plug: the guest still has a carrier, and reaches nobody.
pub fn unplug(bridge: &Bridge, tap: &str) -> Result<()> {
    bridge.detach(tap)
}

/// Gives the host `address` as its own, so that it sends nothing to the guest with that address.
pub fn take_address(address: Ipv4Addr) -> Result<()> {
    ip::run(&format!("addr add {address}/32 dev lo"))
}

/// Sets the MTU, in bytes, of one tap, behind the bridge's back: larger frames to the guest are lost.
pub fn set_tap_mtu(tap: &str, mtu: u32) -> Result<()> {
    ip::run(&format!("link set {tap} mtu {mtu}"))
        .or_cannot_run(|| format!("set the MTU of {tap} to {mtu}"))
}

/// A second host on the bridge, whose kernel answers ARP and ping; it leaves when dropped.
pub struct SecondHost(Outside);

/// Speaks up once, as hosts do, so that the bridge learns where the MAC is now.
fn announce(address: Ipv4Addr) -> Result<()> {
    let socket = UdpSocket::bind((address, 0))?;
    socket.set_broadcast(true)?;
    socket.send_to(&[], (Ipv4Addr::BROADCAST, DISCARD))?;
    Ok(())
}

/// The discard service's port (RFC 863): nobody answers.
const DISCARD: u16 = 9;

impl SecondHost {
    /// Plugs it in.
    pub fn plug(bridge: &Bridge, mac: Mac, address: Ipv4Addr) -> Result<SecondHost> {
        SecondHost::try_plug(bridge, mac, address)
            .or_cannot_run(|| format!("put a second host {mac} {address} on the bridge"))
    }

    fn try_plug(bridge: &Bridge, mac: Mac, address: Ipv4Addr) -> Result<SecondHost> {
        let host = Outside::plug(bridge, Some(mac), address)?;
        host.run(move || {
            // For the limited broadcast.
            ip::run(&format!("route add default dev {INTERFACE}"))?;
            announce(address)
        })?;
        Ok(SecondHost(host))
    }

    /// Its port on the bridge.
    pub fn port(&self) -> &str {
        self.0.port()
    }
}
