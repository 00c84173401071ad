//! Figures that are not what they were.

use crate::figures::against::LEAST_EFFECT;
use crate::figures::nights::{self, Judged, Verdict};
use crate::past::{PastRun, facts};

/// The figures that are worth a word: those that changed more than is usual, and where too few nights say what
/// is usual, those that differ by 3 % or more. The worse come first, and of a kind those that changed most. Then
/// a sentence where none may be compared. `nights` are those before the head, the oldest first.
pub fn changes<'r>(nights: &[&PastRun], head: &'r PastRun) -> (Vec<Judged<'r>>, Option<String>) {
    if !(nights.iter()).any(|run| facts::is_same_kind_of_host(run, head)) {
        let note = "figures are not compared: the hosts are not known to be of the same kind";
        let shared = nights.iter().any(|run| share_a_figure(run, head));
        return (Vec::new(), shared.then(|| note.into()));
    }
    let mut changes = nights::judge(head, nights);
    changes.retain(|change| match change.verdict {
        Verdict::Worse | Verdict::Better => true,
        Verdict::Learning => {
            change.ratio().is_finite() && (change.ratio() - 1.0).abs() >= LEAST_EFFECT
        }
        Verdict::Usual => false,
    });
    // Half as much is as far from the same as twice as much.
    let distance = |change: &Judged| change.ratio().ln().abs();
    changes.sort_by(|a, b| {
        let order = a.verdict.cmp(&b.verdict);
        order.then_with(|| distance(b).total_cmp(&distance(a)))
    });
    (changes, None)
}

fn share_a_figure(base: &PastRun, head: &PastRun) -> bool {
    head.trials.iter().any(|(trial, now)| {
        let before = base
            .trials
            .get(trial)
            .map_or(&[][..], |record| &record.figures);
        (now.figures.iter()).any(|figure| before.iter().any(|other| other.is_same(figure)))
    })
}
