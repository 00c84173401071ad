//! The summary on a terminal: what went wrong, what was left out and why, then cases by cells.

use crate::events::Outcome;
use crate::expectation::{self, Entry, Expectation, State};
use crate::grid::{self, Part, Table};
use crate::repeats::Repeats;
use crate::{Results, Trial, colour, out, text};
use std::fmt::Write;

/// An outcome's colour, or plain text, for terminals that take it.
pub(crate) fn paint(text: &str, outcome: &Outcome, colour: bool) -> String {
    let code = match outcome {
        Outcome::Passed => "32",
        Outcome::Failed { .. } => "1;31",
        Outcome::Broken { .. } => "1;35",
        Outcome::Flaky { .. } | Outcome::Interrupted => "1;33",
        Outcome::Known { .. } => "36",
        Outcome::Skipped { .. } => "2",
    };
    match colour {
        true => format!("\x1b[{code}m{text}\x1b[0m"),
        false => text.to_owned(),
    }
}

/// The title over what passed although a failure was expected.
const FIXED: &str = "Fixed: passed, though the matrix file expects a failure";

/// Width of the summary where the terminal's is not known.
const WIDTH: usize = 100;

/// Prints the whole summary on stdout.
pub fn print(results: &Results) {
    let colour = colour::wanted(&std::io::stdout());
    out::shown(&(render(results, colour, WIDTH) + "\n"));
}

/// The whole summary. Tables are broken up so that they fit `width` columns; `colour` only where
/// it goes to a terminal.
pub fn render(results: &Results, colour: bool, width: usize) -> String {
    let mut sections = Vec::new();
    for trial in results.alarming() {
        sections.push(alarm(trial, results.faults, colour));
    }
    for (title, state) in [
        (FIXED, State::Fixed),
        ("Known failures", State::Met),
        ("Known to fail now and then, not this time", State::NotNow),
    ] {
        let entries = expectation::entries(results, state);
        if !entries.is_empty() {
            sections.push(expected(title, &entries));
        }
    }
    let skips = grid::skips(results);
    if !skips.is_empty() {
        sections.push(skipped(&skips));
    }
    let mut unrun = String::new();
    for part in grid::parts(results) {
        match part {
            Part::Table(table) => {
                for columns in chunks(&table, width) {
                    sections.push(block(&table, &columns, results.faults, colour));
                }
            }
            Part::Skipped {
                backend,
                trials,
                reason,
            } => {
                unrun += &format!(
                    "{backend}: {} skipped{}\n",
                    text::counted(trials, "trial"),
                    grid::why(reason)
                );
            }
        }
    }
    if !unrun.is_empty() {
        sections.push(unrun);
    }
    let mut last = String::new();
    for line in [
        results.legend(),
        results.stand_ins(),
        Some(results.total()),
        results.bound().map(|bound| bound.to_string()),
    ] {
        last.extend(line.map(|line| line + "\n"));
    }
    if let Some(path) = &results.junit {
        last += &format!("JUnit: {}\n", path.display());
    }
    if let Some(path) = &results.html {
        last += &format!("HTML: {}\n", path.display());
    }
    sections.push(last);
    sections.join("\n")
}

fn alarm(trial: &Trial, faults: bool, colour: bool) -> String {
    let word = format!("{:<6}", trial.outcome().word(faults));
    let mut out = format!(
        "{}  {}\n        {}\n",
        paint(&word, trial.outcome(), colour),
        text::one_line(trial.name()),
        trial.cause()
    );
    let expected = trial.end.expectation.as_ref();
    let expected = expected.and_then(Expectation::other_words);
    let repeated = trial.end.repeats.map(Repeats::words);
    for (what, value) in [
        ("repeated ", &repeated.unwrap_or_default()),
        ("expected ", &expected.unwrap_or_default()),
        ("artifacts", &trial.end.artifacts),
        ("again    ", &trial.end.reproduce),
    ] {
        if !value.is_empty() {
            out += &format!("        {what}  {}\n", text::one_line(value));
        }
    }
    out
}

fn skipped(skips: &[(&str, Vec<&Trial>)]) -> String {
    let lines = skips.iter().map(|(reason, trials)| counted(reason, trials));
    format!("Skipped\n{}", lines.collect::<String>())
}

/// What became of expectations.
fn expected(title: &str, entries: &[Entry]) -> String {
    let mut out = format!("{title}\n");
    for entry in entries {
        let expectation = entry.expectation;
        let more = [expectation.link.clone(), expectation.due()];
        let more: Vec<String> = more.into_iter().flatten().collect();
        let reason = match more.is_empty() {
            true => expectation.reason.clone(),
            false => format!("{} ({})", expectation.reason, more.join("; ")),
        };
        out += &counted(&reason, &entry.trials);
    }
    out
}

