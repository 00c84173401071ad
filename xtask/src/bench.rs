//! `cargo xtask bench`: the harness's own figures, by measurement.

mod build;
mod many;
mod processor;
mod restores;

use crate::build::Harness;
use crate::settings::{Settings, hand_over};
use crate::{Workspace, child, runs};
use anyhow::{Context, Result, bail, ensure};
use report::flags::{DEFAULT_MATRIX, Flags, HostChoice, QemuChoice};
use report::{Results, Trial};
use report::{errln, outln};
use serde::Serialize;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const EXAMPLES: &str = "\
Examples:
  cargo xtask bench
  cargo xtask bench --soak 1000    and restore a guest a thousand times; one failure ends it
  cargo xtask bench --qemus default trixie backports
  cargo xtask bench --runs 30 --json bench.json --accel tcg";

/// Trials that do little besides start.
const SMALL: &str = "ping_flood::";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Boots and restores to measure, of each kind
    #[arg(long, value_name = "N", default_value = "10")]
    runs: NonZeroUsize,
    /// Also restore a guest so many times in a row
    #[arg(long, value_name = "N")]
    soak: Option<NonZeroUsize>,
    /// Also run the smoke profile on three QEMUs, by their names or as NAME=PATH, three values in all
    #[arg(long, value_name = "NAME|NAME=PATH", num_args = 3)]
    qemus: Vec<QemuChoice>,
    /// Also build the harness from nothing, which takes a minute or two
    #[arg(long)]
    build: bool,
    /// Where the figures go [default: target/nicmatrix/bench.json]
    #[arg(long, value_name = "PATH")]
    json: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

/// A figure with its spread.
#[derive(Debug, Serialize, PartialEq)]
struct Figure {
    name: String,
    unit: &'static str,
    samples: usize,
    median: f64,
    min: f64,
    max: f64,
    /// What it should not exceed.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<f64>,
}

impl Figure {
    fn of(name: impl Into<String>, unit: &'static str, mut samples: Vec<f64>) -> Result<Self> {
        let name = name.into();
        ensure!(!samples.is_empty(), "nothing was measured for: {name}");
        samples.sort_by(f64::total_cmp);
        let (n, middle) = (samples.len(), samples.len() / 2);
        let median = if n % 2 == 1 {
            samples[middle]
        } else {
            f64::midpoint(samples[middle - 1], samples[middle])
        };
        Ok(Figure {
            name,
            unit,
            samples: n,
            median,
            min: samples[0],
            max: samples[n - 1],
            target: None,
        })
    }

    fn at_most(self, target: f64) -> Self {
        Figure {
            target: Some(target),
            ..self
        }
    }

    fn row(&self) -> String {
        let target = self.target.map_or(String::new(), |target| {
            let target = (target * 100.0).round() / 100.0;
            let word = if self.median <= target {
                "reached"
            } else {
                "MISSED"
            };
            format!("<= {target} {word}")
        });
        format!(
            "{:<36} {:>9.2} {:>9.2} {:>9.2} {:<5} {:>4}  {target}",
            self.name, self.median, self.min, self.max, self.unit, self.samples
        )
    }
}

