//! What must be refused: plan items 1, 4 and 22 asked for what cannot be. QEMU or the guest says no
//! and why, and the NIC under test goes on as if nobody had asked.

use super::faults::{self, AT_START, IN_TRAFFIC, TAP_UNPLUGGED};
use super::hotplug::{TUN, arguments, device_arguments};
use super::{Case, Fault, Moment, Red};
use crate::base::deadline;
use crate::base::error::find;
use crate::guest::agent::said;
use crate::guest::dialect::Op;
use crate::guest::link::{self, Link};
use crate::testbed::Testbed;
use crate::vm::cmdline::NicSpec;
use crate::vm::standard;
use crate::vm::wire::Refused;
use anyhow::{bail, ensure};
use serde_json::{Value, json};

/// Queue pairs of the NIC whose guest asks for one more.
const QUEUES: u32 = 2;
/// One more than a tap of Linux has (MAX_TAP_QUEUES).
const TOO_MANY_QUEUES: u32 = 257;
/// Not of hexadecimal digits, and so no MAC.
const MALFORMED: &str = "zz:54:00:12:34:56";
/// Too short for a MAC, though ifconfig of net-tools takes it.
const SHORT: &str = "52:54:00:12:34";
/// The MAC of a group, which no NIC may have as its own.
const MULTICAST: &str = "01:00:5e:00:00:01";

/// The netdev under test is taken away, so that what asks for it or its id is not refused.
const FREED: Fault = Fault {
    name: "freed",
    breaks: "the netdev under test is deleted first, so that its id is free",
    moment: Moment::Refusal,
    inject: |bed| delete_netdev(bed, &bed.nic().netdev_id()),
    red: Red::Says("was accepted"),
    ..IN_TRAFFIC
};

/// QEMU ends over the refusal.
const KILLED: Fault = Fault {
    name: "killed",
    breaks: "QEMU is killed after the refusal",
    inject: |bed| {
        bed.vm.handle().kill();
        Ok(())
    },
    red: Red::Says("QEMU ended with signal"),
    ..IN_TRAFFIC
};

/// QEMU has something of the refused command all the same.
const ADDED: Fault = Fault {
    name: "added",
    breaks: "QEMU is given another netdev after the refusal",
    inject: |bed| add_netdev(bed, &standard::nic(&bed.cell, 1)),
    red: Red::Says("QEMU's network has changed"),
    ..IN_TRAFFIC
};

/// The NIC under test is there still, but cut off.
const CUT_OFF: Fault = Fault {
    red: Red::Says("replies came back"),
    ..TAP_UNPLUGGED
};

/// The guest's tools say that all went well.
const SWALLOWED: Fault = Fault {
    name: "swallowed",
    breaks: "the guest's tools are replaced by scripts that swallow the error",
    moment: Moment::Refusal,
    inject: |bed| {
        let swallow = "\"$REAL\" \"$@\" 2>/dev/null\nexit 0";
        let mut tools = ["ip", "ifconfig", "ethtool"].iter();
        tools.try_for_each(|tool| faults::wrap(bed, tool, swallow))
    },
    red: Red::Says("was accepted"),
    ..IN_TRAFFIC
};

/// Plan item 1: `netdev_add` with the id of the netdev under test.
pub static NETDEV_ID_IN_USE: Case = Case {
    name: "netdev_id_in_use",
    plan_item: "1",
    passes: "QEMU refuses a netdev with the id of the NIC's own and names the id; QEMU's network, the guest's links and the NIC's traffic are as before",
    ops: &[Op::Address],
    faults: &[FREED, ADDED, KILLED],
    run: |bed| {
        as_before(bed, None, |bed, _| {
            let second = NicSpec {
                tap: standard::nic(&bed.cell, 1).tap,
                ..bed.nic().clone()
            };
            bed.moment(Moment::Refusal)?;
            let netdev = arguments("netdev_add", &second.netdev());
            refused_by_qemu(
                bed,
                "netdev_add",
                netdev,
                &["duplicate", &second.netdev_id()],
            )
        })
    },
    ..Case::PLAIN
};

