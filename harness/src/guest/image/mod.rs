//! The guest image: a stock kernel and an initramfs, built from the distribution's packages.
//!
//! [`ensure`] answers from the cache within milliseconds (nextest starts a process for each trial),
//! or builds. In the images directory:
//!
//! | name | is |
//! | --- | --- |
//! | `HASH/` | an image; `manifest.json` is its [`GuestImage`] with the files' sizes |
//! | `current.json` | which image the present inputs make |
//! | `lock` | held by the one process that builds |
//! | `.build-*` | a build under way, or what a killed one left |

mod initramfs;
mod kernel;
mod packages;
mod programs;

use crate::error::OrCannotRun;
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use packages::Package;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The kernel's arguments that the image boots best with.
///
/// `norandmaps` is worth the most: TCG translates code once an address, so programs and libraries
/// that are always mapped at the same ones start three times as quickly. Skipping the crypto
/// self-tests saves 0.25 s of the boot, the others 0.2 s together. A panic reboots at once, so that
/// QEMU's `-no-reboot` ends the VM. IPv6 is off so that a guest sends nothing of its own accord.
pub const KERNEL_CMDLINE: &str = "console=ttyS0 quiet panic=-1 norandmaps nokaslr mitigations=off rodata=off \
     cryptomgr.notests no_timer_check random.trust_cpu=on ipv6.disable=1 apparmor=0 audit=0";

/// What /init prints first.
pub const USERSPACE_MARK: &str = "nicmatrix: userspace";

/// Raised when the build changes in a way that its inputs do not show.
const LAYOUT: u32 = 1;

/// How many images are kept: a run of an older state of the tree may still use the one before.
const KEPT: usize = 2;

const MANIFEST: &str = "manifest.json";
const CURRENT: &str = "current.json";
const VMLINUX: &str = "vmlinux";
const BZIMAGE: &str = "bzImage";
const INITRD: &str = "initrd";

/// A kernel and an initramfs that QEMU boots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestImage {
    /// The kernel as an uncompressed ELF file with a PVH entry point: the quickest to boot. None
    /// where the distribution's kernel has no such entry.
    pub vmlinux: Option<PathBuf>,
    /// The kernel as its package has it.
    pub bzimage: PathBuf,
    /// The initramfs.
    pub initrd: PathBuf,
    /// `uname -r` in the guest.
    pub kernel_release: String,
    /// The packages it was made of, as `name=version`.
    pub packages: Vec<String>,
    /// Of everything that went in.
    pub hash: String,
}

impl GuestImage {
    /// What `-kernel` takes.
    pub fn kernel(&self) -> &Path {
        self.vmlinux.as_ref().unwrap_or(&self.bzimage)
    }
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    image: GuestImage,
    /// Bytes of each file, by its name.
    sizes: BTreeMap<String, u64>,
}

#[derive(Serialize, Deserialize)]
struct Current {
    /// Of the recipe and of apt's lists.
    fingerprint: String,
    /// Of the recipe alone.
    recipe: String,
    /// The image's.
    hash: String,
}

/// The image in `images_dir`, built there first where it is missing, damaged or out of date.
///
/// `progress` is told, in a sentence each, what takes long. Every error is a
/// [`CannotRun`](crate::error::CannotRun).
pub fn ensure(images_dir: &Path, progress: &dyn Fn(&str)) -> Result<GuestImage> {
    let recipe = recipe();
    let fingerprint = digest([recipe.as_str(), &packages::fingerprint()]);
    if let Some(image) = cached(images_dir, &fingerprint, &|_| ()) {
        return Ok(image);
    }
    fs::create_dir_all(images_dir)
        .or_cannot_run(|| format!("create the images directory {}", images_dir.display()))?;
    let _lock = lock(&images_dir.join("lock"), progress)?;
    // Another process may have built it meanwhile.
    if let Some(image) = cached(images_dir, &fingerprint, progress) {
        return Ok(image);
    }
    remove_leftovers(images_dir);
    let scratch = tempfile::Builder::new()
        .prefix(".build-")
        .tempdir_in(images_dir)
        .or_cannot_run(|| format!("create a directory in {}", images_dir.display()))?;
    let packages = match packages::resolve(scratch.path()) {
        Ok(packages) => packages,
        Err(error) => return last_built(images_dir, &recipe, progress).ok_or(error),
    };
    let lines: Vec<String> = packages.iter().map(Package::to_string).collect();
    let hash = digest(std::iter::once(&recipe).chain(&lines));
    let dir = images_dir.join(&hash);
    let image = match load(&dir) {
        Ok(image) => image,
        Err(_) => {
            let built = build(scratch.path(), &packages, lines, &hash, progress)
                .or_cannot_run(|| format!("build the guest image in {}", images_dir.display()))?;
            publish(&built, &dir).or_cannot_run(|| format!("write {}", dir.display()))?;
            load(&dir).or_cannot_run(|| format!("read back {}", dir.display()))?
        }
    };
    let current = Current {
        fingerprint,
        recipe,
        hash,
    };
    write_json(&scratch.path().join(CURRENT), &current)
        .and_then(|()| {
            Ok(fs::rename(
                scratch.path().join(CURRENT),
                images_dir.join(CURRENT),
            )?)
        })
        .or_cannot_run(|| format!("write {}", images_dir.join(CURRENT).display()))?;
    Ok(image)
}

