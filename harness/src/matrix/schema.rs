//! The data of `matrix.toml`.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A NIC model, `[nics.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// The table's name, as in a trial's name.
    pub name: String,
    /// QEMU's `-device` model.
    pub device: String,
    /// The guest driver that must bind it.
    pub driver: String,
    /// The largest MTU that the driver accepts and that must cross (plan item 9), bytes.
    pub max_mtu: u32,
    /// Offloads (ethtool's short names) that are on by default with this driver (plan item 11).
    pub offloads: Vec<String>,
}

impl Nic {
    /// Whether virtio's feature bits, queues and vhost apply.
    pub fn is_virtio(&self) -> bool {
        self.device.starts_with("virtio-net")
    }
}

/// The commands that a RHEL release understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// `ifconfig`, `vconfig`, `service network restart`.
    Rhel6,
    /// `ip`.
    Rhel9,
}

/// QEMU's machine type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Machine {
    /// i440FX, conventional PCI.
    Pc,
    /// Q35, PCI Express.
    Q35,
}

/// A guest, `[guests.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// The table's name, as in a trial's name.
    pub name: String,
    /// What it understands.
    pub dialect: Dialect,
    /// What it runs on.
    pub machine: Machine,
    /// MiB.
    pub memory_mib: u32,
    /// A kernel in place of the built image's.
    pub kernel: Option<PathBuf>,
    /// An initramfs in place of the built image's.
    pub initrd: Option<PathBuf>,
    /// A disk image of the real release, with qemu-guest-agent in it; without one the built image
    /// stands in.
    pub image: Option<PathBuf>,
    /// NIC fields that differ on this guest, `[guests.NAME.nics.NIC]`.
    pub nics: BTreeMap<String, NicOverride>,
}

impl Guest {
    /// Whether the built image speaks for a release that it is not.
    pub fn is_stand_in(&self) -> bool {
        self.image.is_none() && self.kernel.is_none()
    }
}

/// What one guest sees differently of a NIC model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NicOverride {
    /// See [`Nic::driver`].
    pub driver: Option<String>,
    /// See [`Nic::max_mtu`].
    pub max_mtu: Option<u32>,
    /// See [`Nic::offloads`].
    pub offloads: Option<Vec<String>>,
}

/// How often and how long, `[profiles.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Echo requests for each size and interval of ping_sweep.
    pub ping_count: u32,
    /// Echo requests for each size of ping_flood.
    pub flood_count: u32,
    /// Plug and unplug cycles of hotplug.
    pub hotplug_cycles: u32,
    /// Seconds of toggling in promisc.
    pub promisc_seconds: u32,
    /// Only these cases; all when absent.
    #[serde(default)]
    pub cases: Option<Vec<String>>,
}
