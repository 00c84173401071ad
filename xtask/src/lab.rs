//! `cargo xtask lab`: a disposable host with vhost_net that several runs share.

use crate::settings::Settings;
use crate::{Workspace, child};
use anyhow::{Context, Result, bail};
use clap::{Subcommand, ValueEnum};
use report::flags::Flags;
use report::outln;
use report::words::OneOf;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{ExitCode, Stdio};

const EXAMPLES: &str = "\
Examples:
  cargo xtask lab up                      one for vhost, one for vhost_zcopy
  cargo xtask lab up --backend vhost
  cargo nextest run -p harness --test matrix ::vhost
  cargo xtask lab shell                   look around inside
  cargo xtask lab down";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Start the labs that are not up; runs then use these instead of starting their own
    #[command(after_help = "Example:\n  cargo xtask lab up --backend vhost_zcopy")]
    Up {
        /// Start only the lab for this backend
        #[arg(long, value_parser = OneOf::<Backend>::new())]
        backend: Option<Backend>,
        #[command(flatten)]
        settings: Box<Settings>,
    },
    /// Say which labs are up
    Status,
    /// Open a shell inside the first lab that is up
    Shell,
    /// End the labs that are up
    Down,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Backend {
    Vhost,
    VhostZcopy,
}

pub fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let word = match &args.what {
        What::Up { backend, settings } => {
            for each in [Backend::Vhost, Backend::VhostZcopy] {
                if backend.is_none_or(|wanted| wanted == each) {
                    up(workspace, settings, each)?;
                }
            }
            return Ok(ExitCode::SUCCESS);
        }
        What::Status => "status",
        What::Shell => "shell",
        What::Down => "down",
    };
    let mut command = Settings::default().command(workspace, |h| &h.nicmatrix, Flags::default())?;
    command.args(["lab", word]);
    Ok(ExitCode::from(child::code(child::run(&mut command)?)))
}

/// Starts a keeper, which outlives this process, and waits until it says that its lab is up.
fn up(workspace: &Workspace, settings: &Settings, backend: Backend) -> Result<()> {
    let name = match backend {
        Backend::Vhost => "vhost",
        Backend::VhostZcopy => "vhost_zcopy",
    };
    let directory = workspace.harness_dir().join("lab");
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let log = directory.join(format!("{name}.log"));
    let log_file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = settings.command(workspace, |h| &h.nicmatrix, Flags::default())?;
    command
        .args(["lab", "keep"])
        .args((backend == Backend::VhostZcopy).then_some("--zcopytx"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log_file)
        // A Ctrl-C here is not meant for the keeper.
        .process_group(0);
    let mut keeper = command
        .spawn()
        .with_context(|| format!("cannot start {}", child::describe(&command)))?;
    let mut line = String::new();
    let stdout = keeper.stdout.take().context("the keeper has no stdout")?;
    BufReader::new(stdout).read_line(&mut line)?;
    if line.is_empty() {
        let status = keeper.wait()?;
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        bail!("no lab for {name} ({status}): {}", said.trim());
    }
    outln!("{name:<12} {}", line.trim());
    Ok(())
}
