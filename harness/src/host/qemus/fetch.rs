//! The QEMU of a suite of Debian, beside the system's: its packages are fetched by apt, which verifies
//! them by Debian's keys, and unpacked; nothing is installed. In the folder:
//!
//! | name | is |
//! | --- | --- |
//! | `HASH/` | the root that packages are unpacked into; `manifest.json` lists its files, with their digests |
//! | `current-SUITE-RECIPE.json` | which one the present package lists make |
//! | `missing-SUITE.json` | why that suite's QEMU could not be fetched, and when |
//! | `lock` | held by the one process that fetches |
//! | `.build-*` | a root that is being made, or what a killed process left |
//!
//! # How it runs
//! The suite's own loader starts it with the suite's libraries. QEMU looks for modules and firmware beside
//! its program, in `qemu-bundle`, before it looks where it was configured to (`get_relocated_path`,
//! cutils.c, from 7.1 on). Its program is the loader, for what the kernel says; so the loader is put beside
//! QEMU, and `qemu-bundle` is the root. The system's own modules, of another build, would abort QEMU
//! (`module_load_dso`). `-L` names the firmware too, for QEMUs before 7.1.

use crate::base::error::{OrCannotRun, Skip};
use crate::base::json;
use crate::base::sealed::{self, Sealed};
use crate::debian::apt::Apt;
use crate::debian::folder::{self, Current, digest, read_json, unavailable, write_json};
use crate::debian::packages::{self, Package};
use crate::debian::suite;
use crate::vm::qemu::{Loader, Qemu};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// What a QEMU for x86 guests is made of; libraries follow by dependency.
const PACKAGES: [&str; 5] = ["qemu-system-x86", "ovmf", "seabios", "ipxe-qemu", "ipxe"];

/// SPICE, where it is a package of its own (from Debian 13 on).
const SPICE: &str = "qemu-system-modules-spice";

/// What of the packages QEMU does not read.
const NOT_UNPACKED: [&str; 8] = [
    "usr/include",
    "usr/share/X11",
    "usr/share/doc",
    "usr/share/iso-codes",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/perl5",
    "usr/share/xml",
];

/// Directories of a root that are links: packages of before Debian 13 have files in both.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

const PROGRAM: &str = "usr/bin/qemu-system-x86_64";
const LOADER: &str = "usr/bin/ld.so";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const FIRMWARE: [&str; 4] = [
    "usr/share/qemu",
    "usr/share/seabios",
    "usr/lib/ipxe/qemu",
    "usr/lib/ipxe",
];
const UEFI: &str = "usr/share/ovmf/OVMF.fd";

/// The dynamic loader's name in every x86-64 program (System V ABI).
const ABI_LOADER: &str = "usr/lib64/ld-linux-x86-64.so.2";

/// Raised when a root is made in another way of the same packages.
const LAYOUT: &str = "2";

const MANIFEST: &str = "manifest.json";

#[derive(Serialize, Deserialize)]
struct Manifest {
    /// `name=version` each.
    packages: Vec<String>,
    /// Its files, by their paths in the root.
    files: Vec<Sealed>,
}

/// The QEMU of `suite` in `folder`; fetched where it is missing, damaged or out of date. `progress` is
/// handed a sentence for each step that takes long.
///
/// # Errors
/// A [`Skip`] where it cannot be fetched now and was never fetched, else a
/// [`crate::base::error::CannotRun`].
pub fn ensure(folder: &Path, suite: &str, progress: &dyn Fn(&str)) -> Result<Qemu> {
    let recipe = digest([LAYOUT, suite].into_iter().chain(PACKAGES).chain([SPICE]));
    let fingerprint = digest([&recipe, &packages::fingerprint()]);
    if let Some(qemu) = cached(folder, suite, &recipe, &fingerprint, &|_| ()) {
        return Ok(qemu);
    }
    let doing = format!("fetching the QEMU of Debian {suite}");
    let _lock = folder::lock(folder, &doing, progress)?;
    // Another process may have fetched it meanwhile.
    if let Some(qemu) = cached(folder, suite, &recipe, &fingerprint, progress) {
        return Ok(qemu);
    }
    folder::remove_leftovers(folder);
    let missing = suite::obstacle("QEMU", suite)
        .or_else(|| folder::noted_missing(folder, suite, &fingerprint));
    let error = match missing {
        Some(why) => Skip(why).into(),
        None => match make(folder, suite, &recipe, &fingerprint, progress) {
            Ok(qemu) => return Ok(qemu),
            Err(error) => {
                if let Some(Skip(why)) = error.downcast_ref() {
                    folder::note_missing(folder, suite, &fingerprint, why)
                        .or_cannot_run(|| format!("write to {}", folder.display()))?;
                }
                error
            }
        },
    };
    // Of older lists, where the mirror is not reached.
    let Some(qemu) = folder::last(folder, Some(suite), &recipe, load) else {
        return Err(error);
    };
    progress(&format!("{error:#}: using the one that was fetched before"));
    Ok(qemu)
}

