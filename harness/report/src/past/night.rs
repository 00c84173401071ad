//! One night of many runs: the newest run, with the other shards of its plan.

use super::{PastRun, facts};

/// The newest of several runs, joined with the newest run of each other shard of its plan.
#[derive(Debug)]
pub struct Night {
    /// The shards as one run; it is of the whole plan where none is missing.
    pub run: PastRun,
    /// What to know of how it was joined, a sentence each.
    pub notes: Vec<String>,
    /// Older runs of the same shards, the newest first.
    pub older_tries: Vec<PastRun>,
    /// The runs that are no part of it, the newest first.
    pub others: Vec<PastRun>,
}

impl Night {
    /// Of `runs`; none where there are no runs.
    pub fn newest(mut runs: Vec<PastRun>) -> Option<Night> {
        runs.sort_by(|a, b| b.time.total_cmp(&a.time));
        let mut rest = runs.into_iter();
        let mut shards = vec![rest.next()?];
        let (mut older_tries, mut others) = (Vec::new(), Vec::new());
        for run in rest {
            let k = |run: &PastRun| run.shard().map(|shard| shard.k);
            if !is_of_division(&shards[0], &run) {
                others.push(run);
            } else if shards.iter().any(|other| k(other) == k(&run)) {
                older_tries.push(run);
            } else if shares_a_trial(&shards, &run) {
                others.push(run);
            } else {
                shards.push(run);
            }
        }
        let mut notes = Vec::new();
        let run = joined(shards, &mut notes);
        Some(Night {
            run,
            notes,
            older_tries,
            others,
        })
    }

    /// Its run, and the runs that are not in it, the newest first.
    pub fn apart(self) -> (PastRun, Vec<PastRun>) {
        let mut left = self.older_tries;
        left.extend(self.others);
        left.sort_by(|a, b| b.time.total_cmp(&a.time));
        (self.run, left)
    }
}

/// Whether the two ran parts of the same plan, divided alike, of the same checkout on the same QEMUs.
fn is_of_division(one: &PastRun, other: &PastRun) -> bool {
    let (Some(a), Some(b)) = (&one.identity, &other.identity) else {
        return false;
    };
    let shards = a.shard.as_ref().zip(b.shard.as_ref());
    shards.is_some_and(|(a, b)| a.is_beside(b))
        && a.is_of_same_plan(b)
        && one.is_like(other)
        && one.only == other.only
}

fn shares_a_trial(shards: &[PastRun], run: &PastRun) -> bool {
    let mut trials = run.trials.keys();
    trials.any(|name| shards.iter().any(|other| other.trials.contains_key(name)))
}

fn joined(mut shards: Vec<PastRun>, notes: &mut Vec<String>) -> PastRun {
    shards.sort_by_key(|run| run.shard().map(|shard| shard.k));
    let ran = shards.len();
    let names: Vec<String> = shards.iter().map(|run| run.name.clone()).collect();
    let mut shards = shards.into_iter();
    let mut night = shards.next().expect("a night has a run");
    for mut run in shards {
        let has_figures = run.trials.values().any(|trial| !trial.figures.is_empty());
        if has_figures && !facts::is_same_kind_of_host(&night, &run) {
            run.trials
                .values_mut()
                .for_each(|trial| trial.figures.clear());
            notes.push(format!(
                "{} ran on another kind of host than {}: its figures are left out",
                run.name, names[0]
            ));
        }
        night.time = night.time.min(run.time);
        night.seconds = night.seconds.zip(run.seconds).map(|(a, b)| a.max(b));
        night.ended &= run.ended;
        night.labs.extend(run.labs);
        night.trials.extend(run.trials);
    }
    night.name = names.join(" + ");
    if let Some(shard) = night.shard() {
        if ran == shard.n as usize {
            night.identity.as_mut().expect("it has a shard").shard = None;
        } else {
            notes.push(format!(
                "{} is {ran} of {} shards: the others have no verdict",
                night.name, shard.n
            ));
        }
    }
    night
}