/// The image that `current.json` names for these inputs, if it is there and whole.
fn cached(images_dir: &Path, fingerprint: &str, progress: &dyn Fn(&str)) -> Option<GuestImage> {
    let current: Current = read_json(&images_dir.join(CURRENT)).ok()?;
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

/// The image that was built last, if it is whole; builds nothing.
pub fn built(images_dir: &Path) -> Option<GuestImage> {
    let current: Current = read_json(&images_dir.join(CURRENT)).ok()?;
    load(&images_dir.join(&current.hash)).ok()
}

/// The last image of the same recipe, for a machine whose package lists are gone (a container, a
/// restored cache).
fn last_built(images_dir: &Path, recipe: &str, progress: &dyn Fn(&str)) -> Option<GuestImage> {
    let current: Current = read_json(&images_dir.join(CURRENT)).ok()?;
    let image = built(images_dir)?;
    (current.recipe == recipe).then(|| {
        progress(&format!(
            "apt cannot say whether the guest image is up to date: using the one built before, with kernel {}",
            image.kernel_release
        ));
        image
    })
}

/// Everything that decides the image beside the packages' versions.
fn recipe() -> String {
    let files = initramfs::FILES
        .iter()
        .map(|(path, mode, text)| format!("{path} {mode:o} {text}"));
    let links = initramfs::LINKS
        .iter()
        .map(|(path, to)| format!("{path} {to}"));
    let names = kernel::MODULES
        .iter()
        .chain(&programs::PROGRAMS)
        .map(ToString::to_string);
    digest(
        std::iter::once(LAYOUT.to_string())
            .chain(files)
            .chain(links)
            .chain(names),
    )
}

/// SHA-256 of the parts, kept apart by a NUL; half of it is enough for a name.
fn digest<S: AsRef<str>>(parts: impl IntoIterator<Item = S>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_ref());
        hash.update([0]);
    }
    hash.finalize()[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Waits for its turn; an empty file, never removed.
fn lock(path: &Path, progress: &dyn Fn(&str)) -> Result<Flock<File>> {
    let cannot = || format!("lock {}", path.display());
    let file = File::create(path).or_cannot_run(cannot)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((file, Errno::EWOULDBLOCK)) => {
            progress("another process is building the guest image: waiting for it");
            Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, e)| e)
                .or_cannot_run(cannot)
        }
        Err((_, error)) => Err(error).or_cannot_run(cannot),
    }
}

/// Under the lock, any build directory is a killed process's.
fn remove_leftovers(images_dir: &Path) {
    for entry in fs::read_dir(images_dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(".build-") {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Builds into a directory of `scratch`, which it returns.
fn build(
    scratch: &Path,
    packages: &[Package],
    lines: Vec<String>,
    hash: &str,
    progress: &dyn Fn(&str),
) -> Result<PathBuf> {
    progress(&format!(
        "downloading the guest image's {} packages (about 90 MB)",
        packages.len()
    ));
    let root = scratch.join("root");
    packages::unpack(packages, scratch, &root)?;

    let (modules, kernel_release) = kernel::modules_dir(&root)?;
    let image = GuestImage {
        vmlinux: Some(scratch.join("out").join(VMLINUX)),
        bzimage: scratch.join("out").join(BZIMAGE),
        initrd: scratch.join("out").join(INITRD),
        kernel_release,
        packages: lines,
        hash: hash.into(),
    };
    progress(&format!(
        "building the guest image with kernel {}",
        image.kernel_release
    ));
    fs::create_dir(scratch.join("out"))?;
    let packaged = root.join(format!("boot/vmlinuz-{}", image.kernel_release));
    // Not fs::copy: Ubuntu's is readable by its owner only.
    fs::read(&packaged)
        .and_then(|bytes| fs::write(&image.bzimage, bytes))
        .with_context(|| format!("cannot copy {}", packaged.display()))?;
    if let Err(why) = kernel::unpack(&image.bzimage, &scratch.join("out").join(VMLINUX))? {
        progress(&format!(
            "the kernel {} boots slowly, as a bzImage: {why}",
            image.kernel_release
        ));
    }
    let stage = scratch.join("stage");
    kernel::stage_modules(&modules, &image.kernel_release, &stage)?;
    initramfs::write(&root, &stage, &image.initrd)?;
    seal(&scratch.join("out"), image)?;
    Ok(scratch.join("out"))
}

/// Writes the manifest of the files in `dir`.
fn seal(dir: &Path, image: GuestImage) -> Result<()> {
    let mut sizes = BTreeMap::new();
    for name in [VMLINUX, BZIMAGE, INITRD] {
        if let Ok(meta) = fs::metadata(dir.join(name)) {
            sizes.insert(name.to_owned(), meta.len());
        }
    }
    write_json(&dir.join(MANIFEST), &Manifest { image, sizes })
}

/// Puts a built directory in its place at once, over a damaged one, and drops images of long ago.
fn publish(built: &Path, dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    fs::rename(built, dir)?;
    let mut others: Vec<_> = fs::read_dir(dir.parent().unwrap_or(dir))?
        .flatten()
        .filter(|entry| entry.path() != dir && entry.path().join(MANIFEST).exists())
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    others.sort();
    for (_, old) in others.iter().rev().skip(KEPT - 1) {
        fs::remove_dir_all(old)?;
    }
    Ok(())
}

/// Reads an image and checks that its files are whole.
fn load(dir: &Path) -> Result<GuestImage> {
    let Manifest { mut image, sizes } = read_json(&dir.join(MANIFEST))?;
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
    Ok(image)
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    serde_json::from_slice(&text)
        .with_context(|| format!("{} is not as it was written", path.display()))
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    Ok(fs::write(path, serde_json::to_vec_pretty(value)?)?)
}

#[cfg(test)]
mod tests;
