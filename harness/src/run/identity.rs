//! What a run is, for its first event: [`Identity`].

use super::planned::Planned;
use crate::guest::image;
use crate::host::accel::{self, BOOT_DEADLINE};
use crate::host::machine;
use crate::host::qemus::{Qemus, TestedQemu};
use crate::plan;
use crate::settings::Settings;
use report::errln;
use report::identity::{Host, Identity, Qemu, Shard};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::process::{Command, Stdio};

/// The identity of a run of the plan with `plan_digest`; the accelerator is not known yet.
///
/// # Errors
/// A matrix file that cannot be read.
pub fn identity(
    settings: &Settings,
    qemus: &Qemus,
    plan_digest: String,
    shard: Option<Shard>,
) -> anyhow::Result<Identity> {
    let uname = nix::sys::utsname::uname()?;
    Ok(Identity {
        commit: commit(&settings.root),
        matrix_digest: format!("{:x}", Sha256::digest(std::fs::read(&settings.matrix)?)),
        plan_digest,
        shard,
        qemu: of(&qemus.default),
        others: (qemus.iter().skip(1))
            .map(|(name, tested)| (name.to_owned(), of(tested)))
            .collect(),
        host: Host {
            processor: processor(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
            cores: machine::processors(),
            accelerator: None,
            kernel: uname.release().to_string_lossy().into_owned(),
        },
    })
}

/// The identity of a run of `planned`, with the accelerator, which is proved where it is not.
///
/// # Errors
/// As [`identity`]; a host on which no trial can run.
pub fn here(settings: &Settings, planned: &Planned) -> anyhow::Result<Identity> {
    let say = |line: &str| errln!("{line}");
    let qemus = &planned.capabilities.qemus;
    let mut identity = identity(settings, qemus, plan::digest(&planned.trials), None)?;
    let image = image::ensure(&settings.images(), None, &say)?;
    let cache = settings.host_cache();
    let proven = accel::prove(
        &qemus.default.qemu,
        &image,
        &cache,
        settings.accel,
        BOOT_DEADLINE,
        &say,
    )?;
    identity.host.accelerator = Some(proven.accel.name().to_owned());
    Ok(identity)
}

fn of(TestedQemu { facts, .. }: &TestedQemu) -> Qemu {
    Qemu {
        version: facts.version.clone(),
        build: facts.build.clone(),
    }
}

/// The commit of the checkout at `root`, "-dirty" where files differ from it.
fn commit(root: &Path) -> Option<String> {
    let output = Command::new("git")
        .args([
            "describe",
            "--always",
            "--abbrev=40",
            "--exclude=*",
            "--dirty",
        ])
        .current_dir(root)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let commit = String::from_utf8(output.stdout).ok()?;
    (output.status.success()).then(|| commit.trim().to_owned())
}

/// The model of the first processor in /proc/cpuinfo.
fn processor(cpuinfo: &str) -> String {
    let model = cpuinfo.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "model name").then(|| value.trim().to_owned())
    });
    model.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_the_first_processors() {
        let cpuinfo = "processor\t: 0\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\nmodel name\t: B\n";
        assert_eq!(processor(cpuinfo), "AMD EPYC");
        assert_eq!(processor(""), "");
    }

    #[test]
    fn a_checkout_has_a_commit_and_another_directory_has_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(commit(dir.path()), None);
        let git = |args: &[&str]| {
            let ended = Command::new("git").args(args).current_dir(&dir).output();
            assert!(ended.unwrap().status.success(), "git {args:?}");
        };
        git(&["init", "--quiet"]);
        std::fs::write(dir.path().join("file"), "one").unwrap();
        git(&["add", "file"]);
        let author = ["-c", "user.name=n", "-c", "user.email=e"];
        git(&[&author[..], &["commit", "--quiet", "--message", "one"]].concat());
        let clean = commit(dir.path()).unwrap();
        assert_eq!(clean.len(), 40, "{clean}");
        std::fs::write(dir.path().join("file"), "two").unwrap();
        assert_eq!(commit(dir.path()), Some(clean + "-dirty"));
    }
}
