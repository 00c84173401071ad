//! What a comparison says, the same on a terminal and in Markdown.

use super::{Change, Class, Comparison, Conclusion, Finding};
use crate::figures::against::Quantity;
use crate::figures::nights::{FEWEST_NIGHTS, Judged, Verdict as OfFigure};
use crate::past::facts::{self, Changed};
use crate::past::series::{Streak, colour};
use crate::past::{Verdict, date};
use crate::text::{counted, of_them};
use std::collections::BTreeMap;

/// So many findings of a class are shown; the JSON has them all.
pub const FINDINGS: usize = 30;
/// So many trials of a finding are named.
pub const TRIALS: usize = 6;
/// So many figures are shown.
pub const FIGURES: usize = 10;

/// The first line: what it comes to.
pub fn headline(comparison: &Comparison) -> String {
    let mut worse = list(comparison, |class| class.is_worse());
    let figures = comparison.worse_figures();
    worse.extend((figures > 0).then(|| format!("{} worse", counted(figures, "figure"))));
    let undecided = list(comparison, |class| {
        matches!(class, Class::NotRun | Class::Broken)
    });
    match comparison.conclusion() {
        Conclusion::Worse => format!("Worse: {}", joined(&[worse, undecided])),
        Conclusion::Undecided if undecided.is_empty() => {
            "Undecided: HEAD was cut off before it named all its trials".into()
        }
        Conclusion::Undecided => format!(
            "Undecided: nothing is worse so far, {}",
            joined(&[undecided])
        ),
        Conclusion::NothingWorse => "Nothing is worse".into(),
    }
}

/// The second: what is not worse, in numbers.
pub fn rest(comparison: &Comparison) -> String {
    let better = |class: Class| class > Class::Broken;
    let undecided = |class: Class| matches!(class, Class::NotRun | Class::Broken);
    match comparison.conclusion() {
        Conclusion::NothingWorse => {
            joined(&[list(comparison, undecided), list(comparison, better)])
        }
        _ => joined(&[list(comparison, better)]),
    }
}

fn list(comparison: &Comparison, test: impl Fn(Class) -> bool) -> Vec<String> {
    let faults = comparison.sides.head.faults;
    let counts = comparison.counts().into_iter();
    let counts = counts.filter(|(class, _)| test(*class));
    counts.map(|(class, n)| class.counted(n, faults)).collect()
}

fn joined(lists: &[Vec<String>]) -> String {
    lists.concat().join(", ")
}

/// What a finding's cause begins with.
pub fn says(finding: &Finding) -> &'static str {
    match finding.class {
        Class::Fixed => "failed with:",
        Class::NewlySkipped | Class::OtherReason => "reason:",
        _ => "says:",
    }
}

/// What the history and the base say of a finding's trials, in sentences.
pub fn history(finding: &Finding) -> Vec<String> {
    let mut lines = Vec::new();
    let changes = &finding.changes;
    let before = |verdict: Verdict| {
        let is = |change: &&&Change| change.base.map(|(record, _)| record.verdict) == Some(verdict);
        changes.iter().filter(is).count()
    };
    if matches!(
        finding.class,
        Class::NewFailure | Class::NewlyKnown | Class::NewlyFlaky
    ) {
        for (verdict, words) in [
            (Verdict::Flaky, "flaky"),
            (Verdict::Known, "a known failure"),
            (Verdict::Failed, "failed"),
            (Verdict::Broken, "broken"),
            (Verdict::Skipped, "skipped"),
        ] {
            let n = before(verdict);
            if n > 0 {
                lines.push(format!("{}before: {words}", of_them(n, changes.len())));
            }
        }
        let new = changes
            .iter()
            .filter(|change| change.base.is_none())
            .count();
        if new > 0 {
            lines.push(format!("{}new in the plan", of_them(new, changes.len())));
        }
    }
    if let (Class::OtherWords, Some((record, _))) = (finding.class, changes[0].base) {
        lines.push(format!("before: {}", record.cause));
    }
    if let Class::OtherReason = finding.class
        && let Some((record, _)) = changes[0].base
        && !record.cause.is_empty()
    {
        lines.push(format!("before: {}", record.cause));
    }
    let flipping: Vec<_> = changes.iter().filter(|c| c.flips.is_flipping()).collect();
    if let Some(most) = flipping.iter().max_by_key(|change| change.flips.flips)
        && finding.class.is_failure()
    {
        let of = if flipping.len() == changes.len() {
            String::new()
        } else {
            format!("{} of them: ", flipping.len())
        };
        lines.push(of + &most.flips.words());
    }
    lines.extend(repeats(finding));
    if let Some(since) = red_since(finding) {
        lines.push(since);
    }
    if finding.class == Class::ExpectationFixed {
        lines.push("take the expectation out of the matrix file, or bound it".into());
    }
    lines
}