pub fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let bench = Bench {
        workspace,
        harness: args.settings.prepare(workspace)?,
        flags: args.settings.with(workspace, Flags::default())?,
    };
    // What is built and proved once does not count as a part of a trial.
    let mut image = bench.command(&bench.harness.nicmatrix, &bench.flags)?;
    child::check("building the guest image", image.arg("image"))?;

    let mut figures = Vec::new();
    // The first run makes the checkpoints.
    bench.small(1, false)?;
    let booted = bench.small(args.runs.get(), true)?;
    let restored = bench.small(args.runs.get(), false)?;
    let boots = booted.iter().filter_map(|t| t.end.boot_seconds).collect();
    figures.push(Figure::of("boot to the agent's answer", "s", boots)?.at_most(4.0));
    let boot = fixed_cost("fixed cost of a trial, --boot", &booted)?;
    let restore = fixed_cost("fixed cost of a trial", &restored)?;
    let ratio = vec![restore.median / boot.median];
    let processor = processor::fixed("  of it, processor time", &restored)?.at_most(0.15);
    figures.extend([boot, restore, processor]);
    figures.push(Figure::of("the latter by the former", "", ratio)?.at_most(1.0 / 3.0));

    errln!("running the smoke profile");
    let smoke = bench.matrix(&[], &bench.flags)?;
    let ran = smoke.trials.iter().filter(|t| !t.is_skipped()).count();
    let (minutes, harness_kib) = (smoke.seconds.map(|s| s / 60.0))
        .zip(smoke.harness_peak_kib)
        .context("the run has no end")?;
    figures.push(Figure::of("smoke profile", "min", vec![minutes])?.at_most(10.0));
    let bound = smoke.bound().context("the run does not say its CPU time")?;
    let above = Figure::of("smoke wall / bound", "x", vec![bound.ratio()])?;
    figures.push(above.at_most(1.25));
    let rate = ran as f64 / minutes;
    figures.push(Figure::of("trials run a minute", "/min", vec![rate])?);
    figures.extend(processor::of_run(&smoke)?);
    let harness_mib = vec![harness_kib as f64 / 1024.0];
    let harness_memory = Figure::of("peak memory of the harness", "MiB", harness_mib)?;
    figures.push(harness_memory.at_most(150.0));
    let vm_mib = smoke
        .trials
        .iter()
        .filter_map(|t| t.end.vm_peak_kib)
        .map(|k| k as f64 / 1024.0);
    figures.push(Figure::of("peak memory of a VM", "MiB", vm_mib.collect())?);

    figures.extend(of_labs(&smoke.trials)?);
    figures.extend(bench.restores(&smoke, args.runs.get())?);
    if !args.qemus.is_empty() {
        errln!("running the smoke profile on three QEMUs");
        let three = bench.on(&args.qemus);
        let three = three.matrix(&[], &three.flags)?;
        let times = three.cpu_seconds.zip(smoke.cpu_seconds);
        let (three, one) = times.context("the run does not say its CPU time")?;
        let ratio = Figure::of("smoke on three QEMUs / on one, CPU", "x", vec![three / one])?;
        figures.push(ratio.at_most(3.1));
    }
    if let Some(times) = args.soak {
        figures.push(bench.soak(&smoke, times.get())?);
    }

    figures.extend(bench.many(&smoke)?);

    figures.extend(by_case(&smoke.trials)?);
    figures.extend(processor::by_case(&smoke.trials)?);
    if args.build {
        figures.extend(build::from_nothing(workspace)?);
    }

    outln!(
        "{:<36} {:>9} {:>9} {:>9} {:<5} {:>4}  target",
        "",
        "median",
        "min",
        "max",
        "",
        "n"
    );
    figures.iter().for_each(|figure| outln!("{}", figure.row()));
    let json = match &args.json {
        Some(path) => workspace.cwd.join(path),
        None => workspace.harness_dir().join("bench.json"),
    };
    let text = serde_json::to_string_pretty(&figures)? + "\n";
    std::fs::write(&json, text).with_context(|| format!("cannot write {}", json.display()))?;
    outln!("written to {}", workspace.show(&json));
    Ok(ExitCode::SUCCESS)
}

/// What trials take beyond their cases.
fn fixed_cost<'t>(name: &str, trials: impl IntoIterator<Item = &'t Trial>) -> Result<Figure> {
    let cost = |trial: &Trial| {
        let end = &trial.end;
        end.seconds - end.case_seconds - end.lab_start_seconds.unwrap_or(0.0)
    };
    Figure::of(name, "s", trials.into_iter().map(cost).collect())
}

/// The figures of the trials that ran in labs, if any did: what a trial costs by KVM, whose host TCG emulates.
fn of_labs(trials: &[Trial]) -> Result<Vec<Figure>> {
    let in_labs: Vec<&Trial> = trials.iter().filter(|t| t.end.host.is_some()).collect();
    if in_labs.is_empty() {
        return Ok(Vec::new());
    }
    let starts = in_labs.iter().filter_map(|t| t.end.lab_start_seconds);
    let answers = in_labs.iter().filter_map(|t| t.end.boot_seconds);
    let replies = in_labs.iter().filter_map(|t| t.end.first_ping_seconds);
    Ok(vec![
        Figure::of("lab: exec to its first word", "s", starts.collect())?,
        Figure::of(
            "lab: restored, to the agent's answer",
            "s",
            answers.collect(),
        )?,
        Figure::of("lab: to the first reply to a ping", "s", replies.collect())?,
        fixed_cost("lab: fixed cost of a trial", in_labs)?,
    ])
}

/// How long the trials of each case took, in the cases' order by name.
fn by_case(trials: &[Trial]) -> Result<Vec<Figure>> {
    let mut times: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for trial in trials.iter().filter(|t| !t.is_skipped()) {
        let case = trial.parts().row();
        let host = if trial.end.host.is_some() {
            ", in a lab"
        } else {
            ""
        };
        let name = format!("a trial of {case}{host}");
        times.entry(name).or_default().push(trial.end.seconds);
    }
    (times.into_iter())
        .map(|(name, times)| Figure::of(name, "s", times))
        .collect()
}

struct Bench<'a> {
    workspace: &'a Workspace,
    harness: Harness,
    flags: Flags,
}