/// The QEMU that is current for these lists, if it is there and whole.
fn cached(
    folder: &Path,
    suite: &str,
    recipe: &str,
    fingerprint: &str,
    progress: &dyn Fn(&str),
) -> Option<Qemu> {
    folder::cached(folder, Some(suite), recipe, fingerprint, load, |why| {
        progress(&format!(
            "the QEMU of Debian {suite} is damaged ({why:#}): fetching it again"
        ));
    })
}

/// Finds out which packages the suite's QEMU is made of today, and fetches them where they are not there.
fn make(
    folder: &Path,
    suite: &str,
    recipe: &str,
    fingerprint: &str,
    progress: &dyn Fn(&str),
) -> Result<Qemu> {
    progress(&format!("asking Debian {suite} for its QEMU"));
    let scratch = tempfile::Builder::new()
        .prefix(".build-")
        .tempdir_in(folder)
        .or_cannot_run(|| format!("create a directory in {}", folder.display()))?;
    let scratch = scratch.path();
    let (apt, packages) =
        resolve(suite, scratch).map_err(|error| unavailable("QEMU", suite, error))?;
    let lines: Vec<String> = packages.iter().map(Package::to_string).collect();
    let hash = digest([LAYOUT].into_iter().chain(lines.iter().map(String::as_str)));
    let root = folder.join(&hash);
    if folder::used(&root, load).is_err() {
        let (debs, new) = (scratch.join("debs"), scratch.join("root"));
        progress(&format!(
            "downloading the QEMU of Debian {suite} ({} packages, about 100 MB)",
            packages.len()
        ));
        packages::download(&apt, &packages, &debs)
            .map_err(|error| unavailable("QEMU", suite, error))?;
        unpack(&debs, &new, lines)
            .or_cannot_run(|| format!("unpack the packages in {}", debs.display()))?;
        folder::publish(&new, &root).or_cannot_run(|| format!("write {}", root.display()))?;
    }
    let qemu =
        folder::used(&root, load).or_cannot_run(|| format!("read back {}", root.display()))?;
    let current = Current {
        fingerprint: fingerprint.into(),
        recipe: recipe.into(),
        hash,
    };
    folder::make_current(folder, Some(suite), scratch, MANIFEST, &current)
        .or_cannot_run(|| format!("write to {}", folder.display()))?;
    Ok(qemu)
}

/// Which packages the suite's QEMU needs on a machine that has none, and the apt that knows them.
fn resolve(suite: &str, scratch: &Path) -> Result<(Apt, Vec<Package>)> {
    // Backports have only what differs from the suite that they are for.
    let base = suite.strip_suffix("-backports");
    let suites: Vec<&str> = base.into_iter().chain([suite]).collect();
    let apt = suite::lists_of(&suites, "main", scratch)?;
    let release = base.map(|_| suite);
    let closure = |names: &[&str]| packages::closure(&apt, scratch, release, names);
    let with_spice = [&PACKAGES[..], &[SPICE]].concat();
    let closure = closure(&with_spice).or_else(|_| closure(&PACKAGES))?;
    let packages = closure.into_iter().map(|one| one.package).collect();
    Ok((apt, packages))
}

/// Makes `root` of the packages in `debs`.
fn unpack(debs: &Path, root: &Path, packages: Vec<String>) -> Result<()> {
    for directory in MERGED {
        fs::create_dir_all(root.join("usr").join(directory))?;
        symlink(Path::new("usr").join(directory), root.join(directory))?;
    }
    packages::extract_all(debs, root, &NOT_UNPACKED)?;
    fs::copy(within(root, ABI_LOADER)?, root.join(LOADER))?;
    symlink("../..", root.join("usr/bin/qemu-bundle"))?;
    let mut files = Vec::new();
    seal(root, "", &mut files)?;
    write_json(&root.join(MANIFEST), &Manifest { packages, files })
}

