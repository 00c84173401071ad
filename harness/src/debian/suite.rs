//! Other suites of Debian than this system's.
//!
//! apt fetches them and verifies them by Debian's keys, with a sources list and a lists folder that are
//! thrown away after: the system's own are only read.

use super::apt::Apt;
use super::packages::{field, os_release};
use crate::base::error::OrCannotRun;
use anyhow::{Context, Result};
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// Where Debian's keys are, from Debian 13 on and before. Without them apt takes those that it trusts.
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.pgp",
    "/usr/share/keyrings/debian-archive-keyring.gpg",
];

/// apt's options beside those of [`Apt`]: no other sources, and a list that is missing is an error.
const OVERRIDES: &str = r#"
APT::Update::Error-Mode "any";
Dir::Etc::sourceparts "/dev/null";
"#;

/// Whether `suite` is this system's, whose kernel the plain image has.
pub fn is_own(suite: &str) -> bool {
    field(&os_release(), "VERSION_CODENAME") == Some(suite)
}

/// Why this system cannot fetch `what` of another suite, with or without a network.
pub fn obstacle(what: &str, suite: &str) -> Option<String> {
    let os_release = os_release();
    (field(&os_release, "ID") != Some("debian")).then(|| {
        format!(
            "the {what} of Debian {suite} can be fetched on Debian only, and this system is {}",
            field(&os_release, "PRETTY_NAME").unwrap_or("another")
        )
    })
}

/// An apt that knows a component of `suites` on the system's own mirrors, with their security updates,
/// and nothing else.
///
/// # Errors
/// When the mirrors do not answer, or this system's sources name none of Debian.
pub fn lists_of(suites: &[&str], component: &str, scratch: &Path) -> Result<Apt> {
    let targets = Apt::of_system().run("apt-get", |get| {
        get.args(["indextargets", "--format"])
            .args(["$(REPO_URI)|$(ORIGIN)|$(LABEL)", "Created-By: Packages"])
    })?;
    let mirrors = Mirrors::of(&targets)?;
    let keyring = KEYRINGS.iter().find(|path| Path::new(path).is_file());
    let sources = scratch.join("suite.sources");
    let text: String = (suites.iter())
        .map(|suite| mirrors.sources(suite, component, keyring.copied()))
        .collect();
    fs::write(&sources, text).or_cannot_run(|| format!("write {}", sources.display()))?;
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
}
