//! Which trials of a plan a shard runs. The same names and durations give the same shards on every
//! machine, so that each can choose its own.

use crate::durations::Durations;
use crate::name::TrialName;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// The backend of trials that need no vhost, and so no lab.
const TAP: &str = "tap";

/// For each of `names` the shard that it is in, from 1 to `n`.
///
/// Without durations the K-th shard has the K-th of every `n`. With them, shards are filled longest
/// trial first, each time the one with the least to do. Trials that may share a lab (one QEMU, one
/// backend with vhost) are in as few shards as an even filling allows, as each of these starts a lab.
pub fn partition(names: &[String], durations: Option<&Durations>, n: u32) -> Vec<u32> {
    match durations {
        Some(durations) => filled(names, &durations.expected(names), n),
        None => (0..n).cycle().take(names.len()).map(|k| k + 1).collect(),
    }
}

/// What `partition` gives each shard, in its unit.
pub fn loads(shards: &[u32], seconds: &[f64], n: u32) -> Vec<f64> {
    let mut loads = vec![0.0; n as usize];
    for (shard, seconds) in shards.iter().zip(seconds) {
        loads[(shard - 1) as usize] += seconds;
    }
    loads
}

fn filled(names: &[String], seconds: &[f64], n: u32) -> Vec<u32> {
    let even = seconds.iter().sum::<f64>() / f64::from(n);
    let mut labs: BTreeMap<(String, String), Vec<usize>> = BTreeMap::new();
    let mut items: Vec<Vec<usize>> = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let parts = TrialName::parse_or_case(name);
        match parts.backend.as_str() {
            "" | TAP => items.push(vec![index]),
            _ => {
                let lab = (parts.qemu().to_owned(), parts.backend);
                labs.entry(lab).or_default().push(index);
            }
        }
    }
    for trials in labs.into_values() {
        let all: f64 = trials.iter().map(|&index| seconds[index]).sum();
        let shards = match even > 0.0 {
            true => (all / even).ceil().max(1.0) as usize,
            false => 1,
        };
        let singly = trials.into_iter().map(|index| vec![index]).collect();
        items.extend(fill(singly, seconds, shards.min(n as usize)));
    }
    let mut shards = vec![0; names.len()];
    for (shard, trials) in (1..).zip(fill(items, seconds, n as usize)) {
        for index in trials {
            shards[index] = shard;
        }
    }
    shards
}

/// Puts each item into the emptiest of `n` bins, the longest first; a tie goes to the fewest trials, then
/// to the first.
fn fill(mut items: Vec<Vec<usize>>, seconds: &[f64], n: usize) -> Vec<Vec<usize>> {
    // Whole milliseconds: a sum of them does not depend on its order.
    let millis = |item: &[usize]| -> u64 {
        let each = item.iter().map(|&index| (seconds[index] * 1000.0) as u64);
        each.sum()
    };
    items.sort_by_key(|item| Reverse(millis(item)));
    let mut bins: Vec<(u64, Vec<usize>)> = vec![(0, Vec::new()); n];
    for item in items {
        let emptiest = bins
            .iter_mut()
            .min_by_key(|(load, trials)| (*load, trials.len()));
        if let Some((load, trials)) = emptiest {
            *load += millis(&item);
            trials.extend(item);
        }
    }
    bins.into_iter().map(|(_, trials)| trials).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durations::tests::durations;

    fn names(count: usize, backend: &str) -> Vec<String> {
        (0..count)
            .map(|i| format!("case{i}::virtio::rhel9::{backend}"))
            .collect()
    }

    #[test]
    fn without_durations_the_kth_of_every_n() {
        let shards = partition(&names(7, "tap"), None, 3);
        assert_eq!(shards, [1, 2, 3, 1, 2, 3, 1]);
    }

    #[test]
    fn shards_are_filled_longest_first() {
        let names = names(6, "tap");
        let took = [50.0, 10.0, 20.0, 30.0, 5.0, 5.0];
        let durations = durations(names.iter().map(String::as_str).zip(took));
        let shards = partition(&names, Some(&durations), 2);
        assert_eq!(shards, [1, 1, 2, 2, 2, 2]);
        assert_eq!(loads(&shards, &took, 2), [60.0, 60.0]);
    }

    #[test]
    fn a_lab_is_shared_by_a_shard_and_split_only_where_it_is_too_long() {
        let (tap, vhost) = (names(20, "tap"), names(5, "vhost"));
        let all = [tap, vhost].concat();
        let even = durations(all.iter().map(|name| (name.as_str(), 1.0)));
        let of = |shards: &[u32]| {
            let mut vhost = shards[20..].to_vec();
            vhost.sort_unstable();
            vhost.dedup();
            vhost.len()
        };
        let shards = partition(&all, Some(&even), 5);
        assert_eq!(of(&shards), 1);
        assert_eq!(loads(&shards, &[1.0; 25], 5), [5.0; 5]);
        // A fifth of the time no longer holds it.
        let shards = partition(&all, Some(&even), 10);
        assert_eq!(of(&shards), 2);
    }

    #[test]
    fn each_trial_is_in_one_shard_and_none_is_much_longer_than_the_rest() {
        let all = [
            names(400, "tap"),
            names(70, "vhost"),
            names(60, "vhost_zcopy"),
        ]
        .concat();
        let took = (0..all.len()).map(|i| 1.0 + (i * 37 % 91) as f64);
        let durations = durations(all.iter().map(String::as_str).zip(took));
        let seconds = durations.expected(&all);
        for n in [1, 2, 3, 7, 40] {
            let shards = partition(&all, Some(&durations), n);
            assert!(shards.iter().all(|shard| (1..=n).contains(shard)));
            let loads = loads(&shards, &seconds, n);
            let even = seconds.iter().sum::<f64>() / f64::from(n);
            let most = loads.iter().copied().fold(0.0, f64::max);
            assert!(most <= even * 1.1 + 91.0, "{n}: {loads:?}");
        }
        let one = partition(&all, Some(&durations), 7);
        assert_eq!(one, partition(&all, Some(&durations), 7));
    }

    #[test]
    fn more_shards_than_trials_leave_some_empty() {
        let two = names(2, "tap");
        let even = durations(two.iter().map(|name| (name.as_str(), 1.0)));
        assert_eq!(partition(&two, Some(&even), 4), [1, 2]);
        assert_eq!(partition(&[], Some(&even), 4), [0; 0]);
    }
}
