//! The guest images: a stock kernel and an initramfs, built from the distribution's packages.
//!
//! There is one with the system's own kernel, and one for each other suite whose kernel a guest stands
//! on: same userspace, another kernel with its modules. [`ensure`] answers from the cache within
//! milliseconds (nextest starts a process for each trial), or builds. In the images directory:
//!
//! | name | is |
//! | --- | --- |
//! | `HASH/` | an image; `manifest.json` is its [`GuestImage`] with the files' digests |
//! | `current-RECIPE.json`, `current-SUITE-RECIPE.json` | which image the present inputs make, by a build's recipe |
//! | `missing-SUITE.json` | why that suite's kernel could not be fetched, and when |
//! | `lock` | held by the one process that builds |
//! | `.build-*` | a build under way, or what a killed one left |

mod initramfs;
mod kernel;
mod packages;
mod programs;
mod store;
mod suite;

use crate::base::error::{CannotRun, OrCannotRun, Skip};
use crate::debian::apt::{self, Apt};
use crate::debian::folder::{self, Current, digest, unavailable};
use crate::debian::packages::{
    Package, download, extract_all, field, fingerprint as of_lists, os_release,
};
use crate::debian::suite::{is_own, obstacle as suite_obstacle};
use crate::debian::tool::run;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use store::{BZIMAGE, HOST_PROGRAMS, INITRD, LAB_INITRD, PACKED_INITRD, VMLINUX};

/// The kernel's arguments that the image boots best with.
///
/// `norandmaps` is worth the most: TCG translates code once an address, so programs and libraries
/// that are always mapped at the same ones start three times as quickly. Skipping the crypto
/// self-tests saves 0.25 s of the boot, the others 0.2 s together. A panic reboots at once, so that
/// QEMU's `-no-reboot` ends the VM. Where guests wait for a processor, the kernel measures a wrong
/// frequency of the TSC now and then (1 boot in 12, 12 at once on 2 processors: 357 MHz for 2,596), and
/// its clock runs so many times too fast, for as long as its checkpoint is kept; so it takes another
/// clock. IPv6 is off on each NIC, until a case puts it on, so that a guest sends nothing by itself.
pub const KERNEL_CMDLINE: &str = "console=ttyS0 quiet panic=-1 norandmaps nokaslr mitigations=off rodata=off \
     cryptomgr.notests no_timer_check tsc=unstable random.trust_cpu=on ipv6.disable_ipv6=1 apparmor=0 audit=0";

/// Where packages are downloaded to, in a build directory.
const DEBS: &str = "debs";

/// What of the packages no guest needs.
const NOT_UNPACKED: [&str; 2] = ["usr/share", "usr/include"];

/// What /init prints first.
pub const USERSPACE_MARK: &str = "nicmatrix: userspace";

/// Raised when the build changes in a way that its inputs do not show.
const LAYOUT: u32 = 6;

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
    /// The initramfs, packed by zstd, which Linux unpacks from 5.9 on: for a guest that fetches it frame by
    /// frame.
    pub packed_initrd: PathBuf,
    /// The initramfs of the lab, with this kernel; only beside the system's own.
    #[serde(default)]
    pub lab_initrd: Option<PathBuf>,
    /// The directory with netperf and netserver for the host's end; none where this distribution's
    /// could not be fetched.
    #[serde(default)]
    pub host_programs: Option<PathBuf>,
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

/// A built image's kernel as a boot loader takes it, by its 16-bit setup code; another kernel is given back as it is.
pub fn with_setup_code(kernel: &Path) -> PathBuf {
    match kernel.ends_with(VMLINUX) {
        true => kernel.with_file_name(BZIMAGE),
        false => kernel.to_owned(),
    }
}

/// A built image's initramfs as it is fetched frame by frame; another is given back as it is.
pub fn packed(initrd: &Path) -> PathBuf {
    match initrd.ends_with(INITRD) {
        true => initrd.with_file_name(PACKED_INITRD),
        false => initrd.to_owned(),
    }
}

/// Whose kernel an image has.
enum Kernel<'a> {
    /// The system's own, with which the userspace is built.
    Own {
        /// Whether apt fetches lists first, as the system's name versions that the archive no longer has.
        new_lists: bool,
    },
    /// Another suite's.
    Of {
        suite: &'a str,
        /// Where the userspace is taken from.
        own: Box<GuestImage>,
    },
}

