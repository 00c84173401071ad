//! A comparison of figures, in words.

use super::against::{Compared, Comparison, Effect, FALSE_DISCOVERIES, Quantity, Verdict};
use crate::markdown::escape;
use crate::stats;
use crate::text;
use std::fmt::Write as _;

/// For a terminal: each figure with both medians, the change with its interval, p and what is said of it;
/// those that differ first. `names` are the two QEMUs'.
pub fn terminal(comparison: &Comparison, names: [&str; 2]) -> String {
    let mut out = format!("{} against {}\n", names[1], names[0]);
    for verdict in [
        Verdict::Worse,
        Verdict::Better,
        Verdict::TooFew,
        Verdict::Same,
    ] {
        let figures: Vec<&Compared> = comparison.having(verdict).collect();
        for of_trial in figures.chunk_by(|a, b| a.key.trial == b.key.trial) {
            let _ = write!(out, "\n{:<8}{}\n", word(verdict), of_trial[0].key.trial);
            let rows: Vec<[String; 4]> = of_trial.iter().map(|figure| row(figure)).collect();
            let width = |column: usize| {
                let lengths = rows.iter().map(|row| row[column].chars().count());
                lengths.max().unwrap_or(0)
            };
            let [test, change, interval] = [0, 2, 3].map(width);
            let values = width(1);
            for row in &rows {
                let line = format!(
                    "        {:<test$}  {:>values$}  {:>change$}  {:<interval$}",
                    row[0], row[1], row[2], row[3]
                );
                let _ = writeln!(out, "{}", line.trim_end());
            }
        }
    }
    let _ = writeln!(out, "\n{}", sentences(comparison).join("\n"));
    out
}

/// The same as a table in GitHub's Markdown, of what differs; the rest is counted.
pub fn markdown(comparison: &Comparison, names: [&str; 2]) -> String {
    let mut out = format!("## {} against {}\n\n", escape(names[1]), escape(names[0]));
    let said = |figure: &&Compared| figure.verdict != Verdict::Same;
    let figures: Vec<&Compared> = comparison.figures.iter().filter(said).collect();
    if !figures.is_empty() {
        out += "| | trial | figure | medians | change | |\n| --- | --- | --- | --- | --- | --- |\n";
    }
    for figure in figures {
        let cells = row(figure);
        let cells = [word(figure.verdict), &figure.key.trial]
            .into_iter()
            .chain(cells.iter().map(String::as_str))
            .map(escape);
        let _ = writeln!(out, "| {} |", cells.collect::<Vec<_>>().join(" | "));
    }
    for sentence in sentences(comparison) {
        let _ = write!(out, "\n{}\n", escape(&sentence));
    }
    out
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Worse => "worse",
        Verdict::Better => "better",
        Verdict::Same => "same",
        Verdict::TooFew => "too few",
    }
}

/// What it is, its medians, its change, and how sure that is.
fn row(figure: &Compared) -> [String; 4] {
    let what = match figure.key.quantity {
        Quantity::Throughput => "",
        Quantity::Cost => ", processor time",
    };
    let [first, second] = [&figure.first, &figure.second].map(|values| {
        stats::median(values).map_or_else(|| "none".to_owned(), |median| format!("{median:.2}"))
    });
    let (change, interval) = match figure.effect {
        None => (String::new(), None),
        Some(Effect { change, interval }) => (percent(change), interval),
    };
    let interval = interval.map(|(low, high)| format!("({} to {}) ", percent(low), percent(high)));
    let starts = match figure.verdict {
        Verdict::TooFew => format!(
            ", {} and {} starts",
            figure.first.len(),
            figure.second.len()
        ),
        _ => String::new(),
    };
    [
        format!("{}{what}", text::one_line(&figure.key.test)),
        format!("{first} → {second} {}", text::one_line(&figure.key.unit)),
        change,
        format!("{}p {:.3}{starts}", interval.unwrap_or_default(), figure.p),
    ]
}

fn percent(change: f64) -> String {
    format!("{:+.1} %", 100.0 * change)
}

/// What the comparison comes to.
fn sentences(comparison: &Comparison) -> Vec<String> {
    let count = |verdict| comparison.having(verdict).count();
    let all = comparison.figures.len();
    let mut sentences = vec![format!(
        "{}: {} worse, {} better, {} without a difference that was shown",
        text::counted(all, "figure"),
        count(Verdict::Worse),
        count(Verdict::Better),
        count(Verdict::Same),
    )];
    if count(Verdict::TooFew) > 0 {
        let n = count(Verdict::TooFew);
        sentences.push(format!("{n} with too few starts to say"));
    }
    sentences.extend(blind_spot(comparison));
    if !comparison.decides && all > 0 {
        sentences.push("Guests ran under TCG: its figures are reported, and decide nothing".into());
    }
    sentences
}

/// How many figures must differ together before one can be told, where that is more than one.
fn blind_spot(comparison: &Comparison) -> Option<String> {
    let judged = |figure: &&Compared| figure.verdict != Verdict::TooFew;
    let judged: Vec<&Compared> = comparison.figures.iter().filter(judged).collect();
    let starts = |figure: &&Compared| figure.first.len().min(figure.second.len());
    let starts = judged.iter().map(starts).min()?;
    let together = |starts| {
        let p = stats::smallest_p(starts, starts);
        (p * comparison.figures.len() as f64 / FALSE_DISCOVERIES).ceil() as usize
    };
    let least = together(starts);
    let enough = (starts..).find(|starts| together(*starts) <= 1)?;
    (least > 1).then(|| {
        format!(
            "Of {starts} starts each, at least {least} figures must differ for chance to be ruled out; \
             {enough} starts would show a single one"
        )
    })
}
