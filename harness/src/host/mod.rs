//! What this host can do. Answers are proved and cached under `target/nicmatrix/host/`.

pub mod accel;
pub mod facts;
pub mod module;
pub mod place;
pub mod vhost;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// How guest code is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// Hardware virtualisation, shown to run a stock kernel here.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

/// The facts that decide whether a trial can run; cheap enough for `--list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// `qemu-system-x86_64 --version`, for example "7.2.22".
    pub qemu_version: String,
    /// `-device` models that this QEMU has (`-device help`).
    pub qemu_devices: Vec<String>,
    /// Machine types that this QEMU has.
    pub qemu_machines: Vec<String>,
    /// Whether this QEMU takes `-spice`.
    pub spice: bool,
    /// OVMF, where it is installed.
    pub uefi: Option<PathBuf>,
    /// Why `/dev/vhost-net` does not open; a sentence for skips.
    pub vhost_obstacle: Option<String>,
    /// `experimental_zcopytx` of the loaded vhost_net module, if there is one.
    pub zcopytx: Option<bool>,
    /// Whether it may be reloaded with the other one.
    pub module_reload: bool,
    /// Why there can be no lab here; a sentence for skips.
    pub lab_obstacle: Option<String>,
    /// Suites of the matrix whose kernel is not to be had here, each with why; a sentence for skips.
    pub missing_suites: BTreeMap<String, String>,
}
