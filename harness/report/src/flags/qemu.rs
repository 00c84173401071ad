//! `--qemu`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A value of `--qemu`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum QemuChoice {
    /// `PATH`, with a `/` in it: the default QEMU's program.
    Program(PathBuf),
    /// `NAME=PATH`: another one, beside the others.
    Added(String, PathBuf),
    /// `NAME,…`: only those; or the default QEMU's program, which is on PATH.
    Names(Vec<String>),
}

impl FromStr for QemuChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<QemuChoice, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        let is_name = |name: &str| !name.is_empty() && name.chars().all(plain);
        match text.split_once('=') {
            Some((name, path)) if is_name(name) && !path.is_empty() => {
                return Ok(QemuChoice::Added(name.to_owned(), path.into()));
            }
            _ if text.contains('/') => return Ok(QemuChoice::Program(text.into())),
            _ => {}
        }
        let names: Vec<&str> = text.split(',').collect();
        match names.iter().all(|name| is_name(name)) {
            true => Ok(QemuChoice::Names(
                names.into_iter().map(str::to_owned).collect(),
            )),
            false => Err(
                "expected PATH, NAME=PATH or NAME,…; a name has letters, digits, `_`, `-` and `.`"
                    .into(),
            ),
        }
    }
}

impl fmt::Display for QemuChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QemuChoice::Program(program) => write!(f, "{}", program.display()),
            QemuChoice::Added(name, program) => write!(f, "{name}={}", program.display()),
            QemuChoice::Names(names) => f.write_str(&names.join(",")),
        }
    }
}

impl TryFrom<String> for QemuChoice {
    type Error = String;

    fn try_from(text: String) -> Result<QemuChoice, String> {
        text.parse()
    }
}

impl From<QemuChoice> for String {
    fn from(choice: QemuChoice) -> String {
        choice.to_string()
    }
}