/// Plan item 1: `device_add` on the netdev that the NIC under test uses.
pub static NETDEV_IN_USE: Case = Case {
    name: "netdev_in_use",
    plan_item: "1",
    passes: "QEMU refuses a second NIC on the NIC's netdev and says that it is in use; QEMU's network, the guest's links and the NIC's traffic are as before",
    ops: &[Op::Address],
    faults: &[
        Fault {
            breaks: "the netdev under test is deleted and made anew, so that no NIC uses it",
            inject: |bed| {
                delete_netdev(bed, &bed.nic().netdev_id())?;
                add_netdev(bed, bed.nic())
            },
            ..FREED
        },
        Fault {
            name: "no_netdev",
            breaks: "the netdev under test is deleted first, so that QEMU refuses for another reason",
            red: Red::Says("does not name the cause"),
            ..FREED
        },
        CUT_OFF,
    ],
    run: |bed| {
        as_before(bed, None, |bed, _| {
            bed.moment(Moment::Refusal)?;
            let netdev = bed.nic().netdev_id();
            let mut second = second_nic(bed)?;
            second["netdev"] = json!(netdev);
            refused_by_qemu(bed, "device_add", second, &["in use", &netdev])
        })
    },
    ..Case::PLAIN
};

/// Plan item 4: malformed and multicast MACs.
pub static MAC_REFUSED: Case = Case {
    name: "mac_refused",
    plan_item: "4",
    passes: "QEMU refuses a NIC with a malformed MAC and names it, the guest refuses a malformed and a multicast MAC; QEMU's network, the guest's links and the NIC's traffic are as before",
    ops: &[Op::Address, Op::Down, Op::Mac, Op::Up],
    faults: &[
        SWALLOWED,
        Fault {
            name: "no_netdev",
            moment: Moment::Refusal,
            breaks: "the second NIC's netdev is deleted first, so that QEMU refuses for another reason",
            inject: |bed| delete_netdev(bed, &standard::nic(&bed.cell, 1).netdev_id()),
            red: Red::Says("does not name the cause"),
            ..IN_TRAFFIC
        },
        ADDED,
        CUT_OFF,
    ],
    run: |bed| as_before(bed, None, refuse_macs),
    ..Case::PLAIN
};

/// Plan item 22: more queues than there are.
pub static QUEUES_REFUSED: Case = Case {
    name: "queues_refused",
    plan_item: "22",
    passes: "the guest refuses one queue pair more than the NIC has, QEMU refuses a tap with 257; the guest's channels, QEMU's network, the guest's links and the NIC's traffic are as before",
    applies: faults::virtio,
    vm: |spec| {
        spec.nics[0].queues = QUEUES;
        spec.nics[0].properties.push("mq=on".into());
    },
    ops: &[Op::Address],
    faults: &[
        Fault {
            name: "more_queues",
            breaks: "QEMU's NIC has one queue pair more than the case asks for",
            vm: |spec, _| spec.nics[0].queues = QUEUES + 1,
            red: Red::Says("was accepted"),
            ..AT_START
        },
        SWALLOWED,
        Fault {
            name: "id_taken",
            breaks: "there is a netdev of that id, so that QEMU refuses for another reason",
            moment: Moment::Refusal,
            inject: |bed| add_netdev(bed, &standard::nic(&bed.cell, 1)),
            red: Red::Says("does not name the cause"),
            ..IN_TRAFFIC
        },
        CUT_OFF,
    ],
    run: |bed| {
        let refused = standard::nic(&bed.cell, 1).netdev_id();
        as_before(bed, Some(&refused), refuse_queues)
    },
    ..Case::PLAIN
};

