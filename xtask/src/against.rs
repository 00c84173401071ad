//! `cargo xtask matrix --against QEMU`: the figures of two QEMUs, start by start in turns.

use crate::settings::{Settings, hand_over};
use crate::{BadInput, CANNOT_RUN, Workspace, child, runs};
use anyhow::{Context, Result, bail};
use report::figures::against::Comparison;
use report::figures::show;
use report::flags::{Flags, QemuChoice};
use report::{Results, errln, markdown, out};
use std::ffi::OsString;
use std::process::{Command, ExitCode, Stdio};

/// The exit code where a figure became worse, as where a NIC failed.
const WORSE: u8 = 1;

/// With what the figures of a run are compared.
#[derive(clap::Args, Default)]
pub struct Against {
    /// Compare the figures with those of another QEMU: start by start in turns, on this machine (PATH,
    /// NAME=PATH or a name of the matrix file; use a profile that measures, such as netperf). --firmware is
    /// that of the QEMU which is given as a PATH
    #[arg(long, value_name = "QEMU")]
    pub against: Option<QemuChoice>,
    /// How often each QEMU's VMs are started: fewer than 5 show nothing
    #[arg(
        long,
        value_name = "N",
        default_value_t = 5,
        requires = "against",
        value_parser = clap::value_parser!(u32).range(1..=20)
    )]
    pub starts: u32,
}

/// One of the two QEMUs, and its runs so far.
struct Side {
    name: String,
    flags: Flags,
    runs: Vec<Results>,
}

impl Side {
    /// Whether its first run measured anything.
    fn measures(&self) -> bool {
        let trials = self.runs.iter().flat_map(|run| &run.trials);
        trials.flat_map(|trial| &trial.end.figures).next().is_some()
    }
}

/// Runs the trials of both QEMUs `args.starts` times in turns, A B B A, and shows which figures differ.
pub fn run(
    workspace: &Workspace,
    settings: &Settings,
    flags: Flags,
    argv: &[OsString],
    args: &Against,
    against: &QemuChoice,
) -> Result<ExitCode> {
    let flags = settings.with(workspace, flags)?;
    let mut sides = sides(&flags, &meant_from(workspace, against)?)?;
    let harness = settings.prepare(workspace)?;
    let mut worst = 0;
    for (start, side) in turns(args.starts) {
        if start == 2 && sides.iter().all(|side| !side.measures()) {
            break;
        }
        let Side { name, flags, runs } = &mut sides[side];
        errln!("start {start} of {} of {name}", args.starts);
        let mut command = Command::new(&harness.matrix);
        hand_over(&mut command, workspace, flags)?;
        // The summary of each run would bury that of the comparison.
        command
            .args(argv)
            .stdout(Stdio::null())
            .env_remove("GITHUB_STEP_SUMMARY");
        let directory = runs::name(&mut command, workspace);
        let code = child::code(child::run(&mut command)?);
        let read = runs::read(&directory);
        match code {
            0 | WORSE => runs.push(read?),
            code => return Ok(ExitCode::from(code)),
        }
        worst = worst.max(code);
    }
    let [first, second] = &sides;
    let comparison = Comparison::of(&first.runs, &second.runs);
    if comparison.figures.is_empty() {
        errln!(
            "error: nothing was measured that can be compared: choose trials of netperf, and a profile that has netperf_seconds"
        );
        return Ok(ExitCode::from(CANNOT_RUN));
    }
    let names = [first.name.as_str(), second.name.as_str()];
    out::shown(&show::terminal(&comparison, names));
    if let Some(summary) = std::env::var_os("GITHUB_STEP_SUMMARY") {
        markdown::append_text(summary.as_ref(), &show::markdown(&comparison, names))
            .with_context(|| format!("cannot append to {}", summary.display()))?;
    }
    if worst == WORSE {
        errln!(
            "a trial failed: see {}",
            workspace.show(&runs::dir(workspace))
        );
    }
    Ok(ExitCode::from(match comparison.is_worse() {
        true => WORSE,
        false => worst,
    }))
}

/// `choice`, with a relative path meant from the user's directory, as that of `--qemu`.
fn meant_from(workspace: &Workspace, choice: &QemuChoice) -> Result<QemuChoice> {
    let mut flags = Flags::default();
    flags.conditions.qemu.push(choice.clone());
    let mut meant = flags.meant_from(&workspace.cwd).conditions.qemu;
    meant.pop().context("a QEMU was given")
}

