//! `cargo xtask repro`: one trial with everything shown.

use crate::matrix;
use crate::settings::Settings;
use crate::{Workspace, child};
use anyhow::Result;
use report::flags::{Flags, Output, Terminal};
use std::ffi::OsString;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  cargo xtask repro mac_change::e1000::rhel6::tap
  cargo xtask repro mac_change::e1000::rhel6::tap --shell --qemu ~/qemu/build/qemu-system-x86_64
  cargo xtask repro 'ping_sweep!lossy::virtio::rhel6::tap'";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The trial's full name (see `cargo xtask matrix list`)
    trial: String,
    #[command(flatten)]
    terminal: Terminal,
    #[command(flatten)]
    settings: Settings,
}

impl Args {
    fn argv(&self) -> [OsString; 4] {
        [
            (&self.trial).into(),
            "--exact".into(),
            "--test-threads".into(),
            "1".into(),
        ]
    }

    /// Besides the conditions.
    fn flags(&self) -> Flags {
        Flags {
            selection: matrix::selection_of(&self.trial),
            terminal: self.terminal.clone(),
            output: Output {
                table: true,
                show: true,
                ..Output::default()
            },
            ..Flags::default()
        }
    }
}

pub fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let mut command = args
        .settings
        .command(workspace, |h| &h.matrix, args.flags())?;
    command.args(args.argv());
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
        Line::parse_from(format!("repro {line}").split_whitespace()).args
    }

    #[test]
    fn one_trial_one_thread() {
        let argv = parse("driver::virtio::rhel9::tap").argv();
        assert_eq!(
            argv,
            [
                "driver::virtio::rhel9::tap",
                "--exact",
                "--test-threads",
                "1"
            ]
        );
    }

    #[test]
    fn the_name_tells_of_fault_mode() {
        let plain = parse("driver::virtio::rhel9::tap").flags();
        assert!(!plain.selection.faults && !plain.terminal.shell);
        assert!(plain.output.table && plain.output.show);
        let fault = parse("driver!unbound::virtio::rhel9::tap --shell").flags();
        assert!(fault.selection.faults && fault.terminal.shell);
    }
}
