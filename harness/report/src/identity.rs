//! What a run was: what it ran, on what, and where. Two runs of one plan have the same plan digest.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A run's identity, in its first event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Identity {
    /// The commit of the checkout, with "-dirty" after it where files differ from it; none outside of
    /// a checkout.
    pub commit: Option<String>,
    /// SHA-256 of the matrix file.
    pub matrix_digest: String,
    /// SHA-256 over the names of all trials of the plan, a line each; those of every shard, and those
    /// that no filter selects.
    pub plan_digest: String,
    /// The part of the plan that this run was given; none for the whole.
    pub shard: Option<Shard>,
    /// The default QEMU.
    pub qemu: Qemu,
    /// The others that the run was given, by name; none in logs of before there were any.
    #[serde(default)]
    pub others: BTreeMap<String, Qemu>,
    /// The machine.
    pub host: Host,
}

/// The `k`-th of `n` parts of what a run without `--shard` would have selected, from 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Shard {
    /// Which part, from 1.
    pub k: u32,
    /// Of how many.
    pub n: u32,
    /// SHA-256 of the run's `plan.txt`, which names the trials of all parts, a line each; none in logs
    /// of before there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// SHA-256 of the durations by which the parts were filled; none where the K-th part is the K-th of
    /// every N trials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durations: Option<String>,
}

/// A QEMU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Qemu {
    /// Its version.
    pub version: String,
    /// The build id of its ELF file, as "build-id:HEX"; without a build id the file's digest, as
    /// "sha256:HEX"; none where the file cannot be read.
    pub build: Option<String>,
}

/// A machine that trials run on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Host {
    /// The model of its processors, as the kernel names it.
    pub processor: String,
    /// Processors that the run could use.
    pub cores: usize,
    /// The accelerator of the VMs, "KVM" or "TCG"; none where no trial was to be run.
    pub accelerator: Option<String>,
    /// The release of its kernel.
    pub kernel: String,
}
