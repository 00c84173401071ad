//! `cargo xtask test`: everything that must hold, cheapest first.

mod agreement;
mod archive;
mod chosen;
mod linters;
mod load;
mod tally;

use crate::build::Harness;
use crate::settings::hand_over;
use crate::{Workspace, build, child, doctor, runs, setup};
use agreement::{agree, part, restored};
use anyhow::{Context, Result};
use archive::Archive;
use load::Load;
use report::flags::{Conditions, Flags, HostChoice};
use report::outln;
use report::{Results, Trial};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use tally::Tally;
use xshell::{Shell, cmd};

const EXAMPLES: &str = "\
Examples:
  cargo xtask test
  cargo xtask test --whole         every trial, every fault on every NIC, and all where two ways of running must agree, as nightly
  cargo xtask test --under-load    on a machine that is busy with other work meanwhile: nothing may go red for it
  cargo xtask test --no-install    fail rather than install packages";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Run each case on each guest with each NIC, and with vhost at both settings of its zero copy, show each fault on
    /// each NIC, and where two ways of running must agree, compare each trial
    #[arg(long)]
    whole: bool,
    /// Keep each processor busy with two loops meanwhile, as on a machine that others use
    #[arg(long)]
    under_load: bool,
    /// Never install packages: fail and say what is missing
    #[arg(long)]
    no_install: bool,
}

/// The steps so far.
#[derive(Default)]
struct Report {
    steps: Vec<(&'static str, Tally, Duration)>,
}

impl Report {
    /// Makes a step and returns its result, None where the step failed with an error.
    fn step<T>(
        &mut self,
        name: &'static str,
        make: impl FnOnce() -> Result<(Tally, T)>,
    ) -> Result<Option<T>> {
        outln!("\n==> {name}");
        let begun = Instant::now();
        let (tally, made) = match make() {
            Ok((tally, made)) => (tally, Some(made)),
            Err(e) if e.is::<child::Interrupted>() => return Err(e),
            Err(e) => {
                outln!("{e:#}");
                (Tally::default().judged(false), None)
            }
        };
        self.steps.push((name, tally, begun.elapsed()));
        Ok(made)
    }

    fn total(&self) -> Tally {
        let mut total = Tally::default();
        self.steps.iter().for_each(|(_, tally, _)| total += *tally);
        total
    }

    /// The table, what failed, and the total alone on the last line.
    fn print(&self) {
        outln!("");
        for (name, tally, time) in &self.steps {
            let word = match tally {
                Tally { failed: 1.., .. } => "FAILED",
                Tally { passed: 0, .. } => "skipped",
                _ => "ok",
            };
            outln!(
                "{word:<8} {name:<36} {:>7.1} s   {tally}",
                time.as_secs_f64()
            );
        }
        outln!("{}", self.total());
    }

    fn finish(&self) -> ExitCode {
        self.print();
        ExitCode::from(u8::from(self.total().failed > 0))
    }
}

pub fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    setup::ensure(
        setup::For::Tests,
        !args.no_install,
        setup::own_qemu(&workspace.variables.conditions),
    )?;
    let nextest = doctor::has_nextest(workspace);
    let _load = args.under_load.then(Load::begin).transpose()?;
    let mut report = Report::default();

