//! The data of `matrix.toml`.

use super::Backend;
use super::disruption::Disruption;
use super::known::{Exclude, Expectation};
use crate::base::words::unknown;
use report::flags::{HostChoice, named};
use report::name::DEFAULT_QEMU;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

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
    /// Whether QEMU's `info network` shows a MAC that the guest has set; else it keeps the first.
    pub shows_mac: bool,
    /// Whether it receives by a MAC that the guest has set; else by its first, whatever the guest sets.
    pub takes_mac: bool,
    /// How its driver takes its interrupts; not looked at where it is None.
    pub interrupts: Option<Interrupts>,
    /// What QEMU's boot ROM for it is made for.
    pub boot_rom: BootRom,
    /// What makes it a variant of its device.
    #[serde(flatten)]
    pub variant: Variant,
}

impl Nic {
    /// Whether virtio's feature bits, queues and vhost apply.
    pub fn is_virtio(&self) -> bool {
        self.device.starts_with("virtio-net")
    }

    /// Whether it differs from its device as QEMU makes it, so that something can be asked of it.
    pub fn is_variant(&self) -> bool {
        self.variant != Variant::default() || self.is_modern_by_name()
    }

    /// Whether the device is one of virtio without the legacy interface, by its name alone.
    pub fn is_modern_by_name(&self) -> bool {
        self.is_virtio() && self.device.ends_with("-non-transitional")
    }

    /// The MTU that its driver begins with, bytes: Ethernet's, or the one that the device tells it.
    pub fn default_mtu(&self) -> u32 {
        self.variant.host_mtu().unwrap_or(ETHERNET_MTU)
    }

    /// Whether vhost-net of a kernel can carry its frames with all that its properties ask for.
    pub fn takes_vhost(&self) -> bool {
        let asks = |key: &&str| self.variant.property(key) == Some("on");
        self.is_virtio() && !VHOST_LACKS.iter().any(asks)
    }
}

/// Ethernet's own MTU, bytes.
pub const ETHERNET_MTU: u32 = 1500;

/// What the kernel's vhost-net does not offer, so that QEMU withdraws it from the guest: packed
/// rings (drivers/vhost/vhost.c knows split ones), and what QEMU computes for each packet that it receives.
const VHOST_LACKS: [&str; 3] = ["packed", "rss", "hash"];

/// What makes a NIC a variant of its device: properties, what it stands behind, and its tap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variant {
    /// Of `-device`, in the order of the file.
    pub properties: Vec<Property>,
    /// Of `-machine`, of every VM that has the NIC.
    pub machine_properties: Vec<Property>,
    /// Whether there is an IOMMU between the NIC and the guest's memory, which the guest uses.
    pub iommu: bool,
    /// Whether its tap has no virtio-net header before each frame (`vnet_hdr=off`), as QEMU's other netdevs have none:
    /// QEMU itself then makes checksums and cuts segments.
    pub bare_tap: bool,
}

impl Variant {
    /// The value of a property of `-device`.
    pub fn property(&self, key: &str) -> Option<&str> {
        let mut given = self.properties.iter();
        let found = given.find(|property| property.key == key);
        found.map(|property| property.value.as_str())
    }

    /// The MTU that the device tells the guest, bytes.
    pub fn host_mtu(&self) -> Option<u32> {
        // 0 is QEMU's own default, and tells nothing.
        let told = self.property("host_mtu")?.parse().ok();
        told.filter(|mtu| *mtu > 0)
    }
}

/// A property of QEMU, `key=value` in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Property {
    /// QEMU's name for it.
    pub key: String,
    /// As QEMU's command line takes it.
    pub value: String,
    /// Its line in the matrix file, for messages.
    pub line: usize,
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

/// How a PCI function's interrupts reach the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interrupts {
    /// By one of four lines.
    Intx,
    /// By a message.
    Msi,
    /// By a message for each of its vectors.
    Msix,
}

impl Interrupts {
    /// The words of the matrix file.
    pub const WORDS: &[(&str, Interrupts)] = &[
        ("intx", Interrupts::Intx),
        ("msi", Interrupts::Msi),
        ("msix", Interrupts::Msix),
    ];
}

impl fmt::Display for Interrupts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Interrupts::Intx => "INTx",
            Interrupts::Msi => "MSI",
            Interrupts::Msix => "MSI-X",
        })
    }
}

/// What can start a NIC's boot ROM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BootRom {
    /// The NIC has no boot ROM.
    No,
    /// A BIOS.
    Bios,
    /// A BIOS and UEFI firmware.
    Both,
}

