//! A comparison in GitHub's Markdown.

use super::{Class, Comparison, Conclusion, Finding, words};
use crate::markdown::{code, escape};
use crate::text::counted;

/// GitHub refuses a step's summary beyond 1 MiB, and other summaries may be in it.
const LIMIT: usize = 512 * 1024;

/// So many trials of a finding are named: they are folded away.
const TRIALS: usize = 100;

/// All of it, as far as GitHub takes it.
pub fn render(comparison: &Comparison) -> String {
    let mark = match comparison.conclusion() {
        Conclusion::NothingWorse => "✅",
        Conclusion::Worse => "❌",
        Conclusion::Undecided => "⚠️",
    };
    let mut out = format!("## {mark} {}\n", escape(&words::headline(comparison)));
    let rest = words::rest(comparison);
    if !rest.is_empty() {
        out += &format!("\n{}\n", escape(&rest));
    }
    let sides = comparison.sides;
    out += &format!(
        "\n| | |\n| --- | --- |\n| BASE | {} |\n| HEAD | {} |\n",
        escape(&sides.base.title()),
        escape(&sides.head.title())
    );
    let findings = comparison.findings();
    let (alarming, others): (Vec<&Finding>, Vec<&Finding>) = findings
        .iter()
        .partition(|finding| finding.class <= Class::Broken);
    sections(&mut out, &alarming, sides.head.faults);
    if !comparison.facts.is_empty() {
        out += "\n### What else changed\n\n| | before | now |\n| --- | --- | --- |\n";
        for fact in &comparison.facts {
            let side = |value: &Option<String>| value.as_deref().map_or("none".into(), escape);
            let (base, head) = (side(&fact.base), side(&fact.head));
            out += &format!("| {} | {base} | {head} |\n", escape(&fact.what));
        }
    }
    for (title, figures) in words::figures(comparison) {
        out += &format!("\n### {title}\n\n| trial | figure |\n| --- | --- |\n");
        for figure in figures.iter().take(words::FIGURES) {
            let cell = escape(&words::figure(figure));
            out += &format!("| {} | {cell} |\n", code(figure.trial));
        }
        more(&mut out, figures.len(), words::FIGURES, "figure");
    }
    sections(&mut out, &others, sides.head.faults);
    for note in &comparison.notes {
        out += &format!("\n> {}\n", escape(note));
    }
    out
}

fn sections(out: &mut String, findings: &[&Finding], faults: bool) {
    for of_class in findings.chunk_by(|a, b| a.class == b.class) {
        *out += &format!("\n### {}\n\n", escape(of_class[0].class.title(faults)));
        let mut shown = 0;
        for finding in of_class.iter().take(words::FINDINGS) {
            let entry = entry(finding);
            if out.len() + entry.len() > LIMIT {
                continue;
            }
            *out += &entry;
            shown += 1;
        }
        more(out, of_class.len(), shown, "finding");
    }
}

fn entry(finding: &Finding) -> String {
    let changes = &finding.changes;
    let mut out = match changes.as_slice() {
        [one] if finding.class != Class::Vanished => format!("- {}", code(one.trial)),
        _ => format!("- **{}**", escape(&finding.place)),
    };
    if !finding.cause.is_empty() {
        out += &format!("<br>{} {}", words::says(finding), escape(finding.cause));
    }
    if let ([_], Some((_, rest))) = (changes.as_slice(), finding.place.split_once("; ")) {
        out += &format!("<br>{}", escape(rest));
    }
    for sentence in words::history(finding) {
        out += &format!("<br>{}", escape(&sentence));
    }
    if let Some(command) = words::again(finding) {
        out += &format!("<br>Again: {}", code(command));
    }
    if changes.len() > 1 {
        let names: Vec<String> = (changes.iter().take(TRIALS))
            .map(|change| code(change.trial))
            .collect();
        let rest = match changes.len().saturating_sub(TRIALS) {
            0 => String::new(),
            n => format!("<br>and {n} more"),
        };
        out += &format!(
            "<details><summary>{}</summary>{}{rest}</details>",
            counted(changes.len(), "trial"),
            names.join("<br>")
        );
    }
    out + "\n"
}

fn more(out: &mut String, all: usize, shown: usize, word: &str) {
    if all > shown {
        *out += &format!("\nAnd {} more.\n", counted(all - shown, word));
    }
}
