//! `cargo xtask repro`: one trial with everything shown.

use crate::again::Kept;
use crate::matrix;
use crate::settings::Settings;
use crate::{BadInput, Workspace, child};
use anyhow::{Context, Result, bail};
use report::errln;
use report::flags::{Flags, Output, Terminal};
use report::identity::Identity;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};

const EXAMPLES: &str = "\
Examples:
  cargo xtask repro mac_change::e1000::rhel6::tap
  cargo xtask repro mac_change::e1000::rhel6::tap --shell --qemu ~/qemu/build/qemu-system-x86_64
  cargo xtask repro 'ping_sweep!lossy::virtio::rhel6::tap'
  cargo xtask repro driver::virtio::rhel9::tap --from ~/Downloads/matrix-run";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The trial's full name (see `cargo xtask matrix list`)
    trial: String,
    /// With the settings of this run where no flag says otherwise; what differs here is said before. A
    /// run's name, `latest`, an events.jsonl, or the directory of an unpacked artifact
    #[arg(long, value_name = "RUN|DIR")]
    from: Option<PathBuf>,
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

pub fn run(workspace: &Workspace, args: &mut Args) -> Result<ExitCode> {
    if let Some(from) = &args.from {
        let kept = Kept::with_trial(workspace, from, &args.trial)?;
        if let Some(trial) = kept.trial(&args.trial) {
            let verdict = trial.outcome().verdict();
            let cause = trial.cause();
            let colon = if cause.is_empty() { "" } else { ": " };
            errln!("in {}: {verdict}{colon}{cause}", workspace.show(&kept.log));
        }
        args.settings.take_over(workspace, &kept)?;
        say_differences(workspace, args, kept.identity.as_ref())?;
    }
    let mut command = args
        .settings
        .command(workspace, |h| &h.matrix, args.flags())?;
    command.args(args.argv());
    Ok(ExitCode::from(child::code(child::run(&mut command)?)))
}

/// Says what differs here from where the run with the identity `there` was made.
fn say_differences(workspace: &Workspace, args: &Args, there: Option<&Identity>) -> Result<()> {
    let Some(there) = there else {
        errln!("its log does not say where it was run, so that differences are not known");
        return Ok(());
    };
    let mut command = args
        .settings
        .command(workspace, |h| &h.nicmatrix, args.flags())?;
    let output = command
        .arg("identity")
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start the harness")?;
    if !output.status.success() {
        // It has said why.
        let ended = format!(
            "the harness cannot tell what this is here: {}",
            output.status
        );
        match output.status.code() {
            Some(2) => bail!(BadInput(ended)),
            _ => bail!(ended),
        }
    }
    let here: Identity = serde_json::from_slice(&output.stdout)
        .context("the harness's identity is not understood")?;
    let differences = there.differences(&here);
    if differences.is_empty() {
        errln!("nothing that the log tells of differs here");
    }
    differences
        .iter()
        .for_each(|difference| errln!("differs: {difference}"));
    Ok(())
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
