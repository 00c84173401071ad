//! The user's settings. Each is one field here: its flag, its variable and its help are made of it.
//!
//! The flag is the field's name, `--allow-module-reload`; the variable is `NICMATRIX_` and that name,
//! `NICMATRIX_ALLOW_MODULE_RELOAD`. `cargo xtask` takes the flags, group by group, in those of its
//! commands that they mean something to. `cargo test` and `cargo nextest` leave no room for flags: there
//! the harness reads the variables.
//!
//! # What wins
//! `cargo xtask` hands the harness all settings as one value, the variable [`ALL`]. Where it is set, the
//! variables of single settings are not read: a flag wins over a variable, and `cargo xtask` has already
//! taken over the variables of the settings for which no flag was given.
//!
//! # Relative paths
//! A flag's are meant from the user's directory ([`Flags::meant_from`]), a variable's from the workspace's
//! root.

mod qemu;
mod recorded;

use crate::words::{OneOf, unknown};
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Args, Command, FromArgMatches, ValueEnum};
pub use qemu::QemuChoice;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::error::Error as _;
use std::path::{Path, PathBuf};

/// The variable that holds all settings, [`Flags`] as JSON.
pub const ALL: &str = "NICMATRIX_SETTINGS";

/// The name of the run's directory: given by what starts several processes for one run, as nextest
/// does with `NEXTEST_RUN_ID`. It is not a setting.
pub const RUN: &str = "NICMATRIX_RUN";

/// The workspace's root, where it is not where the harness was built. It is not a setting.
pub const ROOT: &str = "NICMATRIX_ROOT";

/// `--profile`, where it is not given.
pub const DEFAULT_PROFILE: &str = "smoke";
/// `--matrix`, where it is not given; from the root.
pub const DEFAULT_MATRIX: &str = "matrix.toml";
/// `NICMATRIX_DIR`, where it is not given; from the root.
pub const DEFAULT_DIR: &str = "target/nicmatrix";

/// What the variables of all settings begin with.
const PREFIX: &str = "NICMATRIX_";
/// Variables besides those of settings: disk images of guests, which the matrix names, and what a test
/// tells a process of its own.
const OTHER_PREFIXES: [&str; 2] = ["NICMATRIX_IMAGE_", "NICMATRIX_TEST_"];

/// All settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Flags {
    /// Under which conditions a trial runs.
    #[command(flatten)]
    pub conditions: Conditions,
    /// Which trials there are.
    #[command(flatten)]
    pub selection: Selection,
    /// Which of them are chosen.
    #[command(flatten)]
    pub only: Only,
    /// How verdicts are reached, and where they go.
    #[command(flatten)]
    pub results: Results,
    /// What becomes of the VM.
    #[command(flatten)]
    pub terminal: Terminal,
    /// What is shown, and where files go.
    #[command(flatten)]
    pub output: Output,
}

/// The conditions under which a trial runs: under the same ones it can be run again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Conditions {
    /// A profile of the matrix file: how often and how long [default: smoke]
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// The matrix file [default: matrix.toml]
    #[arg(long, value_name = "FILE")]
    pub matrix: Option<PathBuf>,
    /// A QEMU: PATH in place of the distribution's, NAME=PATH beside it, or names of the matrix file's, to
    /// test those only (default is the one without a name); may be given more than once
    #[arg(long, value_name = "PATH|NAME=PATH|NAME,…")]
    pub qemu: Vec<QemuChoice>,
    /// Where --qemu PATH looks for firmware (its -L); may be given more than once
    #[arg(long, value_name = "DIR")]
    pub firmware: Vec<PathBuf>,
    /// How guest code is run; auto takes KVM where it is shown to work [default: auto]
    #[arg(long, value_parser = OneOf::<AccelChoice>::new())]
    pub accel: Option<AccelChoice>,
    /// Whose kernel carries taps and vhost: this machine's, a disposable VM's, or as the matrix file says
    #[arg(long, value_parser = OneOf::<HostChoice>::new())]
    pub host: Option<HostChoice>,
    /// Let trials on this machine reload vhost_net with the setting that they need (for a machine that is
    /// thrown away after; as root); it is put back
    #[arg(long)]
    pub allow_module_reload: bool,
    /// Boot every guest; restore none from a checkpoint
    #[arg(long)]
    pub boot: bool,
}

