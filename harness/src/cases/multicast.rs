//! Which frames a NIC takes as its guest joins groups, asks for all of them, and has more addresses than the
//! device has room for.

use super::faults::{self, AT_START, ignore, in_guest, wrap};
use super::promisc::FOREIGN_MAC;
use super::surviving::{heard, watch};
use super::{Case, Fault, Load, Moment, Red};
use crate::base::words::quote;
use crate::guest::dialect::Op;
use crate::guest::link::Link;
use crate::matrix::Cell;
use crate::net::addr::Mac;
use crate::testbed::Testbed;
use anyhow::{Context as _, ensure};
use std::collections::BTreeMap;

/// Groups that the guest joins at first: two of IPv4, and one of IPv6. Intel's NICs hash by an address's last 12
/// bits, in which no two addresses here are the same, but for probes to nobody.
const GROUPS: [Mac; 3] = [
    Mac([0x01, 0x00, 0x5e, 0x12, 0x00, 0x21]),
    Mac([0x01, 0x00, 0x5e, 0x7f, 0x00, 0x22]),
    Mac([0x33, 0x33, 0x00, 0x00, 0x00, 0x23]),
];
/// Addresses of each kind that are more than any device here has room for: virtio 64, e1000 and e1000e 16.
const MANY: u8 = 80;
/// And as many as virtio has room for, beside three groups that it has anyway.
const NEAR: usize = 58;
/// Groups and MACs that nobody here has.
const OTHERS: u8 = 8;

/// Which frames that are not for its guest a driver's NIC keeps out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filter {
    /// Nothing: QEMU's usb-net (usbnet_receive).
    Nothing,
    /// Groups by a hash of 64 bits, which lets some others pass.
    Hash,
    /// All that the guest has not asked for, as far as there is room for so many groups.
    Exact(usize),
}

/// What a driver makes of its NIC's filter.
struct Driver {
    name: &'static str,
    filter: Filter,
    /// Further unicast addresses that it takes; with more of them, or any where it takes none, it is in promiscuous
    /// mode (kernel: `__dev_set_rx_mode`).
    unicast: usize,
    /// Whether it takes more of them; igb refuses them (igb_ndo_fdb_add).
    more: bool,
}

/// Intel's have a hash of 4096 bits, for which the groups here are all different.
static DRIVERS: [Driver; 6] = [
    Driver {
        name: "virtio_net",
        filter: Filter::Exact(64),
        unicast: 64,
        more: true,
    },
    Driver {
        name: "e1000",
        filter: Filter::Exact(4096),
        unicast: 14,
        more: true,
    },
    Driver {
        name: "e1000e",
        filter: Filter::Exact(4096),
        unicast: 14,
        more: true,
    },
    Driver {
        name: "igb",
        filter: Filter::Exact(4096),
        unicast: 14,
        more: false,
    },
    Driver {
        name: "vmxnet3",
        filter: Filter::Exact(1000),
        unicast: 0,
        more: true,
    },
    Driver {
        name: "cdc_ether",
        filter: Filter::Nothing,
        unicast: 0,
        more: true,
    },
];

static OTHER: Driver = Driver {
    name: "",
    filter: Filter::Hash,
    unicast: 0,
    more: true,
};

impl Driver {
    fn of(cell: &Cell) -> &'static Driver {
        let known = DRIVERS.iter().find(|driver| driver.name == cell.nic.driver);
        known.unwrap_or(&OTHER)
    }
}

/// Whether QEMU's model applies a filter to what its guest gets.
fn filters(cell: &Cell) -> bool {
    cell.backend.filters() && Driver::of(cell).filter != Filter::Nothing
}

const FILTERED: Fault = Fault {
    applies: filters,
    ..AT_START
};

