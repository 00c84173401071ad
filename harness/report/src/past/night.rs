//! One night of many runs: the newest run, with the other shards of its plan.

use super::PastRun;
use crate::identity::Shard;

/// The newest of `runs`, joined with the newest run of each other shard of its plan, and the runs that are
/// left, the newest first. None where there are no runs.
pub fn newest(mut runs: Vec<PastRun>) -> Option<(PastRun, Vec<PastRun>)> {
    runs.sort_by(|a, b| b.time.total_cmp(&a.time));
    let mut rest = runs.into_iter();
    let mut night = vec![rest.next()?];
    let mut left = Vec::new();
    for run in rest {
        match is_another_shard(&night, &run) {
            true => night.push(run),
            false => left.push(run),
        }
    }
    Some((joined(night), left))
}

/// Whether `run` ran a part of the plan of `night` that none of `night` ran.
fn is_another_shard(night: &[PastRun], run: &PastRun) -> bool {
    let of_plan = |other: &PastRun| {
        other.plan_digest() == run.plan_digest()
            && other.is_like(run)
            && other.commit() == run.commit()
    };
    let Some(shard) = run.shard() else {
        return false;
    };
    night.iter().all(|other| {
        of_plan(other)
            && (other.shard()).is_some_and(|other| other.n == shard.n && other.k != shard.k)
    })
}

/// The shards as one run; it is of the whole plan where none is missing.
fn joined(mut shards: Vec<PastRun>) -> PastRun {
    shards.sort_by_key(|run| run.shard().map(|shard| shard.k));
    let n = shards[0].shard().map_or(1, |shard| shard.n as usize);
    let whole = shards.len() == n;
    let names: Vec<String> = shards.iter().map(|run| run.name.clone()).collect();
    let mut shards = shards.into_iter();
    let mut night = shards.next().expect("a night has a run");
    for run in shards {
        night.time = night.time.min(run.time);
        night.seconds = night.seconds.zip(run.seconds).map(|(a, b)| a.max(b));
        night.ended &= run.ended;
        night.labs.extend(run.labs);
        night.trials.extend(run.trials);
    }
    night.name = names.join(" + ");
    if let Some(identity) = &mut night.identity
        && whole
    {
        identity.shard = None;
    }
    night
}

/// Which shards of its plan `night` lacks, as a sentence; none where it is of the whole plan.
pub fn lacking(night: &PastRun) -> Option<String> {
    let Shard { n, .. } = night.shard()?;
    let ran = night.name.matches(" + ").count() + 1;
    Some(format!(
        "{} is {ran} of {n} shards: trials of the others are not compared",
        night.name
    ))
}