    report.step("format", || {
        cargo(workspace, &["fmt", "--all", "--", "--check"])?;
        Ok((Tally::PASSED, ()))
    })?;
    report.step("lints", || {
        cargo(
            workspace,
            &[
                "clippy",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ],
        )?;
        Ok((Tally::PASSED, ()))
    })?;
    let built = report.step("build", || {
        let harness = build::harness(&workspace.root)?;
        let mut image = Command::new(&harness.nicmatrix);
        child::check(
            "building the guest image",
            image.arg("image").current_dir(&workspace.root),
        )?;
        Ok((Tally::PASSED, harness))
    })?;
    let Some(harness) = built else {
        return Ok(report.finish());
    };
    report.step("linters of the pipelines", || {
        Ok((linters::install(workspace, !args.no_install)?, ()))
    })?;
    report.step("unit and integration tests", || {
        Ok((workspace_tests(workspace, nextest)?, ()))
    })?;
    let direct = report.step("smoke profile", || {
        let mut flags = ours(workspace);
        if !args.whole {
            chosen::smoke(workspace, &harness, &mut flags)?;
        }
        let (run, success) = matrix(workspace, &harness, flags)?;
        Ok((Tally::of(&run).judged(success), run))
    })?;
    report.step("nextest agrees, from an archive", || {
        if !nextest {
            outln!(
                "skipped: cargo nextest is not installed; get it with `{}`",
                doctor::GET_NEXTEST
            );
            return Ok((Tally::SKIPPED, ()));
        }
        let direct = direct.as_ref().context(NO_DIRECT)?;
        let archive = Archive::new(workspace)?;
        let part = part(direct.clone(), args.whole, runners_differ_by);
        let run = archive.run(workspace, here(workspace), &part)?;
        agree(&part, &run, "under nextest")?;
        Ok((Tally::PASSED, ()))
    })?;
    report.step("boots agree with checkpoints", || {
        let direct = direct.as_ref().context(NO_DIRECT)?;
        let part = part(restored(direct), args.whole, starts_differ_by);
        let mut flags = here(workspace);
        flags.conditions.boot = true;
        flags.only.exact = true;
        flags.only.filter = part.trials.iter().map(|t| t.name().to_owned()).collect();
        let run = matrix(workspace, &harness, flags)?.0;
        agree(&part, &run, "from a boot")?;
        Ok((Tally::PASSED, ()))
    })?;
    report.step("faults", || {
        let mut flags = ours(workspace);
        flags.selection.faults = true;
        if !args.whole {
            chosen::faults(workspace, &harness, &mut flags)?;
        }
        let (run, success) = matrix(workspace, &harness, flags)?;
        Ok((Tally::of(&run).judged(success), ()))
    })?;
    Ok(report.finish())
}

fn cargo(workspace: &Workspace, args: &[&str]) -> Result<()> {
    let shell = Shell::new()?;
    shell.change_dir(&workspace.root);
    // Run by our own child module: the shell passes no signals on.
    let mut command = Command::from(cmd!(shell, "cargo {args...}"));
    child::check(&format!("`cargo {}`", args[0]), &mut command)
}

/// Every test but the trials.
fn workspace_tests(workspace: &Workspace, nextest: bool) -> Result<Tally> {
    let mut targets = vec!["--workspace".to_owned(), "--lib".into(), "--bins".into()];
    for package in ["harness", "harness/report", "xtask"] {
        for name in test_targets(&workspace.root.join(package).join("tests"))? {
            targets.extend(["--test".into(), name]);
        }
    }
    let mut command = child::cargo(&workspace.root);
    if !nextest {
        command.arg("test").args(targets).arg("--no-fail-fast");
        let (status, text) = child::output(command, true)?;
        return Ok(tally::of_libtest(&text).judged(status.success()));
    }
    // The profile that writes JUnit, whose head is the one stable account of nextest's counts.
    let junit = workspace.root.join("target/nextest/ci/junit.xml");
    if let Err(e) = std::fs::remove_file(&junit)
        && e.kind() != std::io::ErrorKind::NotFound
    {
        return Err(e).with_context(|| format!("cannot remove the old {}", junit.display()));
    }
    let status = child::run(
        command
            .args(["nextest", "run", "--profile", "ci"])
            .args(targets),
    )?;
    let text = std::fs::read_to_string(&junit).with_context(|| {
        format!(
            "nextest ended with {status} and left no {}",
            junit.display()
        )
    })?;
    Ok(tally::of_junit(&text)?.judged(status.success()))
}

