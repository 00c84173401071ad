//! What the history says, on a terminal.

use super::History;
use crate::past::series::{Flips, SETTLED, Streak, colour, is_settled};
use crate::past::{PastRun, PastTrial, Verdict, date, facts};
use crate::stats::median;
use crate::text::{counted, duration};

/// A trial that takes so many times its median became slower …
const SLOWER: f64 = 1.5;
/// … if that is so many seconds at least.
const SLOWER_SECONDS: f64 = 2.0;

/// One trial's nights, the newest last, and what they come to. None where no night has it.
pub fn trial(history: &History, name: &str) -> Option<String> {
    let nights = history.of(name);
    nights.first()?;
    let mut out = format!("{name}\n");
    let run_width = nights.iter().map(|(run, _)| run.name.chars().count());
    let run_width = run_width.max().unwrap_or(0);
    for (run, trial) in &nights {
        out += &line(run, trial, run_width);
    }
    let verdicts: Vec<Verdict> = nights.iter().map(|(_, trial)| trial.verdict).collect();
    let runs: Vec<&PastRun> = nights.iter().map(|(run, _)| *run).collect();
    out += &format!("{}\n", streak(&verdicts, &runs));
    let flips = Flips::of(verdicts.iter().copied());
    if flips.flips > 0 {
        out += &format!(
            "{} in {} ({:.0} %)\n",
            counted(flips.flips, "change"),
            counted(flips.nights, "judged night"),
            flips.rate() * 100.0
        );
    }
    let taken = nights.iter().filter(|(_, trial)| trial.verdict.is_judged());
    if let Some(median) = median(&taken.map(|(_, trial)| trial.seconds).collect::<Vec<_>>()) {
        out += &format!("median {}\n", duration(median));
    }
    let sometimes = nights.last().is_some_and(|(_, trial)| trial.sometimes);
    if sometimes && is_settled(&verdicts) {
        out += &format!(
            "fixed, it seems: {SETTLED} passes in a row of what is known to fail now and then; \
             take the expectation out of the matrix file\n"
        );
    }
    Some(out)
}

fn line(run: &PastRun, trial: &PastTrial, run_width: usize) -> String {
    let seconds = match trial.seconds {
        0.0 => String::new(),
        seconds => duration(seconds),
    };
    let repeats = trial
        .repeats
        .map(|repeats| format!("[{}] ", repeats.words()));
    let line = format!(
        "  {}  {:<run_width$}  {:<7}  {seconds:>12}  {}{}",
        date::minute(run.time),
        run.name,
        trial.verdict.word(),
        repeats.unwrap_or_default(),
        trial.cause
    );
    line.trim_end().to_owned() + "\n"
}

/// "red since 2026-11-24, 3 nights; last green at commit 743f3233 (2026-11-23)".
fn streak(verdicts: &[Verdict], runs: &[&PastRun]) -> String {
    let Some(streak) = Streak::of(verdicts) else {
        return "never judged".into();
    };
    let colour = colour(streak.verdict);
    let since = Streak::words(colour, runs[streak.first].time, streak.nights);
    let (other, is_other): (_, fn(Verdict) -> bool) = match colour {
        "green" => ("red", Verdict::is_red),
        _ => ("green", Verdict::is_green),
    };
    let last = verdicts[..streak.first].iter().rposition(|v| is_other(*v));
    let before = match last {
        Some(last) if colour != "flaky" => {
            let run = runs[last];
            let commit = run.commit().map_or_else(
                || format!("run {}", run.name),
                |commit| format!("commit {}", facts::short(commit)),
            );
            format!("; last {other} at {commit} ({})", date::day(run.time))
        }
        _ => String::new(),
    };
    since + &before
}

/// The trials that change between pass and failure, the most first.
pub fn flaky(history: &History) -> String {
    let all = history.series().into_iter();
    let mut flipping: Vec<(Flips, &str, Verdict)> = all
        .filter_map(|(name, series)| {
            let verdicts = series.iter().map(|(_, verdict, _)| *verdict);
            let flips = Flips::of(verdicts.clone());
            let last = verdicts.rev().find(|verdict| verdict.is_judged())?;
            (flips.flips > 0 || last == Verdict::Flaky).then_some((flips, name, last))
        })
        .collect();
    // What flipped once only broke or was mended: it comes last, whatever its rate.
    let key = |flips: &Flips| (flips.flips > 1, flips.rate(), flips.flips);
    flipping.sort_by(|a, b| {
        let order = key(&b.0).partial_cmp(&key(&a.0));
        order
            .expect("a rate is a number")
            .then_with(|| a.1.cmp(b.1))
    });
    if flipping.is_empty() {
        return "No trial changed between pass and failure.\n".into();
    }
    let mut out = String::from("rate   changes  nights  latest   trial\n");
    for (flips, name, last) in flipping {
        out += &format!(
            "{:>3.0} %  {:>7}  {:>6}  {:<7}  {name}\n",
            flips.rate() * 100.0,
            flips.flips,
            flips.nights,
            last.word()
        );
    }
    out
}

/// The trials that became slower, and after them the slowest `most`.
pub fn slow(history: &History, most: usize) -> String {
    struct Taken<'h> {
        name: &'h str,
        median: f64,
        latest: f64,
        nights: usize,
    }
    let all = history.series().into_iter();
    let mut taken: Vec<Taken> = all
        .filter_map(|(name, series)| {
            let judged = series.iter().filter(|(_, verdict, _)| verdict.is_judged());
            let seconds: Vec<f64> = judged.map(|(_, _, seconds)| *seconds).collect();
            let (latest, earlier) = seconds.split_last()?;
            Some(Taken {
                name,
                median: median(earlier).unwrap_or(*latest),
                latest: *latest,
                nights: seconds.len(),
            })
        })
        .collect();
    if taken.is_empty() {
        return "No trial was judged yet.\n".into();
    }
    let row = |one: &Taken| {
        format!(
            "{:>12}  {:>12}  {:>5.2} x  {:>6}  {}\n",
            duration(one.median),
            duration(one.latest),
            one.latest / one.median.max(0.01),
            one.nights,
            one.name
        )
    };
    let head = format!(
        "{:>12}  {:>12}  {:>7}  nights  trial\n",
        "median", "latest", "ratio"
    );
    let is_slower = |one: &&Taken| {
        one.latest > one.median * SLOWER && one.latest - one.median >= SLOWER_SECONDS
    };
    let mut out = String::new();
    taken.sort_by(|a, b| (b.latest - b.median).total_cmp(&(a.latest - a.median)));
    let slower: Vec<&Taken> = taken.iter().filter(is_slower).collect();
    if !slower.is_empty() {
        out += &format!("Slower than before\n{head}");
        out.extend(slower.iter().take(most).map(|one| row(one)));
        out.push('\n');
    }
    taken.sort_by(|a, b| {
        b.median
            .total_cmp(&a.median)
            .then_with(|| a.name.cmp(b.name))
    });
    out += &format!("Slowest\n{head}");
    out.extend(taken.iter().take(most).map(row));
    out
}