/// Which frames a NIC takes.
pub static MULTICAST: Case = Case {
    name: "multicast",
    passes: "what is for the guest's MAC, for everybody, for a group that it joined and for each further address reaches it, and what is for other groups and MACs does not reach its driver (but for collisions of a hash), with no group, some, all-multicast, more groups and more unicast addresses than the device has room for, and without them again; each time query-rx-filter is what virtio's guest has set",
    load: Load::Waits,
    rearm: Some(faults::nothing),
    ops: &[Op::Address],
    seconds: |_| 60.0,
    faults: &[
        Fault {
            name: "not_joined",
            breaks: "the guest's ip says that it joined groups and does not",
            inject: |bed| ignore(bed, "ip", "maddr"),
            red: Red::Says("does not see a frame for the group"),
            ..FILTERED
        },
        Fault {
            name: "takes_all_groups",
            breaks: "the NIC takes the frames of all groups",
            inject: |bed| in_guest(bed, "ip link set dev DEV allmulticast on").map(drop),
            red: Red::Says("groups that it did not join"),
            ..FILTERED
        },
        Fault {
            name: "stays_at_all",
            breaks: "the guest's ip says that it switched all-multicast mode off and does not",
            inject: |bed| ignore(bed, "ip", "allmulticast off"),
            red: Red::Says("groups that it did not join"),
            ..FILTERED
        },
        Fault {
            name: "never_at_all",
            breaks: "the guest's ip says that it switched all-multicast mode on and does not",
            inject: |bed| ignore(bed, "ip", "allmulticast on"),
            red: Red::Says("although it takes all"),
            ..FILTERED
        },
        Fault {
            name: "not_added",
            breaks: "the guest's bridge says that it added further addresses and does not",
            inject: |bed| {
                let script = "lines=$(cat); case \"$lines\" in *52:54:*) exit;; esac\n\
                              echo \"$lines\" | \"$REAL\" \"$@\"";
                wrap(bed, "bridge", script)
            },
            red: Red::Says("does not see a frame for the further address"),
            ..FILTERED
        },
        Fault {
            name: "one_more",
            breaks: "the guest has a further address that the case does not know of",
            applies: faults::virtio,
            inject: |bed| {
                let add = "bridge fdb add 52:54:e0:00:00:01 dev DEV self permanent";
                in_guest(bed, add).map(drop)
            },
            red: Red::Says("the further unicast addresses are"),
            ..FILTERED
        },
        Fault {
            name: "takes_foreign",
            breaks: "the NIC takes the frames of all MACs",
            inject: |bed| in_guest(bed, "ip link set dev DEV promisc on").map(drop),
            red: Red::Says("MACs that it does not have"),
            ..FILTERED
        },
        Fault {
            name: "no_filter",
            breaks: "QEMU's NIC has no RX filter (ctrl_rx=off), so it passes every frame",
            applies: |cell| faults::virtio(cell) && filters(cell),
            vm: |spec, _| spec.nics[0].properties.push("ctrl_rx=off".into()),
            red: Red::Says("MACs that it does not have"),
            ..FILTERED
        },
        Fault {
            name: "other_mac",
            breaks: "the NIC takes frames for another MAC than the guest's own",
            applies: |cell| faults::virtio(cell) && filters(cell),
            inject: |bed| {
                let other = bed.nic().mac.opposite();
                bed.witness.allow_mac(other);
                in_guest(bed, &format!("ip link set dev DEV address {other}")).map(drop)
            },
            red: Red::Says("its own MAC"),
            moment: Moment::Traffic,
            ..FILTERED
        },
    ],
    run: multicast,
    ..Case::PLAIN
};

/// What the guest has asked for.
#[derive(Default)]
struct Asked {
    /// Those that its kernel has joined by itself, which are the first in the device's table.
    kernels: Vec<Mac>,
    groups: Vec<Mac>,
    unicast: Vec<Mac>,
    all_groups: bool,
    rounds: u8,
}

