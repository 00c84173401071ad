//! `cargo xtask matrix`: flags in, settings and libtest arguments out.

use crate::settings::Settings;
use crate::{Workspace, child};
use anyhow::Result;
use clap::Subcommand;
use clap::error::ErrorKind;
use report::flags::{Flags, Output, Results, Selection};
use report::name::is_under_fault;
use std::ffi::OsString;
use std::num::NonZeroU32;
use std::process::ExitCode;

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
    filters: Filters,
    #[command(flatten)]
    selection: Selection,
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
        /// The items of the test plan, with the cases that carry them and how many trials
        #[arg(long, conflicts_with = "json")]
        plan: bool,
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
}

impl Filters {
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
            filter,
            json,
            plan,
            selection,
            settings,
        }) => {
            let flags = Flags {
                selection,
                ..Flags::default()
            };
            let mut command = settings.command(workspace, |h| &h.nicmatrix, flags)?;
            command
                .arg("list")
                .args(json.then_some("--json"))
                .args(plan.then_some("--plan"))
                .args(filter);
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
        None => {
            let argv = args.filters.argv().unwrap_or_else(|e| e.exit());
            let flags = Flags {
                selection: args.selection,
                results: args.results,
                output: Output {
                    table: true,
                    ..Output::default()
                },
                ..Flags::default()
            };
            let mut command = args.settings.command(workspace, |h| &h.matrix, flags)?;
            command.args(argv);
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

    #[test]
    fn without_flags_there_are_no_arguments() {
        assert!(parse("").filters.argv().unwrap().is_empty());
    }

    #[test]
    fn a_selection_becomes_libtest_arguments() {
        let argv = parse("mtu --exact --skip a --skip b --jobs 3")
            .filters
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
            selection: Selection { faults: true, .. },
            ..
        }) = args.look
        else {
            panic!("no list")
        };
        assert_eq!(filter.as_deref(), Some("mtu"));
    }

    #[test]
    fn a_second_filter_is_refused() {
        let error = parse("one two").filters.argv().unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("`one` and `two`"), "{error}");
    }

    #[test]
    fn bad_lines_are_refused() {
        for line in [
            "--exact",
            "--jobs 0",
            "--accel hvf",
            "--retries -1",
            "--shard 3/2",
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
