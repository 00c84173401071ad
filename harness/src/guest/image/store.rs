//! What is kept in the images directory.

use super::GuestImage;
use crate::debian::folder::{prune, read_json, write_json};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

pub const VMLINUX: &str = "vmlinux";
pub const BZIMAGE: &str = "bzImage";
pub const INITRD: &str = "initrd";
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
    /// Bytes of each file, by its name.
    sizes: BTreeMap<String, u64>,
}

#[derive(Serialize, Deserialize)]
pub struct Current {
    /// Digest of the recipe and of apt's lists.
    pub fingerprint: String,
    /// Digest of the recipe alone.
    pub recipe: String,
    /// The image's.
    pub hash: String,
}

/// The file that names the current image with the system's own kernel or that of `suite`.
pub fn current_file(images_dir: &Path, suite: Option<&str>) -> PathBuf {
    images_dir.join(match suite {
        None => "current.json".to_owned(),
        Some(suite) => format!("current-{suite}.json"),
    })
}

/// The image that is current for these inputs, if it is there and whole.
pub fn cached(
    images_dir: &Path,
    suite: Option<&str>,
    fingerprint: &str,
    progress: &dyn Fn(&str),
) -> Option<GuestImage> {
    let current: Current = read_json(&current_file(images_dir, suite)).ok()?;
    if current.fingerprint != fingerprint {
        return None;
    }
    load(&images_dir.join(current.hash))
        .map_err(|why| {
            progress(&format!(
                "the guest image is damaged ({why:#}): building it again"
            ))
        })
        .ok()
}

/// The last image of the same recipe, if it is whole: for a machine whose package lists are gone (a
/// container, a restored cache) or whose mirror is not reached.
pub fn last(images_dir: &Path, suite: Option<&str>, recipe: &str) -> Option<GuestImage> {
    let current: Current = read_json(&current_file(images_dir, suite)).ok()?;
    (current.recipe == recipe)
        .then(|| load(&images_dir.join(&current.hash)).ok())
        .flatten()
}

/// Makes an image the current one, and drops those of long ago. `scratch` is on the same file system.
pub fn make_current(
    images_dir: &Path,
    suite: Option<&str>,
    scratch: &Path,
    current: &Current,
) -> Result<()> {
    let new = scratch.join("current.json");
    write_json(&new, current)?;
    fs::rename(new, current_file(images_dir, suite))?;
    prune(images_dir, MANIFEST)
}

/// Writes the manifest of the files in `dir`.
pub fn seal(dir: &Path, image: GuestImage, userspace: u64) -> Result<()> {
    let mut sizes = BTreeMap::new();
    for name in [VMLINUX, BZIMAGE, INITRD, LAB_INITRD] {
        if let Ok(meta) = fs::metadata(dir.join(name)) {
            sizes.insert(name.to_owned(), meta.len());
        }
    }
    let manifest = Manifest {
        image,
        userspace,
        sizes,
    };
    write_json(&dir.join(MANIFEST), &manifest)
}

/// Reads an image and checks that its files are whole.
pub fn load(dir: &Path) -> Result<GuestImage> {
    let Manifest {
        mut image, sizes, ..
    } = read_json(&dir.join(MANIFEST))?;
    for (name, size) in &sizes {
        let path = dir.join(name);
        let found = fs::metadata(&path)
            .with_context(|| format!("{} cannot be read", path.display()))?
            .len();
        anyhow::ensure!(
            found == *size,
            "{} has {found} bytes in place of {size}",
            path.display()
        );
    }
    // The directory may have moved since.
    image.vmlinux = sizes.contains_key(VMLINUX).then(|| dir.join(VMLINUX));
    image.bzimage = dir.join(BZIMAGE);
    image.initrd = dir.join(INITRD);
    let lab = sizes.contains_key(LAB_INITRD);
    image.lab_initrd = lab.then(|| dir.join(LAB_INITRD));
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
