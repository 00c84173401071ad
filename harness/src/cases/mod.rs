//! The procedures of the manual test plan, one file a family.
//!
//! A case is a plain function over a [`Testbed`]; its table entry says which plan item it carries,
//! what must hold, and under which faults it is shown to fail. A new case is a new entry in
//! [`all`].

mod announce_self;
mod capture_size;
mod channels;
mod counters;
mod damage;
pub mod disruption;
mod driver;
mod driver_reload;
mod every_size;
pub(crate) mod faults;
mod features;
mod forward;
mod high_memory;
mod hotplug;
mod hotplug_storm;
mod index_wrap;
mod interrupt_modes;
mod ipv6;
mod irq_affinity;
mod kexec;
mod lanes;
mod link_migrate;
mod link_settings;
mod link_status;
mod link_transfer;
mod mac_change;
mod many_nics;
mod migrate;
mod migrate_state;
mod migrate_transfer;
mod mtu;
mod multicast;
mod multiqueue;
mod netperf;
mod offload;
mod offload_toggle;
mod one_by_one;
mod parallel_flood;
mod path_mtu;
mod paused;
mod pci_add;
mod pci_config;
mod ping;
mod promisc;
mod properties;
mod pxe;
mod receive_segments;
mod refused;
mod rings;
mod rss;
mod rx_checksum;
mod selftest;
mod sendfile;
mod snapshot;
mod stacked;
mod surviving;
mod suspend;
mod tap_gone;
mod transfer;
mod udp_transfer;
mod under_traffic;
mod vlan;
mod xdp;
mod zcopy;
mod zero_checksum;

use crate::base::deadline::{Limit, Missed};
use crate::base::error::find;
use crate::guest::dialect::Op;
use crate::matrix::Cell;
use crate::matrix::schema::Profile;
use crate::testbed::Testbed;
use crate::testbed::order::Moment;
use crate::vm::cmdline::VmSpec;
use crate::vm::start_state::StartState;
use anyhow::bail;
use std::fmt;

/// A procedure of the test plan.
pub struct Case {
    /// The first part of its trials' names.
    pub name: &'static str,
    /// The manual plan's items, for example "2, 20"; empty for a case beyond the plan.
    pub plan_item: &'static str,
    /// What must hold for it to pass, one sentence.
    pub passes: &'static str,
    /// On which cells it makes sense. On others it has no trial.
    pub applies: fn(&Cell) -> bool,
    /// What its guest starts from.
    pub start_state: StartState,
    /// What it needs of the host's processors.
    pub load: Load,
    /// For a case that changes something of the NIC: what makes its procedure possible again. Such a case
    /// also runs in the variants of [`disruption`].
    pub rearm: Option<fn(&mut Testbed) -> anyhow::Result<()>>,
    /// Whether it moves the guest to another QEMU: it has a trial `NAME@to_QEMU` for each other QEMU of the
    /// run, and none without one.
    pub across: bool,
    /// Whether it sends the guest damaged frames, which each other trial's guest must not count.
    pub damages: bool,
    /// What it needs of the VM beyond the standard one.
    pub vm: fn(&mut VmSpec),
    /// How much longer than [`deadline::TRIAL`] it may take, seconds on the reference host.
    ///
    /// [`deadline::TRIAL`]: crate::base::deadline::TRIAL
    pub seconds: fn(&Profile) -> f64,
    /// The dialect's commands that it uses, for `explain`.
    pub ops: &'static [Op],
    /// Breakages under which it must fail.
    pub faults: &'static [Fault],
    /// The procedure.
    pub run: fn(&mut Testbed) -> anyhow::Result<()>,
}

impl Case {
    /// A plain case, which others take what they do not name from: it runs on every cell, on the
    /// standard VM with its NIC up, and changes nothing. Name, sentence, faults and procedure are
    /// still to be given, and for an item of the manual plan that item.
    pub const PLAIN: Case = Case {
        name: "",
        plan_item: "",
        passes: "",
        applies: |_| true,
        start_state: StartState::WarmNic,
        load: Load::Busy,
        rearm: None,
        across: false,
        damages: false,
        vm: |_| (),
        seconds: |_| 0.0,
        ops: &[],
        faults: &[],
        run: |_| bail!("the case has no procedure"),
    };
}

/// What a trial needs of the host's processors while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// It keeps a processor busy most of its time.
    Busy,
    /// It mostly waits: for intervals, for silence, for what does not come.
    Waits,
    /// It measures, and runs with no other trial beside it. Where the profile does not time what it
    /// measures, it is as [`Load::Busy`].
    Alone,
}

/// A deliberate breakage of the real thing.
pub struct Fault {
    /// What follows the case's name after `!`.
    pub name: &'static str,
    /// What is broken, one sentence.
    pub breaks: &'static str,
    /// On which cells it can be shown.
    pub applies: fn(&Cell) -> bool,
    /// A change of the VM before it starts.
    pub vm: fn(&mut VmSpec, &Cell),
    /// When `inject` is called.
    pub moment: Moment,
    /// A change of the running testbed.
    pub inject: fn(&mut Testbed) -> anyhow::Result<()>,
    /// What the failure must be.
    pub red: Red,
}

