//! Changes that are one finding: of the same class, and with the same words.

use super::axes::Universe;
use super::{Change, Class, Comparison};
use crate::past::Verdict;
use crate::signature;
use std::collections::BTreeMap;

/// Trials that became the same, with the same words.
#[derive(Debug)]
pub struct Finding<'c> {
    /// What became of them.
    pub class: Class,
    /// Where they are, by the axes.
    pub place: String,
    /// What the first of them says; empty where they say nothing.
    pub cause: &'c str,
    /// The trials, by name.
    pub changes: Vec<&'c Change<'c>>,
}

/// The findings of all classes that are not only counted, by class, those of most trials first.
pub fn of<'c>(comparison: &'c Comparison) -> Vec<Finding<'c>> {
    let mut groups: BTreeMap<(Class, String), Vec<&Change>> = BTreeMap::new();
    for change in &comparison.changes {
        if !change.class.is_only_counted() {
            let words = match change.class {
                // Of the plan, or of the run as a whole.
                Class::New | Class::Vanished | Class::NotRun | Class::RunsAgain => String::new(),
                _ => signature::of(change.cause()),
            };
            groups
                .entry((change.class, words))
                .or_default()
                .push(change);
        }
    }
    let (base, head) = (&comparison.sides.base, &comparison.sides.head);
    let universe = |of: &'c crate::past::PastRun, test: fn(Verdict) -> bool| {
        let trials = of.trials.values().filter(move |trial| test(trial.verdict));
        Universe::new(trials.map(|trial| (&trial.name, trial.verdict.is_green())))
    };
    let judged = universe(head, Verdict::is_judged);
    let planned = universe(head, |_| true);
    let before = universe(base, |_| true);
    // What a missing shard was to run is in the base alone.
    let of_either = (base.trials.values().chain(head.trials.values()))
        .map(|trial| (&trial.name, trial.verdict.is_green()));
    let of_either = Universe::new(of_either);
    let mut findings: Vec<Finding> = groups
        .into_iter()
        .map(|((class, words), changes)| {
            let names: Vec<_> = changes.iter().map(|change| change.name()).collect();
            let universe = match class {
                Class::Vanished => &before,
                Class::NotRun => &of_either,
                Class::Fixed | Class::ExpectationFixed => &judged,
                class if class.is_failure() => &judged,
                _ => &planned,
            };
            Finding {
                class,
                place: universe.place(&names, class.is_failure()),
                cause: if words.is_empty() {
                    ""
                } else {
                    changes[0].cause()
                },
                changes,
            }
        })
        .collect();
    // A stable sort: what has as many trials stays in the order of its words.
    findings.sort_by_key(|finding| (finding.class, std::cmp::Reverse(finding.changes.len())));
    findings
}
