//! How fast, how small and how reliable a restored guest is, as `nicmatrix restores` measures it.

use super::{Bench, Figure};
use crate::child;
use anyhow::{Context, Result, bail};
use report::Results;
use report::errln;
use serde::Deserialize;

/// How many guests at once must fit in a gibibyte.
const AT_ONCE: usize = 8;

/// The cases whose guests are started: they ask nothing of the VM, and their NIC is there from the
/// start.
const WITH_NIC_UP: &str = "ping_flood";
const WITHOUT_DRIVER: &str = "driver";

/// A guest that came up.
#[derive(Deserialize)]
struct Sample {
    agent_seconds: f64,
    first_ping_seconds: f64,
    unique_kib: u64,
}

impl Bench<'_> {
    /// Restores guests of each NIC model that `smoke` ran, `times` times.
    pub fn restores(&self, smoke: &Results, times: usize) -> Result<Vec<Figure>> {
        let mut answers = Vec::new();
        let mut pings = Vec::new();
        let mut memory = None;
        for (nic, trial) in of_each_nic(smoke, WITH_NIC_UP) {
            let samples = self.starts(trial, times, 1)?;
            answers.extend(samples.iter().map(|s| s.agent_seconds * 1000.0));
            pings.push(first_ping(&nic, "NIC up", &samples)?.at_most(200.0));
            if memory.is_none() {
                let together = self.starts(trial, AT_ONCE, AT_ONCE)?;
                let kib: u64 = together.iter().map(|s| s.unique_kib).sum();
                memory = Some(kib as f64 / 1024.0);
            }
        }
        for (nic, trial) in of_each_nic(smoke, WITHOUT_DRIVER) {
            let figure = first_ping(&nic, "driver loaded", &self.starts(trial, times, 1)?)?;
            // The others negotiate their link for seconds.
            pings.push(match nic.as_str() {
                "virtio" | "rtl8139" => figure.at_most(800.0),
                _ => figure,
            });
        }
        let memory = memory.context("no trial was restored with its NIC up")?;
        let mut figures = vec![
            Figure::of("restored: to the agent's answer", "ms", answers)?.at_most(120.0),
            Figure::of("8 restored at once, memory", "MiB", vec![memory])?.at_most(1024.0),
        ];
        figures.extend(pings);
        Ok(figures)
    }

    /// Restores one guest `times` times, two at a time; the first that fails ends it.
    pub fn soak(&self, smoke: &Results, times: usize) -> Result<Figure> {
        let (_, trial) = of_each_nic(smoke, WITH_NIC_UP)
            .pop()
            .context("no trial was restored with its NIC up")?;
        let samples = self.starts(trial, times, 2)?;
        Figure::of("restores without a failure", "", vec![samples.len() as f64])
    }

    fn starts(&self, trial: &str, times: usize, at_once: usize) -> Result<Vec<Sample>> {
        let mut command = self.command(&self.harness.nicmatrix, &self.flags)?;
        command.args(["restores", trial]).args([
            "--times",
            &times.to_string(),
            "--at-once",
            &at_once.to_string(),
        ]);
        errln!("starting the guest of {trial} {times} times, {at_once} at a time");
        let what = child::describe(&command);
        let (status, output) = child::output(command, false)?;
        if !status.success() {
            bail!("{what} ended with {status}:\n{output}");
        }
        let lines = output.lines().filter(|line| line.starts_with('{'));
        lines
            .map(|line| {
                serde_json::from_str(line).with_context(|| format!("{what} printed {line}"))
            })
            .collect()
    }
}

/// Of each NIC model the first trial of `case` that ran on this machine itself, by the models' names.
fn of_each_nic<'r>(run: &'r Results, case: &str) -> Vec<(String, &'r str)> {
    let mut found: Vec<(String, &str)> = Vec::new();
    for trial in run.trials.iter().filter(|t| !t.is_skipped()) {
        let name = trial.parts();
        let wanted = name.row() == case && name.backend == "tap";
        if wanted && !found.iter().any(|(known, _)| *known == name.nic) {
            found.push((name.nic.clone(), trial.name()));
        }
    }
    found.sort();
    found
}

fn first_ping(nic: &str, state: &str, samples: &[Sample]) -> Result<Figure> {
    let times = samples.iter().map(|s| s.first_ping_seconds * 1000.0);
    Figure::of(format!("first ping, {nic}, {state}"), "ms", times.collect())
}
