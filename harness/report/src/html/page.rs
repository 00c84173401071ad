//! The page: what it comes to, what wants looking at, what was expected, the grid, and what the run was.

use crate::events::Outcome;
use crate::expectation::{self, State};
use crate::html::earlier::Earlier;
use crate::html::excerpts::Reader;
use crate::html::findings::{Finding, Places, Sections, findings, link};
use crate::html::run::{Run, date};
use crate::html::shown::{Shown, bounded};
use crate::html::{figures, grid, timeline, trials};
use crate::identity::{Identity, Qemu};
use crate::{Results, Trial, text};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};
use std::path::Path;

const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");

/// Of messages and logs, bytes: with more, a page opens slowly.
const EXCERPTS: usize = 6 * 1024 * 1024;

/// Trials that are named under a reason; more are in the list of every trial.
const NAMED: usize = 200;

/// The whole page, to lie in `page_dir`.
pub fn render(run: &Run, earlier: &Earlier, page_dir: Option<&Path>) -> String {
    let results = &run.results;
    let findings = findings(results, earlier);
    let sections = Sections {
        run,
        earlier,
        places: Places::of(results),
        reader: Reader::new(&run.dir, page_dir, EXCERPTS),
    };
    let found = html! {
        @for (n, finding) in findings.iter().enumerate() { (sections.finding(finding, n + 1, n == 0)) }
    };
    let parts: Vec<(&str, String, Option<Markup>)> = vec![
        (
            "findings",
            "To look at".into(),
            (!findings.is_empty()).then_some(found),
        ),
        (
            "not-run",
            "Cut off before it began".into(),
            not_begun(results),
        ),
        (
            "grid",
            "Grid".into(),
            (!results.trials.is_empty()).then(|| grid::tables(run)),
        ),
        (
            "fixed",
            "Fixed: passed, though a failure was expected".into(),
            expected(results, State::Fixed),
        ),
        (
            "known",
            "Known failures".into(),
            expected(results, State::Met),
        ),
        (
            "not-now",
            "Known to fail now and then, not this time".into(),
            expected(results, State::NotNow),
        ),
        ("skipped", "Skipped".into(), skipped(results)),
        ("timeline", "Timeline".into(), timeline::render(run)),
        (
            "figures",
            "Figures".into(),
            figures::render(results, earlier),
        ),
        ("trials", "Every trial".into(), every_trial(run, earlier)),
        ("run", "The run".into(), Some(identity(run))),
    ];
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy());
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (verdict(results)) ": nicmatrix" }
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                header { (header(run, &findings)) }
                nav aria-label="Parts of the report" {
                    @for (id, title, part) in &parts {
                        @if part.is_some() { a href={ "#" (id) } { (title.split(':').next().unwrap_or(title)) } " " }
                    }
                }
                form #filters hidden {}
                main {
                    @for (id, title, part) in &parts {
                        @if let Some(part) = part { section.part id=(id) { h2 { (title) } (part) } }
                    }
                }
                (trials::data(results))
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    page.into_string()
}

/// Nothing is requested, and no other style or script than the page's own takes effect.
fn policy() -> String {
    let digest = |text: &str| BASE64_STANDARD.encode(Sha256::digest(text));
    format!(
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; \
         style-src 'sha256-{}'; script-src 'sha256-{}'",
        digest(STYLE),
        digest(SCRIPT)
    )
}

/// The run's verdict in a word or two.
fn verdict(results: &Results) -> &'static str {
    let counts = results.counts();
    match results.seconds {
        None => "cut off",
        Some(_) if results.interrupted => "interrupted",
        _ if counts.failed > 0 && results.faults => "BLIND",
        _ if counts.failed > 0 => "FAIL",
        _ if counts.broken > 0 => "BROKEN",
        _ if counts.interrupted > 0 => "cut off",
        _ if counts.flaky > 0 => "flaky",
        _ if counts.passed + counts.fixed + counts.known == 0 => "nothing ran",
        _ => "ok",
    }
}

fn header(run: &Run, findings: &[Finding]) -> Markup {
    let results = &run.results;
    let verdict = verdict(results);
    let class = match verdict {
        "FAIL" | "BLIND" => "failed",
        "BROKEN" => "broken",
        "flaky" => "flaky",
        "ok" => "passed",
        "nothing ran" => "skipped",
        _ => "interrupted",
    };
    html! {
        p.kicker {
            "nicmatrix"
            @if let Some(time) = results.unix_time { " · " (date(time)) }
            @if let Some(host) = results.properties.get(crate::HOST) { " · " (Shown(host)) }
        }
        h1 { span class={ "word " (class) } { (verdict) } " " (headline(results, findings)) }
        p { (results.total()) "." }
        @if let Some(cut) = cut_off(results) { p.warning { strong { (cut) } } }
        @if let Some(notice) = results.stand_ins() { p.quiet { (Shown(&notice)) } }
        @if let Some(legend) = results.legend() { p.quiet { (legend) "." } }
    }
}

/// What the verdict rests on.
fn headline(results: &Results, findings: &[Finding]) -> String {
    let trials = |verdict: &str| {
        let of_it = |f: &&Finding| f.trials[0].outcome().verdict() == verdict;
        let trials: usize = findings.iter().filter(of_it).map(|f| f.trials.len()).sum();
        (trials, findings.iter().filter(of_it).count())
    };
    let failed = if results.faults { "blind" } else { "failed" };
    let mut parts = Vec::new();
    for (verdict, word) in [("failed", failed), ("broken", "broken"), ("flaky", "flaky")] {
        match trials(verdict) {
            (0, _) => {}
            (n, found) if n == found => parts.push(format!("{} {word}", text::counted(n, "trial"))),
            (n, found) => parts.push(format!(
                "{} {word} for {}",
                text::counted(n, "trial"),
                text::counted(found, "cause")
            )),
        }
    }
    if !parts.is_empty() {
        return parts.join(", ");
    }
    let counts = results.counts();
    match counts.passed + counts.fixed + counts.known {
        0 => "no trial has a verdict".into(),
        n if results.faults => format!("{} red as expected", text::counted(n, "trial")),
        n => format!("{}, no unexpected failure", text::counted(n, "trial")),
    }
}