fn multicast(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    let dev = link.name.clone();
    watch(bed, &dev)?;
    bed.moment(Moment::Traffic)?;
    let mut asked = Asked {
        kernels: bed.groups(&link)?,
        ..Asked::default()
    };
    asked.expect(bed, &link, "with no group joined")?;

    maddr(bed, "add", &dev, &GROUPS)?;
    asked.join(&GROUPS);
    asked.expect(bed, &link, "with three groups joined")?;
    asked.set_all(bed, &dev, true)?;
    asked.expect(bed, &link, "in all-multicast mode")?;
    asked.set_all(bed, &dev, false)?;
    asked.expect(bed, &link, "without all-multicast mode again")?;
    maddr(bed, "del", &dev, &GROUPS[..1])?;
    asked.leave(&GROUPS[..1]);
    asked.expect(bed, &link, "with one of three groups left")?;

    let further: Vec<Mac> = (0..MANY)
        .map(|n| Mac([0x52, 0x54, 0xe0, 0x00, 0x00, 0x80 + n]))
        .collect();
    let driver = Driver::of(&bed.cell);
    let (near, more) = further.split_at(driver.unicast.clamp(2, NEAR));
    asked.add(bed, &dev, &near[..2])?;
    asked.expect(bed, &link, "with two further addresses")?;
    if driver.unicast > 2 {
        asked.add(bed, &dev, &near[2..])?;
        asked.expect(
            bed,
            &link,
            "with as many further addresses as there is room for",
        )?;
    }
    if driver.more {
        asked.add(bed, &dev, more)?;
        asked.expect(
            bed,
            &link,
            "with more further addresses than the device has room for",
        )?;
        asked.remove(bed, &dev, more)?;
        asked.expect(bed, &link, "with as many further addresses again as before")?;
    }
    asked.remove(bed, &dev, near)?;

    let many: Vec<Mac> = (0..MANY)
        .map(|n| Mac([0x01, 0x00, 0x5e, 0x20, 0x00, 0x80 + n]))
        .collect();
    let (near, more) = many.split_at(NEAR);
    fdb(bed, "add", &dev, near)?;
    asked.join(near);
    asked.expect(bed, &link, "with as many groups as virtio has room for")?;
    fdb(bed, "add", &dev, more)?;
    asked.join(more);
    asked.expect(bed, &link, "with more groups than the device has room for")?;
    fdb(bed, "del", &dev, &many)?;
    asked.leave(&many);
    asked.expect(bed, &link, "with many groups left")?;

    maddr(bed, "del", &dev, &GROUPS[1..])?;
    asked.leave(&GROUPS[1..]);
    asked.expect(bed, &link, "with nothing joined again")?;
    bed.agent.sh("killall tcpdump")?;
    bed.expect_quiet_kernel()
}

/// Has the guest set or take back addresses of its NIC, all at once: a process each takes seconds. (`ip -batch` ends
/// after the first of its maddr commands.)
fn fdb(bed: &Testbed, verb: &str, dev: &str, macs: &[Mac]) -> anyhow::Result<()> {
    let line = |mac: &Mac| format!("fdb {verb} {mac} dev {dev} self permanent\n");
    let lines: String = macs.iter().map(line).collect();
    let command = format!("printf %s {} | bridge -batch -", quote(&lines));
    bed.agent.sh(&command).map(drop)
}

/// Has the guest join or leave groups.
fn maddr(bed: &Testbed, verb: &str, dev: &str, groups: &[Mac]) -> anyhow::Result<()> {
    let command = |group: &Mac| format!("ip maddr {verb} {group} dev {dev}");
    let commands: Vec<String> = groups.iter().map(command).collect();
    bed.agent.sh(&commands.join(" && ")).map(drop)
}

impl Asked {
    fn join(&mut self, groups: &[Mac]) {
        self.groups.extend(groups);
    }

    fn leave(&mut self, groups: &[Mac]) {
        self.groups.retain(|group| !groups.contains(group));
    }

    fn add(&mut self, bed: &Testbed, dev: &str, macs: &[Mac]) -> anyhow::Result<()> {
        self.unicast.extend(macs);
        fdb(bed, "add", dev, macs)
    }

