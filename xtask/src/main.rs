//! The project's commands: `cargo xtask --help`.
//!
//! It finds or installs what a run needs, builds the harness, and hands it the user's settings
//! ([`::report::flags`]). What a trial is and how it went only the harness knows; of a finished
//! run, this reads `events.jsonl`.

mod again;
mod against;
mod bench;
mod bisect;
mod build;
mod cache;
mod child;
mod ci;
mod compare;
mod doctor;
mod history;
mod lab;
mod matrix;
mod merge;
mod report;
mod repro;
mod runs;
mod settings;
mod setup;
mod test;

use ::report::errln;
use ::report::flags::{self, BadSetting, Flags};
use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The exit code where neither harness nor xtask could do its work; says nothing of a NIC.
const CANNOT_RUN: u8 = 3;
/// The exit code where what the user gave is wrong.
const BAD_INPUT: u8 = 2;

/// What the user gave is wrong; the text says how.
#[derive(Debug)]
pub struct BadInput(pub String);

impl fmt::Display for BadInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadInput {}

#[derive(Parser)]
#[command(
    name = "xtask",
    bin_name = "cargo xtask",
    about = "Regression tests for QEMU/KVM virtual NICs",
    after_help = "Exit codes: 0 all passed, known to fail or skipped, 1 a NIC failed, 2 bad input, \
                  3 the tests could not run, 130 interrupted.\n\n\
                  A setting may also be given as a variable: NICMATRIX_ALLOW_MODULE_RELOAD=1 for\n\
                  --allow-module-reload, NICMATRIX_PROFILE=full for --profile full. A flag wins."
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the matrix on real VMs, or look at it
    Matrix(Box<matrix::Args>),
    /// Show a kept run again, and write its JUnit, Markdown and HTML reports
    Report(report::Args),
    /// Say what became of each trial since an earlier run: worse, better, and what else changed
    Compare(compare::Args),
    /// Keep runs in one file, and ask it: one trial's nights, what flips, what takes long
    History(history::Args),
    /// Join the runs of a plan's shards into one run, and prove that nothing is missing
    Merge(merge::Args),
    /// Say how a pipeline splits a run over its machines
    Ci(ci::Args),
    /// Run one trial with everything shown
    Repro(repro::Args),
    /// Say what this host can do, and what each lack costs
    #[command(after_help = "Example:\n  cargo xtask doctor    never installs anything")]
    Doctor,
    /// Install what a run needs (the other commands do so by themselves)
    Setup(setup::Args),
    /// Run everything that must hold before a change goes in
    Test(test::Args),
    /// Measure the harness: boot, restore, fixed cost a trial, throughput, memory, listing
    Bench(bench::Args),
    /// Put up a disposable host with vhost_net that several runs share, or look into it
    Lab(lab::Args),
    /// Look at the saved guests that trials start from, or remove them
    Cache(cache::Args),
}

/// The workspace, and the directory and variables with which the user calls.
pub struct Workspace {
    /// The workspace's root.
    pub root: PathBuf,
    /// The current directory, from which the user's relative paths are taken.
    pub cwd: PathBuf,
    /// The settings in the user's variables.
    pub variables: Flags,
}

impl Workspace {
    fn find() -> Result<Self> {
        // Cargo says at run time where the package is; the checkout may have moved since the build.
        let package = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = package
            .parent()
            .context("xtask/ has no directory above it")?
            .to_owned();
        let cwd = std::env::current_dir().context("cannot tell the current directory")?;
        let variables = Flags::from_variables(&flags::variables()?)?;
        Ok(Workspace {
            root,
            cwd,
            variables,
        })
    }

    /// Images, caches and artifacts of the harness.
    pub fn harness_dir(&self) -> PathBuf {
        let given = self.variables.output.dir.as_deref();
        self.root.join(given.unwrap_or(flags::DEFAULT_DIR.as_ref()))
    }

    /// `path`, relative where it is below the current directory.
    pub fn show<'a>(&self, path: &'a Path) -> std::path::Display<'a> {
        path.strip_prefix(&self.cwd).unwrap_or(path).display()
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    let workspace = Workspace::find()?;
    match verb {
        Verb::Matrix(args) => matrix::run(&workspace, *args),
        Verb::Report(args) => report::run(&workspace, &args),
        Verb::Compare(args) => compare::run(&workspace, &args),
        Verb::History(args) => history::run(&workspace, &args),
        Verb::Ci(args) => ci::run(&workspace, args),
        Verb::Merge(args) => merge::run(&workspace, &args),
        Verb::Repro(mut args) => repro::run(&workspace, &mut args),
        Verb::Doctor => doctor::run(&workspace),
        Verb::Setup(args) => setup::run(&args),
        Verb::Test(args) => test::run(&workspace, &args),
        Verb::Bench(args) => bench::run(&workspace, &args),
        Verb::Lab(args) => lab::run(&workspace, &args),
        Verb::Cache(args) => cache::run(&workspace, &args),
    }
}

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let bisecting = words.iter().any(|word| word == bisect::FLAG);
    let cli = match Cli::try_parse_from(&words) {
        Ok(cli) => cli,
        Err(shown) => {
            // Where even that fails, there is nobody to tell.
            let _ = shown.print();
            return match bisecting && shown.use_stderr() {
                true => ExitCode::from(bisect::CANNOT_TELL),
                false => ExitCode::from(u8::try_from(shown.exit_code()).unwrap_or(BAD_INPUT)),
            };
        }
    };
    match run(cli.verb) {
        Ok(code) => code,
        Err(e) if e.is::<child::Interrupted>() => {
            errln!("{e}");
            ExitCode::from(130)
        }
        Err(e) => {
            errln!("error: {e:#}");
            if bisecting {
                return ExitCode::from(bisect::CANNOT_TELL);
            }
            let bad_input = e.is::<BadInput>() || e.is::<BadSetting>();
            ExitCode::from(if bad_input { BAD_INPUT } else { CANNOT_RUN })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_shows_an_example() {
        for verb in Cli::command().get_subcommands() {
            let help = verb.clone().render_long_help().to_string();
            assert!(
                help.contains("cargo xtask"),
                "{} has no example:\n{help}",
                verb.get_name()
            );
        }
    }
}
