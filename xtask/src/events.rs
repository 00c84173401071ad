//! What a finished run says of itself: the fields of `events.jsonl` that are needed here.

use anyhow::{Context, Result};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// How a trial ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every check held.
    Passed,
    /// It held on a later try.
    Flaky,
    /// A check of the NIC did not hold.
    Failed,
    /// The harness could not do its work.
    Broken,
    /// Not decidable here.
    Skipped,
    /// The run was stopped.
    Interrupted,
}

/// A `trial_ended` event.
#[derive(Debug, Clone, Deserialize)]
pub struct Trial {
    /// Full name.
    pub trial: String,
    /// How it ended.
    pub verdict: Verdict,
    /// Wall time, seconds.
    pub seconds: f64,
    /// Of that, inside the case, seconds.
    pub case_seconds: f64,
    /// What its guest was started from.
    pub start: Option<String>,
    /// The lab, where it was not this machine itself.
    pub host: Option<String>,
    /// From exec to the first word of the lab that this trial started, seconds.
    pub lab_start_seconds: Option<f64>,
    /// From QEMU's exec to the agent's first answer, seconds.
    pub boot_seconds: Option<f64>,
    /// Peak resident memory of its VM, KiB.
    pub vm_peak_kib: Option<u64>,
}

#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event {
    TrialEnded(Trial),
    RunEnded {
        seconds: f64,
        harness_peak_kib: u64,
        cpu_seconds: Option<f64>,
        processors: Option<usize>,
    },
    #[serde(other)]
    Other,
}

/// A run, as its events tell it.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// Its trials, in the order of their ends.
    pub trials: Vec<Trial>,
    /// Wall time, seconds; zero where the run was killed.
    pub seconds: f64,
    /// Peak resident memory of the harness, KiB.
    pub harness_peak_kib: u64,
    /// Processor time, seconds, and the processors that there were.
    pub cpu: Option<(f64, usize)>,
}

impl Run {
    /// Gives `command`'s run a name of its own, and returns its directory: another run in the same
    /// checkout is then never read in its place.
    pub fn name(command: &mut Command, harness_dir: &Path) -> PathBuf {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let name = format!(
            "{}-{}",
            now.unwrap_or_default().as_nanos(),
            std::process::id()
        );
        command.env("NICMATRIX_RUN", &name);
        harness_dir.join("runs").join(name)
    }

    /// Reads `DIR/events.jsonl`.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("events.jsonl");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is not understood", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut run = Run::default();
        for (index, line) in text.lines().enumerate() {
            match serde_json::from_str(line).with_context(|| format!("line {}", index + 1))? {
                Event::TrialEnded(trial) => run.trials.push(trial),
                Event::RunEnded {
                    seconds,
                    harness_peak_kib,
                    cpu_seconds,
                    processors,
                } => {
                    run.seconds = seconds;
                    run.harness_peak_kib = harness_peak_kib;
                    run.cpu = cpu_seconds.zip(processors);
                }
                Event::Other => {}
            }
        }
        Ok(run)
    }

    /// The time in which no schedule can beat it, seconds: its longest trial, or its processor time
    /// shared out over all processors.
    pub fn bound(&self) -> Option<f64> {
        let (cpu, processors) = self.cpu?;
        let longest = self.trials.iter().map(|t| t.seconds).fold(0.0, f64::max);
        Some(longest.max(cpu / processors as f64))
    }

    /// How many trials ended so.
    pub fn count(&self, verdicts: &[Verdict]) -> usize {
        self.trials
            .iter()
            .filter(|t| verdicts.contains(&t.verdict))
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the harness writes them, with keys that are of no use here.
    pub const EVENTS: &str = r#"{"event":"run_started","unix_time":1,"properties":{"qemu":"7.2"},"faults":false}
{"event":"planned","trial":"driver::virtio::rhel9::tap","case":"driver","nic":"virtio","guest":"rhel9","backend":"tap","plan_item":"5"}
{"event":"trial_ended","trial":"driver::virtio::rhel9::tap","verdict":"passed","attempts":1,"seconds":3.5,"case_seconds":0.5,"start":"boot","boot_seconds":2.25,"vm_peak_kib":180000,"notes":[],"serial_tail":"","artifacts":"a","reproduce":"r"}
{"event":"trial_ended","trial":"driver::virtio::rhel9::vhost","verdict":"skipped","reason":"no vhost_net","attempts":0,"seconds":0.0,"case_seconds":0.0,"boot_seconds":null,"vm_peak_kib":null,"notes":[],"serial_tail":"","artifacts":"","reproduce":"r"}
{"event":"run_ended","seconds":4.0,"interrupted":false,"harness_peak_kib":15000,"cpu_seconds":5.0,"processors":2}
"#;

    #[test]
    fn a_run_is_read() {
        let run = Run::parse(EVENTS).unwrap();
        assert_eq!(run.count(&[Verdict::Passed]), 1);
        assert_eq!(run.count(&[Verdict::Skipped]), 1);
        assert_eq!((run.seconds, run.harness_peak_kib), (4.0, 15000));
        assert_eq!(run.trials[0].boot_seconds, Some(2.25));
        assert_eq!(run.cpu, Some((5.0, 2)));
    }

    #[test]
    fn the_bound_is_the_longest_trial_or_the_processors() {
        let mut run = Run::parse(EVENTS).unwrap();
        assert_eq!(run.bound(), Some(3.5));
        run.cpu = Some((10.0, 2));
        assert_eq!(run.bound(), Some(5.0));
    }

    #[test]
    fn a_run_of_an_earlier_version_has_no_bound() {
        let earlier = EVENTS.replace(r#","cpu_seconds":5.0,"processors":2"#, "");
        assert_ne!(earlier, EVENTS);
        assert_eq!(Run::parse(&earlier).unwrap().bound(), None);
    }

    #[test]
    fn a_broken_line_is_named() {
        let error = Run::parse("{\"event\":\"planned\"}\nnonsense\n").unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error:#}");
    }
}
