//! The summary as GitHub's job summaries show it.

use crate::events::Outcome;
use crate::expectation::{self, Entry, Expectation, State};
use crate::grid::{self, Part, Table};
use crate::{Results, Trial, text};
use std::io::Write;
use std::path::Path;

/// GitHub refuses a step's summary beyond 1 MiB; half of it is for the failures' details.
const DETAILS_LIMIT: usize = 512 * 1024;

/// Appends the summary to `$GITHUB_STEP_SUMMARY`'s file.
pub fn append(results: &Results, path: &Path) -> std::io::Result<()> {
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)?
        .write_all(format!("\n{}", render(results)).as_bytes())
}

/// The summary in GitHub's Markdown.
pub fn render(results: &Results) -> String {
    let mut out = format!("## nicmatrix: {}\n", results.total());
    if let Some(bound) = results.bound() {
        out += &format!("\n{bound}\n");
    }
    if let Some(notice) = results.stand_ins() {
        out += &format!("\n> {}\n", escape(&notice));
    }
    let alarming = results.alarming();
    for (n, trial) in alarming.iter().enumerate() {
        let section = alarm(trial, results.faults);
        if out.len() + section.len() > DETAILS_LIMIT {
            let left = text::counted(alarming.len() - n, "further trial");
            out += &format!("\n{left} to look at: see the JUnit report.\n");
            break;
        }
        out += &section;
    }
    for (title, state) in [
        ("Fixed: passed, though a failure was expected", State::Fixed),
        ("Known failures", State::Met),
        ("Known to fail now and then, not this time", State::NotNow),
    ] {
        let entries = expectation::entries(results, state);
        if !entries.is_empty() {
            out += &expected(title, &entries);
        }
    }
    let skips = grid::skips(results);
    if !skips.is_empty() {
        out += "\n### Skipped\n\n";
    }
    for (reason, trials) in skips {
        let n = text::counted(trials.len(), "trial");
        let names: Vec<_> = trials.iter().map(|t| code(t.name())).collect();
        out += &format!(
            "- <details><summary>{n}: {}</summary>{}</details>\n",
            escape(&text::one_line(reason)),
            names.join("<br>")
        );
    }
    for part in grid::parts(results) {
        out += &match part {
            Part::Table(table) => block(&table, results.faults),
            Part::Skipped {
                backend,
                trials,
                reason,
            } => format!(
                "\n**{}**: {} skipped{}\n",
                escape(backend),
                text::counted(trials, "trial"),
                escape(&grid::why(reason))
            ),
        };
    }
    if let Some(legend) = results.legend() {
        out += &format!("\n{legend}\n");
    }
    if !results.properties.is_empty() {
        out += "\n<details><summary>The run</summary>\n\n| | |\n| --- | --- |\n";
        for (name, value) in &results.properties {
            let (name, value) = (text::one_line(name), text::one_line(value));
            out += &format!("| {} | {} |\n", escape(&name), escape(&value));
        }
        out += "\n</details>\n";
    }
    out
}

fn alarm(trial: &Trial, faults: bool) -> String {
    let mut out = format!(
        "\n### {} {}\n\n**{}**\n",
        mark(trial, faults),
        code(trial.name()),
        escape(&trial.cause())
    );
    if let Some(repeats) = trial.end.repeats {
        out += &format!("\nRepeated: {}\n", repeats.words());
    }
    let expected = trial.end.expectation.as_ref();
    if let Some(expected) = expected.and_then(Expectation::other_words) {
        out += &format!("\nExpected was {}\n", escape(&text::one_line(&expected)));
    }
    for (what, value) in [
        ("Again", &trial.end.reproduce),
        ("Artifacts", &trial.end.artifacts),
    ] {
        if !value.is_empty() {
            out += &format!("\n{what}: {}\n", code(value));
        }
    }
    let message = trial.message();
    for (what, text) in [
        ("All of the message", message.as_str()),
        ("Serial console, last lines", &trial.end.serial_tail),
    ] {
        if text.trim() != trial.cause() && !text.is_empty() {
            // `<pre>` at the start of a line keeps blank lines (CommonMark, HTML block 1).
            out += &format!(
                "\n<details><summary>{what}</summary>\n\n<pre>\n{}\n</pre>\n\n</details>\n",
                escape(text)
            );
        }
    }
    out
}

/// A table of what became of expectations.
fn expected(title: &str, entries: &[Entry]) -> String {
    let mut out = format!("\n### {title}\n\n| reason | more | trials |\n| --- | --- | --- |\n");
    for Entry {
        expectation,
        trials,
    } in entries
    {
        let n = text::counted(trials.len(), "trial");
        let names: Vec<_> = trials.iter().map(|t| code(t.name())).collect();
        let link = expectation.link.as_deref().map(link);
        let due = expectation.due().map(|due| format!("⚠️ **{due}**"));
        let more: Vec<String> = [link, due].into_iter().flatten().collect();
        out += &format!(
            "| {} | {} | <details><summary>{n}</summary>{}</details> |\n",
            escape(&text::one_line(&expectation.reason)),
            more.join("<br>"),
            names.join("<br>")
        );
    }
    out
}

/// A link that shows where it leads. The matrix file takes http and https only, but a log may be anyone's.
fn link(target: &str) -> String {
    let plain = |c: char| c.is_ascii_graphic() && !"<>\"\\`|".contains(c);
    let is_web = ["https://", "http://"]
        .iter()
        .any(|web| target.starts_with(web));
    match is_web && target.chars().all(plain) {
        true => format!("<{target}>"),
        false => code(target),
    }
}

/// Marks that want looking at stand out, the others recede.
fn mark(trial: &Trial, faults: bool) -> String {
    let word = trial.word(faults);
    match trial.outcome() {
        Outcome::Passed if trial.is_fixed() => format!("**{word}**"),
        Outcome::Passed | Outcome::Known { .. } | Outcome::Skipped { .. } => word.into(),
        Outcome::Failed { .. } | Outcome::Broken { .. } => format!("❌ **{word}**"),
        Outcome::Flaky { .. } | Outcome::Interrupted => format!("⚠️ **{word}**"),
    }
}

fn block(table: &Table, faults: bool) -> String {
    let mut out = format!("\n| {} |", escape(table.backend));
    for column in &table.columns {
        out += &format!(" {}<br>{}", escape(column.nic), escape(column.guest));
        if table.names_qemus {
            out += &format!("<br>{}", escape(column.qemu));
        }
        out += " |";
    }
    out += &format!("\n| --- |{}\n", " --- |".repeat(table.columns.len()));
    for (case, trials) in &table.rows {
        out += &format!("| {} |", escape(case));
        for trial in trials {
            let mark = trial.map_or("—".into(), |trial| mark(trial, faults));
            out += &format!(" {mark} |");
        }
        out.push('\n');
    }
    out
}

/// `text` on one line, as code.
pub(crate) fn code(text: &str) -> String {
    format!("<code>{}</code>", escape(&text::one_line(text)))
}

/// `text` without any markup of Markdown or HTML. A character reference is never markup
/// (CommonMark 2.5), not even a table's `|`. Underscores within words are not markup, and the marks of
/// lists and headings are markup only at the beginning of a line, where this text never stands.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut before = ' ';
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let in_word = before.is_alphanumeric() && chars.peek().is_some_and(|c| c.is_alphanumeric());
        match c {
            '&' | '<' | '>' | '"' | '|' | '`' | '*' | '[' | ']' | '\\' | '~' | '$' => {
                out += &format!("&#{};", c as u32);
            }
            '_' if !in_word => out += "&#95;",
            c => out.push(c),
        }
        before = c;
    }
    out
}
