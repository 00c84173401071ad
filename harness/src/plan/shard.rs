//! Which of the chosen trials a shard runs. Pure.

use super::{PlannedTrial, names};
use report::durations::Durations;
use report::identity::Shard;
use report::merge::{plan_digest, plan_text};
use report::shards::partition;

/// A shard of what was chosen.
pub struct Share {
    /// Which.
    pub shard: Shard,
    /// The names of all that was chosen, a line each: what all shards come to.
    pub plan: String,
}

/// Keeps the `k`-th of `n` shards of `trials`, which does not depend on what this host can run: the n
/// shards make up the whole on any hosts.
pub fn keep(
    (k, n): (u32, u32),
    durations: Option<&Durations>,
    trials: &mut Vec<PlannedTrial>,
) -> Share {
    let names = names(trials);
    let mut shards = partition(&names, durations, n).into_iter();
    trials.retain(|_| shards.next() == Some(k));
    let plan = plan_text(&names);
    Share {
        shard: Shard {
            k,
            n,
            plan: Some(plan_digest(&plan)),
            durations: durations.map(Durations::digest),
        },
        plan,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{facts, matrix, on};
    use super::*;
    use crate::host::tests::capable;

    #[test]
    fn shards_make_up_the_whole_whatever_a_host_can_run() {
        let whole = |facts| on(&facts, &matrix(""), "smoke", false);
        let all = names(&whole(facts()));
        // Another host, that can do less, must take the same share.
        let other = || {
            capable(|host| {
                host.kernel.vhost_obstacle = Some("none".into());
                host.qemus.default.facts.devices = vec![];
            })
        };
        let part = |k, facts| {
            let mut trials = whole(facts);
            let share = keep((k, 3), None, &mut trials);
            assert_eq!(share.plan.lines().collect::<Vec<_>>(), all);
            (names(&trials), share.shard.plan)
        };
        let parts = [part(1, facts()), part(2, other()), part(3, facts())];
        for (i, name) in all.iter().enumerate() {
            assert_eq!(parts[i % 3].0[i / 3], *name);
        }
        let count: usize = parts.iter().map(|(names, _)| names.len()).sum();
        assert_eq!(count, all.len());
        assert!(parts.iter().all(|(_, plan)| *plan == parts[0].1));
    }
}