/// Which trials there are, before a filter chooses among them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Selection {
    /// Every case under each of its faults; one that stays green is a failure
    #[arg(long)]
    pub faults: bool,
    /// Only the K-th of N parts, from 1
    #[arg(long, value_name = "K/N", value_parser = shard)]
    #[serde(deserialize_with = "shard_of_two")]
    pub shard: Option<(u32, u32)>,
    /// Fill the parts of --shard by what trials took in this run, history, or file of `cargo xtask ci
    /// shards`; each part must be given the same
    #[arg(long, value_name = "RUN|HISTORY|FILE")]
    pub durations: Option<PathBuf>,
}

/// Which trials are chosen among those that there are: all that these agree to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Only {
    /// Only trials of these NICs, separated by commas
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub nic: Vec<String>,
    /// Only trials on these guests, separated by commas
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub guest: Vec<String>,
    /// Only trials with these backends, separated by commas: tap, vhost, vhost_zcopy
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub backend: Vec<String>,
    /// Only trials of these cases, separated by commas
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub case: Vec<String>,
    /// Only trials whose name contains one of these, separated by commas
    // Commands have arguments for it.
    #[arg(long, value_name = "TEXT,…", value_delimiter = ',', hide = true)]
    pub filter: Vec<String>,
    /// Leave out trials whose name contains this; may be given more than once
    #[arg(long, value_name = "TEXT,…", value_delimiter = ',')]
    pub skip: Vec<String>,
    /// A filter is a trial's whole name
    #[arg(long)]
    pub exact: bool,
}

/// How verdicts are reached and where they go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Results {
    /// Further tries of a trial that failed; it counts as flaky if one passes [default: 0]
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub retries: Option<u32>,
    /// Run a trial that failed N times more, at once and alone, and say whether its failure is solid or
    /// flaky; a pass makes no success of it [default: 0]
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub confirm: Option<u32>,
    /// What a flaky trial makes of the run [default: fail with --confirm, pass with --retries]
    #[arg(long, value_parser = OneOf::<FlakyResult>::new())]
    pub flaky_result: Option<FlakyResult>,
    /// Where the JUnit file goes
    #[arg(long, value_name = "PATH")]
    pub junit: Option<PathBuf>,
    /// What goes to stdout: the summary, or each event as it comes, a line of JSON each (docs/events.md)
    /// [default: human]
    #[arg(long, value_name = "FORMAT", value_parser = OneOf::<MessageFormat>::new())]
    pub message_format: Option<MessageFormat>,
    /// A trial that passes although the matrix file expects it to fail ([[expect]]) is a failure
    #[arg(long)]
    pub strict: bool,
}

/// What becomes of the VM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Terminal {
    /// Keep the VM at the end, with serial console and monitor on this terminal
    #[arg(long)]
    pub shell: bool,
}

/// What is shown, and where files go. No command has flags for these.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Output {
    /// Progress and a table in place of libtest's lines
    #[arg(long)]
    pub table: bool,
    /// Console, commands and their output on stderr as they come
    #[arg(long)]
    pub show: bool,
    /// Images, caches and artifacts [default: target/nicmatrix]
    #[arg(long)]
    pub dir: Option<PathBuf>,
}

/// `--accel`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccelChoice {
    /// KVM where it is shown to work, else TCG.
    #[value(help = None)]
    Auto,
    /// KVM or nothing.
    #[value(help = None)]
    Kvm,
    /// TCG even where KVM works.
    #[value(help = None)]
    Tcg,
}

/// `--host`, or `host` in the matrix file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostChoice {
    /// This machine where its kernel has what the backend needs, else a lab.
    #[value(help = None)]
    Auto,
    /// This machine or nothing.
    #[value(help = None)]
    Direct,
    /// A lab, for every trial.
    #[value(help = None)]
    Lab,
}

