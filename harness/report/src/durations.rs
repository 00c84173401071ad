//! How long trials take, as former runs tell: what the shards of a plan are filled by.

use crate::history::{History, file};
use crate::log;
use crate::name::TrialName;
use crate::past::{Mode, PastRun, Verdict};
use crate::stats::median;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

/// The version of the file; it goes up when an older reader would misread it.
const VERSION: u32 = 1;

/// What trials took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Durations {
    /// Version of the file.
    version: u32,
    /// How many trials a machine runs at once, on average: the seconds of its trials over those of the run.
    pub at_once: f64,
    /// The median of each trial's wall time, seconds; 0 for one that was only ever skipped.
    pub trials: BTreeMap<String, f64>,
}

/// So many of the newest durations of a trial count: a guest or a case may have become slower since.
const NEWEST: usize = 10;

/// So many of the newest nights of a history are looked at: on some of them a trial may not have been judged.
const NIGHTS: usize = 30;

impl Durations {
    /// Of former runs. Only trials that ran to a verdict count, and skips, which take no time.
    ///
    /// # Errors
    /// Runs in which no trial ran to a verdict.
    pub fn of(runs: &[PastRun]) -> Result<Durations> {
        let mut runs: Vec<&PastRun> = runs.iter().collect();
        runs.sort_by(|a, b| b.time.total_cmp(&a.time));
        let mut each: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        let mut skipped = Vec::new();
        let (mut in_trials, mut in_runs) = (0.0, 0.0);
        for run in runs {
            let mut ran = 0.0;
            for (name, trial) in &run.trials {
                if trial.verdict.is_judged() {
                    ran += trial.seconds;
                    let seconds = each.entry(name).or_default();
                    if seconds.len() < NEWEST {
                        seconds.push(trial.seconds);
                    }
                } else if trial.verdict == Verdict::Skipped {
                    skipped.push(name);
                }
            }
            if let Some(seconds) = run.seconds {
                in_trials += ran;
                in_runs += seconds;
            }
        }
        if each.is_empty() {
            bail!("no trial ran to a verdict there, so that there are no durations");
        }
        let mut trials: BTreeMap<String, f64> = each
            .into_iter()
            .filter_map(|(trial, seconds)| Some((trial.to_owned(), median(&seconds)?)))
            .collect();
        for trial in skipped {
            trials.entry(trial.to_owned()).or_insert(0.0);
        }
        let at_once = match in_trials > 0.0 && in_runs > 0.0 {
            true => in_trials / in_runs,
            // No run came to its end.
            false => 1.0,
        };
        Ok(Durations {
            version: VERSION,
            at_once,
            trials,
        })
    }

    /// Of the newest runs of that mode in a history.
    ///
    /// # Errors
    /// As [`Durations::of`], with the mode.
    pub fn of_history(history: &History, mode: Mode) -> Result<Durations> {
        let wanted = |run: &PastRun| run.mode() == mode;
        Durations::of(&history.runs(NIGHTS, wanted)).with_context(|| format!("of {mode}"))
    }

    /// From a run's directory, its event log, a file of durations, or a history: of this its runs of that
    /// `mode`.
    ///
    /// # Errors
    /// A file that cannot be read or is none of these; one in which there are no durations.
    pub fn read(path: &Path, mode: Mode) -> Result<Durations> {
        let path = match path.is_dir() {
            true => path.join(log::FILE),
            false => path.to_owned(),
        };
        let text = std::fs::read(&path)
            .with_context(|| format!("cannot read durations from {}", path.display()))?;
        if file::is_history(&text) {
            let history = file::of_bytes(&text, &path)?;
            return Durations::of_history(&history, mode)
                .with_context(|| path.display().to_string());
        }
        let durations = match serde_json::from_slice::<Durations>(&text) {
            Ok(durations) => durations,
            // More than one JSON value, or a value of another form.
            Err(error) => match log::read(&path) {
                Ok(lines) if let Some(run) = PastRun::from_lines("", &lines) => {
                    return Durations::of(&[run]).with_context(|| path.display().to_string());
                }
                _ => bail!(
                    "{} is neither an event log, nor a history, nor durations as `cargo xtask ci shards \
                     --write` writes them: {error}",
                    path.display()
                ),
            },
        };
        durations.check(&path)?;
        Ok(durations)
    }

    fn check(&self, path: &Path) -> Result<()> {
        if self.version > VERSION {
            bail!(
                "{} is of version {}, and this program reads up to {VERSION}",
                path.display(),
                self.version
            );
        }
        let is_time = |seconds: &f64| seconds.is_finite() && *seconds >= 0.0;
        if let Some((trial, seconds)) = self.trials.iter().find(|(_, s)| !is_time(s)) {
            bail!(
                "{}: {trial} takes {seconds} s, expected 0 or more",
                path.display()
            );
        }
        if !(self.at_once.is_finite() && self.at_once > 0.0) {
            bail!(
                "{}: at_once is {}, expected more than 0",
                path.display(),
                self.at_once
            );
        }
        Ok(())
    }

    /// As it is kept in a file.
    pub fn to_json(&self) -> String {
        // Numbers and strings: nothing that JSON lacks.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// SHA-256 of [`Durations::to_json`].
    pub fn digest(&self) -> String {
        format!("{:x}", Sha256::digest(self.to_json()))
    }

    /// What each of `names` is expected to take, seconds: what it took, else the median of its case,
    /// else that of all.
    pub fn expected(&self, names: &[String]) -> Vec<f64> {
        let case = |name: &str| TrialName::parse_or_case(name).case;
        let mut by_case: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for (trial, seconds) in self.trials.iter().filter(|(_, seconds)| **seconds > 0.0) {
            by_case.entry(case(trial)).or_default().push(*seconds);
        }
        let all = median(&by_case.values().flatten().copied().collect::<Vec<_>>()).unwrap_or(1.0);
        let by_case: BTreeMap<String, f64> = by_case
            .into_iter()
            .filter_map(|(case, seconds)| Some((case, median(&seconds)?)))
            .collect();
        let expected = |name: &String| {
            let took = self.trials.get(name).copied();
            took.or_else(|| by_case.get(&case(name)).copied())
                .unwrap_or(all)
        };
        names.iter().map(expected).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests;
