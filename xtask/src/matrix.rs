//! `cargo xtask matrix`: flags in, settings and libtest arguments out.

use crate::again::{self, Kept};
use crate::against::{self, Against};
use crate::settings::Settings;
use crate::{BadInput, Workspace, bisect, child, runs};
use anyhow::{Result, bail};
use clap::Subcommand;
use report::flags::{Flags, Only, Output, Results, Selection};
use report::name::is_under_fault;
use report::outln;
use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  cargo xtask matrix                                  the smoke profile
  cargo xtask matrix hotplug mtu_max::e1000           trials whose name contains one of these
  cargo xtask matrix --nic virtio,e1000 --guest rhel9 --case pxe,driver
  cargo xtask matrix ::virtio:: --profile full        one NIC model, the plan's own figures
  cargo xtask matrix --qemu ~/qemu/build/qemu-system-x86_64 --firmware ~/qemu/pc-bios
  cargo xtask matrix --qemu new=build/qemu-system-x86_64    beside the distribution's
  cargo xtask matrix --qemu trixie driver             one of the matrix file's QEMUs
  cargo xtask matrix --boot ping                      boot every guest; restore none from a checkpoint
  cargo xtask matrix vhost_zcopy                      in a lab, where this kernel has no vhost_net
  cargo xtask matrix --faults                         every case must go red under its faults
  cargo xtask matrix --shard 1/4 --junit junit.xml    a quarter of it, in a pipeline
  cargo xtask matrix --confirm 5                      is a failure solid or flaky?
  cargo xtask matrix --profile netperf --nic virtio --against trixie    which is faster?
  cargo xtask matrix --failed latest                  what was not green the last time
  cargo xtask matrix list --json mtu
  cargo xtask matrix list --plan                      the test plan's items, and what carries them
  cargo xtask matrix explain driver::virtio::rhel9::tap

Which commit of QEMU broke it (a commit that does not build is passed over):
  cd ~/qemu && git bisect start BAD GOOD
  git bisect run sh -c 'ninja -C build || exit 125
    cd ~/nicmatrix && exec cargo xtask matrix --bisect-exit \\
      --qemu ~/qemu/build/qemu-system-x86_64 --firmware ~/qemu/pc-bios hotplug_qmp::e1000::rhel9::tap'";

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    look: Option<Look>,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    only: Only,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    results: Results,
    #[command(flatten)]
    against: Against,
    /// Run what was not green in this run (failed, broken, flaky, cut off or not run), with its settings
    /// where no flag says otherwise: a run's name or directory, also `latest`
    #[arg(long, value_name = "RUN", conflicts_with_all = ["words", "exact", "shard"])]
    failed: Option<PathBuf>,
    /// Exit as `git bisect run` understands it: 0 a NIC works, 1 one failed, 125 where nothing is said of
    /// one (bad input, broken, all skipped or known to fail)
    #[arg(long, conflicts_with_all = ["failed", "against"])]
    bisect_exit: bool,
}