/// The integration tests of a directory, less the matrix itself.
fn test_targets(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in dir.read_dir().into_iter().flatten() {
        let path = entry
            .with_context(|| format!("cannot list {}", dir.display()))?
            .path();
        let stem = path
            .file_stem()
            .and_then(|s| s.to_str())
            .unwrap_or_default();
        if path.extension().is_some_and(|e| e == "rs") && stem != "matrix" {
            names.push(stem.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// The settings of these runs: matrix, QEMU, accelerator and output as the user's variables say, all
/// else at its default, so that the runs differ in nothing but what they compare.
fn ours(workspace: &Workspace) -> Flags {
    let Flags {
        conditions, output, ..
    } = workspace.variables.clone();
    Flags {
        conditions: Conditions {
            matrix: conditions.matrix,
            qemu: conditions.qemu,
            firmware: conditions.firmware,
            accel: conditions.accel,
            ..Conditions::default()
        },
        output,
        ..Flags::default()
    }
}

/// As [`ours`], but without labs: a boot inside one takes minutes without KVM.
fn here(workspace: &Workspace) -> Flags {
    let mut flags = ours(workspace);
    flags.conditions.host = Some(HostChoice::Direct);
    flags
}

/// Runs the matrix with these settings; its trials, and whether it ended well.
fn matrix(workspace: &Workspace, harness: &Harness, mut flags: Flags) -> Result<(Results, bool)> {
    flags.output.table = true;
    let mut command = Command::new(&harness.matrix);
    hand_over(&mut command, workspace, &flags)?;
    finished(workspace, &mut command)
}

/// What a checkpoint may spoil: a guest's memory, a NIC's driver in it, and that by what was saved. What a case finds
/// there the nightly run of `full` shows, which has every case both ways.
fn starts_differ_by(trial: &Trial) -> [String; 3] {
    let name = &trial.end.name;
    let start = trial.end.start.as_deref().unwrap_or_default();
    [
        format!("{} on {}", name.nic, name.guest),
        format!("{} from {start}", name.nic),
        format!("{} from {start}", name.guest),
    ]
}

/// What a process of its own may spoil: what trials of one NIC, guest, backend or QEMU share.
fn runners_differ_by(trial: &Trial) -> [String; 4] {
    let name = &trial.end.name;
    [
        format!("of {}", name.nic),
        format!("on {}", name.guest),
        format!("with {}", name.backend),
        format!(
            "started from {}",
            trial.end.start.as_deref().unwrap_or_default()
        ),
    ]
}

/// Runs a command that makes a run; its trials, and whether it ended well.
fn finished(workspace: &Workspace, command: &mut Command) -> Result<(Results, bool)> {
    let directory = runs::name(command, workspace);
    let status = child::run(command)?;
    let run = runs::read(&directory);
    let left_none = || format!("{} ended with {status}", child::describe(command));
    Ok((run.with_context(left_none)?, status.success()))
}

const NO_DIRECT: &str = "there are no verdicts of a direct run to compare with";

#[cfg(test)]
mod tests {
    use super::agreement::tests::{run, skipped};
    use super::*;
    use report::events::Outcome;

    #[test]
    fn of_the_users_settings_those_count_that_say_on_what_the_runs_are() {
        let variables = [
            ("NICMATRIX_QEMU", "/opt/qemu"),
            ("NICMATRIX_FIRMWARE", "/opt/bios"),
            ("NICMATRIX_ACCEL", "tcg"),
            ("NICMATRIX_MATRIX", "m.toml"),
            ("NICMATRIX_DIR", "/elsewhere"),
        ];
        let ignored = [
            ("NICMATRIX_HOST", "lab"),
            ("NICMATRIX_ALLOW_MODULE_RELOAD", "1"),
            ("NICMATRIX_BOOT", "1"),
            ("NICMATRIX_PROFILE", "soak"),
            ("NICMATRIX_FAULTS", "1"),
            ("NICMATRIX_RETRIES", "3"),
            ("NICMATRIX_SHARD", "1/4"),
            ("NICMATRIX_JUNIT", "j.xml"),
            ("NICMATRIX_SHELL", "1"),
        ];
        let workspace = |given: &[(&str, &str)]| {
            let given = given.iter().map(|(n, v)| ((*n).into(), (*v).into()));
            Workspace {
                root: "/".into(),
                cwd: "/".into(),
                variables: Flags::from_variables(&given.collect()).unwrap(),
            }
        };
        let kept = workspace(&variables);
        assert_eq!(ours(&kept), kept.variables);
        let all = [&variables[..], &ignored[..]].concat();
        assert_eq!(ours(&workspace(&all)), kept.variables);
    }

    #[test]
    fn a_flaky_trial_is_no_pass() {
        let flaky = Outcome::Flaky {
            failures: vec!["no reply".into()],
        };
        let tally = Tally::of(&run(&[("a", flaky), ("b", skipped())]));
        assert_eq!(tally.to_string(), "0 passed, 1 failed, 1 skipped");
    }

    #[test]
    fn the_total_is_alone_on_its_line() {
        let mut report = Report::default();
        report.step("one", || Ok((Tally::PASSED, ()))).unwrap();
        assert!(
            report
                .step::<()>("two", || anyhow::bail!("no"))
                .unwrap()
                .is_none()
        );
        assert_eq!(report.total().to_string(), "1 passed, 1 failed, 0 skipped");
    }
}
