//! apt, without root and without touching what is installed or listed.

use super::tool::run;
use crate::base::error::OrCannotRun;
use anyhow::Result;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// No cache files, which an ordinary user could not write; as root, apt would hand a download to a user
/// who cannot write here, and warn.
const OPTIONS: [&str; 3] = [
    "APT::Sandbox::User=root",
    "Dir::Cache::pkgcache=",
    "Dir::Cache::srcpkgcache=",
];

/// For lists of our own; read after the system's configuration, so that a proxy stays. The system's
/// hooks are not for these lists, and a mirror that does not answer is given up after a while.
const NEW_LISTS: &str = r#"
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Acquire::Languages "none";
Acquire::Retries "1";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
"#;

/// apt's tools with the package lists that they go by.
pub struct Apt {
    configuration: Option<PathBuf>,
}

impl Apt {
    /// By this system's lists, as they are.
    pub fn of_system() -> Apt {
        Apt {
            configuration: None,
        }
    }

    /// By lists that are fetched now into `scratch`, from the system's sources or those that `overrides`
    /// (apt.conf(5)) names.
    ///
    /// # Errors
    /// When the mirrors do not answer.
    pub fn with_new_lists(scratch: &Path, overrides: &str) -> Result<Apt> {
        let (lists, file) = (scratch.join("lists"), scratch.join("apt.conf"));
        let text = format!(
            "{NEW_LISTS}{overrides}Dir::State::lists \"{}\";\n",
            lists.display()
        );
        fs::create_dir_all(lists.join("partial"))
            .and_then(|()| fs::write(&file, text))
            .or_cannot_run(|| format!("write to {}", scratch.display()))?;
        let apt = Apt {
            configuration: Some(file),
        };
        apt.run("apt-get", |get| get.args(["--quiet", "update"]))?;
        Ok(apt)
    }

    /// What `program` (apt-get, apt-cache), given its arguments by `with`, prints.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn run(
        &self,
        program: &str,
        with: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Result<String> {
        let mut command = Command::new(program);
        command.args(OPTIONS.iter().flat_map(|option| ["--option", option]));
        if let Some(file) = &self.configuration {
            command.arg("--config-file").arg(file);
        }
        let output = run(with(&mut command))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Whether a download failed because the archive has changed since the lists were fetched.
pub fn lists_are_old(error: &anyhow::Error) -> bool {
    format!("{error:#}").contains("404")
}