/// The image in `images_dir` with the system's own kernel, or with that of another `suite` of Debian;
/// built there first where it is missing, damaged or out of date.
///
/// `progress` is handed a sentence for each step that takes long. An error is a [`Skip`] where the
/// kernel of `suite` cannot be fetched now and was never built, else a [`CannotRun`].
pub fn ensure(
    images_dir: &Path,
    suite: Option<&str>,
    progress: &dyn Fn(&str),
) -> Result<GuestImage> {
    let suite = suite.filter(|suite| !is_own(suite));
    let recipe = recipe(suite);
    let fingerprint = fingerprint(&recipe);
    if let Some(image) = store::cached(images_dir, suite, &recipe, &fingerprint, &|_| ()) {
        return Ok(image);
    }
    let kernel = match suite {
        None => Kernel::Own { new_lists: false },
        Some(suite) => Kernel::Of {
            suite,
            own: Box::new(ensure(images_dir, None, progress)?),
        },
    };
    let _lock = folder::lock(images_dir, "building the guest image", progress)?;
    // Another process may have built it meanwhile.
    if let Some(image) = store::cached(images_dir, suite, &recipe, &fingerprint, progress) {
        return Ok(image);
    }
    folder::remove_leftovers(images_dir);
    // Of one that lacks what could not be fetched a short while ago.
    if lacked_lately(images_dir)
        && let Some(image) = store::last(images_dir, suite, &recipe)
    {
        return Ok(image);
    }
    let missing = suite.and_then(|suite| missing(images_dir, suite, &fingerprint));
    let error = match missing {
        Some(why) => Skip(why).into(),
        None => match make(&kernel, images_dir, &recipe, &fingerprint, progress) {
            Ok(image) => return Ok(image),
            Err(error) => {
                if let (Some(suite), Some(Skip(why))) = (suite, error.downcast_ref()) {
                    folder::note_missing(images_dir, suite, &fingerprint, why)
                        .or_cannot_run(|| format!("write to {}", images_dir.display()))?;
                }
                error
            }
        },
    };
    let Some(image) = store::last(images_dir, suite, &recipe) else {
        return Err(error);
    };
    progress(&format!(
        "{error:#}: using the guest image built before, with kernel {}",
        image.kernel_release
    ));
    Ok(image)
}

/// Why no image with the kernel of `suite` can be built here now. This takes milliseconds, and so
/// misses what only an attempt would show.
pub fn obstacle(images_dir: &Path, suite: &str) -> Option<String> {
    let recipe = recipe(Some(suite));
    if is_own(suite) || store::last(images_dir, Some(suite), &recipe).is_some() {
        return None;
    }
    missing(images_dir, suite, &fingerprint(&recipe))
}

/// Why `suite` is not fetched: this system cannot, or could not a short while ago.
fn missing(images_dir: &Path, suite: &str, fingerprint: &str) -> Option<String> {
    suite_obstacle("kernel", suite)
        .or_else(|| folder::noted_missing(images_dir, suite, fingerprint))
}

/// The image that was built last, if it is whole; builds nothing.
pub fn built(images_dir: &Path, suite: Option<&str>) -> Option<GuestImage> {
    let suite = suite.filter(|suite| !is_own(suite));
    store::last(images_dir, suite, &recipe(suite))
}