impl Bench<'_> {
    /// The same on other QEMUs.
    fn on(&self, qemus: &[QemuChoice]) -> Bench<'_> {
        let mut flags = self.flags.clone();
        flags.conditions.qemu.extend_from_slice(qemus);
        Bench {
            workspace: self.workspace,
            harness: self.harness.clone(),
            flags,
        }
    }

    fn command(&self, program: &Path, flags: &Flags) -> Result<Command> {
        let mut flags = flags.clone();
        flags.output.table = true;
        let mut command = Command::new(program);
        hand_over(&mut command, self.workspace, &flags)?;
        Ok(command)
    }

    /// Runs trials; a run that is not green measures nothing.
    fn matrix(&self, args: &[&str], flags: &Flags) -> Result<Results> {
        let mut command = self.command(&self.harness.matrix, flags)?;
        command.args(args);
        let what = child::describe(&command);
        let directory = runs::name(&mut command, self.workspace);
        let (status, output) = child::output(command, false)?;
        if !status.success() {
            bail!("{what} ended with {status}, and there is nothing to measure:\n{output}");
        }
        runs::read(&directory)
    }

    /// Runs small trials on this machine itself, one after the other, until the guests of `wanted` have
    /// come up.
    fn small(&self, wanted: usize, boot: bool) -> Result<Vec<Trial>> {
        let mut up = Vec::new();
        while up.len() < wanted {
            let before = up.len();
            let mut flags = self.flags.clone();
            flags.conditions.host = Some(HostChoice::Direct);
            flags.conditions.boot |= boot;
            let run = self.matrix(&[SMALL, "--test-threads", "1"], &flags)?;
            up.extend(
                run.trials
                    .into_iter()
                    .filter(|t| t.end.boot_seconds.is_some()),
            );
            ensure!(
                up.len() > before,
                "none of the trials `{SMALL}` started a VM"
            );
            let word = if boot { "booted" } else { "started" };
            errln!("{word} {} of {wanted} VMs", up.len().min(wanted));
        }
        up.truncate(wanted);
        Ok(up)
    }

    fn matrix_file(&self) -> PathBuf {
        let given = self.flags.conditions.matrix.as_deref();
        self.workspace
            .root
            .join(given.unwrap_or(DEFAULT_MATRIX.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use report::events::{Outcome, TrialEnded};

    fn figure(samples: &[f64]) -> Figure {
        Figure::of("boot", "s", samples.to_vec()).unwrap()
    }

    #[test]
    fn a_median_is_the_middle_or_between_the_two() {
        assert_eq!(figure(&[3.0, 1.0, 9.0]).median, 3.0);
        assert_eq!(figure(&[4.0, 1.0, 2.0, 9.0]).median, 3.0);
        assert_eq!(figure(&[7.0]).median, 7.0);
    }

    #[test]
    fn the_spread_is_kept() {
        let figure = figure(&[3.0, 1.0, 9.0]);
        assert_eq!((figure.min, figure.max, figure.samples), (1.0, 9.0, 3));
    }

    #[test]
    fn nothing_measured_is_an_error() {
        let error = Figure::of("boot", "s", Vec::new()).unwrap_err();
        assert!(error.to_string().contains("boot"), "{error}");
    }

    #[test]
    fn a_target_is_missed_by_the_median() {
        assert!(
            figure(&[1.0, 2.0, 9.0])
                .at_most(2.0)
                .row()
                .ends_with("<= 2 reached")
        );
        assert!(
            figure(&[1.0, 3.0, 9.0])
                .at_most(2.0)
                .row()
                .ends_with("<= 2 MISSED")
        );
    }

    #[test]
    fn trials_are_told_apart_by_case_and_by_whether_a_lab_ran_them() {
        let trial = |name: &str, seconds, lab_start_seconds: Option<f64>| Trial {
            plan_item: String::new(),
            end: TrialEnded {
                seconds,
                case_seconds: 1.0,
                host: lab_start_seconds.map(|_| "lab".into()),
                lab_start_seconds,
                boot_seconds: Some(0.5),
                first_ping_seconds: Some(0.75),
                ..TrialEnded::unmeasured(name.into(), Outcome::Passed)
            },
        };
        let trials = [
            trial("ping::e1000::rhel6::tap", 2.0, None),
            trial("ping::virtio::rhel6::tap", 4.0, None),
            trial("ping::virtio::rhel6::vhost", 30.0, Some(3.0)),
        ];
        let found = |figures: Vec<Figure>| -> Vec<(String, f64)> {
            figures.into_iter().map(|f| (f.name, f.median)).collect()
        };
        let expected = [
            ("a trial of ping", 3.0),
            ("a trial of ping, in a lab", 30.0),
        ];
        let expected = expected.map(|(name, median)| (name.to_owned(), median));
        assert_eq!(found(by_case(&trials).unwrap()), expected);
        let medians: Vec<f64> = (of_labs(&trials).unwrap().iter())
            .map(|f| f.median)
            .collect();
        assert_eq!(medians, [3.0, 0.5, 0.75, 26.0]);
        assert!(of_labs(&trials[..2]).unwrap().is_empty());
    }
}
