//! Plan item 1: a NIC plugged and unplugged while the guest runs.

use super::faults::{self, AT_START, BLACKLISTED, IN_TRAFFIC, TAP_UNPLUGGED};
use super::{Case, Fault, Moment, Red, StartState, pci_add};
use crate::base::deadline::{self, Limit};
use crate::base::error::{OrCannotRun as _, find};
use crate::base::words;
use crate::guest::dialect::Op;
use crate::guest::link::{self, Link};
use crate::matrix::schema::{Dialect, Profile};
use crate::net::bridge;
use crate::testbed::Testbed;
use crate::vm::cmdline::{VmSpec, is_usb};
use crate::vm::wire::Refused;
use anyhow::{Context, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::time::Duration;

/// What a tap's descriptor is open on.
pub(super) const TUN: &str = "/dev/net/tun";

/// What waits until no thread reads it any more (RCU) is closed milliseconds after the NIC has gone.
const CLOSED: Limit = Limit {
    what: "QEMU to close what it had opened for the NIC",
    seconds: 5.0,
};
/// Between two looks at its descriptors.
const LOOK: Duration = Duration::from_millis(5);

/// QEMU keeps a descriptor.
pub(super) const DESCRIPTOR_KEPT: Fault = Fault {
    name: "descriptor_kept",
    breaks: "QEMU opens a file and does not close it",
    moment: Moment::Unplug,
    inject: |bed| {
        let file = File::open("/dev/null").or_cannot_run(|| "open /dev/null".into())?;
        bed.vm.qmp.pass(file.as_fd())?;
        bed.vm
            .call_raw("getfd", json!({ "fdname": "kept" }))
            .map(drop)
    },
    red: Red::Missed(CLOSED),
    ..IN_TRAFFIC
};

/// The guest does not hear that it is to let go of its NIC.
pub(super) const UNPLUG_UNHEARD: Fault = Fault {
    name: "unplug_unheard",
    breaks: "the guest's CPUs stand still, so nobody answers the request to unplug",
    applies: |cell| !is_usb(&cell.nic.device),
    moment: Moment::Unplug,
    inject: |bed| bed.vm.call(&qapi::qmp::stop {}).map(drop),
    red: Red::Missed(deadline::DEVICE_DELETED),
    ..IN_TRAFFIC
};

const FAULTS: &[Fault] = &[
    DESCRIPTOR_KEPT,
    BLACKLISTED,
    TAP_UNPLUGGED,
    UNPLUG_UNHEARD,
    Fault {
        name: "unplug_unseen",
        breaks: "the guest's CPUs stand still; a USB NIC goes without asking, but nobody sees it gone",
        applies: |cell| is_usb(&cell.nic.device),
        moment: Moment::Unplug,
        inject: |bed| bed.vm.call(&qapi::qmp::stop {}).map(drop),
        red: Red::Missed(deadline::AGENT_REPLY),
        ..IN_TRAFFIC
    },
    Fault {
        name: "no_hotplug",
        breaks: "the machine's PCI bus is built without hot-plug",
        applies: faults::on_i440fx_pci,
        vm: |spec, _| {
            spec.globals
                .push("PIIX4_PM.acpi-root-pci-hotplug=off".into())
        },
        red: Red::Says("device_add was refused"),
        ..AT_START
    },
];

/// Plan item 1 over QMP.
pub static HOTPLUG_QMP: Case = Case {
    name: "hotplug_qmp",
    plan_item: "1",
    passes: "QEMU lists the NIC, the guest gains that MAC, traffic flows; unplugged in both orders of netdev_del and device_del, DEVICE_DELETED arrives, the guest loses that MAC, tap and descriptors are gone; over QMP, N cycles",
    start_state: StartState::ColdDriver,
    rearm: Some(faults::nothing),
    vm: plugged_later,
    ops: &[Op::BeforeHotplug, Op::Address],
    seconds,
    faults: FAULTS,
    run: |bed| hotplug(bed, Monitor::Qmp),
    ..Case::PLAIN
};

/// Plan item 1 over HMP.
pub static HOTPLUG_HMP: Case = Case {
    name: "hotplug_hmp",
    plan_item: "1",
    passes: "as hotplug_qmp, with every command typed into the human monitor; for RHEL 4 and 5 `host_net_add`, `pci_add`, `host_net_remove` and `pci_del` first, and the report says which commands really ran",
    start_state: StartState::ColdDriver,
    rearm: Some(faults::nothing),
    vm: plugged_later,
    ops: &[Op::BeforeHotplug, Op::Address],
    seconds,
    faults: FAULTS,
    run: |bed| {
        let old = matches!(bed.cell.guest.dialect, Dialect::Rhel4 | Dialect::Rhel5);
        hotplug(bed, if old { Monitor::OldHmp } else { Monitor::Hmp })
    },
    ..Case::PLAIN
};

/// Two plugs and unplugs a cycle: some 5 s each, most of it the attention button of PCI Express, and
/// e1000's 3-4 s until its link is up.
fn seconds(profile: &Profile) -> f64 {
    f64::from(profile.hotplug_cycles) * 40.0
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Monitor {
    Qmp,
    Hmp,
    /// With the plan's words for RHEL 4 and 5 tried first.
    OldHmp,
}

#[derive(Clone, Copy)]
pub(super) enum Order {
    NetdevFirst,
    DeviceFirst,
}

pub(super) fn plugged_later(spec: &mut VmSpec) {
    spec.nics[0].hotplug = true;
}

/// Readies the guest for hot-plug.
pub(super) fn make_ready(bed: &Testbed) -> anyhow::Result<()> {
    let command = bed.cell.guest.dialect.command(Op::BeforeHotplug, "", "");
    bed.agent.sh(&command).map(drop)
}

/// Readies the guest for hot-plug, then plugs the NIC and unplugs it again, once in each order of the
/// two deletions, as many cycles as the profile says. After each the guest must have lost the NIC.
fn hotplug(bed: &mut Testbed, monitor: Monitor) -> anyhow::Result<()> {
    let mac = bed.nic().mac;
    make_ready(bed)?;
    let before = bed.vm.descriptors()?;
    for cycle in 1..=bed.profile.hotplug_cycles {
        for order in [Order::NetdevFirst, Order::DeviceFirst] {
            let words = match order {
                Order::NetdevFirst => "netdev_del before device_del",
                Order::DeviceFirst => "device_del before netdev_del",
            };
            plug(bed, monitor)
                .and_then(|plugged| unplug(bed, monitor, order, &plugged))
                .and_then(|()| link::await_no_link(&bed.agent, mac))
                .and_then(|()| expect_descriptors_closed(bed, &before))
                .with_context(|| format!("cycle {cycle}, {words}"))?;
        }
    }
    bed.expect_quiet_kernel()
}

/// QEMU has closed all that it opened for the NIC: what it keeps of each plug, a host that lives long runs out of.
pub(super) fn expect_descriptors_closed(
    bed: &Testbed,
    before: &BTreeMap<String, usize>,
) -> anyhow::Result<()> {
    let limit = CLOSED.start();
    loop {
        let mut more = bed.vm.descriptors()?;
        for (kind, count) in &mut more {
            *count -= before.get(kind).copied().unwrap_or_default().min(*count);
        }
        more.retain(|_, count| *count > 0);
        if more.is_empty() {
            return Ok(());
        }
        if limit.left().is_none() {
            return Err(limit.missed(format!(
                "it has these more than before the NIC was plugged: {more:?}"
            )));
        }
        std::thread::sleep(LOOK);
    }
}

/// A NIC that was plugged.
pub(super) struct Plugged {
    /// As the guest shows it.
    link: Link,
    /// By `host_net_add` and `pci_add`.
    old: bool,
}

/// Adds the netdev, which makes QEMU open a tap, then the device, which QEMU must then list and the
/// guest show. The NIC gets its address and answers.
pub(super) fn plug(bed: &mut Testbed, monitor: Monitor) -> anyhow::Result<Plugged> {
    let nic = bed.nic().clone();
    // The old words have no properties.
    let old = monitor == Monitor::OldHmp && nic.properties.is_empty() && pci_add::plug(bed)?;
    if !old {
        add(bed, monitor, "netdev_add", &nic.netdev())?;
    }
    // So that there being none after netdev_del means something.
    let held = bed.vm.open_files(TUN)?;
    ensure!(
        held > 0,
        "after netdev_add QEMU holds no descriptor of {TUN}"
    );
    bed.attach()?;
    if !old {
        add(bed, monitor, "device_add", &nic.device(bed.vm.spec.machine))?;
        let qemu = bed.qemu_nic()?;
        ensure!(
            qemu.model == nic.device && qemu.mac == nic.mac,
            "device_add was accepted, but QEMU shows {qemu:?}"
        );
    }
    bed.link()?;
    bed.moment(Moment::Traffic)?;
    let link = bed.up()?;
    bed.expect_replies(3, 1440)?;
    Ok(Plugged { link, old })
}

/// Deletes netdev and device in that order, awaiting DEVICE_DELETED after the device. Then QEMU lists
/// neither, and tap and descriptor are gone.
pub(super) fn unplug(
    bed: &mut Testbed,
    monitor: Monitor,
    order: Order,
    plugged: &Plugged,
) -> anyhow::Result<()> {
    bed.moment(Moment::Unplug)?;
    let nic = bed.nic().clone();
    if monitor == Monitor::OldHmp {
        pci_add::unplug(bed, &plugged.link, plugged.old)?;
    }
    let mark = bed.vm.qmp.mark();
    let device_del = |bed: &Testbed| -> anyhow::Result<()> {
        delete(bed, monitor, "device_del", &nic.id)?;
        // A guest that refuses says so at once; a deaf one is waited for.
        bed.vm
            .qmp
            .event(mark, deadline::DEVICE_DELETED.start(), |event| {
                let ours = event.data["device"] == json!(nic.id);
                match event.name.as_str() {
                    "DEVICE_DELETED" if ours => Some(Ok(())),
                    "DEVICE_UNPLUG_GUEST_ERROR" if ours => Some(Err(anyhow::anyhow!(
                        "the guest refused to unplug: {}",
                        event.data
                    ))),
                    _ => None,
                }
            })?
    };
    match order {
        // That was all, in the plan's one order.
        _ if plugged.old => {}
        Order::NetdevFirst => {
            delete(bed, monitor, "netdev_del", &nic.netdev_id())?;
            device_del(bed)?;
        }
        Order::DeviceFirst => {
            device_del(bed)?;
            delete(bed, monitor, "netdev_del", &nic.netdev_id())?;
        }
    }
    let network = bed.vm.hmp("info network")?;
    ensure!(
        !network.contains(&nic.id) && !network.contains(&nic.mac.to_string()),
        "after device_del and netdev_del QEMU's `info network` still shows: {network}"
    );
    ensure!(
        !bridge::exists(&nic.tap),
        "after netdev_del the tap {} is still there",
        nic.tap
    );
    let held = bed.vm.open_files(TUN)?;
    ensure!(
        held == 0,
        "after netdev_del QEMU still holds {held} descriptors of {TUN}"
    );
    Ok(())
}

/// `netdev_add` or `device_add` with QEMU's own option syntax.
fn add(bed: &Testbed, monitor: Monitor, command: &str, options: &str) -> anyhow::Result<()> {
    match monitor {
        Monitor::Hmp | Monitor::OldHmp => bed.vm.type_in(&format!("{command} {options}")),
        Monitor::Qmp => {
            let arguments = match command {
                "device_add" => device_arguments(bed, options)?,
                _ => arguments(command, options),
            };
            bed.vm.call_raw(command, arguments).map(drop)
        }
    }
}

fn delete(bed: &Testbed, monitor: Monitor, command: &str, id: &str) -> anyhow::Result<()> {
    match monitor {
        Monitor::Hmp | Monitor::OldHmp => bed.vm.type_in(&format!("{command} {id}")),
        Monitor::Qmp => bed.vm.call_raw(command, json!({ "id": id })).map(drop),
    }
}

/// `virtio-net-pci,id=x,packed=on` as the arguments of QMP's `device_add`, of the types that this QEMU gives
/// the device's properties.
pub(super) fn device_arguments(bed: &Testbed, options: &str) -> anyhow::Result<Value> {
    let untyped = arguments("device_add", options);
    let typename = json!({ "typename": untyped["driver"] });
    match bed.vm.call_raw("device-list-properties", typename) {
        Ok(listed) => Ok(typed(untyped, &listed)),
        // It knows no aliases of devices.
        Err(error) if find::<Refused>(&error).is_some() => Ok(untyped),
        Err(error) => Err(error),
    }
}

/// `device_add`'s arguments, each with the type that `device-list-properties` lists for it. QEMU from 9.2
/// on takes no string in place of a boolean or a number; earlier ones take either.
pub(super) fn typed(mut arguments: Value, listed: &Value) -> Value {
    let listed: BTreeMap<&str, &str> = listed
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|property| Some((property["name"].as_str()?, property["type"].as_str()?)))
        .collect();
    for (key, value) in arguments.as_object_mut().into_iter().flatten() {
        let (Some(kind), Some(text)) = (listed.get(key.as_str()), value.as_str()) else {
            continue;
        };
        let typed = match *kind {
            "bool" => words::switch(text).map(Value::Bool),
            // One with a syntax of its own, such as a slot, is a string.
            kind if kind.contains("int") || kind == "size" => words::number(text).map(Value::from),
            _ => None,
        };
        if let Some(typed) = typed {
            *value = typed;
        }
    }
    arguments
}

/// `tap,id=x,queues=4` as QMP's arguments; the first word is `type` or `driver`.
pub(super) fn arguments(command: &str, options: &str) -> Value {
    let first = if command == "netdev_add" {
        "type"
    } else {
        "driver"
    };
    let mut map = serde_json::Map::new();
    for (index, option) in options.split(',').enumerate() {
        let (key, value) = match option.split_once('=') {
            Some(pair) => pair,
            None if index == 0 => (first, option),
            None => (option, "on"),
        };
        let value = match (command, key, value) {
            // By its schema.
            ("netdev_add", "vhost" | "vnet_hdr", _) => json!(value == "on"),
            ("netdev_add", "queues", _) => value.parse::<u32>().map_or(json!(value), |n| json!(n)),
            _ => json!(value),
        };
        map.insert(key.to_owned(), value);
    }
    Value::Object(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_devices_properties_have_the_types_that_qemu_lists() {
        let options = "virtio-net-pci,id=nic0,packed=on,csum=false,host_mtu=0x578,vectors=0,\
                       disable-legacy=on,speed=-1,addr=05.0,new=on,bus=hotplug0";
        let listed = json!([
            { "name": "packed", "type": "bool" },
            { "name": "csum", "type": "bool" },
            { "name": "host_mtu", "type": "uint16" },
            { "name": "vectors", "type": "uint32" },
            { "name": "disable-legacy", "type": "OnOffAuto" },
            { "name": "speed", "type": "int32" },
            { "name": "addr", "type": "int32" },
        ]);
        let arguments = typed(arguments("device_add", options), &listed);
        insta::assert_snapshot!(arguments, @r#"{"driver":"virtio-net-pci","id":"nic0","packed":true,"csum":false,"host_mtu":1400,"vectors":0,"disable-legacy":"on","speed":-1,"addr":"05.0","new":"on","bus":"hotplug0"}"#);
    }

    #[test]
    fn the_command_lines_options_become_typed_arguments() {
        let value = arguments(
            "netdev_add",
            "tap,id=net-nic0,ifname=tap0,script=no,vhost=on,vnet_hdr=off,queues=4",
        );
        let expected = json!({"type": "tap", "id": "net-nic0", "ifname": "tap0", "script": "no", "vhost": true, "vnet_hdr": false, "queues": 4});
        assert_eq!(value, expected);
        let value = arguments("device_add", "e1000,netdev=net-nic0,mac=52:54:00:00:00:01");
        assert_eq!(value["driver"], "e1000");
    }
}
