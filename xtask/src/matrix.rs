//! `cargo xtask matrix`: flags in, environment and libtest arguments out.

use crate::build::{self, Harness};
use crate::{Place, child, setup};
use anyhow::Result;
use clap::error::ErrorKind;
use clap::{Subcommand, ValueEnum};
use report::name::is_under_fault;
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
  cargo xtask matrix --boot ping                      boot every guest; restore none from a checkpoint
  cargo xtask matrix vhost_zcopy                      in a lab, where this kernel has no vhost_net
  cargo xtask matrix --faults                         every case must go red under its faults
  cargo xtask matrix --shard 1/4 --junit junit.xml    a quarter of it, in a pipeline
  cargo xtask matrix list --json mtu
  cargo xtask matrix list --plan                      the test plan's items, and what carries them
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
    /// Run every case under each of its faults; one that stays green is a failure
    #[arg(long)]
    faults: bool,
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
        /// The items of the test plan, with the cases that carry them and how many trials
        #[arg(long, conflicts_with = "json")]
        plan: bool,
        /// Every case under each of its faults
        #[arg(long)]
        faults: bool,
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
    /// Whose kernel carries taps and vhost: this machine's, a disposable VM's, or as the matrix file says
    #[arg(long)]
    host: Option<Host>,
    /// Let trials on this machine reload vhost_net with the setting that they need (for a machine that is
    /// thrown away after; as root); it is put back
    #[arg(long)]
    allow_module_reload: bool,
    /// Boot every guest; restore none from a checkpoint
    #[arg(long)]
    boot: bool,
    /// The matrix file [default: matrix.toml]
    #[arg(long, value_name = "FILE")]
    matrix: Option<PathBuf>,
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

#[derive(Clone, Copy, ValueEnum)]
enum Host {
    Auto,
    Direct,
    Lab,
}

/// Which trials, and how many at once.
#[derive(clap::Args, Default)]
struct Select {
    /// Only trials whose name contains this
    filter: Vec<String>,
    /// FILTER is the whole name
    #[arg(long, requires = "filter")]
    exact: bool,
    /// Leave out trials whose name contains this; may be given more than once
    #[arg(long, value_name = "TEXT")]
    skip: Vec<String>,
    /// Trials at once, at most [default: as many as processors and memory carry]
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
            self.host
                .and_then(|host| host.to_possible_value())
                .map(|host| ("NICMATRIX_HOST", host.get_name().into())),
        );
        let reload = self.allow_module_reload;
        env.extend(reload.then(|| ("NICMATRIX_ALLOW_MODULE_RELOAD", "1".into())));
        env.extend(
            self.matrix
                .as_ref()
                .map(|m| ("NICMATRIX_MATRIX", absolute(cwd, m))),
        );
        env.extend(self.boot.then(|| ("NICMATRIX_BOOT", "1".into())));
        env
    }

    /// What a run with these settings needs, built and installed.
    pub fn prepare(&self, place: &Place) -> Result<Harness> {
        let own_qemu = self.qemu.is_some() || crate::var("NICMATRIX_QEMU").is_some();
        setup::ensure(setup::For::Trials, !self.no_install, own_qemu)?;
        build::harness(&place.root)
    }

    /// One of the harness's programs, with these settings.
    pub fn command(&self, place: &Place, which: fn(&Harness) -> &PathBuf) -> Result<Command> {
        let mut command = Command::new(which(&self.prepare(place)?));
        command.current_dir(&place.root).envs(self.env(&place.cwd));
        Ok(command)
    }
}

impl Results {
    fn env(&self, cwd: &Path) -> Env {
        let mut env = Env::new();
        env.extend(
            self.retries
                .map(|n| ("NICMATRIX_RETRIES", n.to_string().into())),
        );
        env.extend(
            self.junit
                .as_ref()
                .map(|path| ("NICMATRIX_JUNIT", absolute(cwd, path))),
        );
        env
    }
}

impl Select {
    fn argv(&self) -> Result<Vec<OsString>, clap::Error> {
        if let [first, second, ..] = self.filter.as_slice() {
            let message = format!(
                "libtest takes one FILTER, and here are `{first}` and `{second}`; \
                 run twice, or take a part of the name that both have\n"
            );
            return Err(clap::Error::raw(ErrorKind::TooManyValues, message));
        }
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
        Ok(argv)
    }
}

/// Fault mode, for the harness.
pub fn faults(on: bool) -> Option<(&'static str, &'static str)> {
    on.then_some(("NICMATRIX_FAULTS", "1"))
}

pub fn run(place: &Place, args: &Args) -> Result<ExitCode> {
    let mut command = match &args.look {
        Some(Look::List {
            filter,
            json,
            plan,
            faults: on,
            settings,
        }) => {
            let mut command = settings.command(place, |h| &h.nicmatrix)?;
            command
                .arg("list")
                .args(json.then_some("--json"))
                .args(plan.then_some("--plan"))
                .args(filter)
                .envs(faults(*on));
            command
        }
        Some(Look::Explain { trial, settings }) => {
            let mut command = settings.command(place, |h| &h.nicmatrix)?;
            command
                .args(["explain", trial])
                .envs(faults(is_under_fault(trial)));
            command
        }
        None => {
            let argv = args.select.argv().unwrap_or_else(|e| e.exit());
            let mut command = args.settings.command(place, |h| &h.matrix)?;
            command
                .args(argv)
                .env("NICMATRIX_TABLE", "1")
                .envs(faults(args.faults))
                .envs(args.results.env(&place.cwd));
            command.envs(args.select.shard.as_ref().map(|s| ("NICMATRIX_SHARD", s)));
            command
        }
    };
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
        assert!(parse("").select.argv().unwrap().is_empty());
    }

    #[test]
    fn flags_become_variables() {
        let line = "--profile full --accel tcg --matrix m.toml --boot --allow-module-reload \
                    --firmware pc-bios --firmware /usr/share/seabios";
        let expected = [
            "NICMATRIX_PROFILE=full",
            "NICMATRIX_FIRMWARE=/home/u/pc-bios:/usr/share/seabios",
            "NICMATRIX_ACCEL=tcg",
            "NICMATRIX_ALLOW_MODULE_RELOAD=1",
            "NICMATRIX_MATRIX=/home/u/m.toml",
            "NICMATRIX_BOOT=1",
        ];
        assert_eq!(env(line), expected);
        let results = parse("--junit j.xml --retries 2")
            .results
            .env(Path::new("/home/u"));
        let expected = [
            ("NICMATRIX_RETRIES", "2".into()),
            ("NICMATRIX_JUNIT", "/home/u/j.xml".into()),
        ];
        assert_eq!(results, expected);
        assert_eq!(
            faults(parse("--faults").faults),
            Some(("NICMATRIX_FAULTS", "1"))
        );
        assert_eq!(faults(parse("").faults), None);
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
            .argv()
            .unwrap();
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
            faults: true,
            ..
        }) = args.look
        else {
            panic!("no list")
        };
        assert_eq!(filter.as_deref(), Some("mtu"));
    }

    #[test]
    fn a_second_filter_is_refused() {
        let error = parse("one two").select.argv().unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("`one` and `two`"), "{error}");
    }

    #[test]
    fn bad_lines_are_refused() {
        for line in [
            "--exact",
            "--jobs 0",
            "--firmware a:b",
            "--accel hvf",
            "--retries -1",
            "list --json --plan",
        ] {
            let words = format!("matrix {line}");
            assert!(
                Line::try_parse_from(words.split_whitespace()).is_err(),
                "{line}"
            );
        }
    }
}
