//! Another suite's kernel, for a guest whose release stands nearer to it than to the system's own.
//!
//! apt fetches it and verifies it by Debian's keys, with a sources list and a lists folder that are
//! thrown away after: the system's own are only read.

use super::apt::Apt;
use super::packages::{Package, field, is_kernel, os_release};
use crate::base::error::OrCannotRun;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// Where Debian's keys are, from Debian 13 on and before. Without them apt takes those that it trusts.
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.pgp",
    "/usr/share/keyrings/debian-archive-keyring.gpg",
];

/// The package whose dependency is a suite's current kernel.
const KERNEL: &str = "linux-image-amd64";

/// apt's options beside those of [`Apt`]: no other sources, and a list that is missing is an error.
const OVERRIDES: &str = r#"
APT::Update::Error-Mode "any";
Dir::Etc::sourceparts "/dev/null";
"#;

/// Where Debian has netperf: its licence is not free.
const NETPERF: (&str, &str) = ("netperf", "non-free");

/// Whether `suite` is this system's, whose kernel the plain image has.
pub fn is_own(suite: &str) -> bool {
    field(&os_release(), "VERSION_CODENAME") == Some(suite)
}

/// Why this system can fetch no other suite, with or without a network.
pub fn obstacle(suite: &str) -> Option<String> {
    let os_release = os_release();
    (field(&os_release, "ID") != Some("debian")).then(|| {
        format!(
            "the kernel of Debian {suite} can be fetched on Debian only, and this system is {}",
            field(&os_release, "PRETTY_NAME").unwrap_or("another")
        )
    })
}

/// Which packages are `suite`'s current kernel, after fetching its lists from the system's own
/// mirrors; and the apt that knows them, for as long as `scratch` exists.
pub fn resolve(suite: &str, scratch: &Path) -> Result<(Apt, Vec<Package>)> {
    let apt = lists_of(suite, "main", scratch)?;
    let packages = follow(KERNEL, |name| show(&apt, name))?;
    Ok((apt, packages))
}

/// This system's netperf, which is of a component that few systems list; and the apt that knows it.
pub fn resolve_netperf(scratch: &Path) -> Result<(Apt, Package)> {
    let os_release = os_release();
    let suite = field(&os_release, "VERSION_CODENAME")
        .filter(|_| field(&os_release, "ID") == Some("debian"))
        .context("it can be fetched on Debian only")?;
    let (name, component) = NETPERF;
    let apt = lists_of(suite, component, scratch)?;
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

/// An apt that knows a component of `suite` on the system's own mirrors, and nothing else.
fn lists_of(suite: &str, component: &str, scratch: &Path) -> Result<Apt> {
    let targets = Apt::of_system().run("apt-get", |get| {
        get.args(["indextargets", "--format"])
            .args(["$(REPO_URI)|$(ORIGIN)|$(LABEL)", "Created-By: Packages"])
    })?;
    let mirrors = Mirrors::of(&targets)?;
    let keyring = KEYRINGS.iter().find(|path| Path::new(path).is_file());
    let sources = scratch.join("suite.sources");
    fs::write(
        &sources,
        mirrors.sources(suite, component, keyring.copied()),
    )
    .or_cannot_run(|| format!("write {}", sources.display()))?;
    let source_list = format!("Dir::Etc::sourcelist \"{}\";\n", sources.display());
    Apt::with_new_lists(scratch, &(OVERRIDES.to_owned() + &source_list))
}

/// Where this system has Debian from.
#[derive(Debug, PartialEq, Eq)]
struct Mirrors {
    main: String,
    security: Option<String>,
}

impl Mirrors {
    /// From lines `uri|origin|label`, one for each of the system's package lists.
    fn of(targets: &str) -> Result<Self> {
        let find = |wanted: &str| {
            targets.lines().find_map(|line| {
                let mut fields = line.splitn(3, '|');
                let (uri, origin, label) = (fields.next()?, fields.next()?, fields.next()?);
                (origin == "Debian" && label == wanted).then(|| uri.to_owned())
            })
        };
        Ok(Mirrors {
            main: find("Debian").context(
                "apt's sources name no mirror of Debian, or its lists are not there: run `apt-get update` as root",
            )?,
            security: find("Debian-Security"),
        })
    }

    /// deb822 sources (sources.list(5)) of a component of `suite`, with its security updates where it has
    /// them.
    fn sources(&self, suite: &str, component: &str, keyring: Option<&str>) -> String {
        let rolling = ["sid", "unstable", "experimental"].contains(&suite);
        let security = match &self.security {
            Some(uri) if !rolling && !suite.ends_with("-backports") => {
                Some((uri.as_str(), format!("{suite}-security")))
            }
            _ => None,
        };
        let mut text = String::new();
        for (uri, suite) in std::iter::once((self.main.as_str(), suite.to_owned())).chain(security)
        {
            // A String cannot fail to be written to.
            let _ = writeln!(
                text,
                "Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: {component}\nArchitectures: amd64\nTargets: Packages"
            );
            if let Some(keyring) = keyring {
                let _ = writeln!(text, "Signed-By: {keyring}");
            }
            text.push('\n');
        }
        text
    }
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
    fn the_systems_mirrors_serve_other_suites_too() {
        let mirrors = Mirrors::of(
            "https://example.org/apt|Example|Tools\n\
             http://mirror.test/debian/|Debian|Debian\n\
             http://mirror.test/debian/|Debian|Debian Backports\n\
             http://mirror.test/security/|Debian|Debian-Security\n",
        )
        .unwrap();
        insta::assert_snapshot!(mirrors.sources("bullseye", "main", Some("/keys.gpg")), @r"
            Types: deb
            URIs: http://mirror.test/debian/
            Suites: bullseye
            Components: main
            Architectures: amd64
            Targets: Packages
            Signed-By: /keys.gpg

            Types: deb
            URIs: http://mirror.test/security/
            Suites: bullseye-security
            Components: main
            Architectures: amd64
            Targets: Packages
            Signed-By: /keys.gpg
        ");
        for suite in ["trixie-backports", "sid"] {
            let sources = mirrors.sources(suite, "main", None);
            assert!(sources.contains(&format!("Suites: {suite}\n")), "{sources}");
            assert!(!sources.contains("security") && !sources.contains("Signed-By"));
        }
        let none = Mirrors::of("http://mirror.test/debian/|$(ORIGIN)|$(LABEL)\n").unwrap_err();
        assert!(none.to_string().contains("run `apt-get update`"), "{none}");
    }

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