/// The commands that a RHEL release understands; [`command`](Dialect::command) is the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// As RHEL 5.
    Rhel4,
    /// As RHEL 6, and takes a hot-plugged NIC only after `modprobe acpiphp`.
    Rhel5,
    /// `ifconfig`, `vconfig`, `service network restart`.
    Rhel6,
    /// `ip`, `service network restart`.
    Rhel7,
    /// `ip`.
    Rhel8,
    /// As RHEL 8.
    Rhel9,
    /// As RHEL 9, without `dhclient`.
    Rhel10,
}

impl Dialect {
    /// Every dialect, the oldest first.
    pub const ALL: [Dialect; 7] = [
        Dialect::Rhel4,
        Dialect::Rhel5,
        Dialect::Rhel6,
        Dialect::Rhel7,
        Dialect::Rhel8,
        Dialect::Rhel9,
        Dialect::Rhel10,
    ];

    /// Its name in `matrix.toml`.
    pub const fn name(self) -> &'static str {
        match self {
            Dialect::Rhel4 => "rhel4",
            Dialect::Rhel5 => "rhel5",
            Dialect::Rhel6 => "rhel6",
            Dialect::Rhel7 => "rhel7",
            Dialect::Rhel8 => "rhel8",
            Dialect::Rhel9 => "rhel9",
            Dialect::Rhel10 => "rhel10",
        }
    }
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

impl Machine {
    /// QEMU's name for it.
    pub const fn name(self) -> &'static str {
        match self {
            Machine::Pc => "pc",
            Machine::Q35 => "q35",
        }
    }
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
    /// The suite of Debian whose kernel the built image has; the system's own without one.
    pub suite: Option<String>,
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
    /// Whether the built image stands in for the real release.
    pub fn is_stand_in(&self) -> bool {
        self.image.is_none() && self.kernel.is_none()
    }

    /// The suite whose kernel the guest boots; None for the system's own kernel, and for a kernel or disk
    /// image that the matrix names.
    pub fn kernel_suite(&self) -> Option<&str> {
        self.suite.as_deref().filter(|_| self.is_stand_in())
    }
}

/// What one guest sees differently of a NIC model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NicOverride {
    /// See [`Nic::driver`].
    pub driver: Option<String>,
    /// See [`Nic::max_mtu`].
    pub max_mtu: Option<u32>,
    /// See [`Nic::offloads`].
    pub offloads: Option<Vec<String>>,
    /// See [`Nic::interrupts`].
    pub interrupts: Option<Interrupts>,
}

/// A QEMU besides the default one, `[qemu.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QemuSource {
    /// One that is there.
    Binary {
        /// Its program.
        program: PathBuf,
        /// `-L` directories.
        firmware: Vec<PathBuf>,
    },
    /// That of a suite of Debian, which is fetched.
    Suite(String),
}

/// How often and how long, `[profiles.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Profile {
    /// Echo requests for each size and interval of ping_sweep.
    pub ping_count: u32,
    /// Echo requests for each size of ping_flood.
    pub flood_count: u32,
    /// Plug and unplug cycles of hotplug.
    pub hotplug_cycles: u32,
    /// Seconds of toggling in promisc.
    pub promisc_seconds: u32,
    /// Migrations of migrate and spice_migrate.
    pub migrations: u32,
    /// MiB of the file that udp_transfer and tcp_transfer carry.
    pub transfer_mib: u32,
    /// Seconds of each of netperf's tests; without it, each ends after a fixed amount of traffic.
    pub netperf_seconds: Option<u32>,
    /// Cases that run on one guest for each NIC and backend; the guests take turns.
    pub on_one_guest: Vec<String>,
    /// Cases that run on one NIC for each backend, and on one guest there; NICs and guests take turns.
    pub on_one_nic: Vec<String>,
    /// NICs whose trials all run on one guest for each case and backend; the guests take turns.
    pub nics_on_one_guest: Vec<String>,
    /// Only these cases run with vhost, on one guest for each NIC and backend; all when absent.
    pub with_vhost: Option<Vec<String>>,
    /// Only these cases; all when absent.
    pub cases: Option<Vec<String>>,
    /// What guests start from, each a trial.
    pub boot_modes: Vec<BootMode>,
    /// The disruptions after which cases that change something must hold again, each a trial.
    pub disruptions: Vec<Disruption>,
    /// The `qemu` axis in this profile; that of `[axes]` when absent.
    pub qemus: Option<Vec<String>>,
    /// The `nic` axis in this profile; that of `[axes]` when absent.
    pub nics: Option<Vec<String>>,
    /// The `guest` axis in this profile; that of `[axes]` when absent.
    pub guests: Option<Vec<String>>,
}

impl Profile {
    /// Whether it has that case with that backend.
    pub fn takes(&self, case: &str, backend: Backend) -> bool {
        let named = |names: &Vec<String>| names.iter().any(|name| name == case);
        self.cases.as_ref().is_none_or(named)
            && (backend == Backend::Tap || self.with_vhost.as_ref().is_none_or(named))
    }