/// How the failures ended when they ran again at once: "solid: failed 6 of 6 times", where that is so of all of
/// them, else of how many.
fn repeats(finding: &Finding) -> Vec<String> {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for change in &finding.changes {
        let repeats = change.head.and_then(|record| record.repeats);
        if let Some(repeats) = repeats.filter(|_| finding.class.is_failure()) {
            *kinds.entry(repeats.words()).or_default() += 1;
        }
    }
    let all = finding.changes.len();
    let line = |(words, n): (String, usize)| of_them(n, all) + &words;
    kinds.into_iter().map(line).collect()
}

/// "red since 2026-11-24, 3 nights; last green at commit 743f3233 (2026-11-23)".
fn red_since(finding: &Finding) -> Option<String> {
    let longest = (finding.changes.iter())
        .filter_map(|change| Some((change.red?, change)))
        .max_by_key(|((nights, _), _)| *nights)?;
    let ((nights, first), Change { head, green, .. }) = longest;
    let colour = colour(head.as_ref()?.verdict);
    if nights < 2 {
        return None;
    }
    let green = green.map_or_else(String::new, |run| {
        let commit = run
            .commit()
            .map_or("an unknown commit".to_owned(), |commit| {
                format!("commit {}", facts::short(commit))
            });
        format!("; last green at {commit} ({})", date::day(run.time))
    });
    Some(Streak::words(colour, first.time, nights) + &green)
}

/// "a → b", "→ b, new" or "a → none".
pub fn arrow(changed: &Changed) -> String {
    let side = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".into());
    format!("{} → {}", side(&changed.base), side(&changed.head))
}

/// The figures that are worth a word, by what is said of them, each kind with its title.
pub fn figures<'c, 'r>(comparison: &'c Comparison<'r>) -> Vec<(String, &'c [Judged<'r>])> {
    let kinds = comparison.figures.chunk_by(|a, b| a.verdict == b.verdict);
    kinds.map(|kind| (title(kind), kind)).collect()
}

fn title(kind: &[Judged]) -> String {
    let most = kind.iter().map(|figure| figure.nights).max().unwrap_or(0);
    match kind[0].verdict {
        OfFigure::Worse => "Figures that became worse than is usual from night to night".into(),
        OfFigure::Better => "Figures that became better than is usual from night to night".into(),
        _ if most < 2 => "Figures that differ (one start each: too few to say)".into(),
        _ => format!("Figures that differ (under {FEWEST_NIGHTS} nights: learning what is usual)"),
    }
}

/// "TCP_STREAM, host to guest: 941.20 → 752.10 10^6bits/s (0.80 x; usual is up to 3.0 %, of 30 nights)".
pub fn figure(figure: &Judged) -> String {
    let quantity = match figure.quantity {
        Quantity::Throughput => "",
        Quantity::Cost => ", processor time",
    };
    let known = match figure.usual {
        Some(usual) => format!(
            "; usual is up to {:.1} %, of {}",
            100.0 * usual,
            counted(figure.nights, "night")
        ),
        None if figure.nights > 1 => format!("; {}", counted(figure.nights, "night")),
        None => String::new(),
    };
    format!(
        "{}{quantity}: {:.2} → {:.2} {} ({:.2} x{known})",
        figure.what,
        figure.before,
        figure.value,
        figure.unit,
        figure.ratio()
    )
}

/// The command that shows a finding again; of its first trial.
pub fn again<'c>(finding: &Finding<'c>) -> Option<&'c str> {
    let wanted = finding.class.is_failure() || finding.class == Class::Broken;
    let commands = finding.changes.iter().filter_map(|change| change.head);
    let mut commands = commands.map(|record| record.reproduce.as_str());
    commands.find(|command| wanted && !command.is_empty())
}