/// A line for trials of which the same is to be said.
fn counted(reason: &str, trials: &[&Trial]) -> String {
    let others = match trials.len() - 1 {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let (n, reason) = (trials.len(), text::one_line(reason));
    let first = text::one_line(trials[0].name());
    format!("{n:>6}  {reason}: {first}{others}\n")
}

/// A column of a table: its index there, and its width with the gap after it.
type Column = (usize, usize);

const GAP: usize = 2;

/// Shares a table's columns out over blocks of at most `width`; the guests of a NIC stay together
/// where they fit, and else the QEMUs of a guest.
fn chunks(table: &Table, width: usize) -> Vec<Vec<Column>> {
    let widest_mark = "BROKEN".len();
    // The last column's gap may hang over.
    let room = (width + GAP).saturating_sub(name_width(table));
    let mut blocks: Vec<Vec<Column>> = vec![Vec::new()];
    let mut used = 0;
    let indexed: Vec<_> = table.columns.iter().enumerate().collect();
    let length = |text: &str| text.chars().count();
    for of_nic in indexed.chunk_by(|a, b| a.1.nic == b.1.nic) {
        let share = length(of_nic[0].1.nic).div_ceil(of_nic.len());
        let guests: Vec<Vec<Column>> = of_nic
            .chunk_by(|a, b| a.1.guest == b.1.guest)
            .map(|of_guest| {
                let share = length(of_guest[0].1.guest)
                    .div_ceil(of_guest.len())
                    .max(share);
                let width = |qemu: &str| match table.names_qemus {
                    true => length(qemu).max(share),
                    false => share,
                };
                let columns = of_guest.iter();
                let columns = columns.map(|(i, c)| (*i, width(c.qemu).max(widest_mark) + GAP));
                columns.collect()
            })
            .collect();
        let whole = |columns: &[Column]| columns.iter().map(|c| c.1).sum::<usize>();
        let of_all: usize = guests.iter().map(|guest| whole(guest)).sum();
        for (g, guest) in guests.into_iter().enumerate() {
            let of_guest = whole(&guest);
            for (n, column) in guest.into_iter().enumerate() {
                // What is to be kept together from here on, the larger first.
                let together = [(g == 0 && n == 0, of_all), (n == 0, of_guest)];
                let fits = together
                    .iter()
                    .find(|(begins, all)| *begins && *all <= room);
                let needed = fits.map_or(column.1, |(_, all)| *all);
                if used > 0 && used + needed > room {
                    blocks.push(Vec::new());
                    used = 0;
                }
                used += column.1;
                blocks.last_mut().expect("there is a first").push(column);
            }
        }
    }
    blocks
}

fn name_width(table: &Table) -> usize {
    let names = table.rows.iter().map(|(case, _)| case.as_str());
    let longest = names.chain([table.backend]).map(|s| s.chars().count());
    longest.max().unwrap_or(0) + GAP
}

fn block(table: &Table, columns: &[Column], faults: bool, colour: bool) -> String {
    let names = name_width(table);
    let mut nics = format!("{:<names$}", table.backend);
    let mut guests = " ".repeat(names);
    let mut qemus = " ".repeat(names);
    let of = |column: &Column| &table.columns[column.0];
    for group in columns.chunk_by(|a, b| of(a).nic == of(b).nic) {
        let whole: usize = group.iter().map(|c| c.1).sum();
        let _ = write!(nics, "{:<whole$}", of(&group[0]).nic);
        for of_guest in group.chunk_by(|a, b| of(a).guest == of(b).guest) {
            let whole: usize = of_guest.iter().map(|c| c.1).sum();
            let _ = write!(guests, "{:<whole$}", of(&of_guest[0]).guest);
            for column in of_guest {
                let _ = write!(qemus, "{:<1$}", of(column).qemu, column.1);
            }
        }
    }
    let mut out = format!("{}\n{}\n", nics.trim_end(), guests.trim_end());
    if table.names_qemus {
        out += &format!("{}\n", qemus.trim_end());
    }
    for (case, trials) in &table.rows {
        let mut line = format!("{case:<names$}");
        let mut gap = 0;
        for &(i, width) in columns {
            let _ = write!(line, "{:gap$}", "");
            let mark = trials[i].map_or("—", |t| t.word(faults));
            gap = width - mark.chars().count();
            line += &match trials[i] {
                Some(trial) => paint(mark, trial.outcome(), colour),
                None => mark.to_owned(),
            };
        }
        out += &line;
        out.push('\n');
    }
    out
}
