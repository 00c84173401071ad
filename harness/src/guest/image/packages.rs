//! Which of the distribution's packages make the image.

use crate::base::error::CannotRun;
use crate::debian::apt::Apt;
use crate::debian::packages::{self, Installed, Package, field, os_release};
use anyhow::{Result, bail};
use std::path::Path;

/// What the guest's programs come from; their libraries follow by dependency.
const PROGRAMS: [&str; 14] = [
    "bash",
    "busybox-static",
    "dash",
    "ethtool",
    "iproute2",
    "iputils-ping",
    "isc-dhcp-client",
    "kexec-tools",
    "kmod",
    "ncat",
    "net-tools",
    "netcat-openbsd",
    "qemu-guest-agent",
    "tcpdump",
];

/// Which packages make the image today, as `apt` resolves them for a machine without any package.
///
/// `scratch` is a directory that may be written to.
pub fn resolve(apt: &Apt, scratch: &Path) -> Result<Vec<Package>> {
    let kernel = kernel_package(&os_release())?;
    let names: Vec<&str> = PROGRAMS.into_iter().chain([kernel]).collect();
    let closure = packages::closure(apt, scratch, None, &names).map_err(|e| {
        CannotRun(format!(
            "apt cannot say which packages the guest image is made of: {e:#}. \
             Run `apt-get update` as root (on Ubuntu with the component `universe` enabled) and try again"
        ))
    })?;
    Ok(wanted(closure))
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

/// Of what apt would install: our programs, all shared libraries, the kernel and its modules; not
/// what only an installed system needs (perl, adduser, an initramfs builder, firmware).
fn wanted(closure: Vec<Installed>) -> Vec<Package> {
    let wants = |one: &Installed| {
        let name = one.package.name.as_str();
        let library = (name.starts_with("lib") || name == "zlib1g") && !one.for_all;
        PROGRAMS.contains(&name) || library || is_kernel(name)
    };
    let wanted = closure.into_iter().filter(wants);
    wanted.map(|one| one.package).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_programs_libraries_and_the_kernel_only() {
        let installed = |name: &str, for_all| Installed {
            package: Package {
                name: name.into(),
                version: "1".into(),
            },
            for_all,
        };
        let closure = vec![
            installed("gcc-12-base", false),
            installed("libc6", false),
            installed("libsemanage-common", true),
            installed("zlib1g", false),
            installed("perl-base", false),
            installed("ethtool", false),
            installed("linux-image-6.1.0-56-amd64", false),
            installed("linux-image-amd64", false),
            installed("linux-modules-extra-6.8.0-50-generic", false),
        ];
        let wanted = wanted(closure);
        let names: Vec<&str> = wanted.iter().map(|package| &*package.name).collect();
        assert_eq!(
            names,
            [
                "libc6",
                "zlib1g",
                "ethtool",
                "linux-image-6.1.0-56-amd64",
                "linux-modules-extra-6.8.0-50-generic",
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
