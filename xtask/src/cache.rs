//! `cargo xtask cache`: the saved guests that trials start from.

use crate::{Workspace, build, child};
use anyhow::Result;
use clap::Subcommand;
use std::process::{Command, ExitCode};

const EXAMPLES: &str = "\
Examples:
  cargo xtask cache list
  cargo xtask cache clear    the next run makes them again, a boot each";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Print what is saved, the longest unused first
    List,
    /// Remove all that is not in use
    Clear,
}

pub fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let word = match args.what {
        What::List => "list",
        What::Clear => "clear",
    };
    let mut command = Command::new(build::harness(&workspace.root)?.nicmatrix);
    command.current_dir(&workspace.root).args(["cache", word]);
    Ok(ExitCode::from(child::code(child::run(&mut command)?)))
}
