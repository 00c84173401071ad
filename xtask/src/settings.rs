//! The settings of the commands that run something, and how the harness is handed them.

use crate::build::{self, Harness};
use crate::{BadInput, Workspace, setup};
use anyhow::{Result, bail};
use report::flags::{self, Conditions, Flags};
use std::path::PathBuf;
use std::process::Command;

/// What is run, and on what.
#[derive(clap::Args, Default)]
pub struct Settings {
    #[command(flatten)]
    pub conditions: Conditions,
    /// Those that hold where neither a flag nor a variable says otherwise.
    #[arg(skip)]
    pub under: Conditions,
    /// Never install packages: fail and say what is missing
    #[arg(long)]
    no_install: bool,
}

impl Settings {
    /// All settings: these flags and `more`, then the user's variables where there is no flag.
    ///
    /// # Errors
    /// A path that is not UTF-8.
    pub fn with(&self, workspace: &Workspace, more: Flags) -> Result<Flags> {
        let conditions = self.conditions.clone();
        let given = Flags { conditions, ..more };
        let under = Flags {
            conditions: self.under.clone(),
            ..Flags::default()
        };
        let given = given.meant_from(&workspace.cwd).or(&workspace.variables)?;
        Ok(given.or(&under)?)
    }

    /// What a run with these settings needs, built and installed.
    pub fn prepare(&self, workspace: &Workspace) -> Result<Harness> {
        let own_qemu = setup::own_qemu(&self.conditions)
            || setup::own_qemu(&self.under)
            || setup::own_qemu(&workspace.variables.conditions);
        setup::ensure(setup::For::Trials, !self.no_install, own_qemu)?;
        build::harness(&workspace.root)
    }

    /// One of the harness's programs, with these settings and `more`.
    pub fn command(
        &self,
        workspace: &Workspace,
        which: fn(&Harness) -> &PathBuf,
        more: Flags,
    ) -> Result<Command> {
        let flags = self.with(workspace, more)?;
        let mut command = Command::new(which(&self.prepare(workspace)?));
        hand_over(&mut command, workspace, &flags)?;
        Ok(command)
    }
}

/// What the kernel hands a process as one variable, at most, bytes: MAX_ARG_STRLEN, less the name.
const LONGEST_VARIABLE: usize = 128 * 1024 - 64;

/// Runs a command of the harness in the workspace with these settings.
///
/// # Errors
/// A path that is not UTF-8; names of more trials than a process can be handed.
pub fn hand_over(command: &mut Command, workspace: &Workspace, flags: &Flags) -> Result<()> {
    let all = flags.to_json()?;
    if all.len() > LONGEST_VARIABLE {
        bail!(BadInput(format!(
            "{} trials are too many to be named one by one: choose among them, for example with --case or --nic",
            flags.only.filter.len()
        )));
    }
    command.current_dir(&workspace.root).env(flags::ALL, all);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use report::flags::Output;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        settings: Settings,
    }

    #[test]
    fn more_names_than_a_process_can_be_handed_are_refused() {
        let workspace = Workspace {
            root: "/".into(),
            cwd: "/".into(),
            variables: Flags::default(),
        };
        let handed = |names: usize| {
            let mut flags = Flags::default();
            flags.only.filter = vec!["driver::virtio::rhel9::vhost_zcopy".into(); names];
            hand_over(&mut Command::new("true"), &workspace, &flags)
        };
        handed(3000).unwrap();
        let error = handed(4000).unwrap_err();
        assert!(error.is::<BadInput>(), "{error}");
        assert!(error.to_string().starts_with("4000 trials"), "{error}");
    }

    #[test]
    fn a_flag_is_meant_from_here_and_a_variable_as_it_is() {
        let line = ["x", "--matrix", "m.toml", "--boot"];
        let settings = Line::parse_from(line).settings;
        let workspace = Workspace {
            root: "/root".into(),
            cwd: "/home/u".into(),
            variables: Flags {
                conditions: Conditions {
                    matrix: Some("other.toml".into()),
                    qemu: vec!["build/qemu".parse().unwrap()],
                    ..Conditions::default()
                },
                ..Flags::default()
            },
        };
        let output = Output {
            table: true,
            ..Output::default()
        };
        let more = Flags {
            output: output.clone(),
            ..Flags::default()
        };
        let expected = Flags {
            conditions: Conditions {
                matrix: Some("/home/u/m.toml".into()),
                qemu: vec!["build/qemu".parse().unwrap()],
                boot: true,
                ..Conditions::default()
            },
            output,
            ..Flags::default()
        };
        assert_eq!(settings.with(&workspace, more).unwrap(), expected);
    }
}
