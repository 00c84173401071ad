//! The summary as GitHub's job summaries show it.

use crate::events::Outcome;
use crate::expectation::{self, Entry, Expectation, State};
use crate::grid::{self, Part, Table};
use crate::{Results, Trial, errln, text};
use std::io::Write;
use std::path::Path;

/// GitHub refuses a step's summary beyond 1 MiB.
const LIMIT: usize = 1024 * 1024;

/// The most of a reason or a value that stands in a line of its own, bytes.
const LINE: usize = 2048;

/// How much the summary tells beside the details.
#[derive(Clone, Copy)]
struct Extent {
    /// How many trials are named under a reason.
    names: usize,
    /// How many reasons.
    reasons: usize,
    tables: Tables,
    /// What is left out, in words.
    left_out: &'static [&'static str],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tables {
    All,
    /// Only rows with a trial that wants looking at.
    Alarming,
    None,
}

/// The first that leaves room for the details is taken.
const EXTENTS: [Extent; 4] = [
    Extent {
        names: usize::MAX,
        reasons: usize::MAX,
        tables: Tables::All,
        left_out: &[],
    },
    Extent {
        names: 10,
        reasons: usize::MAX,
        tables: Tables::All,
        left_out: &["the names of more than 10 trials of a reason"],
    },
    Extent {
        names: 10,
        reasons: usize::MAX,
        tables: Tables::Alarming,
        left_out: &[
            "the names of more than 10 trials of a reason",
            "rows of the tables without a failure",
        ],
    },
    Extent {
        names: 0,
        reasons: 50,
        tables: Tables::None,
        left_out: &[
            "trials' names under their reasons",
            "reasons beyond the first 50",
            "the tables",
        ],
    },
];

/// Appends the summary to `$GITHUB_STEP_SUMMARY`'s file, as far as what is there leaves room for it.
pub fn append(results: &Results, path: &Path) -> std::io::Result<()> {
    append_within(path, |room| within(results, room))
}

/// Appends a text to that file, where what is there leaves room for it.
pub fn append_text(path: &Path, text: &str) -> std::io::Result<()> {
    append_within(path, |_| text.to_owned())
}

/// Appends what `text` makes for the room that is left, bytes. What is longer is left out, and that is said
/// on stderr: beyond its limit GitHub would show nothing of what is there.
fn append_within(path: &Path, text: impl FnOnce(usize) -> String) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)?;
    let there = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    let room = LIMIT.saturating_sub(there.saturating_add(1));
    let text = text(room);
    if text.len() > room {
        let path = path.display();
        errln!(
            "{path} has no room for {} bytes more: they are left out",
            text.len()
        );
        return Ok(());
    }
    file.write_all(format!("\n{text}").as_bytes())
}

/// The summary in GitHub's Markdown, of at most 1 MiB.
pub fn render(results: &Results) -> String {
    within(results, LIMIT)
}

/// The summary in at most `limit` bytes, if the least of it has no more.
fn within(results: &Results, limit: usize) -> String {
    let mut head = format!("## nicmatrix: {}\n", results.total());
    if let Some(bound) = results.bound() {
        head += &format!("\n{bound}\n");
    }
    if let Some(notice) = results.stand_ins() {
        head += &format!("\n> {}\n", escape(&text::shortened(&notice, LINE)));
    }
    let alarming = results.alarming();
    let details: Vec<String> = alarming.iter().map(|t| alarm(t, results.faults)).collect();
    // Details are shortened first, to half of the summary.
    let wanted = details
        .iter()
        .map(String::len)
        .sum::<usize>()
        .min(limit / 2);
    let sentences = 1024;
    let mut chosen = None;
    for extent in EXTENTS {
        let rest = rest(results, extent);
        let used = head.len() + rest.len() + sentences;
        chosen = Some((extent, rest, limit.saturating_sub(used)));
        if used + wanted <= limit {
            break;
        }
    }
    let (extent, rest, room) = chosen.expect("there are extents");
    let mut shown = String::new();
    let (mut brief, mut unnamed) = (0, 0);
    for (n, (trial, section)) in alarming.iter().zip(&details).enumerate() {
        let short = title(trial, results.faults);
        if shown.len() + section.len() <= room {
            shown += section;
        } else if shown.len() + short.len() <= room {
            shown += &short;
            brief += 1;
        } else {
            unnamed = alarming.len() - n;
            break;
        }
    }
    let mut left_out = Vec::new();
    if brief > 0 {
        left_out.push(format!("the details of {}", text::counted(brief, "trial")));
    }
    if unnamed > 0 {
        let further = text::counted(unnamed, "further trial");
        left_out.push(format!("{further} to look at"));
    }
    left_out.extend(extent.left_out.iter().map(|what| (*what).to_owned()));
    if !left_out.is_empty() {
        shown += &format!(
            "\nLeft out, as GitHub takes no more than 1 MiB: {}. The JUnit report and report.html have them.\n",
            left_out.join("; ")
        );
    }
    head + &shown + &rest
}