    fn remove(&mut self, bed: &Testbed, dev: &str, macs: &[Mac]) -> anyhow::Result<()> {
        self.unicast.retain(|mac| !macs.contains(mac));
        fdb(bed, "del", dev, macs)
    }

    fn set_all(&mut self, bed: &Testbed, dev: &str, on: bool) -> anyhow::Result<()> {
        self.all_groups = on;
        let word = if on { "on" } else { "off" };
        bed.agent
            .sh(&format!("ip link set dev {dev} allmulticast {word}"))
            .map(drop)
    }

    /// Fails unless the NIC takes what its guest has asked for, and no more than its filter cannot tell apart.
    fn expect(&mut self, bed: &mut Testbed, link: &Link, when: &str) -> anyhow::Result<()> {
        self.rounds += 1;
        let other = |number| Mac([0x01, 0x00, 0x5e, 0x12, 0x00, 0x60 + number]);
        // Six differ from the guest's own in one byte each.
        let near = |byte: u8| {
            let Mac(mut mac) = bed.nic().mac;
            mac[usize::from(byte)] ^= 0x04;
            Mac(mac)
        };
        let Mac([a, b, c, d, e, _]) = FOREIGN_MAC;
        let far = |number| Mac([a, b, c, d, e, 0x60 + number]);
        let others: Vec<Mac> = (0..OTHERS).map(other).collect();
        let foreign: Vec<Mac> = (0..6).map(near).chain((6..OTHERS).map(far)).collect();
        let targets = [
            &[bed.nic().mac][..],
            &self.kernels,
            &self.groups,
            &self.unicast,
            &others,
            &foreign,
        ]
        .concat();
        let seen = heard(bed, self.rounds, &targets).with_context(|| when.to_owned())?;
        let seen: BTreeMap<Mac, bool> = targets.into_iter().zip(seen).collect();
        let lost = |what: &str, macs: &[Mac]| {
            let lost: Vec<&Mac> = macs.iter().filter(|mac| !seen[mac]).collect();
            ensure!(
                lost.is_empty(),
                "{when} the guest does not see a frame for {what}: of {} such {} are lost, as {:?}",
                macs.len(),
                lost.len(),
                &lost[..lost.len().min(4)]
            );
            Ok(())
        };
        lost("its own MAC", &[bed.nic().mac])?;
        lost("the group that it joined", &self.groups)?;
        lost("a group that its kernel joined", &self.kernels)?;
        lost("the further address", &self.unicast)?;
        if self.all_groups {
            lost("a group, although it takes all", &others)?;
        }
        if filters(&bed.cell) {
            let driver = Driver::of(&bed.cell);
            let count = |macs: &[Mac]| macs.iter().filter(|mac| seen[mac]).count();
            // Few of 64 bits are set by the groups that were joined at first.
            let passing = match driver.filter {
                _ if self.all_groups || self.unicast.len() > driver.unicast => others.len(),
                Filter::Exact(room) if self.groups.len() + self.unicast.len() <= room => 0,
                Filter::Hash if self.groups.len() <= GROUPS.len() => others.len() / 2,
                _ => others.len(),
            };
            let foreign_passing = match self.unicast.len() > driver.unicast {
                true => foreign.len(),
                false => 0,
            };
            let passed_foreign = count(&foreign);
            ensure!(
                passed_foreign <= foreign_passing,
                "{when} the guest sees frames for {passed_foreign} of {OTHERS} MACs that it does not have"
            );
            let passed = count(&others);
            ensure!(
                passed <= passing,
                "{when} the guest sees frames for {passed} of {OTHERS} groups that it did not join"
            );
            if passed + passed_foreign > 0 {
                bed.notes.push(format!(
                    "{when} the NIC passes {passed} of {OTHERS} other groups and {passed_foreign} of {OTHERS} foreign MACs"
                ));
            }
        }
        bed.expect_rx_filter_with(link, &[], &self.unicast)
            .with_context(|| when.to_owned())
    }
}