/// How a case fails under a fault: for this reason and no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Red {
    /// This limit is missed.
    Missed(Limit),
    /// The failure's message has these words.
    Says(&'static str),
}

impl Red {
    /// Whether `error` is this failure.
    pub fn holds(&self, error: &anyhow::Error) -> bool {
        match self {
            Red::Missed(limit) => find::<Missed>(error).is_some_and(|m| m.limit == *limit),
            Red::Says(words) => format!("{error:#}").contains(words),
        }
    }
}

impl fmt::Display for Red {
    /// A clause, to follow "if" or "that".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Red::Missed(limit) => write!(f, "the wait for {} is in vain", limit.what),
            Red::Says(words) => write!(f, "the failure says {words:?}"),
        }
    }
}

/// Every case, in the plan's order.
pub fn all() -> &'static [&'static Case] {
    static ALL: &[&Case] = &[
        &hotplug::HOTPLUG_QMP,
        &hotplug::HOTPLUG_HMP,
        &hotplug_storm::HOTPLUG_STORM,
        &hotplug_storm::UNPLUG_EARLY,
        &refused::NETDEV_ID_IN_USE,
        &refused::NETDEV_IN_USE,
        &link_status::LINK_STATUS,
        &link_status::LINK_STATUS_OFF,
        &link_status::LINK_STATUS_RESET,
        &link_transfer::LINK_STATUS_TRANSFER,
        &link_migrate::LINK_STATUS_MIGRATE,
        &ping::PING_SWEEP,
        &ping::PING_FLOOD,
        &pxe::PXE,
        &pxe::PXE_EFI,
        &mac_change::MAC_CHANGE,
        &refused::MAC_REFUSED,
        &driver::DRIVER,
        &driver::DRIVER_INFO,
        &promisc::PROMISC,
        &vlan::VLAN,
        &vlan::VLAN_HOST,
        &vlan::VLAN_REFUSED,
        &mtu::MTU_MAX,
        &mtu::MTU_SET,
        &parallel_flood::PARALLEL_FLOOD,
        &offload::OFFLOAD_QUERY,
        &offload_toggle::OFFLOAD_TOGGLE,
        &udp_transfer::UDP_TRANSFER,
        &transfer::TCP_TRANSFER,
        &capture_size::CAPTURE_SIZE,
        &migrate::MIGRATE,
        &migrate::SPICE_MIGRATE,
        &migrate_transfer::MIGRATE_TRANSFER,
        &migrate_state::MIGRATE_STATE,
        &migrate_state::MIGRATE_ACROSS,
        &zcopy::ZCOPY,
        &features::FEATURES,
        &features::FEATURES_OFF,
        &features::VIRTIO_STATUS,
        &netperf::NETPERF_HOST,
        &netperf::NETPERF_GUESTS,
        &netperf::NETPERF_EXTERNAL,
        &properties::PROPERTIES,
        &multiqueue::MULTIQUEUE,
        &refused::QUEUES_REFUSED,
        &under_traffic::MTU_TRAFFIC,
        &under_traffic::OFFLOAD_TRAFFIC,
        &under_traffic::MULTIQUEUE_TRAFFIC,
        &ipv6::IPV6,
        &tap_gone::TAP_GONE,
        &many_nics::MANY_NICS,
        &pci_config::PCI_CONFIG,
        &counters::COUNTERS,
        &multicast::MULTICAST,
        &rx_checksum::RX_CHECKSUM,
        &rings::RINGS,
        &one_by_one::ONE_BY_ONE,
        &index_wrap::INDEX_WRAP,
        &receive_segments::RECEIVE_SEGMENTS,
        &path_mtu::PATH_MTU,
        &link_settings::LINK_SETTINGS,
        &selftest::SELFTEST,
        &suspend::SUSPEND,
        &suspend::HIBERNATE,
        &snapshot::SNAPSHOT,
        &announce_self::ANNOUNCE_SELF,
        &driver_reload::DRIVER_RELOAD,
        &kexec::KEXEC,
        &every_size::EVERY_SIZE,
        &high_memory::HIGH_MEMORY,
        &irq_affinity::IRQ_AFFINITY,
        &interrupt_modes::INTERRUPT_MODES,
        &zero_checksum::ZERO_CHECKSUM,
        &sendfile::SENDFILE,
        &paused::PAUSED,
        &stacked::STACKED,
        &forward::FORWARD,
        &xdp::XDP,
        &rss::RSS,
        &channels::CHANNELS,
    ];
    ALL
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_case_and_fault_says_all_that_only_it_can_say() {
        let mut names = BTreeSet::new();
        for case in all() {
            assert!(names.insert(case.name), "{} stands twice", case.name);
            assert!(!case.name.is_empty() && !case.passes.is_empty());
            assert!(!case.faults.is_empty(), "{} has no fault", case.name);
            let mut names = BTreeSet::new();
            for fault in case.faults {
                let name = format!("{}!{}", case.name, fault.name);
                assert!(names.insert(fault.name), "{name} stands twice");
                assert!(!fault.name.is_empty() && !fault.breaks.is_empty(), "{name}");
                assert_ne!(fault.red, Red::Says(""), "{name}");
            }
        }
    }
}