/// The number of each start, from 1, and whose it is: A B, B A, A B …, so that a machine that becomes
/// slower meanwhile does so for both.
fn turns(starts: u32) -> impl Iterator<Item = (u32, usize)> {
    (1..=starts).flat_map(|start| {
        let first = usize::from(start % 2 == 0);
        [(start, first), (start, 1 - first)]
    })
}

fn sides(flags: &Flags, against: &QemuChoice) -> Result<[Side; 2]> {
    let is_program = |choice: &&QemuChoice| matches!(choice, QemuChoice::Program(_));
    let all = flags.conditions.qemu.iter().chain([against]);
    let programs = all.filter(is_program).count();
    let side = |qemu: Vec<QemuChoice>, name: String| Side {
        name: format!("QEMU {name}"),
        flags: {
            let mut flags = flags.clone();
            // Another QEMU has its own firmware: with this one, the firmware would be what differs.
            if programs == 1 && !matches!(qemu[..], [QemuChoice::Program(_)]) {
                flags.conditions.firmware.clear();
            }
            flags.conditions.qemu = qemu;
            flags
        },
        runs: Vec::new(),
    };
    let own = &flags.conditions.qemu;
    let of_own = |choice: &QemuChoice| one(choice).map(|(_, name)| name);
    let name = match &own[..] {
        [] => "default".to_owned(),
        [choice] => of_own(choice)?,
        _ => bail!(BadInput(
            "--against compares two QEMUs: give one --qemu at most".into()
        )),
    };
    let (qemu, other) = one(against)?;
    let first = match own.first() {
        Some(choice) => one(choice)?.0,
        None => vec![QemuChoice::Names(vec!["default".into()])],
    };
    Ok([side(first, name), side(qemu, other)])
}

/// What has a run test that QEMU alone, and its name.
fn one(choice: &QemuChoice) -> Result<(Vec<QemuChoice>, String)> {
    Ok(match choice {
        QemuChoice::Program(path) => (vec![choice.clone()], path.display().to_string()),
        QemuChoice::Added(name, _) => (
            vec![choice.clone(), QemuChoice::Names(vec![name.clone()])],
            name.clone(),
        ),
        QemuChoice::Names(names) => match &names[..] {
            [name] => (vec![choice.clone()], name.clone()),
            _ => bail!(BadInput(format!(
                "--against compares two QEMUs, one with another: {} are {}",
                names.join(","),
                names.len()
            ))),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sides_of(qemu: &[&str], against: &str) -> Result<[Side; 2]> {
        let mut flags = Flags::default();
        flags.conditions.qemu = qemu.iter().map(|text| text.parse().unwrap()).collect();
        sides(&flags, &against.parse().unwrap())
    }

    #[test]
    fn they_take_turns() {
        let order: Vec<usize> = turns(3).map(|(_, side)| side).collect();
        assert_eq!(order, [0, 1, 1, 0, 0, 1]);
        assert_eq!(turns(3).last(), Some((3, 1)));
    }

    #[test]
    fn firmware_goes_to_the_qemu_that_is_a_path() {
        let mut flags = Flags::default();
        flags.conditions.firmware.push("pc-bios".into());
        let firmware = |against: &str| {
            let sides = sides(&flags, &against.parse().unwrap()).unwrap();
            sides.map(|side| side.flags.conditions.firmware.len())
        };
        assert_eq!(firmware("./build/qemu"), [0, 1]);
        // Of neither it is said whose it is.
        assert_eq!(firmware("trixie"), [1, 1]);
    }

    #[test]
    fn each_side_tests_one_qemu() {
        let shown = |qemu: &[&str], against| {
            let sides = sides_of(qemu, against).unwrap();
            sides.map(|side| (side.name, side.flags.conditions.qemu))
        };
        let choice = |text: &str| text.parse::<QemuChoice>().unwrap();
        assert_eq!(
            shown(&[], "new=build/qemu"),
            [
                ("QEMU default".into(), vec![choice("default")]),
                (
                    "QEMU new".into(),
                    vec![choice("new=build/qemu"), choice("new")]
                )
            ]
        );
        assert_eq!(
            shown(&["./a"], "trixie"),
            [
                ("QEMU ./a".into(), vec![choice("./a")]),
                ("QEMU trixie".into(), vec![choice("trixie")])
            ]
        );
        for (qemu, against) in [(&["a,b"][..], "c"), (&[], "a,b"), (&["a=x", "b=y"], "c")] {
            let error = sides_of(qemu, against).err().unwrap();
            assert!(error.is::<BadInput>(), "{error:#}");
        }
    }
}
