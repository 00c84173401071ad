//! The distribution's packages: which make the image, and how they are unpacked.

use super::apt::Apt;
use super::tool;
use crate::base::child::dies_with_parent;
use crate::base::error::{CannotRun, OrCannotRun};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// What the guest's programs come from; their libraries follow by dependency.
const PROGRAMS: [&str; 12] = [
    "busybox-static",
    "dash",
    "ethtool",
    "iproute2",
    "iputils-ping",
    "isc-dhcp-client",
    "kmod",
    "ncat",
    "net-tools",
    "netcat-openbsd",
    "qemu-guest-agent",
    "tcpdump",
];

/// Where apt keeps the package lists.
const LISTS: &str = "/var/lib/apt/lists";

/// A package at one version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    pub(super) name: String,
    pub(super) version: String,
}

impl std::fmt::Display for Package {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.name, self.version)
    }
}

/// What [`resolve`]'s answer depends on, in a few milliseconds: the distribution, and the names, sizes
/// and times of apt's lists.
pub fn fingerprint() -> String {
    let mut lists: Vec<String> = fs::read_dir(LISTS)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let meta = entry.metadata().ok()?;
            name.contains("_Packages")
                .then(|| format!("{name} {} {:?}\n", meta.len(), meta.modified().ok()))
        })
        .collect();
    lists.sort();
    os_release() + &lists.concat()
}

/// This system's os-release(5).
pub fn os_release() -> String {
    fs::read_to_string("/etc/os-release").unwrap_or_default()
}

/// Which packages make the image today, as `apt` resolves them for a machine without any package.
///
/// `scratch` is a directory that may be written to.
pub fn resolve(apt: &Apt, scratch: &Path) -> Result<Vec<Package>> {
    let kernel = kernel_package(&os_release())?;
    let status = scratch.join("dpkg-status");
    fs::write(&status, "").or_cannot_run(|| format!("write {}", status.display()))?;
    let simulation = apt.run("apt-get", |get| {
        get.args(["--simulate", "--quiet", "--no-install-recommends"])
            .arg("--option")
            .arg(format!("Dir::State::status={}", status.display()))
            .arg("install")
            .args(PROGRAMS)
            .arg(kernel)
    });
    let simulation = simulation.map_err(|e| {
        CannotRun(format!(
            "apt cannot say which packages the guest image is made of: {e:#}. \
             Run `apt-get update` as root (on Ubuntu with the component `universe` enabled) and try again"
        ))
    })?;
    Ok(wanted(&simulation))
}

/// The package whose dependency is the distribution's current kernel.
fn kernel_package(os_release: &str) -> Result<&'static str> {
    let is = |name: &str| {
        ["ID", "ID_LIKE"]
            .iter()
            .filter_map(|key| field(os_release, key))
            .any(|ids| ids.split(' ').any(|id| id == name))
    };
    if is("ubuntu") {
        Ok("linux-image-generic")
    } else if is("debian") {
        Ok("linux-image-amd64")
    } else {
        bail!(CannotRun(
            "the guest image is made of Debian or Ubuntu packages, and /etc/os-release names neither: \
             run on one of them, or name a `kernel` and `initrd` for each guest in matrix.toml"
                .into()
        ))
    }
}

/// A value of os-release(5).
pub fn field<'a>(os_release: &'a str, key: &str) -> Option<&'a str> {
    os_release
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .map(|value| value.trim_matches('"'))
}

/// Of what apt would install: our programs, all shared libraries, the kernel and its modules; not
/// what only an installed system needs (perl, adduser, an initramfs builder, firmware).
fn wanted(simulation: &str) -> Vec<Package> {
    let mut packages: Vec<Package> = simulation
        .lines()
        .filter_map(|line| {
            // Inst libc6 (2.36-9 Debian:12.15/oldstable [amd64])
            let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
            let version = rest.split_once('(')?.1.split(' ').next()?;
            let library = (name.starts_with("lib") || name == "zlib1g") && !line.contains("[all]");
            (PROGRAMS.contains(&name) || library || is_kernel(name)).then(|| Package {
                name: name.into(),
                version: version.into(),
            })
        })
        .collect();
    packages.sort();
    packages
}