/// Where `path` of `root` is in the end, followed as if `root` were `/`.
fn within(root: &Path, path: &str) -> Result<PathBuf> {
    /// As the kernel's limit (path_resolution(7)).
    const LINKS: usize = 40;
    let mut file = PathBuf::from(path);
    for _ in 0..LINKS {
        let Ok(to) = fs::read_link(root.join(&file)) else {
            return Ok(root.join(file));
        };
        file = match to.strip_prefix("/") {
            Ok(from_root) => from_root.to_owned(),
            Err(_) => file.parent().unwrap_or(Path::new("")).join(to),
        };
    }
    anyhow::bail!("{path} is a link to itself in {}", root.display())
}

/// Seals the regular files below `directory` of `root`, which ends with a slash unless it is `root` itself.
fn seal(root: &Path, directory: &str, files: &mut Vec<Sealed>) -> Result<()> {
    for entry in fs::read_dir(root.join(directory))? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str();
        let name = name.with_context(|| format!("{name:?} is no name in UTF-8"))?;
        let path = format!("{directory}{name}");
        let kind = entry.file_type()?;
        if kind.is_dir() {
            seal(root, &format!("{path}/"), files)?;
        } else if kind.is_file() {
            files.push(Sealed::of(root, &path, true)?);
        }
    }
    Ok(())
}

/// The QEMU in `root`, whose files must be as they were unpacked.
fn load(root: &Path) -> Result<Qemu> {
    let mut manifest: Manifest = read_json(&root.join(MANIFEST))?;
    let copied =
        sealed::check(root, &mut manifest.files).with_context(|| root.display().to_string())?;
    if copied {
        // So that the next does not read them all. Where that cannot be written, it does.
        let _ = json::write_whole(&root.join(MANIFEST), &manifest);
    }
    let there = |paths: &[&str]| {
        let paths = paths.iter().map(|path| root.join(path));
        paths.filter(|path| path.is_dir()).collect()
    };
    let uefi = root.join(UEFI);
    Ok(Qemu {
        firmware: there(&FIRMWARE),
        loader: Some(Loader {
            program: root.join(LOADER),
            libraries: there(&[LIBRARIES]),
        }),
        uefi: uefi.is_file().then_some(uefi),
        ..Qemu::at(root.join(PROGRAM))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root with a QEMU, a ROM and a loader behind an absolute link.
    fn root(directory: &Path) -> PathBuf {
        let root = directory.join("root");
        for (path, text) in [
            (PROGRAM, "qemu"),
            ("usr/lib/x86_64-linux-gnu/ld-2.31.so", "loader"),
            ("usr/share/qemu/efi-virtio.rom", "rom"),
            (UEFI, "ovmf"),
        ] {
            let file = root.join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        fs::create_dir_all(root.join("usr/lib64")).unwrap();
        let to = "/lib/x86_64-linux-gnu/ld-2.31.so";
        symlink(to, root.join(ABI_LOADER)).unwrap();
        root
    }

    #[test]
    fn an_unpacked_qemu_has_its_own_loader_libraries_and_firmware() {
        let directory = tempfile::tempdir().unwrap();
        let root = root(directory.path());
        let debs = directory.path().join("debs");
        fs::create_dir(&debs).unwrap();
        unpack(&debs, &root, vec!["qemu=1".into()]).unwrap();
        let qemu = load(&root).unwrap();
        let loader = qemu.loader.unwrap();
        assert_eq!(fs::read_to_string(&loader.program).unwrap(), "loader");
        assert_eq!(loader.libraries, [root.join(LIBRARIES)]);
        assert_eq!(qemu.firmware, [root.join("usr/share/qemu")]);
        assert_eq!(qemu.uefi, Some(root.join(UEFI)));
        let bundle = loader.program.with_file_name("qemu-bundle");
        assert_eq!(bundle.canonicalize().unwrap(), root.canonicalize().unwrap());
    }

    #[test]
    fn a_rom_that_is_gone_or_altered_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let root = root(directory.path());
        let debs = directory.path().join("debs");
        fs::create_dir(&debs).unwrap();
        unpack(&debs, &root, Vec::new()).unwrap();
        let rom = root.join("usr/share/qemu/efi-virtio.rom");
        fs::write(&rom, "rem").unwrap();
        let altered = format!("{:#}", load(&root).unwrap_err());
        assert!(
            altered.contains("its usr/share/qemu/efi-virtio.rom was altered"),
            "{altered}"
        );
        fs::remove_file(&rom).unwrap();
        let gone = format!("{:#}", load(&root).unwrap_err());
        assert!(gone.contains("efi-virtio.rom cannot be read"), "{gone}");
    }
}