/// That the run has no end, or was ended, and how far it came.
fn cut_off(results: &Results) -> Option<String> {
    let how = match results.seconds {
        None => "This run was cut off: its log has no end, or the run still goes on.",
        Some(_) if results.interrupted => "This run was interrupted before its end.",
        Some(_) => return None,
    };
    let open = |t: &&Trial| *t.outcome() == Outcome::Interrupted;
    let open: Vec<&Trial> = results.trials.iter().filter(open).collect();
    let running = open.iter().filter(|t| t.end.attempts > 0).count();
    Some(format!(
        "{how} {}: {} ended, {running} cut off while running, {} not begun.",
        text::counted(results.trials.len(), "trial"),
        results.trials.len() - open.len(),
        open.len() - running
    ))
}

fn not_begun(results: &Results) -> Option<Markup> {
    let open = |t: &&Trial| *t.outcome() == Outcome::Interrupted && t.end.attempts == 0;
    let open: Vec<&Trial> = results.trials.iter().filter(open).collect();
    (!open.is_empty()).then(|| html! { ul.reasons { (reason("no verdict", None, &open)) } })
}

/// What became of expectations.
fn expected(results: &Results, state: State) -> Option<Markup> {
    let entries = expectation::entries(results, state);
    (!entries.is_empty()).then(|| {
        html! {
            ul.reasons {
                @for entry in &entries {
                    @let more = html! {
                        @if let Some(link) = &entry.expectation.link { " " (web(link)) }
                        @if let Some(due) = entry.expectation.due() { " " strong.warning { (Shown(&due)) } }
                    };
                    (reason(&entry.expectation.reason, Some(more), &entry.trials))
                }
            }
        }
    })
}

fn skipped(results: &Results) -> Option<Markup> {
    let skips = crate::grid::skips(results);
    (!skips.is_empty()).then(|| {
        html! { ul.reasons { @for (why, trials) in &skips { (reason(why, None, trials)) } } }
    })
}

/// A reason with the trials that share it.
fn reason(why: &str, more: Option<Markup>, trials: &[&Trial]) -> Markup {
    let left = trials.len().saturating_sub(NAMED);
    html! {
        li {
            details {
                summary {
                    span.count { (trials.len()) } " " (Shown(&bounded(&text::one_line(why), 2000)))
                }
                p.names { @for trial in &trials[..trials.len() - left] { (link(trial)) " " } }
                @if left > 0 { p.quiet { "and " (left) " more" } }
            }
            @if let Some(more) = more { p.more { (more) } }
        }
    }
}

/// A link that shows where it leads. The matrix file takes http and https only, but a log may be anyone's.
fn web(target: &str) -> Markup {
    let is_web = target.starts_with("https://") || target.starts_with("http://");
    html! {
        @if is_web { a href=(target) rel="noreferrer" { (Shown(target)) } }
        @else { code { (Shown(target)) } }
    }
}

fn every_trial(run: &Run, earlier: &Earlier) -> Option<Markup> {
    let n = run.results.trials.len();
    (n > 0).then(|| {
        html! {
            details #all {
                summary { (text::counted(n, "trial")) " in the plan's order" }
                (trials::table(run, earlier))
            }
        }
    })
}

fn identity(run: &Run) -> Markup {
    let results = &run.results;
    html! {
        @for identity in &run.identities { (one_identity(identity)) }
        div.scroll { table.identity {
            @for (name, value) in &results.properties {
                tr { th scope="row" { (Shown(name)) } td { (Shown(&bounded(value, 4000))) } }
            }
            @if let Some(bound) = results.bound() {
                tr { th scope="row" { "schedule" } td { (bound.to_string()) } }
            }
        } }
    }
}

fn one_identity(identity: &Identity) -> Markup {
    let Identity { host, shard, .. } = identity;
    let qemu = |qemu: &Qemu| match &qemu.build {
        Some(build) => format!("{}, {build}", qemu.version),
        None => qemu.version.clone(),
    };
    let accelerator = host
        .accelerator
        .as_deref()
        .unwrap_or("not known: nothing was to be run");
    let mut rows = vec![
        (
            "commit".to_owned(),
            identity
                .commit
                .clone()
                .unwrap_or_else(|| "outside of a checkout".into()),
        ),
        ("QEMU default".into(), qemu(&identity.qemu)),
    ];
    rows.extend(
        identity
            .others
            .iter()
            .map(|(name, other)| (format!("QEMU {name}"), qemu(other))),
    );
    rows.extend([
        ("accelerator".into(), accelerator.to_owned()),
        (
            "processor".into(),
            format!(
                "{}, {} used",
                host.processor,
                text::counted(host.cores, "core")
            ),
        ),
        ("kernel".into(), host.kernel.clone()),
        (
            "matrix file".into(),
            format!("sha256 {}", identity.matrix_digest),
        ),
        ("plan".into(), format!("sha256 {}", identity.plan_digest)),
    ]);
    rows.extend(
        shard
            .as_ref()
            .map(|shard| ("shard".to_owned(), format!("{} of {}", shard.k, shard.n))),
    );
    html! {
        div.scroll { table.identity {
            @for (name, value) in &rows { tr { th scope="row" { (Shown(name)) } td { (Shown(value)) } } }
        } }
    }
}
