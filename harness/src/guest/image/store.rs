//! What is kept in the images directory.

use super::GuestImage;
use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

pub const VMLINUX: &str = "vmlinux";
pub const BZIMAGE: &str = "bzImage";
pub const INITRD: &str = "initrd";
/// The lab's initramfs.
pub const LAB_INITRD: &str = "lab-initrd";
/// The directory of the programs that the host needs to talk to the guest's.
pub const HOST_PROGRAMS: &str = "host";
pub const MANIFEST: &str = "manifest.json";

/// How many images are kept that are no longer current: a run of an older state of the tree may still
/// use the one before.
const KEPT: usize = 1;

/// A suite that could not be fetched is tried again after this long: under nextest, each trial's
/// process would otherwise wait for the network.
const ASK_AGAIN: Duration = Duration::from_secs(600);

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

#[derive(Serialize, Deserialize)]
struct Missing {
    fingerprint: String,
    reason: String,
}

/// The file that names the current image with the system's own kernel or that of `suite`.
pub fn current_file(images_dir: &Path, suite: Option<&str>) -> PathBuf {
    images_dir.join(match suite {
        None => "current.json".to_owned(),
        Some(suite) => format!("current-{suite}.json"),
    })
}

fn missing_file(images_dir: &Path, suite: &str) -> PathBuf {
    images_dir.join(format!("missing-{suite}.json"))
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
    prune(images_dir)
}

/// Notes that the kernel of `suite` could not be fetched.
pub fn note_missing(images_dir: &Path, suite: &str, fingerprint: &str, reason: &str) -> Result<()> {
    let missing = Missing {
        fingerprint: fingerprint.into(),
        reason: reason.into(),
    };
    write_json(&missing_file(images_dir, suite), &missing)
}

/// Why the kernel of `suite` could not be fetched, where that was a short while ago and from the same
/// inputs.
pub fn noted_missing(images_dir: &Path, suite: &str, fingerprint: &str) -> Option<String> {
    let file = missing_file(images_dir, suite);
    let noted = fs::metadata(&file).ok()?.modified().ok()?;
    let recent = SystemTime::now().duration_since(noted).ok()? < ASK_AGAIN;
    let missing: Missing = read_json(&file).ok()?;
    (recent && missing.fingerprint == fingerprint).then_some(missing.reason)
}

/// Under the lock, any build directory is a killed process's.
pub fn remove_leftovers(images_dir: &Path) {
    for entry in fs::read_dir(images_dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(".build-") {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
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

/// Puts a built directory in its place at once, over a damaged one.
pub fn publish(built: &Path, dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    Ok(fs::rename(built, dir)?)
}

/// Keeps the images that are current, one for each kernel, and the newest of the others.
fn prune(images_dir: &Path) -> Result<()> {
    let entries: Vec<_> = fs::read_dir(images_dir)?.flatten().collect();
    let current: BTreeSet<PathBuf> = entries
        .iter()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("current"))
        .filter_map(|entry| read_json::<Current>(&entry.path()).ok())
        .map(|current| images_dir.join(current.hash))
        .collect();
    let mut others: Vec<_> = entries
        .iter()
        .filter(|entry| entry.path().join(MANIFEST).exists() && !current.contains(&entry.path()))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    others.sort();
    for (_, old) in others.iter().rev().skip(KEPT) {
        fs::remove_dir_all(old)?;
    }
    Ok(())
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

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    serde_json::from_slice(&text)
        .with_context(|| format!("{} is not as it was written", path.display()))
}

pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    Ok(fs::write(path, serde_json::to_vec_pretty(value)?)?)
}

#[cfg(test)]
mod tests;
