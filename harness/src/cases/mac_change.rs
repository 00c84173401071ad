//! Plan items 4 and "18. mac_change": the NIC under a new MAC.

use super::faults::{self, AT_START, IN_TRAFFIC, ignore, program, wrap_first};
use super::{Case, Fault, Load, Moment, Red};
use crate::base::deadline;
use crate::guest::dialect::Op;
use crate::guest::link::{self, Link};
use crate::net::addr::Mac;
use crate::net::bridge;
use crate::net::sabotage::SecondHost;
use crate::testbed::Testbed;
use anyhow::{Context, ensure};
use std::time::Duration;

/// DHCP message type (RFC 2132, 9.6).
const DHCP_ACK: u8 = 5;

/// In the place of a program that sets a MAC as its last argument: keeps the first half of the present one.
const HALF: &str = r#"case " $* " in *" address "*|*" hw ether "*)
    for mac; do :; done
    for device in /sys/class/net/*/device; do read -r now <${device%device}address; done
    now=${now%:*:*:*}; last=${mac#*:*:*:}; all="$*"
    exec "$REAL" ${all%"$mac"}$now:$last;;
esac
exec "$REAL" "$@""#;

/// Plan items 4 and 18.
pub static MAC_CHANGE: Case = Case {
    name: "mac_change",
    plan_item: "4, 18. mac_change",
    passes: "under a MAC that shares its first half with the old one, one that shares the last half, and the old one again the host reaches the guest; under one that differs in each byte the guest shows the new MAC, DHCP leases to it, the host's neighbour table and QEMU (`info network`, on virtio `query-rx-filter`) agree, and the old MAC no longer answers; on virtio QEMU tells of a MAC that is set while the NIC is up by an event",
    load: Load::Waits,
    rearm: Some(back),
    ops: &[Op::Down, Op::Mac, Op::Up, Op::Dhcp, Op::Restart],
    faults: &[
        Fault {
            name: "second_host",
            breaks: "a second host on the bridge answers under the old MAC",
            inject: |bed| {
                let (old, new) = (bed.nic().mac, bed.nic().mac.opposite());
                let leased = bed.dhcp.as_ref().and_then(|dhcp| dhcp.lease(new));
                let address = leased.context("the NIC has no lease to be doubled")?;
                let host = SecondHost::plug(&bed.bridge, old, address)?;
                bed.kept.push(Box::new(host));
                Ok(())
            },
            red: Red::Says("the old MAC"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "no_dhcp",
            breaks: "the DHCP server is gone when the guest asks under its new MAC",
            inject: |bed| {
                bed.dhcp = None;
                Ok(())
            },
            red: Red::Says("no DHCPACK for the new MAC"),
            ..AT_START
        },
        Fault {
            name: "half_taken",
            breaks: "of a new MAC the NIC takes over the last three bytes only",
            inject: |bed| {
                let command = bed.command(Op::Mac, &bed.link()?, "");
                wrap_first(bed, &command, HALF)
            },
            red: Red::Says("the guest shows"),
            ..AT_START
        },
        Fault {
            name: "not_told",
            breaks: "the guest's tool says that it set a MAC and does not, so that QEMU has nothing to tell of",
            applies: faults::virtio,
            moment: Moment::Midway,
            inject: |bed| {
                let command = bed.command(Op::Mac, &bed.link()?, "");
                let words = match program(&command) {
                    "ip" => "address",
                    _ => "hw ether",
                };
                ignore(bed, program(&command), words)
            },
            red: Red::Missed(deadline::RX_FILTER),
            ..AT_START
        },
        Fault {
            name: "mac_ignored",
            breaks: "QEMU does not let the driver program its MAC (ctrl_mac_addr=off)",
            applies: faults::virtio,
            vm: |spec, _| spec.nics[0].properties.push("ctrl_mac_addr=off".into()),
            red: Red::Says("new MAC"),
            ..AT_START
        },
    ],
    run: mac_change,
    ..Case::PLAIN
};

/// Gives the NIC its own MAC again.
fn back(bed: &mut Testbed) -> anyhow::Result<()> {
    let old = bed.nic().mac;
    let link = link::await_link(&bed.agent, old.opposite())?;
    bed.apply(Op::Down, &link, "")?;
    bed.apply(Op::Mac, &link, &old.to_string())?;
    bed.apply(Op::Up, &link, "")
}

/// Sets another MAC in the guest and asks for an address by DHCP, which must be leased to the new MAC.
/// The host's neighbour table and QEMU must show the new MAC. What is then sent to the old MAC must not
/// be answered, what is sent to the new one must be. At last the network is restarted, which keeps the
/// new MAC.
fn mac_change(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    through_halves(bed, &link)?;
    bed.moment(Moment::Midway)?;
    if bed.cell.nic.is_virtio() {
        let live = |mac: Mac| bed.apply(Op::Mac, &link, &mac.to_string());
        bed.expect_rx_filter_event(|| live(bed.nic().mac.opposite()))?;
        live(bed.nic().mac)?;
    }
    let old = bed.nic().mac;
    let new = old.opposite();
    bed.apply(Op::Down, &link, "")?;
    bed.apply(Op::Mac, &link, &new.to_string())?;
    bed.apply(Op::Up, &link, "")?;
    bed.agent.sh(&format!("ip addr flush dev {}", link.name))?;
    let mark = bed.wire()?.mark()?;
    let asking = bed.agent.start(&bed.command(Op::Dhcp, &link, ""))?;
    let until = deadline::DHCP_LEASE.start();
    bed.wire()?
        .wait(mark, until, |frame| {
            frame
                .dhcp()
                .is_some_and(|dhcp| dhcp.client == new && dhcp.kind == DHCP_ACK)
        })
        .with_context(|| format!("no DHCPACK for the new MAC {new}"))?;
    bed.agent.finish(asking, Duration::ZERO)?;
    expect_shown(bed, &link.name, new)?;
    // What is on the wire may not be in the server's log yet.
    let address = bed
        .dhcp
        .as_ref()
        .context("the DHCP server is gone")?
        .wait_for_lease(new, until)?;
    let addresses = bed
        .agent
        .sh(&format!("ip -4 addr show dev {}", link.name))?;
    ensure!(
        addresses.contains(&format!("inet {address}/")),
        "DHCP leased {address} to the new MAC, the guest shows {addresses}"
    );

    bridge::flush_neighbour(address)?;
    let ping = bed.ping_to(address).count(3).interval(0.1);
    bed.expect_answered(&ping, 3).context("from the new MAC")?;
    let neighbour = bridge::neighbour(address)?;
    ensure!(
        neighbour == Some(new),
        "the new MAC is {new}, the host's neighbour table has {neighbour:?}"
    );
    expect_in_qemu(bed, &link, new)?;

    bed.moment(Moment::Traffic)?;
    bridge::set_neighbour_permanent(address, old)?;
    bed.expect_silence(address, &format!("it is sent to the old MAC {old}"))?;
    bridge::set_neighbour_permanent(address, new)?;
    let ping = bed.ping_to(address).count(3).interval(0.1);
    bed.expect_answered(&ping, 3).context("from the new MAC")?;
    restart(bed, &link.name, new)
}

/// Goes through addresses that share a half with the one before, and back to the NIC's own: a NIC that takes
/// over some bytes of an address, or compares some only, hears nothing at one of them, or still at the last.
fn through_halves(bed: &Testbed, link: &Link) -> anyhow::Result<()> {
    let old = bed.nic().mac;
    let Mac([a, b, c, ..]) = old;
    let Mac([.., d, e, f]) = old.opposite();
    // It shares the first half with the one before, and the last half with the one after it.
    let between = Mac([a, b, c, d, e, f]);
    for mac in [between, old.opposite(), old] {
        become_known(bed, link, mac)?;
    }
    bridge::flush_neighbour(bed.address())
}

/// Sets a MAC, which the guest and QEMU must show, and to which what is sent must be answered.
fn become_known(bed: &Testbed, link: &Link, mac: Mac) -> anyhow::Result<()> {
    bed.apply(Op::Down, link, "")?;
    bed.apply(Op::Mac, link, &mac.to_string())?;
    bed.apply(Op::Up, link, "")?;
    expect_shown(bed, &link.name, mac)?;
    bridge::set_neighbour_permanent(bed.address(), mac)?;
    bed.reach(deadline::FIRST_PING)
        .with_context(|| format!("sent to the new MAC {mac}"))?;
    expect_in_qemu(bed, link, mac)
}

fn expect_shown(bed: &Testbed, dev: &str, new: Mac) -> anyhow::Result<()> {
    let shown = bed.agent.sh(&format!("cat /sys/class/net/{dev}/address"))?;
    ensure!(
        shown.trim() == new.to_string(),
        "the new MAC is {new}, the guest shows {}",
        shown.trim()
    );
    Ok(())
}

/// QEMU must have `new` where it shows a NIC's present MAC.
fn expect_in_qemu(bed: &Testbed, link: &Link, new: Mac) -> anyhow::Result<()> {
    let qemu = bed.qemu_nic()?;
    ensure!(
        qemu.mac == new || !bed.cell.nic.shows_mac,
        "the new MAC is {new}, QEMU's `info network` shows {}",
        qemu.mac
    );
    bed.expect_rx_filter(link, &[])
}

/// Plan item 18: the release's network restart keeps the new MAC.
fn restart(bed: &mut Testbed, dev: &str, new: Mac) -> anyhow::Result<()> {
    let command = bed.cell.guest.dialect.command(Op::Restart, dev, "");
    bed.agent.sh(&command)?;
    let shown = bed.agent.sh(&format!("cat /sys/class/net/{dev}/address"))?;
    ensure!(
        shown.trim() == new.to_string(),
        "after `{command}` the guest shows {}, not the new MAC {new}",
        shown.trim()
    );
    Ok(())
}