impl HostChoice {
    /// Their words, for the matrix file.
    pub const WORDS: &'static [(&'static str, HostChoice)] = &[
        ("auto", HostChoice::Auto),
        ("direct", HostChoice::Direct),
        ("lab", HostChoice::Lab),
    ];
}

/// `--flaky-result`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlakyResult {
    /// The run fails.
    #[value(help = None)]
    Fail,
    /// The run does not fail of it.
    #[value(help = None)]
    Pass,
}

/// `--message-format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MessageFormat {
    /// The summary.
    #[value(help = None)]
    Human,
    /// The events.
    #[value(help = None)]
    Json,
}

/// A setting that is not understood.
#[derive(Debug)]
pub struct BadSetting(String);

impl std::fmt::Display for BadSetting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadSetting {}

const BAD_SHARD: &str = "expected K/N, the K-th of N parts, with K from 1 to N";

fn is_shard((k, n): (u32, u32)) -> bool {
    (1..=n).contains(&k)
}

fn shard(text: &str) -> Result<(u32, u32), &'static str> {
    let parts = text
        .split_once('/')
        .and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
    parts.filter(|&parts| is_shard(parts)).ok_or(BAD_SHARD)
}

/// The one value holds it as two numbers.
fn shard_of_two<'de, D: Deserializer<'de>>(from: D) -> Result<Option<(u32, u32)>, D::Error> {
    match Option::deserialize(from)? {
        Some(parts) if !is_shard(parts) => Err(D::Error::custom(BAD_SHARD)),
        parts => Ok(parts),
    }
}

fn count(text: &str) -> Result<u32, &'static str> {
    text.parse()
        .map_err(|_| "expected a whole number, 0 or more")
}

/// This process's variables.
///
/// # Errors
/// One of ours that is not UTF-8.
pub fn variables() -> Result<BTreeMap<String, String>, BadSetting> {
    let mut all = BTreeMap::new();
    for (name, value) in std::env::vars_os() {
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => {
                all.insert(name, value);
            }
            (Ok(name), Err(value)) if name.starts_with(PREFIX) => {
                let value = value.display();
                return Err(BadSetting(format!("{name} is not valid UTF-8: {value}")));
            }
            _ => {}
        }
    }
    Ok(all)
}

impl Flags {
    /// From variables: all of [`ALL`], or else those of single settings. An empty one counts as absent.
    ///
    /// # Errors
    /// A value that is not understood, with what is allowed; a variable of ours that is no setting's, with
    /// the nearest that is.
    pub fn from_variables(variables: &BTreeMap<String, String>) -> Result<Flags, BadSetting> {
        if let Some(all) = variables.get(ALL).filter(|value| !value.is_empty()) {
            let bad = |error| BadSetting(format!("{ALL} is not understood: {error}"));
            return serde_json::from_str(all).map_err(bad);
        }
        let command = command();
        let mut words = Vec::new();
        for (name, value) in variables {
            let is_setting = name.starts_with(PREFIX)
                && ![ALL, RUN, ROOT].contains(&name.as_str())
                && !OTHER_PREFIXES.iter().any(|other| name.starts_with(other));
            if is_setting && !value.is_empty() {
                let flag = as_flag(&command, name, value)?;
                // Each by itself, so that an error is known to be this one's.
                parse(&command, &flag).map_err(|error| bad_value(name, value, &error))?;
                words.extend(flag);
            }
        }
        parse(&command, &words).map_err(|error| BadSetting(error.to_string()))
    }

    /// With relative paths meant from `directory`; a QEMU that is a bare name is looked for in PATH, as a
    /// shell would.
    #[must_use]
    pub fn meant_from(mut self, directory: &Path) -> Flags {
        let qemus = self
            .conditions
            .qemu
            .iter_mut()
            .filter_map(|qemu| match qemu {
                QemuChoice::Program(program) | QemuChoice::Added(_, program) => Some(program),
                QemuChoice::Names(_) => None,
            });
        let qemus = qemus.filter(|program| program.to_string_lossy().contains('/'));
        let paths = [
            self.conditions.matrix.as_mut(),
            self.selection.durations.as_mut(),
            self.results.junit.as_mut(),
            self.output.dir.as_mut(),
        ];
        let firmware = self.conditions.firmware.iter_mut();
        for path in paths.into_iter().flatten().chain(firmware).chain(qemus) {
            *path = directory.join(&*path);
        }
        self
    }

