//! A comparison on a terminal: what is worse first.

use super::{Class, Comparison, Conclusion, Finding, words};

/// Prints it on stdout.
pub fn print(comparison: &Comparison) {
    let colour = crate::colour::wanted(&std::io::stdout());
    crate::out::shown(&render(comparison, colour));
}

/// All of it; `colour` only where it goes to a terminal.
pub fn render(comparison: &Comparison, colour: bool) -> String {
    let paint = |text: &str, code: &str| match colour {
        true => format!("\x1b[{code}m{text}\x1b[0m"),
        false => text.to_owned(),
    };
    let code = match comparison.conclusion() {
        Conclusion::NothingWorse => "1;32",
        Conclusion::Worse => "1;31",
        Conclusion::Undecided => "1;33",
    };
    let mut out = paint(&words::headline(comparison), code) + "\n";
    let rest = words::rest(comparison);
    if !rest.is_empty() {
        out += &format!("{rest}\n");
    }
    let sides = comparison.sides;
    out += &format!("BASE  {}\n", sides.base.title());
    out += &format!("HEAD  {}\n", sides.head.title());
    let findings = comparison.findings();
    let (alarming, others): (Vec<&Finding>, Vec<&Finding>) = findings
        .iter()
        .partition(|finding| finding.class <= Class::Broken);
    let faults = sides.head.faults;
    let heading = |class: Class| {
        let code = match class {
            Class::NotRun | Class::Broken => "1;33",
            class if class.is_worse() => "1;31",
            Class::Fixed | Class::ExpectationFixed => "1;32",
            _ => "1",
        };
        paint(class.title(faults), code)
    };
    out += &sections(&alarming, &heading);
    if !comparison.facts.is_empty() {
        out += &format!("\n{}\n", paint("What else changed", "1"));
        let width = comparison
            .facts
            .iter()
            .map(|fact| fact.what.chars().count());
        let width = width.max().unwrap_or(0);
        for fact in &comparison.facts {
            out += &format!("  {:<width$}  {}\n", fact.what, words::arrow(fact));
        }
    }
    for (title, figures) in words::figures(comparison) {
        out += &format!("\n{}\n", paint(&title, "1"));
        for figure in figures.iter().take(words::FIGURES) {
            out += &format!("  {}\n      {}\n", figure.trial, words::figure(figure));
        }
        out += &more(figures.len(), words::FIGURES, "figure");
    }
    out += &sections(&others, &heading);
    if !comparison.notes.is_empty() {
        out.push('\n');
    }
    for note in &comparison.notes {
        out += &format!("Note: {note}\n");
    }
    out
}

fn sections(findings: &[&Finding], heading: &dyn Fn(Class) -> String) -> String {
    let mut out = String::new();
    for of_class in findings.chunk_by(|a, b| a.class == b.class) {
        out += &format!("\n{}\n", heading(of_class[0].class));
        for finding in of_class.iter().take(words::FINDINGS) {
            out += &entry(finding);
        }
        out += &more(of_class.len(), words::FINDINGS, "finding");
    }
    out
}

fn entry(finding: &Finding) -> String {
    let changes = &finding.changes;
    let mut out = match changes.as_slice() {
        [one] if finding.class != Class::Vanished => format!("{:>4}  {}\n", 1, one.trial),
        all => format!("{:>4}  {}\n", all.len(), finding.place),
    };
    let mut line = |text: &str| out += &format!("      {text}\n");
    if !finding.cause.is_empty() {
        line(&format!("{} {}", words::says(finding), finding.cause));
    }
    if let ([_], Some((_, rest))) = (changes.as_slice(), finding.place.split_once("; ")) {
        line(rest);
    }
    for sentence in words::history(finding) {
        line(&sentence);
    }
    if changes.len() > 1 && finding.class.names_trials() {
        for change in changes.iter().take(words::TRIALS) {
            line(change.trial);
        }
        let rest = changes.len().saturating_sub(words::TRIALS);
        if rest > 0 {
            line(&format!("and {rest} more"));
        }
    }
    if let Some(command) = words::again(finding) {
        line(&format!("again: {command}"));
    }
    out
}

/// "and 3 more findings: --format json has them all".
fn more(all: usize, shown: usize, word: &str) -> String {
    match all.saturating_sub(shown) {
        0 => String::new(),
        n => format!(
            "  and {} more: --format json has them all\n",
            crate::text::counted(n, word)
        ),
    }
}
