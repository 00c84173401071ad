//! Where the processor time of a run goes, and how little memory its harness takes.

use super::Figure;
use anyhow::{Context as _, Result};
use report::{Results, Trial};
use std::collections::BTreeMap;

/// What smoke took on the machine where the figures of README are from, before labs shared what they make,
/// seconds; its labs took the larger half.
const SMOKE_BEFORE: f64 = 981.0;
/// Of it a trial's in a lab, with checkpoints made before, seconds.
const LAB_TRIAL_BEFORE: f64 = 9.2;

/// Of a run, by who took it: all of it, its labs with their trials, the trials on this machine, the harness's
/// own threads, and what else it started (proofs, checkpoints, questions to QEMU).
pub fn of_run(run: &Results) -> Result<Vec<Figure>> {
    let known = "the run does not say its processor time";
    let all = run.cpu_seconds.context(known)?;
    let harness = run.harness_cpu_seconds.context(known)?;
    let labs = run.labs_cpu_seconds.context(known)?;
    let here = run.trials.iter().filter(|trial| trial.end.host.is_none());
    let direct: f64 = here.filter_map(|trial| trial.end.cpu_seconds).sum();
    let others = (all - labs - direct - harness).max(0.0);
    let figure = |name: &str, seconds| Figure::of(name, "s", vec![seconds]);
    let mut figures = vec![
        figure("smoke, processor time", all)?.at_most(0.6 * SMOKE_BEFORE),
        figure("  of its labs, with their trials", labs)?,
        figure("  of the trials on this machine", direct)?,
        figure("  of the harness's own threads", harness)?,
        figure("  of all else", others)?,
    ];
    let in_labs = run.trials.iter().filter(|trial| trial.end.host.is_some());
    let count = in_labs.count();
    if count > 0 {
        let share = figure("a trial in a lab, its share of it", labs / count as f64)?;
        figures.push(share.at_most(0.5 * LAB_TRIAL_BEFORE));
    }
    Ok(figures)
}

/// The processor time that trials take beyond their cases, seconds.
pub fn fixed<'t>(name: &str, trials: impl IntoIterator<Item = &'t Trial>) -> Result<Figure> {
    let cost = |trial: &Trial| Some(trial.end.cpu_seconds? - trial.end.case_cpu_seconds?);
    Figure::of(name, "s", trials.into_iter().filter_map(cost).collect())
}

/// The processor time of the trials of each case, in the cases' order by name.
pub fn by_case(trials: &[Trial]) -> Result<Vec<Figure>> {
    let mut times: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for trial in trials.iter().filter(|trial| !trial.is_skipped()) {
        let place = match trial.end.host {
            Some(_) => ", in a lab",
            None => "",
        };
        let name = format!("processor, {}{place}", trial.parts().row());
        times.entry(name).or_default().extend(trial.end.cpu_seconds);
    }
    (times.into_iter())
        .filter(|(_, times)| !times.is_empty())
        .map(|(name, times)| Figure::of(name, "s", times))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use report::events::{Outcome, TrialEnded};

    fn trial(name: &str, cpu_seconds: f64, host: Option<&str>) -> Trial {
        Trial {
            plan_item: String::new(),
            end: TrialEnded {
                cpu_seconds: Some(cpu_seconds),
                case_cpu_seconds: Some(1.0),
                host: host.map(str::to_owned),
                ..TrialEnded::unmeasured(name.into(), Outcome::Passed)
            },
        }
    }

    #[test]
    fn what_a_run_took_is_split_and_what_is_left_is_named() {
        let trials = vec![
            trial("ping::e1000::rhel6::tap", 1.5, None),
            trial("ping::virtio::rhel6::tap", 2.5, None),
            trial("ping::virtio::rhel6::vhost", 30.0, Some("lab")),
        ];
        let costs = fixed("fixed", &trials[..2]).unwrap();
        assert_eq!((costs.min, costs.max), (0.5, 1.5));
        let cases = by_case(&trials).unwrap();
        let medians: Vec<f64> = cases.iter().map(|figure| figure.median).collect();
        assert_eq!(medians, [2.0, 30.0]);
        let run = Results {
            trials,
            cpu_seconds: Some(50.0),
            harness_cpu_seconds: Some(3.0),
            labs_cpu_seconds: Some(40.0),
            ..Results::default()
        };
        let medians: Vec<f64> = (of_run(&run).unwrap().iter())
            .map(|figure| figure.median)
            .collect();
        assert_eq!(medians, [50.0, 40.0, 4.0, 3.0, 3.0, 40.0]);
        assert!(of_run(&Results::default()).is_err());
    }
}