/// What follows the details.
fn rest(results: &Results, extent: Extent) -> String {
    let mut out = String::new();
    for (title, state) in [
        ("Fixed: passed, though a failure was expected", State::Fixed),
        ("Known failures", State::Met),
        ("Known to fail now and then, not this time", State::NotNow),
    ] {
        let entries = expectation::entries(results, state);
        if !entries.is_empty() {
            out += &expected(title, &entries, extent);
        }
    }
    let skips = grid::skips(results);
    if !skips.is_empty() {
        out += "\n### Skipped\n\n";
    }
    for (reason, trials) in skips.iter().take(extent.reasons) {
        let reason = text::one_line(reason);
        let reason = escape(&text::shortened(&reason, LINE));
        out += &format!("- {}\n", named(trials, &format!(": {reason}"), extent));
    }
    for part in grid::parts(results) {
        out += &match part {
            Part::Table(table) => block(&table, results, extent.tables),
            Part::Skipped {
                backend,
                trials,
                reason,
            } => format!(
                "\n**{}**: {} skipped{}\n",
                escape(backend),
                text::counted(trials, "trial"),
                escape(&text::shortened(&grid::why(reason), LINE))
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
            let value = text::shortened(&value, LINE);
            out += &format!("| {} | {} |\n", escape(&name), escape(&value));
        }
        out += "\n</details>\n";
    }
    out
}

/// How many trials, `what` of them, and their names to be unfolded.
fn named(trials: &[&Trial], what: &str, extent: Extent) -> String {
    let n = text::counted(trials.len(), "trial");
    if extent.names == 0 {
        return format!("{n}{what}");
    }
    let names = trials.iter().take(extent.names);
    let mut names: Vec<_> = names.map(|t| code(t.name())).collect();
    match trials.len().saturating_sub(extent.names) {
        0 => {}
        more => names.push(format!("and {more} more")),
    }
    format!(
        "<details><summary>{n}{what}</summary>{}</details>",
        names.join("<br>")
    )
}

/// A trial and its cause.
fn title(trial: &Trial, faults: bool) -> String {
    format!(
        "\n### {} {}\n\n**{}**\n",
        mark(trial, faults),
        code(trial.name()),
        escape(&text::shortened(&trial.cause(), LINE))
    )
}

fn alarm(trial: &Trial, faults: bool) -> String {
    let mut out = title(trial, faults);
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
                escape_code(text)
            );
        }
    }
    out
}