#[derive(Subcommand)]
enum Look {
    /// Print the trials' names, and why some would be skipped
    #[command(after_help = "Example:\n  cargo xtask matrix list --faults mtu_max::e1000")]
    List {
        /// Only trials whose name contains one of these
        #[arg(value_name = "FILTER")]
        words: Vec<String>,
        /// One JSON object a trial
        #[arg(long)]
        json: bool,
        /// The items of the test plan, with the cases that carry them and how many trials
        #[arg(long, conflicts_with = "json")]
        plan: bool,
        #[command(flatten)]
        only: Only,
        #[command(flatten)]
        selection: Selection,
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

/// Which trials, and how many at once.
#[derive(clap::Args, Default)]
struct Filters {
    /// Only trials whose name contains one of these
    #[arg(value_name = "FILTER")]
    words: Vec<String>,
    /// Trials at once, at most [default: as many as processors and memory carry]
    #[arg(long, short, value_name = "N")]
    jobs: Option<NonZeroU32>,
}

impl Filters {
    fn argv(&self) -> Vec<OsString> {
        let mut argv: Vec<OsString> = Vec::new();
        if let Some(jobs) = self.jobs {
            argv.extend(["--test-threads".into(), jobs.to_string().into()]);
        }
        argv
    }
}

/// What is chosen by flags and by filters.
pub fn chosen(mut only: Only, words: Vec<String>) -> Result<Only, BadInput> {
    only.filter.extend(words);
    if only.exact && only.filter.is_empty() {
        let message = "--exact says that FILTER is a trial's whole name, and no FILTER is given";
        return Err(BadInput(message.into()));
    }
    Ok(only)
}

/// What has a trial of that name.
pub fn selection_of(trial: &str) -> Selection {
    Selection {
        faults: is_under_fault(trial),
        ..Selection::default()
    }
}

pub fn run(workspace: &Workspace, args: Args) -> Result<ExitCode> {
    let mut command = match args.look {
        Some(Look::List {
            words,
            json,
            plan,
            only,
            selection,
            settings,
        }) => {
            let flags = Flags {
                selection,
                only: chosen(only, words)?,
                ..Flags::default()
            };
            let mut command = settings.command(workspace, |h| &h.nicmatrix, flags)?;
            command
                .arg("list")
                .args(json.then_some("--json"))
                .args(plan.then_some("--plan"));
            command
        }
        Some(Look::Explain { trial, settings }) => {
            let flags = Flags {
                selection: selection_of(&trial),
                ..Flags::default()
            };
            let mut command = settings.command(workspace, |h| &h.nicmatrix, flags)?;
            command.args(["explain", &trial]);
            command
        }
        None => return trials(workspace, args),
    };
    Ok(ExitCode::from(child::code(child::run(&mut command)?)))
}

/// Runs trials.
fn trials(workspace: &Workspace, args: Args) -> Result<ExitCode> {
    let mut settings = args.settings;
    let mut flags = Flags {
        selection: args.selection,
        only: chosen(args.only, args.filters.words.clone())?,
        results: args.results,
        output: Output {
            table: true,
            ..Output::default()
        },
        ..Flags::default()
    };
    if let Some(run) = &args.failed {
        let kept = Kept::find(workspace, run)?;
        if kept.results.trials.is_empty() {
            bail!(BadInput(again::nothing_to_do(&kept.results, &flags.only)));
        }
        let names = again::not_green(&kept.results, &flags.only);
        if names.is_empty() {
            outln!("{}", again::nothing_to_do(&kept.results, &flags.only));
            return Ok(ExitCode::SUCCESS);
        }
        settings.take_over(workspace, &kept)?;
        flags.selection.faults |= kept.results.faults;
        flags.only.filter = names;
        flags.only.exact = true;
    }
    let argv = args.filters.argv();
    if let Some(other) = &args.against.against {
        return against::run(workspace, &settings, flags, &argv, &args.against, other);
    }
    let mut command = settings.command(workspace, |h| &h.matrix, flags)?;
    command.args(argv);
    if !args.bisect_exit {
        return Ok(ExitCode::from(child::code(child::run(&mut command)?)));
    }
    let directory = runs::name(&mut command, workspace);
    let code = child::code(child::run(&mut command)?);
    let results = runs::read(&directory).ok();
    Ok(ExitCode::from(bisect::code(code, results.as_ref())))
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

    #[test]
    fn without_flags_there_are_no_arguments() {
        assert!(parse("").filters.argv().is_empty());
    }

    #[test]
    fn what_libtest_knows_becomes_its_arguments() {
        let argv = parse("mtu --skip a --jobs 3").filters.argv();
        assert_eq!(argv, ["--test-threads", "3"]);
    }

    #[test]
    fn filters_and_axes_choose_together() {
        let args = parse("one two --nic virtio,e1000 --skip a --skip b --exact");
        let only = chosen(args.only, args.filters.words).unwrap();
        assert_eq!(only.filter, ["one", "two"]);
        assert_eq!(only.nic, ["virtio", "e1000"]);
        assert_eq!(only.skip, ["a", "b"]);
        assert!(only.exact);
        assert!(chosen(parse("--exact").only, Vec::new()).is_err());
    }

    #[test]
    fn subcommands_have_their_own_flags() {
        let args = parse("list --json --faults mtu");
        let Some(Look::List {
            words,
            json: true,
            selection: Selection { faults: true, .. },
            ..
        }) = args.look
        else {
            panic!("no list")
        };
        assert_eq!(words, ["mtu"]);
    }

    #[test]
    fn bad_lines_are_refused() {
        for line in [
            "--jobs 0",
            "--accel hvf",
            "--retries -1",
            "--shard 3/2",
            "--bisect-exit --against trixie",
            "--starts 3",
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
