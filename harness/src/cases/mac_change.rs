//! Plan items 4 and "18. mac_change": the NIC under a new MAC.

use super::faults::{self, AT_START, IN_TRAFFIC};
use super::{Case, Fault, Load, Moment, Red};
use crate::base::deadline;
use crate::guest::dialect::Op;
use crate::guest::link;
use crate::net::addr::Mac;
use crate::net::bridge;
use crate::net::sabotage::SecondHost;
use crate::testbed::Testbed;
use anyhow::{Context, ensure};
use std::time::{Duration, Instant};

/// DHCP message type (RFC 2132, 9.6).
const DHCP_ACK: u8 = 5;

/// Plan items 4 and 18.
pub static MAC_CHANGE: Case = Case {
    name: "mac_change",
    plan_item: "4, 18. mac_change",
    passes: "the guest shows the new MAC, DHCP leases to it, the host's neighbour table and QEMU (`info network`, on virtio `query-rx-filter`) agree, and the old MAC no longer answers",
    load: Load::Waits,
    rearm: Some(back),
    ops: &[Op::Down, Op::Mac, Op::Up, Op::Dhcp, Op::Restart],
    faults: &[
        Fault {
            name: "second_host",
            breaks: "a second host on the bridge answers under the old MAC",
            inject: |bed| {
                let (old, new) = (bed.nic().mac, successor(bed.nic().mac));
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
    let link = link::await_link(&bed.agent, successor(old))?;
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
    let old = bed.nic().mac;
    let new = successor(old);
    bed.apply(Op::Down, &link, "")?;
    bed.apply(Op::Mac, &link, &new.to_string())?;
    bed.apply(Op::Up, &link, "")?;
    bed.agent.sh(&format!("ip addr flush dev {}", link.name))?;
    let mark = bed.wire()?.mark()?;
    let asking = bed.agent.start(&bed.command(Op::Dhcp, &link, ""))?;
    let until = Instant::now() + deadline::DHCP_LEASE.start().span();
    bed.wire()?
        .wait(mark, until, |frame| {
            frame
                .dhcp()
                .is_some_and(|dhcp| dhcp.client == new && dhcp.kind == DHCP_ACK)
        })
        .with_context(|| format!("no DHCPACK for the new MAC {new}"))?;
    bed.agent.finish(asking, Duration::ZERO)?;
    let shown = bed
        .agent
        .sh(&format!("cat /sys/class/net/{}/address", link.name))?;
    ensure!(
        shown.trim() == new.to_string(),
        "the new MAC is {new}, the guest shows {}",
        shown.trim()
    );
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
    let qemu = bed.qemu_nic()?;
    ensure!(
        qemu.mac == new || !bed.cell.nic.shows_mac,
        "the new MAC is {new}, QEMU's `info network` shows {}",
        qemu.mac
    );
    if bed.cell.nic.is_virtio() {
        let name = Some(bed.nic().id.clone());
        let filters = bed.vm.call(&qapi::qmp::query_rx_filter { name })?;
        let main = filters
            .first()
            .and_then(|filter| filter.main_mac.parse().ok());
        ensure!(
            main == Some(new),
            "the new MAC is {new}, QEMU's query-rx-filter has {main:?}"
        );
    }

    bed.moment(Moment::Traffic)?;
    bridge::set_neighbour_permanent(address, old)?;
    bed.expect_silence(address, &format!("it is sent to the old MAC {old}"))?;
    bridge::set_neighbour_permanent(address, new)?;
    let ping = bed.ping_to(address).count(3).interval(0.1);
    bed.expect_answered(&ping, 3).context("from the new MAC")?;
    restart(bed, &link.name, new)
}

/// Another address of the same vendor, locally administered like the first.
fn successor(Mac([a, b, c, d, e, f]): Mac) -> Mac {
    Mac([a, b, c, d ^ 0xff, e, f])
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