/// Finds out which packages make the image today, and builds it where they are not built. An error
/// is a [`Skip`] where another suite's packages cannot be fetched.
fn make(
    kernel: &Kernel,
    images_dir: &Path,
    recipe: &str,
    fingerprint: &str,
    progress: &dyn Fn(&str),
) -> Result<GuestImage> {
    let scratch = tempfile::Builder::new()
        .prefix(".build-")
        .tempdir_in(images_dir)
        .or_cannot_run(|| format!("create a directory in {}", images_dir.display()))?;
    let (apt, mut packages) = kernel.resolve(scratch.path(), progress)?;
    let netperf = match kernel {
        Kernel::Own { .. } => netperf(scratch.path(), progress)?,
        Kernel::Of { .. } => Netperf::NotHere,
    };
    let lacks = match (&netperf, kernel) {
        (Netperf::NotFetched(why), _) => {
            folder::note_missing(images_dir, NETPERF, &fingerprint_of_lists(), why)
                .or_cannot_run(|| format!("write to {}", images_dir.display()))?;
            true
        }
        // It has the userspace of the other.
        (_, Kernel::Of { own, .. }) => own.host_programs.is_none() && suite::is_debian(),
        _ => false,
    };
    let netperf = match netperf {
        Netperf::Found(apt, package) => Some((apt, package)),
        Netperf::NotHere | Netperf::NotFetched(_) => None,
    };
    let from_debian = packages.clone();
    packages.extend(netperf.iter().map(|(_, package)| package.clone()));
    let lines: Vec<String> = packages.iter().map(Package::to_string).collect();
    let userspace = match kernel {
        Kernel::Own { .. } => None,
        Kernel::Of { own, .. } => Some(&own.hash),
    };
    let parts = userspace.into_iter().chain(&lines).map(String::as_str);
    let hash = digest(std::iter::once(recipe).chain(parts));
    let dir = images_dir.join(&hash);
    let image = match folder::used(&dir, store::load) {
        Ok(image) => image,
        Err(_) => {
            let root = scratch.path().join("root");
            if let Some((apt, package)) = netperf {
                download(&apt, &[package], &scratch.path().join(DEBS))?;
            }
            if let Err(error) = kernel.unpack(&apt, &from_debian, scratch.path(), &root, progress) {
                return match kernel {
                    Kernel::Own { new_lists: false } if apt::lists_are_old(&error) => {
                        progress("the archive has newer packages by now: fetching its lists");
                        let kernel = Kernel::Own { new_lists: true };
                        make(&kernel, images_dir, recipe, fingerprint, progress)
                    }
                    _ => Err(error),
                };
            }
            let built = build(kernel, scratch.path(), &root, lines, &hash, progress)
                .or_cannot_run(|| format!("build the guest image in {}", images_dir.display()))?;
            folder::publish(&built, &dir).or_cannot_run(|| format!("write {}", dir.display()))?;
            folder::used(&dir, store::load)
                .or_cannot_run(|| format!("read back {}", dir.display()))?
        }
    };
    let current = Current {
        fingerprint: match lacks {
            // Not what these inputs make: it serves until the rest can be fetched.
            true => String::new(),
            false => fingerprint.into(),
        },
        recipe: recipe.into(),
        hash,
    };
    folder::make_current(
        images_dir,
        kernel.suite(),
        scratch.path(),
        store::MANIFEST,
        &current,
    )
    .or_cannot_run(|| format!("write to {}", images_dir.display()))?;
    Ok(image)
}

/// This distribution's netperf: without it, cases that need it are skipped.
enum Netperf {
    Found(Apt, Package),
    /// The distribution has none.
    NotHere,
    /// Its mirrors do not answer, and why.
    NotFetched(String),
}

/// What is noted as missing where [`Netperf::NotFetched`]; no suite has that name.
const NETPERF: &str = "netperf";

fn netperf(scratch: &Path, progress: &dyn Fn(&str)) -> Result<Netperf> {
    if !suite::is_debian() {
        return Ok(Netperf::NotHere);
    }
    let scratch = scratch.join("netperf");
    fs::create_dir(&scratch).or_cannot_run(|| format!("create {}", scratch.display()))?;
    Ok(match suite::resolve_netperf(&scratch) {
        Ok((apt, package)) => Netperf::Found(apt, package),
        Err(error) => {
            let why = format!("{error:#}");
            progress(&format!(
                "no netperf in the guest image, until another try in some minutes: {why}"
            ));
            Netperf::NotFetched(why)
        }
    })
}

/// Whether netperf could not be fetched a short while ago.
fn lacked_lately(images_dir: &Path) -> bool {
    folder::noted_missing(images_dir, NETPERF, &fingerprint_of_lists()).is_some()
}

fn fingerprint_of_lists() -> String {
    digest([of_lists()])
}

impl Kernel<'_> {
    fn suite(&self) -> Option<&str> {
        match self {
            Kernel::Own { .. } => None,
            Kernel::Of { suite, .. } => Some(suite),
        }
    }

    /// Which packages make it, and the apt that knows them.
    fn resolve(&self, scratch: &Path, progress: &dyn Fn(&str)) -> Result<(Apt, Vec<Package>)> {
        match self {
            Kernel::Own { new_lists } => {
                let apt = match new_lists {
                    true => Apt::with_new_lists(scratch, "")
                        .or_cannot_run(|| "get new package lists for the guest image".to_owned())?,
                    false => Apt::of_system(),
                };
                let packages = packages::resolve(&apt, scratch)?;
                Ok((apt, packages))
            }
            Kernel::Of { suite, .. } => {
                progress(&format!("asking Debian {suite} for its kernel"));
                suite::resolve(suite, scratch).map_err(|error| unavailable("kernel", suite, error))
            }
        }
    }

    /// Downloads and unpacks `packages` into `root`, which is made.
    fn unpack(
        &self,
        apt: &Apt,
        packages: &[Package],
        scratch: &Path,
        root: &Path,
        progress: &dyn Fn(&str),
    ) -> Result<()> {
        let what = match self {
            Kernel::Own { .. } => format!(
                "downloading the guest image's {} packages (about 90 MB)",
                packages.len()
            ),
            Kernel::Of { suite, .. } => {
                format!("downloading the kernel of Debian {suite} (60 to 110 MB)")
            }
        };
        progress(&what);
        let debs = scratch.join(DEBS);
        download(apt, packages, &debs).map_err(|error| match self {
            Kernel::Own { .. } => error.context(CannotRun(format!(
                "cannot download the guest image's packages to {}",
                debs.display()
            ))),
            Kernel::Of { suite, .. } => unavailable("kernel", suite, error),
        })?;
        extract_all(&debs, root, &NOT_UNPACKED)
            .or_cannot_run(|| format!("unpack the packages in {}", debs.display()))
    }
}

