//! Another suite's kernel, for a guest whose release stands nearer to it than to the system's own; and
//! this system's netperf.

use super::packages::is_kernel;
use crate::debian::apt::Apt;
use crate::debian::packages::{Package, field, os_release};
use crate::debian::suite::lists_of;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::Path;

/// The package whose dependency is a suite's current kernel.
const KERNEL: &str = "linux-image-amd64";

/// Where Debian has netperf: its licence is not free.
const NETPERF: (&str, &str) = ("netperf", "non-free");

/// Which packages are `suite`'s current kernel, after fetching its lists from the system's own
/// mirrors; and the apt that knows them, for as long as `scratch` exists.
pub fn resolve(suite: &str, scratch: &Path) -> Result<(Apt, Vec<Package>)> {
    let apt = lists_of(&[suite], "main", scratch)?;
    let packages = follow(KERNEL, |name| show(&apt, name))?;
    Ok((apt, packages))
}

/// Whether this system is Debian, which has netperf.
pub fn is_debian() -> bool {
    field(&os_release(), "ID") == Some("debian")
}

/// This system's netperf, which is of a component that few systems list; and the apt that knows it.
pub fn resolve_netperf(scratch: &Path) -> Result<(Apt, Package)> {
    let os_release = os_release();
    let suite = field(&os_release, "VERSION_CODENAME").context("Debian's release has no name")?;
    let (name, component) = NETPERF;
    let apt = lists_of(&[suite], component, scratch)?;
    let version = version(name, &show(&apt, name)?)?;
    Ok((
        apt,
        Package {
            name: name.to_owned(),
            version,
        },
    ))
}

/// What apt knows of the package `name`.
fn show(apt: &Apt, name: &str) -> Result<String> {
    apt.run("apt-cache", |cache| {
        cache.args(["show", "--no-all-versions", name])
    })
}

fn version(name: &str, shown: &str) -> Result<String> {
    let found = shown
        .lines()
        .find_map(|line| line.strip_prefix("Version: "));
    let version = found.with_context(|| format!("apt knows no version of {name}"))?;
    Ok(version.to_owned())
}

/// The parts of a kernel that `name` depends on, directly or not, by what `show` (`apt-cache show`)
/// says of each.
fn follow(name: &str, show: impl Fn(&str) -> Result<String>) -> Result<Vec<Package>> {
    let mut waiting = vec![name.to_owned()];
    let mut found = BTreeMap::new();
    while let Some(name) = waiting.pop() {
        if found.contains_key(&name) {
            continue;
        }
        let text = show(&name)?;
        let version = version(&name, &text)?;
        let needs = text.lines().find_map(|line| line.strip_prefix("Depends: "));
        waiting.extend(
            needs
                .unwrap_or_default()
                .split(", ")
                .filter_map(|need| need.split([' ', ':']).next())
                .filter(|need| is_kernel(need))
                .map(str::to_owned),
        );
        found.insert(name, version);
    }
    found.remove(name);
    if found.is_empty() {
        bail!("{name} depends on no kernel");
    }
    Ok(found
        .into_iter()
        .map(|(name, version)| Package { name, version })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_all_of_its_parts() {
        let show = |name: &str| {
            Ok(match name {
                "linux-image-amd64" => {
                    "Version: 7.2-1\nDepends: linux-base-amd64 (= 7.2-1), linux-image-7.2-amd64 (= 7.2-1)\n"
                }
                "linux-image-7.2-amd64" => {
                    "Version: 7.2-1\nDepends: dracut | initramfs-tools, linux-binary-7.2-amd64 (= 7.2-1), \
                     linux-modules-7.2-amd64 (= 7.2-1)\n"
                }
                "linux-modules-7.2-amd64" => "Version: 7.2-1+b1\nDepends: kmod\n",
                "linux-binary-7.2-amd64" => "Version: 7.2-1\n",
                other => panic!("{other} was asked for"),
            }
            .to_owned())
        };
        let packages = follow(KERNEL, show).unwrap();
        let names: Vec<String> = packages.iter().map(Package::to_string).collect();
        assert_eq!(
            names,
            [
                "linux-binary-7.2-amd64=7.2-1",
                "linux-image-7.2-amd64=7.2-1",
                "linux-modules-7.2-amd64=7.2-1+b1",
            ]
        );
        let empty = follow(KERNEL, |_| Ok("Version: 1\n".into())).unwrap_err();
        assert_eq!(empty.to_string(), "linux-image-amd64 depends on no kernel");
    }
}
