//! `cargo xtask matrix`: flags in, environment and libtest arguments out.

use crate::build::{self, Harness};
use crate::{Place, child, setup};
use anyhow::Result;
use clap::{Subcommand, ValueEnum};
use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const EXAMPLES: &str = "\
Examples:
  cargo xtask matrix                                  the smoke profile
  cargo xtask matrix hotplug                          trials whose name contains `hotplug`
  cargo xtask matrix ::virtio:: --profile full        one NIC model, the plan's own figures
  cargo xtask matrix --qemu ~/qemu/build/qemu-system-x86_64 --firmware ~/qemu/pc-bios
  cargo xtask matrix --faults                         every case must go red under its faults
  cargo xtask matrix --shard 1/4 --junit junit.xml    a quarter of it, in a pipeline
  cargo xtask matrix list --json mtu
  cargo xtask matrix explain driver::virtio::rhel9::tap";

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    look: Option<Look>,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    select: Select,
    #[command(flatten)]
    results: Results,
}

#[derive(Subcommand)]
enum Look {
    /// Print the trials' names, and why some would be skipped
    #[command(after_help = "Example:\n  cargo xtask matrix list --faults mtu_max::e1000")]
    List {
        /// Only trials whose name contains this
        filter: Option<String>,
        /// One JSON object a trial
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        settings: Settings,
    },
    /// Say what a trial is: cell, QEMU command line, network, commands, plan item, what passes
    #[command(after_help = "Example:\n  cargo xtask matrix explain ping_sweep::e1000::rhel6::tap")]
    Explain {
        /// The trial's full name
        trial: String,
        #[command(flatten)]
        settings: Settings,
    },
}