/// Whether a package holds a part of one kernel version; Linux 7 came in more parts than 6 did.
pub fn is_kernel(name: &str) -> bool {
    ["image", "binary", "modules", "modules-extra", "base"]
        .iter()
        .filter_map(|part| {
            name.strip_prefix("linux-")?
                .strip_prefix(part)?
                .strip_prefix('-')
        })
        .any(|version| version.starts_with(|c: char| c.is_ascii_digit()))
}

/// Has `apt` fetch `packages` into `debs`, which is made where it is missing.
pub fn download(apt: &Apt, packages: &[Package], debs: &Path) -> Result<()> {
    fs::create_dir_all(debs).or_cannot_run(|| format!("create {}", debs.display()))?;
    apt.run("apt-get", |get| {
        get.current_dir(debs)
            .args(["--quiet", "download"])
            .args(packages.iter().map(ToString::to_string))
    })
    .map(drop)
}

/// Unpacks every package in `debs` into `root`, which is made.
pub fn extract_all(debs: &Path, root: &Path) -> Result<()> {
    fs::create_dir(root).or_cannot_run(|| format!("create {}", root.display()))?;
    for deb in fs::read_dir(debs).or_cannot_run(|| format!("list {}", debs.display()))? {
        let deb = deb?.path();
        extract(&deb, root).or_cannot_run(|| format!("unpack {}", deb.display()))?;
        // Its space is needed for what was in it.
        fs::remove_file(&deb)?;
    }
    Ok(())
}

/// Unpacks by `dpkg-deb --fsys-tarfile`: the children of `dpkg-deb --extract` would go on when it is
/// killed with us; here they find their pipe closed.
fn extract(deb: &Path, root: &Path) -> Result<()> {
    let mut dpkg = dies_with_parent(Command::new("dpkg-deb").arg("--fsys-tarfile").arg(deb))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start `dpkg-deb`")?;
    let archive = dpkg.stdout.take().map_or(Stdio::null(), Stdio::from);
    let mut tar = Command::new("tar");
    tar.arg("--extract")
        .arg("--no-same-owner")
        .args(["--exclude=./usr/share", "--exclude=./usr/include"])
        .arg("--directory")
        .arg(root);
    let unpacked = tool::run_with(&mut tar, archive);
    let status = dpkg.wait()?;
    unpacked?;
    ensure!(status.success(), "`dpkg-deb` ended with {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_programs_libraries_and_the_kernel_only() {
        let simulation = "\
NOTE: This is only a simulation!
Inst gcc-12-base (12.2.0-14 Debian:12.15/oldstable [amd64])
Inst libc6 (2.36-9+deb12u14 Debian:12.15/oldstable [amd64]) []
Inst libsemanage-common (3.4-1 Debian:12.15/oldstable [all])
Inst zlib1g (1:1.2.13 Debian:12.15/oldstable [amd64])
Inst perl-base (5.36.0-7 Debian:12.15/oldstable [amd64])
Inst ethtool (1:6.1-1 Debian:12.15/oldstable [amd64])
Inst linux-image-6.1.0-56-amd64 (6.1.192-2 Debian:12.15 [amd64])
Inst linux-image-amd64 (6.1.192-2 Debian:12.15 [amd64])
Inst linux-modules-extra-6.8.0-50-generic (6.8.0-50.51 Ubuntu:24.04 [amd64])
Conf libc6 (2.36-9+deb12u14 Debian:12.15/oldstable [amd64])
";
        let names: Vec<String> = wanted(simulation).iter().map(Package::to_string).collect();
        assert_eq!(
            names,
            [
                "ethtool=1:6.1-1",
                "libc6=2.36-9+deb12u14",
                "linux-image-6.1.0-56-amd64=6.1.192-2",
                "linux-modules-extra-6.8.0-50-generic=6.8.0-50.51",
                "zlib1g=1:1.2.13",
            ]
        );
    }

    #[test]
    fn the_distribution_names_the_kernel() {
        let kernel = |text| kernel_package(text).ok();
        assert_eq!(kernel("NAME=x\nID=debian\n"), Some("linux-image-amd64"));
        assert_eq!(
            kernel("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"),
            Some("linux-image-generic")
        );
        assert_eq!(kernel("ID=fedora\n"), None);
    }
}
