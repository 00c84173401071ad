//! How long trials take, by what they took before.

use super::History;
use crate::name::TrialName;
use crate::past::PastRun;
use std::collections::{BTreeMap, HashMap};

/// So many of the newest durations of a trial count: a guest or a case may have become slower since.
const NIGHTS: usize = 10;

/// How long each of `trials` is expected to take, seconds: the median of its newest durations in runs of that
/// `profile`; where it has none, the median of its case's trials. A trial of an unknown case is absent.
pub fn durations<'t>(
    history: &History,
    profile: &str,
    trials: impl IntoIterator<Item = &'t str>,
) -> BTreeMap<String, f64> {
    let mut of_trials: HashMap<&str, Vec<f64>> = HashMap::new();
    let wanted = |run: &PastRun| run.profile() == profile;
    for night in history
        .nights
        .iter()
        .rev()
        .filter(|night| wanted(&night.run))
    {
        for record in &night.records {
            if !record.verdict.is_judged() {
                continue;
            }
            let name = history.texts[record.trial as usize].as_str();
            let taken = of_trials.entry(name).or_default();
            if taken.len() < NIGHTS {
                taken.push(super::hundredths(record.seconds));
            }
        }
    }
    let mut known: HashMap<&str, f64> = HashMap::new();
    let mut of_cases: HashMap<String, Vec<f64>> = HashMap::new();
    for (name, taken) in of_trials {
        let Some(seconds) = median(taken) else {
            continue;
        };
        known.insert(name, seconds);
        let case = TrialName::parse_or_case(name).row();
        of_cases.entry(case).or_default().push(seconds);
    }
    let of_cases: HashMap<String, f64> = (of_cases.into_iter())
        .filter_map(|(case, all)| Some((case, median(all)?)))
        .collect();
    let expected = trials.into_iter().filter_map(|trial| {
        let of_case = || of_cases.get(&TrialName::parse_or_case(trial).row());
        let seconds = known.get(trial).or_else(of_case)?;
        Some((trial.to_owned(), *seconds))
    });
    expected.collect()
}

/// None of nothing.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}
