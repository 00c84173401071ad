//! What is kept in the images directory.

use super::GuestImage;
use crate::base::json;
use crate::base::sealed::{self, Sealed};
use crate::debian::folder::{self, read_json, write_json};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

pub const VMLINUX: &str = "vmlinux";
pub const BZIMAGE: &str = "bzImage";
pub const INITRD: &str = "initrd";
/// [`INITRD`], packed.
pub const PACKED_INITRD: &str = "initrd.zst";
/// The lab's initramfs.
pub const LAB_INITRD: &str = "lab-initrd";
/// The directory of the programs that the host needs to talk to the guest's.
pub const HOST_PROGRAMS: &str = "host";
pub const MANIFEST: &str = "manifest.json";

#[derive(Serialize, Deserialize)]
struct Manifest {
    image: GuestImage,
    /// How much of the initramfs, in bytes, is the userspace; the modules follow.
    userspace: u64,
    /// All others of the directory.
    files: Vec<Sealed>,
}

/// The image that is current for these inputs, if it is there and whole.
pub fn cached(
    images_dir: &Path,
    suite: Option<&str>,
    recipe: &str,
    fingerprint: &str,
    progress: &dyn Fn(&str),
) -> Option<GuestImage> {
    folder::cached(images_dir, suite, recipe, fingerprint, load, |why| {
        progress(&format!(
            "the guest image is damaged ({why:#}): building it again"
        ));
    })
}

/// The last image of the same recipe, if it is whole.
pub fn last(images_dir: &Path, suite: Option<&str>, recipe: &str) -> Option<GuestImage> {
    folder::last(images_dir, suite, recipe, load)
}

/// Writes the manifest of the files in `dir`.
pub fn seal(dir: &Path, image: GuestImage, userspace: u64) -> Result<()> {
    let mut files = Vec::new();
    for name in [VMLINUX, BZIMAGE, INITRD, PACKED_INITRD, LAB_INITRD] {
        if dir.join(name).exists() {
            files.push(Sealed::of(dir, name, true)?);
        }
    }
    for entry in fs::read_dir(dir.join(HOST_PROGRAMS)).into_iter().flatten() {
        let name = format!("{HOST_PROGRAMS}/{}", entry?.file_name().to_string_lossy());
        files.push(Sealed::of(dir, &name, true)?);
    }
    let manifest = Manifest {
        image,
        userspace,
        files,
    };
    write_json(&dir.join(MANIFEST), &manifest)
}

/// Reads an image and checks that its files are whole.
pub fn load(dir: &Path) -> Result<GuestImage> {
    let mut manifest: Manifest = read_json(&dir.join(MANIFEST))?;
    let copied =
        sealed::check(dir, &mut manifest.files).with_context(|| dir.display().to_string())?;
    if copied {
        // So that the next does not read them all. Where that cannot be written, it does.
        let _ = json::write_whole(&dir.join(MANIFEST), &manifest);
    }
    let Manifest {
        mut image, files, ..
    } = manifest;
    let has = |name: &str| files.iter().any(|file| file.name == name);
    // The directory may have moved since.
    image.vmlinux = has(VMLINUX).then(|| dir.join(VMLINUX));
    image.bzimage = dir.join(BZIMAGE);
    image.initrd = dir.join(INITRD);
    image.packed_initrd = dir.join(PACKED_INITRD);
    image.lab_initrd = has(LAB_INITRD).then(|| dir.join(LAB_INITRD));
    let programs = dir.join(HOST_PROGRAMS);
    image.host_programs = programs.is_dir().then_some(programs);
    Ok(image)
}

/// How much of an image's initramfs, in bytes, is the userspace.
pub fn userspace(image: &GuestImage) -> Result<u64> {
    let manifest: Manifest = read_json(&image.initrd.with_file_name(MANIFEST))?;
    Ok(manifest.userspace)
}

#[cfg(test)]
mod tests;