/// Whose kernel and userspace the images are made of, for example "Debian".
pub fn distribution() -> String {
    let os_release = os_release();
    let name = field(&os_release, "NAME").unwrap_or("another");
    name.trim_end_matches(" GNU/Linux").to_owned()
}

/// A digest that shows, within milliseconds, whether an image must be built anew.
fn fingerprint(recipe: &str) -> String {
    digest([recipe, &of_lists()])
}

/// Everything that decides the image beside the packages' versions.
fn recipe(suite: Option<&str>) -> String {
    let files = initramfs::FILES
        .iter()
        .chain(&initramfs::LAB_FILES)
        .map(|(path, mode, text)| format!("{path} {mode:o} {text}"));
    let links = initramfs::LINKS
        .iter()
        .map(|(path, to)| format!("{path} {to}"));
    let names = kernel::MODULES
        .iter()
        .chain(&kernel::LAB_MODULES)
        .chain(&programs::PROGRAMS)
        .chain(&programs::OPTIONAL)
        .map(ToString::to_string);
    digest(
        std::iter::once(LAYOUT.to_string())
            .chain(files)
            .chain(links)
            .chain(names)
            .chain(suite.map(str::to_owned)),
    )
}

/// Builds into a directory of `scratch`, which it returns, from the packages unpacked in `root`.
fn build(
    kernel: &Kernel,
    scratch: &Path,
    root: &Path,
    lines: Vec<String>,
    hash: &str,
    progress: &dyn Fn(&str),
) -> Result<PathBuf> {
    let (modules, kernel_release) = kernel::modules_dir(root)?;
    let out = scratch.join("out");
    let mut image = GuestImage {
        vmlinux: Some(out.join(VMLINUX)),
        bzimage: out.join(BZIMAGE),
        initrd: out.join(INITRD),
        packed_initrd: out.join(PACKED_INITRD),
        lab_initrd: None,
        host_programs: None,
        kernel_release,
        packages: lines,
        hash: hash.into(),
    };
    progress(&format!(
        "building the guest image with kernel {}",
        image.kernel_release
    ));
    fs::create_dir(&out)?;
    let packaged = kernel::packaged(root, &modules, &image.kernel_release);
    // Not fs::copy: Ubuntu's is readable by its owner only.
    fs::read(&packaged)
        .and_then(|bytes| fs::write(&image.bzimage, bytes))
        .with_context(|| format!("cannot copy {}", packaged.display()))?;
    if let Err(why) = kernel::unpack(&image.bzimage, &out.join(VMLINUX))? {
        progress(&format!(
            "the kernel {} boots slowly, as a bzImage: {why}",
            image.kernel_release
        ));
    }
    let stage = scratch.join("stage");
    let release = &image.kernel_release;
    kernel::stage_modules(&kernel::MODULES, &modules, release, &stage)?;
    let userspace = match kernel {
        Kernel::Own { .. } => {
            for program in programs::OPTIONAL {
                if let Some(source) = programs::optional(root, program) {
                    let host = out.join(HOST_PROGRAMS);
                    fs::create_dir_all(&host)?;
                    fs::copy(source, host.join(program))?;
                }
            }
            let userspace = initramfs::write(root, &stage, &image.initrd)?;
            let stage = scratch.join("lab");
            kernel::stage_modules(&kernel::LAB_MODULES, &modules, release, &stage)?;
            let (files, lab) = (&initramfs::LAB_FILES, out.join(LAB_INITRD));
            initramfs::write_with(&image.initrd, userspace, files, &stage, &lab)?;
            userspace
        }
        Kernel::Of { own, .. } => {
            let userspace = store::userspace(own)?;
            initramfs::write_with(&own.initrd, userspace, &[], &stage, &image.initrd)?;
            let theirs = own
                .packages
                .iter()
                .filter(|line| !packages::is_kernel(line));
            image.packages.extend(theirs.cloned());
            image.packages.sort();
            userspace
        }
    };
    // A third of the size; more takes ten times as long for some percent.
    let mut pack = Command::new("zstd");
    pack.args(["-q", "-6"]).arg(&image.initrd);
    run(pack.arg("-o").arg(&image.packed_initrd))?;
    store::seal(&out, image, userspace)?;
    Ok(out)
}

#[cfg(test)]
mod tests;
