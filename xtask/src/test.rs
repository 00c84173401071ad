//! `cargo xtask test`: everything that must hold, cheapest first.

use crate::build::Harness;
use crate::events::{Run, Trial, Verdict};
use crate::{Place, build, child, doctor, setup};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use xshell::{Shell, cmd};

const EXAMPLES: &str = "\
Examples:
  cargo xtask test
  cargo xtask test --no-install    fail rather than install packages";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Never install packages: fail and say what is missing
    #[arg(long)]
    no_install: bool,
}

/// Checks that were made.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Tally {
    const PASSED: Tally = Tally {
        passed: 1,
        failed: 0,
        skipped: 0,
    };
    const SKIPPED: Tally = Tally {
        passed: 0,
        failed: 0,
        skipped: 1,
    };

    /// Of a run of trials. A flaky one is not a pass: this runs without retries.
    fn of(run: &Run) -> Self {
        use Verdict::{Broken, Failed, Flaky, Interrupted, Passed, Skipped};
        Tally {
            passed: run.count(&[Passed]),
            failed: run.count(&[Failed, Broken, Flaky, Interrupted]),
            skipped: run.count(&[Skipped]),
        }
    }

    /// A step's exit code has the last word: one that says failure makes at least one.
    fn judged(mut self, success: bool) -> Self {
        if !success {
            self.failed = self.failed.max(1);
        }
        self
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// The steps so far.
#[derive(Default)]
struct Report {
    steps: Vec<(&'static str, Tally, Duration)>,
}

impl Report {
    /// Makes a step. What it returns is none where the step could not be made.
    fn step<T>(
        &mut self,
        name: &'static str,
        make: impl FnOnce() -> Result<(Tally, T)>,
    ) -> Result<Option<T>> {
        println!("\n==> {name}");
        let begun = Instant::now();
        let (tally, made) = match make() {
            Ok((tally, made)) => (tally, Some(made)),
            Err(e) if e.is::<child::Interrupted>() => return Err(e),
            Err(e) => {
                println!("{e:#}");
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
        println!();
        for (name, tally, time) in &self.steps {
            let word = match tally {
                Tally { failed: 1.., .. } => "FAILED",
                Tally { passed: 0, .. } => "skipped",
                _ => "ok",
            };
            println!(
                "{word:<8} {name:<36} {:>7.1} s   {tally}",
                time.as_secs_f64()
            );
        }
        println!("{}", self.total());
    }

    fn finish(&self) -> ExitCode {
        self.print();
        ExitCode::from(u8::from(self.total().failed > 0))
    }
}

pub fn run(place: &Place, args: &Args) -> Result<ExitCode> {
    setup::ensure(!args.no_install, crate::var("NICMATRIX_QEMU").is_some())?;
    let nextest = doctor::has_nextest(place);
    let mut report = Report::default();

    report.step("format", || {
        cargo(place, &["fmt", "--all", "--", "--check"])?;
        Ok((Tally::PASSED, ()))
    })?;
    report.step("lints", || {
        cargo(
            place,
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
        let harness = build::harness(&place.root)?;
        let mut image = Command::new(&harness.nicmatrix);
        child::check(
            "building the guest image",
            image.arg("image").current_dir(&place.root),
        )?;
        Ok((Tally::PASSED, harness))
    })?;
    let Some(harness) = built else {
        return Ok(report.finish());
    };
    report.step("unit and integration tests", || {
        Ok((workspace_tests(place, nextest)?, ()))
    })?;
    let direct = report.step("smoke profile", || {
        let (run, success) = matrix(place, &harness, &[])?;
        Ok((Tally::of(&run).judged(success), run))
    })?;
    report.step("boots agree with checkpoints", || {
        let direct = direct.as_ref().context(NO_DIRECT)?;
        let (run, _) = matrix(place, &harness, &[("NICMATRIX_BOOT", "1"), HERE])?;
        agree(direct, &run, "from a boot")?;
        Ok((Tally::PASSED, ()))
    })?;
    report.step("faults", || {
        let (run, success) = matrix(place, &harness, &[("NICMATRIX_FAULTS", "1")])?;
        Ok((Tally::of(&run).judged(success), ()))
    })?;
    report.step("nextest agrees", || {
        if !nextest {
            println!(
                "skipped: cargo nextest is not here; get it with `{}`",
                doctor::GET_NEXTEST
            );
            return Ok((Tally::SKIPPED, ()));
        }
        let direct = direct.as_ref().context(NO_DIRECT)?;
        agree(direct, &under_nextest(place)?, "under nextest")?;
        Ok((Tally::PASSED, ()))
    })?;
    Ok(report.finish())
}

fn cargo(place: &Place, args: &[&str]) -> Result<()> {
    let shell = Shell::new()?;
    shell.change_dir(&place.root);
    // Run by our own child module: the shell passes no signals on.
    let mut command = Command::from(cmd!(shell, "cargo {args...}"));
    child::check(&format!("`cargo {}`", args[0]), &mut command)
}

/// Every test but the trials.
fn workspace_tests(place: &Place, nextest: bool) -> Result<Tally> {
    let mut targets = vec!["--workspace".to_owned(), "--lib".into(), "--bins".into()];
    for package in ["harness", "xtask"] {
        for name in test_targets(&place.root.join(package).join("tests"))? {
            targets.extend(["--test".into(), name]);
        }
    }
    let mut command = child::cargo(&place.root);
    if !nextest {
        command.arg("test").args(targets).arg("--no-fail-fast");
        let (status, text) = child::output(command, true)?;
        return Ok(libtest_tally(&text).judged(status.success()));
    }
    // The profile that writes JUnit, whose head is the one stable account of nextest's counts.
    let junit = place.root.join("target/nextest/ci/junit.xml");
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
    Ok(junit_tally(&text)?.judged(status.success()))
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

/// Adds up libtest's `test result: ok. 5 passed; 0 failed; 1 ignored; …`.
fn libtest_tally(output: &str) -> Tally {
    let mut tally = Tally::default();
    for line in output
        .lines()
        .filter(|line| line.starts_with("test result:"))
    {
        let words: Vec<&str> = line.split([' ', ';']).filter(|w| !w.is_empty()).collect();
        for pair in words.windows(2) {
            let count = pair[0].parse().unwrap_or(0);
            match pair[1] {
                "passed" => tally.passed += count,
                "failed" => tally.failed += count,
                "ignored" => tally.skipped += count,
                _ => {}
            }
        }
    }
    tally
}

/// The counts at the head of nextest's JUnit file. It knows no ignored tests.
fn junit_tally(xml: &str) -> Result<Tally> {
    let head = xml
        .split_once("<testsuites")
        .and_then(|(_, rest)| rest.split_once('>'))
        .map(|(head, _)| head)
        .context("nextest's JUnit file has no <testsuites>")?;
    let count = |name: &str| -> Result<usize> {
        head.split_once(&format!(" {name}=\""))
            .and_then(|(_, rest)| rest.split_once('"'))
            .and_then(|(digits, _)| digits.parse().ok())
            .with_context(|| format!("nextest's JUnit file does not count its {name}"))
    };
    let failed = count("failures")? + count("errors")?;
    Ok(Tally {
        passed: count("tests")? - failed,
        failed,
        skipped: 0,
    })
}

/// What decides over a run of the matrix; the rest is left to its defaults, whatever the user has
/// set, so that all runs here are the same.
const OURS: [&str; 7] = [
    "NICMATRIX_HOST",
    "NICMATRIX_BOOT",
    "NICMATRIX_PROFILE",
    "NICMATRIX_FAULTS",
    "NICMATRIX_RETRIES",
    "NICMATRIX_SHARD",
    "NICMATRIX_JUNIT",
];

fn with_defaults<'a>(command: &'a mut Command, place: &Place) -> &'a mut Command {
    OURS.iter().for_each(|name| {
        command.env_remove(name);
    });
    command.current_dir(&place.root)
}

/// What was run in labs once is not run there again: a boot inside takes minutes without KVM.
const HERE: (&str, &str) = ("NICMATRIX_HOST", "direct");

/// Runs the matrix; its trials, and whether it ended well.
fn matrix(place: &Place, harness: &Harness, more: &[(&str, &str)]) -> Result<(Run, bool)> {
    let mut command = Command::new(&harness.matrix);
    with_defaults(&mut command, place)
        .env("NICMATRIX_TABLE", "1")
        .envs(more.iter().copied());
    finished(place, &mut command)
}

fn under_nextest(place: &Place) -> Result<Run> {
    let mut command = child::cargo(&place.root);
    command.args(["nextest", "run", "--package", "harness", "--test", "matrix"]);
    let (run, success) = finished(place, with_defaults(&mut command, place).envs([HERE]))?;
    let reds = Tally::of(&run).failed;
    ensure!(
        success == (reds == 0),
        "nextest says {}, but {reds} of its trials are recorded as not passed",
        if success { "all passed" } else { "some failed" },
    );
    Ok(run)
}

/// Runs a command that leaves a run behind.
fn finished(place: &Place, command: &mut Command) -> Result<(Run, bool)> {
    let directory = Run::name(command, &place.harness_dir());
    let status = child::run(command)?;
    let run = Run::read(&directory);
    let left_none = || format!("{} ended with {status}", child::describe(command));
    Ok((run.with_context(left_none)?, status.success()))
}

const NO_DIRECT: &str = "there are no verdicts of a direct run to compare with";

/// Whether both ways came to the same verdicts, trial by trial, of those that ran on this machine
/// itself; `how` the other one ran.
fn agree(direct: &Run, other: &Run, how: &str) -> Result<()> {
    // Nextest does not run what is known beforehand to be skipped.
    let verdicts = |run: &Run| -> BTreeMap<String, Verdict> {
        let judged = |t: &&Trial| t.verdict != Verdict::Skipped && t.host.is_none();
        run.trials
            .iter()
            .filter(judged)
            .map(|t| (t.trial.clone(), t.verdict))
            .collect()
    };
    let (direct, other) = (verdicts(direct), verdicts(other));
    ensure!(
        !direct.is_empty(),
        "the direct run judged no trial: there is nothing to compare"
    );
    let word = |verdict: Option<&Verdict>| verdict.map_or("not run".into(), |v| format!("{v:?}"));
    let mut names: Vec<&String> = direct.keys().chain(other.keys()).collect();
    names.sort();
    names.dedup();
    let mut differ = names
        .into_iter()
        .filter(|name| direct.get(*name) != other.get(*name))
        .map(|name| {
            let (one, two) = (word(direct.get(name)), word(other.get(name)));
            format!("\n  {name}: {one} directly, {two} {how}")
        })
        .peekable();
    if differ.peek().is_some() {
        bail!("the verdicts differ:{}", differ.collect::<String>());
    }
    println!("the same verdict for each of {} trials", direct.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(trials: &[(&str, Verdict)]) -> Run {
        let trial = |&(name, verdict): &(&str, Verdict)| Trial {
            trial: name.into(),
            verdict,
            seconds: 1.0,
            case_seconds: 0.5,
            host: None,
            boot_seconds: None,
            vm_peak_kib: None,
        };
        Run {
            trials: trials.iter().map(trial).collect(),
            ..Run::default()
        }
    }

    #[test]
    fn agreement_is_of_what_was_judged() {
        let direct = run(&[("a", Verdict::Passed), ("b", Verdict::Skipped)]);
        let agree = |direct: &Run, other: &Run| super::agree(direct, other, "under nextest");
        agree(&direct, &run(&[("a", Verdict::Passed)])).unwrap();

        let error = agree(&direct, &run(&[("a", Verdict::Failed)]))
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with("a: Passed directly, Failed under nextest"),
            "{error}"
        );
        let error = agree(&direct, &run(&[])).unwrap_err().to_string();
        assert!(
            error.ends_with("a: Passed directly, not run under nextest"),
            "{error}"
        );
        let more = run(&[("a", Verdict::Passed), ("b", Verdict::Passed)]);
        let error = agree(&direct, &more).unwrap_err().to_string();
        assert!(
            error.ends_with("b: not run directly, Passed under nextest"),
            "{error}"
        );
        assert!(agree(&run(&[]), &run(&[])).is_err());
    }

    #[test]
    fn a_flaky_trial_is_no_pass() {
        let tally = Tally::of(&run(&[("a", Verdict::Flaky), ("b", Verdict::Skipped)]));
        assert_eq!(tally.to_string(), "0 passed, 1 failed, 1 skipped");
    }

    #[test]
    fn an_exit_code_counts_where_no_trial_failed() {
        assert_eq!(Tally::PASSED.judged(false).failed, 1);
        assert_eq!(Tally::PASSED.judged(true), Tally::PASSED);
    }

    #[test]
    fn libtest_results_add_up() {
        let output = "running 6 tests\n\
            test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\
            test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n";
        let expected = Tally {
            passed: 6,
            failed: 2,
            skipped: 1,
        };
        assert_eq!(libtest_tally(output), expected);
    }

    #[test]
    fn nextest_counts_are_read() {
        let xml = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="nextest-run" tests="12" failures="2" errors="1" uuid="x" time="0.1">
    <testsuite name="harness" tests="99" disabled="0" errors="0" failures="0">"#;
        let expected = Tally {
            passed: 9,
            failed: 3,
            skipped: 0,
        };
        assert_eq!(junit_tally(xml).unwrap(), expected);
        assert!(junit_tally("<testsuites tests=\"1\">").is_err());
    }

    #[test]
    fn the_total_is_alone_on_its_line() {
        let mut report = Report::default();
        report.step("one", || Ok((Tally::PASSED, ()))).unwrap();
        assert!(report.step::<()>("two", || bail!("no")).unwrap().is_none());
        assert_eq!(report.total().to_string(), "1 passed, 1 failed, 0 skipped");
    }
}