/// What is run, and on what.
#[derive(clap::Args, Default)]
pub struct Settings {
    /// A profile of the matrix file: how often and how long [default: smoke]
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// The QEMU under test [default: the distribution's]
    #[arg(long, value_name = "PATH")]
    qemu: Option<PathBuf>,
    /// Where that QEMU looks for firmware (its -L); may be given more than once
    #[arg(long, value_name = "DIR", value_parser = firmware_dir)]
    firmware: Vec<PathBuf>,
    /// How guest code is run; auto takes KVM where it is shown to work [default: auto]
    #[arg(long)]
    accel: Option<Accel>,
    /// The matrix file [default: matrix.toml]
    #[arg(long, value_name = "FILE")]
    matrix: Option<PathBuf>,
    /// Run every case under each of its faults; one that stays green is a failure
    #[arg(long)]
    pub faults: bool,
    /// Never install packages: fail and say what is missing
    #[arg(long)]
    pub no_install: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Accel {
    Auto,
    Kvm,
    Tcg,
}

/// Which trials, and how many at once.
#[derive(clap::Args, Default)]
struct Select {
    /// Only trials whose name contains this
    filter: Option<String>,
    /// FILTER is the whole name
    #[arg(long, requires = "filter")]
    exact: bool,
    /// Leave out trials whose name contains this; may be given more than once
    #[arg(long, value_name = "TEXT")]
    skip: Vec<String>,
    /// Trials at once [default: one a processor]
    #[arg(long, short, value_name = "N")]
    jobs: Option<NonZeroU32>,
    /// Only the K-th of N parts, from 1
    #[arg(long, value_name = "K/N")]
    shard: Option<String>,
}

/// How verdicts are reached and where they go.
#[derive(clap::Args, Default)]
struct Results {
    /// Further tries of a trial that failed; it counts as flaky if one passes [default: 0]
    #[arg(long, value_name = "N")]
    retries: Option<u32>,
    /// Where the JUnit file goes
    #[arg(long, value_name = "PATH")]
    junit: Option<PathBuf>,
}

fn firmware_dir(text: &str) -> Result<PathBuf, String> {
    // The harness takes a list separated by colons.
    if text.contains(':') {
        Err("a path with `:` in it cannot be used".into())
    } else {
        Ok(text.into())
    }
}

/// The user's path, meant from `cwd`.
fn absolute(cwd: &Path, path: &Path) -> OsString {
    cwd.join(path).into_os_string()
}

/// Variables for the harness.
pub type Env = Vec<(&'static str, OsString)>;

impl Settings {
    /// Variables for what the user gave; what was not given is left to the environment.
    pub fn env(&self, cwd: &Path) -> Env {
        let mut env = Env::new();
        env.extend(
            self.profile
                .as_ref()
                .map(|p| ("NICMATRIX_PROFILE", p.into())),
        );
        env.extend(self.qemu.as_ref().map(|qemu| {
            // A bare name is looked for in PATH, as a shell would.
            let bare = qemu.components().count() == 1 && !qemu.starts_with(".");
            (
                "NICMATRIX_QEMU",
                if bare {
                    qemu.into()
                } else {
                    absolute(cwd, qemu)
                },
            )
        }));
        if !self.firmware.is_empty() {
            let dirs: Vec<OsString> = self.firmware.iter().map(|d| absolute(cwd, d)).collect();
            env.push(("NICMATRIX_FIRMWARE", dirs.join(":".as_ref())));
        }
        env.extend(
            self.accel
                .and_then(|accel| accel.to_possible_value())
                .map(|accel| ("NICMATRIX_ACCEL", accel.get_name().into())),
        );
        env.extend(
            self.matrix
                .as_ref()
                .map(|m| ("NICMATRIX_MATRIX", absolute(cwd, m))),
        );
        if self.faults {
            env.push(("NICMATRIX_FAULTS", "1".into()));
        }
        env
    }

    /// What a run with these settings needs, built and installed.
    pub fn prepare(&self, place: &Place) -> Result<Harness> {
        let own_qemu = self.qemu.is_some() || std::env::var_os("NICMATRIX_QEMU").is_some();
        setup::ensure(!self.no_install, own_qemu)?;
        build::harness(&place.root)
    }
}

impl Select {
    fn argv(&self) -> Vec<OsString> {
        let mut argv: Vec<OsString> = self.filter.iter().map(OsString::from).collect();
        if self.exact {
            argv.push("--exact".into());
        }
        for text in &self.skip {
            argv.extend(["--skip".into(), text.into()]);
        }
        if let Some(jobs) = self.jobs {
            argv.extend(["--test-threads".into(), jobs.to_string().into()]);
        }
        argv
    }
}

pub fn run(place: &Place, args: &Args) -> Result<ExitCode> {
    let (mut command, settings) = match &args.look {
        Some(Look::List {
            filter,
            json,
            settings,
        }) => {
            let mut command = Command::new(settings.prepare(place)?.nicmatrix);
            command
                .arg("list")
                .args(json.then_some("--json"))
                .args(filter);
            (command, settings)
        }
        Some(Look::Explain { trial, settings }) => {
            let mut command = Command::new(settings.prepare(place)?.nicmatrix);
            command.args(["explain", trial]);
            (command, settings)
        }
        None => {
            let mut command = Command::new(args.settings.prepare(place)?.matrix);
            command.args(args.select.argv());
            command.envs(args.select.shard.as_ref().map(|s| ("NICMATRIX_SHARD", s)));
            let results = &args.results;
            command.envs(
                results
                    .retries
                    .map(|n| ("NICMATRIX_RETRIES", n.to_string())),
            );
            let junit = results
                .junit
                .as_ref()
                .map(|path| absolute(&place.cwd, path));
            command.envs(junit.map(|path| ("NICMATRIX_JUNIT", path)));
            (command, &args.settings)
        }
    };
    command
        .current_dir(&place.root)
        .envs(settings.env(&place.cwd));
    Ok(ExitCode::from(child::code(child::run(&mut command)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Args {
        Line::parse_from(format!("matrix {line}").split_whitespace()).args
    }

    fn env(line: &str) -> Vec<String> {
        let shown = |(key, value): (&str, OsString)| format!("{key}={}", value.display());
        parse(line)
            .settings
            .env(Path::new("/home/u"))
            .into_iter()
            .map(shown)
            .collect()
    }

    #[test]
    fn what_is_not_given_is_left_to_the_environment() {
        assert!(env("").is_empty());
        assert!(parse("").select.argv().is_empty());
    }

    #[test]
    fn flags_become_variables() {
        let line = "--profile full --accel tcg --matrix m.toml --faults \
                    --firmware pc-bios --firmware /usr/share/seabios";
        let expected = [
            "NICMATRIX_PROFILE=full",
            "NICMATRIX_FIRMWARE=/home/u/pc-bios:/usr/share/seabios",
            "NICMATRIX_ACCEL=tcg",
            "NICMATRIX_MATRIX=/home/u/m.toml",
            "NICMATRIX_FAULTS=1",
        ];
        assert_eq!(env(line), expected);
    }

    #[test]
    fn a_qemu_is_a_path_from_here_or_a_name_in_path() {
        assert_eq!(
            env("--qemu build/qemu"),
            ["NICMATRIX_QEMU=/home/u/build/qemu"]
        );
        assert_eq!(env("--qemu ./qemu"), ["NICMATRIX_QEMU=/home/u/./qemu"]);
        assert_eq!(env("--qemu /opt/qemu"), ["NICMATRIX_QEMU=/opt/qemu"]);
        assert_eq!(env("--qemu qemu-kvm"), ["NICMATRIX_QEMU=qemu-kvm"]);
    }

    #[test]
    fn a_selection_becomes_libtest_arguments() {
        let argv = parse("mtu --exact --skip a --skip b --jobs 3")
            .select
            .argv();
        let expected = [
            "mtu",
            "--exact",
            "--skip",
            "a",
            "--skip",
            "b",
            "--test-threads",
            "3",
        ];
        assert_eq!(argv, expected);
    }

    #[test]
    fn subcommands_have_their_own_flags() {
        let args = parse("list --json --faults mtu");
        let Some(Look::List {
            filter,
            json: true,
            settings,
        }) = args.look
        else {
            panic!("no list")
        };
        assert_eq!(filter.as_deref(), Some("mtu"));
        assert!(settings.faults);
    }

    #[test]
    fn bad_lines_are_refused() {
        for line in [
            "one two",
            "--exact",
            "--jobs 0",
            "--firmware a:b",
            "--accel hvf",
            "--retries -1",
        ] {
            let words = format!("matrix {line}");
            assert!(
                Line::try_parse_from(words.split_whitespace()).is_err(),
                "{line}"
            );
        }
    }
}
