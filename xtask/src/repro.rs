//! `cargo xtask repro`: one trial with everything shown.

use crate::matrix::{self, Settings};
use crate::{Place, child};
use anyhow::Result;
use report::name::is_under_fault;
use std::ffi::OsString;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  cargo xtask repro mac_change::e1000::rhel6::tap
  cargo xtask repro mac_change::e1000::rhel6::tap --shell --qemu ~/qemu/build/qemu-system-x86_64
  cargo xtask repro 'ping_sweep!loss::virtio::rhel9::tap'";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The trial's full name (see `cargo xtask matrix list`)
    trial: String,
    /// Keep the VM at the end, with serial console and monitor on this terminal
    #[arg(long)]
    shell: bool,
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

    fn env(&self) -> Vec<(&'static str, &'static str)> {
        let mut env = vec![("NICMATRIX_TABLE", "1"), ("NICMATRIX_SHOW", "1")];
        if self.shell {
            env.push(("NICMATRIX_SHELL", "1"));
        }
        env.extend(matrix::faults(is_under_fault(&self.trial)));
        env
    }
}

pub fn run(place: &Place, args: &Args) -> Result<ExitCode> {
    let mut command = args.settings.command(place, |h| &h.matrix)?;
    command.args(args.argv()).envs(args.env());
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
        let plain = parse("driver::virtio::rhel9::tap");
        assert_eq!(
            plain.env(),
            [("NICMATRIX_TABLE", "1"), ("NICMATRIX_SHOW", "1")]
        );
        let fault = parse("driver!unbind::virtio::rhel9::tap --shell");
        let expected = [
            ("NICMATRIX_TABLE", "1"),
            ("NICMATRIX_SHOW", "1"),
            ("NICMATRIX_SHELL", "1"),
            ("NICMATRIX_FAULTS", "1"),
        ];
        assert_eq!(fault.env(), expected);
    }
}
