//! Packages, downloaded and unpacked; nothing is installed.

use super::apt::Apt;
use super::tool;
use crate::base::child::dies_with_parent;
use crate::base::error::OrCannotRun;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Where apt keeps the package lists.
const LISTS: &str = "/var/lib/apt/lists";

/// A package at one version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

impl std::fmt::Display for Package {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.name, self.version)
    }
}

/// What the choice of packages depends on, in a few milliseconds: the distribution, and the names, sizes
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

/// A value of os-release(5).
pub fn field<'a>(os_release: &'a str, key: &str) -> Option<&'a str> {
    os_release
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .map(|value| value.trim_matches('"'))
}

/// A line of apt's simulation, `Inst NAME (VERSION …)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// The package.
    pub package: Package,
    /// Whether it is the same for every architecture: data, scripts.
    pub for_all: bool,
}

/// What `apt` would install on a machine without any package for `wanted` to work; newest versions come
/// from `release`, where one is given. `scratch` is a directory that may be written to.
///
/// # Errors
/// A package that apt does not know, or whose dependencies it cannot have.
pub fn closure(
    apt: &Apt,
    scratch: &Path,
    release: Option<&str>,
    wanted: &[&str],
) -> Result<Vec<Installed>> {
    let status = scratch.join("dpkg-status");
    fs::write(&status, "").or_cannot_run(|| format!("write {}", status.display()))?;
    let simulation = apt.run("apt-get", |get| {
        get.args(["--simulate", "--quiet", "--no-install-recommends"])
            .arg("--option")
            .arg(format!("Dir::State::status={}", status.display()));
        if let Some(release) = release {
            get.args(["--target-release", release]);
        }
        get.arg("install").args(wanted)
    })?;
    Ok(installed(&simulation))
}

fn installed(simulation: &str) -> Vec<Installed> {
    let mut all: Vec<Installed> = simulation
        .lines()
        .filter_map(|line| {
            // Inst libc6 (2.36-9 Debian:12.15/oldstable [amd64])
            let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
            let version = rest.split_once('(')?.1.split(' ').next()?;
            Some(Installed {
                package: Package {
                    name: name.into(),
                    version: version.into(),
                },
                for_all: line.contains("[all]"),
            })
        })
        .collect();
    all.sort_by(|a, b| a.package.cmp(&b.package));
    all
}

/// Has `apt` fetch `packages` into `debs`, which is made where it is missing.
///
/// # Errors
/// What apt says, where the archive has no such version or does not answer.
pub fn download(apt: &Apt, packages: &[Package], debs: &Path) -> Result<()> {
    fs::create_dir_all(debs).or_cannot_run(|| format!("create {}", debs.display()))?;
    apt.run("apt-get", |get| {
        get.current_dir(debs)
            .args(["--quiet", "download"])
            .args(packages.iter().map(ToString::to_string))
    })
    .map(drop)
}

/// Unpacks every package in `debs` into `root`, which is made where it is missing, but for the
/// directories `left_out`. The packages' files are removed.
///
/// # Errors
/// [`crate::base::error::CannotRun`]: a file that cannot be read or written.
pub fn extract_all(debs: &Path, root: &Path, left_out: &[&str]) -> Result<()> {
    fs::create_dir_all(root).or_cannot_run(|| format!("create {}", root.display()))?;
    for deb in fs::read_dir(debs).or_cannot_run(|| format!("list {}", debs.display()))? {
        let deb = deb?.path();
        extract(&deb, root, left_out).or_cannot_run(|| format!("unpack {}", deb.display()))?;
        // Its space is needed for what was in it.
        fs::remove_file(&deb)?;
    }
    Ok(())
}

/// Unpacks by `dpkg-deb --fsys-tarfile`: the children of `dpkg-deb --extract` would go on when it is
/// killed with us; here they find their pipe closed.
fn extract(deb: &Path, root: &Path, left_out: &[&str]) -> Result<()> {
    let mut dpkg = dies_with_parent(Command::new("dpkg-deb").arg("--fsys-tarfile").arg(deb))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start `dpkg-deb`")?;
    let archive = dpkg.stdout.take().map_or(Stdio::null(), Stdio::from);
    let mut tar = Command::new("tar");
    tar.arg("--extract")
        .arg("--no-same-owner")
        // Where a package still has /lib, it goes to /usr/lib.
        .arg("--keep-directory-symlink")
        .args(left_out.iter().map(|path| format!("--exclude=./{path}")))
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
    fn a_simulation_names_what_would_be_installed() {
        let simulation = "\
NOTE: This is only a simulation!
Inst libc6 (2.36-9+deb12u14 Debian:12.15/oldstable [amd64]) []
Inst gcc-12-base (12.2.0-14 Debian:12.15/oldstable [amd64])
Inst seabios (1.16.3-2 Debian:13.1/stable [all])
Conf libc6 (2.36-9+deb12u14 Debian:12.15/oldstable [amd64])
";
        let all = installed(simulation);
        let names: Vec<String> = all.iter().map(|one| one.package.to_string()).collect();
        assert_eq!(
            names,
            [
                "gcc-12-base=12.2.0-14",
                "libc6=2.36-9+deb12u14",
                "seabios=1.16.3-2"
            ]
        );
        let for_all: Vec<bool> = all.iter().map(|one| one.for_all).collect();
        assert_eq!(for_all, [false, false, true]);
    }
}
