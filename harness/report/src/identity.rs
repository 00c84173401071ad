//! What a run was: what it ran, on what, and where. Two runs of one plan have the same plan digest.

use crate::text::clean;
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

impl Shard {
    /// Whether the two are parts of one division: of the same plan into as many parts, filled alike.
    pub fn is_beside(&self, other: &Shard) -> bool {
        (self.n, &self.plan, &self.durations) == (other.n, &other.plan, &other.durations)
    }
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

impl Identity {
    /// The same with every string clean.
    pub(crate) fn cleaned(&self) -> Identity {
        let qemu = |qemu: &Qemu| Qemu {
            version: clean(&qemu.version),
            build: qemu.build.as_deref().map(clean),
        };
        let others = self.others.iter();
        Identity {
            commit: self.commit.as_deref().map(clean),
            matrix_digest: clean(&self.matrix_digest),
            plan_digest: clean(&self.plan_digest),
            shard: self.shard.as_ref().map(|shard| Shard {
                plan: shard.plan.as_deref().map(clean),
                durations: shard.durations.as_deref().map(clean),
                ..*shard
            }),
            qemu: qemu(&self.qemu),
            others: others
                .map(|(name, other)| (clean(name), qemu(other)))
                .collect(),
            host: Host {
                processor: clean(&self.host.processor),
                cores: self.host.cores,
                accelerator: self.host.accelerator.as_deref().map(clean),
                kernel: clean(&self.host.kernel),
            },
        }
    }

    /// Whether the two ran the same plan, whatever part of it: of the same checkout and matrix file, on the
    /// same QEMUs.
    pub fn is_of_same_plan(&self, other: &Identity) -> bool {
        self.plan_digest == other.plan_digest
            && self.matrix_digest == other.matrix_digest
            && self.commit == other.commit
            && self.qemu == other.qemu
            && self.others == other.others
    }

    /// What differs in `here` that may change a verdict, a sentence each: "QEMU: 7.2.22 there, 10.0.13
    /// here".
    pub fn differences(&self, here: &Identity) -> Vec<String> {
        let commit = |identity: &Identity| identity.commit.clone().unwrap_or("unknown".into());
        let accelerator = |identity: &Identity| {
            let accelerator = identity.host.accelerator.clone();
            accelerator.unwrap_or("none".into())
        };
        let digest = |identity: &Identity| {
            let short = identity.matrix_digest.get(..12);
            short.unwrap_or(&identity.matrix_digest).to_owned()
        };
        let mut all = vec![
            ("commit".to_owned(), commit(self), commit(here)),
            ("matrix file".to_owned(), digest(self), digest(here)),
            (
                "QEMU".to_owned(),
                self.qemu.to_string(),
                here.qemu.to_string(),
            ),
        ];
        for (name, there) in &self.others {
            let own = here.others.get(name);
            let own = own.map_or("none".into(), Qemu::to_string);
            all.push((format!("QEMU {name}"), there.to_string(), own));
        }
        let (a, b) = (&self.host, &here.host);
        all.extend([
            (
                "accelerator".to_owned(),
                accelerator(self),
                accelerator(here),
            ),
            ("kernel".to_owned(), a.kernel.clone(), b.kernel.clone()),
            (
                "processor".to_owned(),
                a.processor.clone(),
                b.processor.clone(),
            ),
            (
                "processors".to_owned(),
                a.cores.to_string(),
                b.cores.to_string(),
            ),
        ]);
        let differing = all.into_iter().filter(|(_, there, here)| there != here);
        differing
            .map(|(what, there, here)| format!("{what}: {there} there, {here} here"))
            .collect()
    }
}

impl std::fmt::Display for Qemu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.build {
            Some(build) => write!(f, "{} ({build})", self.version),
            None => f.write_str(&self.version),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_said_and_nothing_else() {
        let qemu = |version: &str| Qemu {
            version: version.into(),
            build: Some("build-id:5f".into()),
        };
        let there = Identity {
            commit: Some("0123".into()),
            matrix_digest: "ab".repeat(32),
            plan_digest: "cd".into(),
            shard: None,
            qemu: qemu("7.2.22"),
            others: [("trixie".to_owned(), qemu("10.0.13"))].into(),
            host: Host {
                processor: "AMD EPYC".into(),
                cores: 2,
                accelerator: Some("TCG".into()),
                kernel: "6.18".into(),
            },
        };
        // Which plan and which shard says nothing of one trial.
        let mut here = there.clone();
        here.plan_digest = "ef".into();
        assert!(there.differences(&here).is_empty());
        here.qemu.version = "10.0.13".into();
        here.others.clear();
        here.commit = None;
        here.host.accelerator = Some("KVM".into());
        let differences = there.differences(&here);
        assert_eq!(
            differences,
            [
                "commit: 0123 there, unknown here",
                "QEMU: 7.2.22 (build-id:5f) there, 10.0.13 (build-id:5f) here",
                "QEMU trixie: 10.0.13 (build-id:5f) there, none here",
                "accelerator: TCG there, KVM here",
            ]
        );
    }
}