    /// With those of `other` where these say nothing.
    ///
    /// # Errors
    /// A path that is not UTF-8.
    pub fn or(&self, other: &Flags) -> Result<Flags, BadSetting> {
        let merged = || {
            let mut merged = serde_json::to_value(other)?;
            put_over(&mut merged, serde_json::to_value(self)?);
            serde_json::from_value(merged)
        };
        merged().map_err(cannot_hand_on)
    }

    /// The value of [`ALL`].
    ///
    /// # Errors
    /// A path that is not UTF-8.
    pub fn to_json(&self) -> Result<String, BadSetting> {
        serde_json::to_string(self).map_err(cannot_hand_on)
    }
}

/// What names a setting to the user who may have given it as a flag or as a variable.
pub fn named(flag: &str) -> String {
    format!("--{flag} ({})", variable(flag))
}

/// The variable of a flag.
pub fn variable(flag: &str) -> String {
    PREFIX.to_owned() + &flag.to_uppercase().replace('-', "_")
}

fn cannot_hand_on(error: serde_json::Error) -> BadSetting {
    BadSetting(format!("the settings cannot be handed on: {error}"))
}

/// Takes all settings as flags.
fn command() -> Command {
    Flags::augment_args(Command::new("settings"))
        .no_binary_name(true)
        .disable_help_flag(true)
}

fn parse(command: &Command, words: &[String]) -> Result<Flags, clap::Error> {
    let matches = command.clone().try_get_matches_from(words)?;
    Flags::from_arg_matches(&matches)
}

/// A variable as its flag: none where it switches nothing on, several where it is a list.
fn as_flag(command: &Command, name: &str, value: &str) -> Result<Vec<String>, BadSetting> {
    let is_its = |argument: &&Arg| argument.get_long().map(variable).as_deref() == Some(name);
    let Some(argument) = command.get_arguments().find(is_its) else {
        // Without what all begin with, as it would make all alike.
        let short = |name: &str| name[PREFIX.len()..].to_owned();
        let known = command.get_arguments().filter_map(Arg::get_long);
        let known: Vec<String> = known.map(|flag| short(&variable(flag))).collect();
        let known = known.iter().map(String::as_str);
        let unknown = unknown("setting", &short(name), known);
        return Err(BadSetting(format!("{name}: {unknown}")));
    };
    let flag = format!("--{}", argument.get_long().unwrap_or_default());
    match (argument.get_action(), value) {
        (ArgAction::SetTrue, "0") => Ok(Vec::new()),
        (ArgAction::SetTrue, "1") => Ok(vec![flag]),
        (ArgAction::SetTrue, _) => Err(BadSetting(format!("{name} is `{value}`, expected 0 or 1"))),
        // Names are separated by commas, which clap knows of; paths as in PATH.
        (ArgAction::Append, _) if argument.get_value_delimiter().is_none() => {
            let items = value.split(':').filter(|item| !item.is_empty());
            Ok(items.map(|item| format!("{flag}={item}")).collect())
        }
        _ => Ok(vec![format!("{flag}={value}")]),
    }
}

/// Why clap refuses `value`, of a variable.
fn bad_value(name: &str, value: &str, error: &clap::Error) -> BadSetting {
    BadSetting(match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(allowed)) => {
            let allowed = allowed.iter().map(String::as_str);
            format!("{name}: {}", unknown("value", value, allowed))
        }
        _ => {
            let reason = error.source().map(ToString::to_string);
            format!("{name} is `{value}`, {}", reason.unwrap_or_default())
        }
    })
}

/// Puts what `over` says over what `under` says.
fn put_over(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                put_over(under.entry(key).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null | Value::Bool(false)) => {}
        (_, Value::Array(items)) if items.is_empty() => {}
        (under, over) => *under = over,
    }
}

#[cfg(test)]
mod tests;
