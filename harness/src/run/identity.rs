//! What a run is, for its first event: [`Identity`].

use crate::host::machine;
use crate::host::qemu_facts::QemuFacts;
use crate::settings::Settings;
use goblin::elf::Elf;
use goblin::elf::note::NT_GNU_BUILD_ID;
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
    facts: &QemuFacts,
    plan_digest: String,
) -> anyhow::Result<Identity> {
    let uname = nix::sys::utsname::uname()?;
    Ok(Identity {
        commit: commit(&settings.root),
        matrix_digest: format!("{:x}", Sha256::digest(std::fs::read(&settings.matrix)?)),
        plan_digest,
        shard: settings.shard.map(|(k, n)| Shard { k, n }),
        qemu: Qemu {
            version: facts.version.clone(),
            build: std::fs::read(&settings.qemu).ok().map(|file| build(&file)),
        },
        host: Host {
            processor: processor(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
            cores: machine::processors(),
            accelerator: None,
            kernel: uname.release().to_string_lossy().into_owned(),
        },
    })
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

/// What tells one build of a program from another.
fn build(file: &[u8]) -> String {
    match build_id(file) {
        Some(id) => id.iter().fold("build-id:".to_owned(), |text, byte| {
            text + &format!("{byte:02x}")
        }),
        None => format!("sha256:{:x}", Sha256::digest(file)),
    }
}

/// None where it is not an ELF file, or has none.
fn build_id(file: &[u8]) -> Option<&[u8]> {
    let elf = Elf::parse(file).ok()?;
    let mut notes = elf.iter_note_headers(file)?.flatten();
    let note = notes.find(|note| note.n_type == NT_GNU_BUILD_ID && note.name == "GNU")?;
    Some(note.desc)
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
    fn a_script_has_its_digest_for_a_build_id() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(build(b""), empty);
    }

    #[test]
    fn a_build_id_is_what_readelf_prints() {
        let bash = std::fs::read("/bin/bash").unwrap();
        let output = Command::new("readelf")
            .args(["--notes", "/bin/bash"])
            .output();
        let Ok(output) = output else { return };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let Some((_, id)) = text.split_once("Build ID: ") else {
            return;
        };
        let id = id.split_whitespace().next().unwrap();
        assert_eq!(build(&bash), format!("build-id:{id}"));
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