/// What must not change.
#[derive(Debug, PartialEq, Eq)]
struct View {
    /// Lines of QEMU's `info network`.
    network: Vec<String>,
    /// QEMU's devices with an id.
    devices: Vec<String>,
    /// The guest's links, whatever their operstate: a NIC that was down has another for a while.
    links: Vec<Link>,
}

/// All but the netdev with the id `but`.
fn view(bed: &Testbed, but: Option<&str>) -> anyhow::Result<View> {
    let network = bed.vm.hmp("info network")?;
    let of_other = |line: &&str| but.is_none_or(|id| !is_of(line, id));
    let devices = bed.vm.call(&qapi::qmp::qom_list {
        path: "/machine/peripheral".into(),
    })?;
    let mut devices: Vec<String> = devices.into_iter().map(|property| property.name).collect();
    devices.sort();
    let mut links = link::links(&bed.agent)?;
    for link in &mut links {
        link.operstate.clear();
    }
    Ok(View {
        network: network
            .lines()
            .filter(of_other)
            .map(str::to_owned)
            .collect(),
        devices,
        links,
    })
}

/// Whether a line of `info network` is of the netdev or NIC with that id.
fn is_of(line: &str, id: &str) -> bool {
    let line = line.trim_start_matches([' ', '\\']);
    line.strip_prefix(id)
        .is_some_and(|rest| rest.starts_with(':'))
}

/// Asks for what must be refused, and holds what there is then against what there was; `but` is a
/// netdev that may be left over.
fn as_before(
    bed: &mut Testbed,
    but: Option<&str>,
    ask: impl FnOnce(&mut Testbed, &Link) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let link = bed.up()?;
    let before = view(bed, but)?;
    ask(bed, &link)?;
    bed.moment(Moment::Traffic)?;
    let after = view(bed, but)?;
    ensure!(
        before.network == after.network && before.devices == after.devices,
        "QEMU's network has changed although it refused: from {:?} {:?} to {:?} {:?}",
        before.network,
        before.devices,
        after.network,
        after.devices
    );
    ensure!(
        before.links == after.links,
        "the guest's links have changed although nothing was accepted: from {:?} to {:?}",
        before.links,
        after.links
    );
    bed.expect_replies(3, 48)?;
    bed.expect_replies(3, 4096)?;
    bed.expect_quiet_kernel()
}

/// Asks QEMU for a second NIC with a MAC that is malformed or too short, then the guest to set one that
/// is malformed or multicast.
fn refuse_macs(bed: &mut Testbed, link: &Link) -> anyhow::Result<()> {
    let second = standard::nic(&bed.cell, 1);
    add_netdev(bed, &second)?;
    bed.moment(Moment::Refusal)?;
    for mac in [MALFORMED, SHORT] {
        let mut device = second_nic(bed)?;
        device["mac"] = json!(mac);
        refused_by_qemu(bed, "device_add", device, &["mac", mac])?;
    }
    delete_netdev(bed, &second.netdev_id())?;

    bed.apply(Op::Down, link, "")?;
    let command = bed.command(Op::Mac, link, MALFORMED);
    refused_in_guest(bed, &command, &["invalid"])?;
    let command = bed.command(Op::Mac, link, MULTICAST);
    refused_in_guest(bed, &command, &["cannot assign requested address"])?;
    bed.apply(Op::Up, link, "")?;
    bed.reach(deadline::FIRST_PING)
}