    /// Whether netperf's tests run for a fixed time, so that their figures mean something.
    pub fn measures(&self) -> bool {
        self.netperf_seconds.is_some()
    }
}

/// What a profile's guests start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BootMode {
    /// The checkpoint that the case asks for.
    Checkpoint,
    /// A boot, `case@boot`: for what only a boot shows.
    Boot,
}

/// `[axes]`: what is multiplied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Axes {
    /// Names of `[qemu.*]`, and [`DEFAULT_QEMU`] for the default one.
    pub qemu: Vec<String>,
    /// Names of `[nics.*]`.
    pub nic: Vec<String>,
    /// Names of `[guests.*]`.
    pub guest: Vec<String>,
    /// Whether vhost-net carries the frames.
    pub vhost: Vec<bool>,
    /// `experimental_zcopytx` of vhost-net.
    pub zcopy: Vec<bool>,
}

/// All of `matrix.toml`. Its axes name tables that exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    /// The file, for messages.
    pub path: PathBuf,
    /// On which machines trials run.
    pub host: HostChoice,
    /// Memory of a lab, MiB.
    pub lab_memory_mib: u32,
    /// What is multiplied.
    pub axes: Axes,
    /// `[qemu.*]`
    pub qemus: BTreeMap<String, QemuSource>,
    /// `[nics.*]`
    pub nics: BTreeMap<String, Nic>,
    /// `[guests.*]`
    pub guests: BTreeMap<String, Guest>,
    /// `[profiles.*]`
    pub profiles: BTreeMap<String, Profile>,
    /// `[[exclude]]`
    pub excludes: Vec<Arc<Exclude>>,
    /// `[[expect]]`
    pub expectations: Vec<Arc<Expectation>>,
}

impl Matrix {
    /// The files that guests are made of beside the built image.
    pub fn guest_files(&self) -> impl Iterator<Item = &PathBuf> {
        let guests = self.guests.values();
        guests
            .flat_map(|guest| [&guest.image, &guest.kernel, &guest.initrd])
            .flatten()
    }

    /// Takes the axes that `profile` has of its own.
    pub fn use_axes(&mut self, profile: &Profile) {
        if let Some(qemus) = &profile.qemus {
            self.axes.qemu.clone_from(qemus);
        }
        if let Some(nics) = &profile.nics {
            self.axes.nic.clone_from(nics);
        }
        if let Some(guests) = &profile.guests {
            self.axes.guest.clone_from(guests);
        }
    }

    /// Puts QEMUs that the user added on the axis, as [`Matrix::qemus`]; where some are `chosen` by name,
    /// the axis has those in place of its own.
    ///
    /// # Errors
    /// A chosen name that no QEMU has, with the nearest; an added one that is taken.
    pub fn use_qemus(
        &mut self,
        added: &[(String, PathBuf)],
        chosen: &[String],
    ) -> Result<(), MatrixError> {
        for (name, program) in added {
            if name == DEFAULT_QEMU || self.qemus.contains_key(name) {
                let what =
                    format!("there is a QEMU `{name}` already: give the added one another name");
                return Err(MatrixError(vec![what]));
            }
            let source = QemuSource::Binary {
                program: program.clone(),
                firmware: Vec::new(),
            };
            self.qemus.insert(name.clone(), source);
        }
        let there = || std::iter::once(DEFAULT_QEMU).chain(self.qemus.keys().map(String::as_str));
        if let Some(name) = chosen
            .iter()
            .find(|name| there().all(|other| other != *name))
        {
            let what = unknown("QEMU", name, there());
            let hint = "neither a name of the matrix file nor a program on PATH";
            return Err(MatrixError(vec![format!(
                "{}: {what}, {hint}",
                named("qemu")
            )]));
        }
        if !chosen.is_empty() {
            self.axes.qemu = chosen.to_vec();
        }
        let names = added.iter().map(|(name, _)| name.clone());
        self.axes.qemu.extend(names);
        let mut seen = BTreeSet::new();
        self.axes.qemu.retain(|name| seen.insert(name.clone()));
        Ok(())
    }

    /// The profile of that name, or an error that names those there are.
    pub fn profile(&self, name: &str) -> Result<&Profile, MatrixError> {
        self.profiles.get(name).ok_or_else(|| {
            let what = unknown("profile", name, self.profiles.keys().map(String::as_str));
            MatrixError(vec![format!("{}: {what}", self.path.display())])
        })
    }
}

/// Every mistake found in a matrix file, each `file:line: what`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MatrixError(pub Vec<String>);

impl fmt::Display for MatrixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for MatrixError {}