/// A table of what became of expectations.
fn expected(title: &str, entries: &[Entry], extent: Extent) -> String {
    let mut out = format!("\n### {title}\n\n| reason | more | trials |\n| --- | --- | --- |\n");
    for Entry {
        expectation,
        trials,
    } in entries.iter().take(extent.reasons)
    {
        let link = expectation.link.as_deref().map(link);
        let due = expectation.due().map(|due| format!("⚠️ **{due}**"));
        let more: Vec<String> = [link, due].into_iter().flatten().collect();
        out += &format!(
            "| {} | {} | {} |\n",
            escape(&text::shortened(&text::one_line(&expectation.reason), LINE)),
            more.join("<br>"),
            named(trials, "", extent)
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

fn block(table: &Table, results: &Results, tables: Tables) -> String {
    let wants_looking = |trials: &[Option<&Trial>]| {
        let outcomes = trials.iter().flatten().map(|trial| trial.outcome());
        outcomes.into_iter().any(|outcome| {
            !matches!(
                outcome,
                Outcome::Passed | Outcome::Known { .. } | Outcome::Skipped { .. }
            )
        })
    };
    let rows = table.rows.iter().filter(|(_, trials)| match tables {
        Tables::All => true,
        Tables::Alarming => wants_looking(trials),
        Tables::None => false,
    });
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return String::new();
    }
    let mut out = format!("\n| {} |", escape(table.backend));
    for column in &table.columns {
        out += &format!(" {}<br>{}", escape(column.nic), escape(column.guest));
        if table.names_qemus {
            out += &format!("<br>{}", escape(column.qemu));
        }
        out += " |";
    }
    out += &format!("\n| --- |{}\n", " --- |".repeat(table.columns.len()));
    for (case, trials) in rows {
        out += &format!("| {} |", escape(case));
        for trial in trials {
            let mark = trial.map_or("—".into(), |trial| mark(trial, results.faults));
            out += &format!(" {mark} |");
        }
        out.push('\n');
    }
    out
}

/// `text` on one line, as code.
pub(crate) fn code(text: &str) -> String {
    format!("<code>{}</code>", escape_code(&text::one_line(text)))
}

/// As [`escape_code`], without what GitHub makes links of: `@name`, which also notifies, `#12`, `GH-12` and
/// addresses. It does so where a character is written by its code too, but not across a comment.
pub(crate) fn escape(text: &str) -> String {
    const SPLIT: &str = "<!-- -->";
    let mut out = String::with_capacity(text.len());
    // A reference in the escaped text has its `#` behind `&`.
    let escaped = escape_code(text);
    let mut rest = escaped.as_str();
    while let Some(c) = rest.chars().next() {
        let (before, after) = (out.as_bytes(), &rest[c.len_utf8()..]);
        let ends_with = |word: &[u8]| {
            let start = before.len().saturating_sub(word.len());
            before[start..].eq_ignore_ascii_case(word)
        };
        let reference = c == '#' && ends_with(b"&");
        let splits_after =
            matches!(c, '@' | '#') && !reference || c == ':' && after.starts_with("//");
        let splits_before = c == '.' && ends_with(b"www")
            || c == '-' && ends_with(b"gh") && after.starts_with(|c: char| c.is_ascii_digit());
        if splits_before {
            out += SPLIT;
        }
        out.push(c);
        if splits_after {
            out += SPLIT;
        }
        rest = after;
    }
    out
}

/// `text` without any markup of Markdown or HTML, for `<code>` and `<pre>`. A character reference is never markup
/// (CommonMark 2.5), not even a table's `|`. Underscores within words are not markup, and the marks of
/// lists and headings are markup only at the beginning of a line, where this text never stands.
fn escape_code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut before, mut begins) = (' ', true);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let in_word = before.is_alphanumeric() && chars.peek().is_some_and(|c| c.is_alphanumeric());
        match c {
            '&' | '<' | '>' | '"' | '|' | '`' | '*' | '[' | ']' | '\\' | '~' | '$' => {
                out += &format!("&#{};", c as u32);
            }
            '_' if !in_word => out += "&#95;",
            // Where the summary goes to a log, it would be a command to GitHub's runner.
            ':' if begins && chars.peek() == Some(&':') => out += "&#58;",
            c => out.push(c),
        }
        begins = c == '\n' || begins && c.is_whitespace();
        before = c;
    }
    out
}

#[cfg(test)]
mod tests;