/// Asks the guest for one queue pair more than the NIC has, then QEMU for a tap with more queues than
/// taps have.
fn refuse_queues(bed: &mut Testbed, link: &Link) -> anyhow::Result<()> {
    bed.moment(Moment::Refusal)?;
    let channels = format!("ethtool -l {}", link.name);
    let before = bed.agent.sh(&channels)?;
    let command = format!("ethtool -L {} combined {}", link.name, QUEUES + 1);
    // ethtool speaks to kernels of before 5.7 by ioctl, and then has no word but the error's.
    refused_in_guest(bed, &command, &["invalid argument"])?;
    let after = bed.agent.sh(&channels)?;
    ensure!(
        before == after,
        "`{command}` was refused, but `{channels}` showed {before} before and shows {after} now"
    );

    let taps = NicSpec {
        queues: TOO_MANY_QUEUES,
        ..standard::nic(&bed.cell, 1)
    };
    let held = bed.vm.open_files(TUN)?;
    // The tap's driver refuses it: E2BIG.
    let causes = ["could not configure", &taps.tap, "argument list too long"];
    let netdev = arguments("netdev_add", &taps.netdev());
    refused_by_qemu(bed, "netdev_add", netdev, &causes)?;
    let leaked = bed.vm.open_files(TUN)?.saturating_sub(held);
    if leaked > 0 {
        bed.notes.push(format!(
            "QEMU keeps {leaked} descriptors of {TUN} of the netdev that it refused, with queues={TOO_MANY_QUEUES}"
        ));
    }
    Ok(())
}

/// `device_add`'s arguments for a second NIC like the one under test.
fn second_nic(bed: &Testbed) -> anyhow::Result<Value> {
    let nic = NicSpec {
        hotplug: true,
        ..standard::nic(&bed.cell, 1)
    };
    device_arguments(bed, &nic.device(bed.vm.spec.machine))
}

fn add_netdev(bed: &Testbed, nic: &NicSpec) -> anyhow::Result<()> {
    let netdev = arguments("netdev_add", &nic.netdev());
    bed.vm.call_raw("netdev_add", netdev).map(drop)
}

fn delete_netdev(bed: &Testbed, id: &str) -> anyhow::Result<()> {
    let id = id.to_owned();
    bed.vm.call(&qapi::qmp::netdev_del { id }).map(drop)
}

/// Asks QEMU for what it must refuse with all of `causes` in its words.
fn refused_by_qemu(
    bed: &Testbed,
    command: &str,
    arguments: Value,
    causes: &[&str],
) -> anyhow::Result<()> {
    let asked = format!("{command} {arguments}");
    let Err(error) = bed.vm.call_raw(command, arguments) else {
        bail!("`{asked}` was accepted");
    };
    match find::<Refused>(&error) {
        Some(refused) => names_causes(&asked, &refused.desc, causes),
        None => Err(error),
    }
}

/// As [`refused_by_qemu`], of the guest and a command in it.
fn refused_in_guest(bed: &Testbed, command: &str, causes: &[&str]) -> anyhow::Result<()> {
    let output = bed.agent.run(command)?;
    ensure!(
        output.code != 0,
        "in the guest, `{command}` was accepted; it said: {}",
        said(&output)
    );
    names_causes(command, &said(&output), causes)
}

/// Fails unless a refusal names each cause; which else it says, and in which case, differs between
/// versions.
fn names_causes(asked: &str, refusal: &str, causes: &[&str]) -> anyhow::Result<()> {
    let words = refusal.to_lowercase();
    for cause in causes {
        ensure!(
            words.contains(&cause.to_lowercase()),
            "`{asked}` was refused, but that does not name the cause, {cause:?}: {refusal}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_every_cause_in_any_case() {
        let qemu = "Property 'e1000.netdev' can't take value 'net-nic0', it's in use";
        assert!(names_causes("device_add", qemu, &["IN USE", "net-nic0"]).is_ok());
        let error = names_causes("device_add", qemu, &["in use", "net-nic1"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "`device_add` was refused, but that does not name the cause, \"net-nic1\": {qemu}"
            )
        );
    }

    #[test]
    fn a_line_of_info_network_is_of_one_id() {
        assert!(is_of("net-nic1: index=0,type=tap", "net-nic1"));
        assert!(is_of(" \\ net-nic1: index=0,type=tap", "net-nic1"));
        assert!(!is_of("net-nic10: index=0,type=tap", "net-nic1"));
        assert!(!is_of("nic0: index=0,type=nic,model=net-nic1", "net-nic1"));
    }
}
