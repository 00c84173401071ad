//! What wants looking at: failures that say the same are one finding, and each of its trials a section.

use crate::events::Outcome;
use crate::expectation::Expectation;
use crate::html::earlier::Earlier;
use crate::html::excerpts::Reader;
use crate::html::grid::class;
use crate::html::run::Run;
use crate::html::shown::{Shown, bounded, bytes, plain};
use crate::html::{anchor, earlier};
use crate::name::TrialName;
use crate::{Results, Trial, signature, text};
use maud::{Markup, Render, html};
use std::collections::HashMap;

/// Trials that failed in the same words, in the plan's order.
pub struct Finding<'r> {
    pub trials: Vec<&'r Trial>,
}

/// All findings: failed, then broken, then flaky, then begun but not ended; of the failed, those first of which
/// a trial did not fail before; of each, in the plan's order.
pub fn findings<'r>(results: &'r Results, earlier: &Earlier) -> Vec<Finding<'r>> {
    let mut keys: Vec<(&str, String)> = Vec::new();
    let mut findings: Vec<Finding> = Vec::new();
    for trial in results.alarming() {
        let said = match trial.outcome() {
            Outcome::Interrupted => String::new(),
            outcome => signature::of(&outcome.cause()),
        };
        let key = (trial.outcome().verdict(), said);
        match keys.iter().position(|other| *other == key) {
            Some(at) => findings[at].trials.push(trial),
            None => {
                keys.push(key);
                findings.push(Finding {
                    trials: vec![trial],
                });
            }
        }
    }
    let names = |finding: &Finding<'r>| -> Vec<&'r str> {
        finding.trials.iter().map(|trial| trial.name()).collect()
    };
    let is_failed = |finding: &Finding| finding.trials[0].outcome().verdict() == "failed";
    // A stable sort; the failed are first already.
    findings.sort_by_cached_key(|finding| match is_failed(finding) {
        true if earlier.since(names(finding)).new > 0 => 0,
        true => 1,
        false => 2,
    });
    findings
}

/// Shows what a run and its artifacts tell of trials that want looking at.
pub struct Sections<'p> {
    pub run: &'p Run,
    pub earlier: &'p Earlier,
    pub places: Places<'p>,
    pub reader: Reader<'p>,
}

impl Sections<'_> {
    /// A finding: its words, where it is, where it is not, and its trials. `open`: whether the first trial's
    /// section is unfolded.
    pub fn finding(&self, finding: &Finding, number: usize, open: bool) -> Markup {
        let first = finding.trials[0];
        let word = first.word(self.run.results.faults);
        let names = finding.trials.iter().map(|trial| trial.name());
        let since = match first.outcome() {
            Outcome::Failed { .. } => self.earlier.since(names).words,
            _ => String::new(),
        };
        html! {
            section.finding #{"finding-" (number)} {
                h3 {
                    span class={ "word " (class(first)) } { (word) } " "
                    span.cause { (Shown(&bounded(&first.cause(), 600))) }
                }
                p.where {
                    (text::counted(finding.trials.len(), "trial"))
                    @if finding.trials.len() > 1 { " in the same words" }
                    @for (axis, red, green) in self.places.axes(finding) {
                        span.axis {
                            span.quiet { (axis) " " }
                            (Shown(&red))
                            @if !green.is_empty() { span.quiet { "; passed on " (Shown(&green)) } }
                        }
                    }
                }
                @if !since.is_empty() { p.since { (since) } }
                @for (n, trial) in finding.trials.iter().enumerate() {
                    (self.trial(trial, &first.cause(), open && n == 0))
                }
            }
        }
    }

    /// A trial's section, below the finding's words `said`.
    fn trial(&self, trial: &Trial, said: &str, open: bool) -> Markup {
        let word = trial.word(self.run.results.faults);
        let plan = self
            .run
            .results
            .trials
            .iter()
            .position(|t| std::ptr::eq(t, trial));
        html! {
            details.trial id=(anchor::id(trial.name())) data-t=[plan] open[open] {
                summary {
                    span class={ "word " (class(trial)) } { (word) } " "
                    span.name { (Shown(trial.name())) }
                }
                div.body { (self.body(trial, said)) }
            }
        }
    }

    fn body(&self, trial: &Trial, said: &str) -> Markup {
        let end = &trial.end;
        let other = end
            .expectation
            .as_ref()
            .filter(|e| !trial.message().contains(&e.reason));
        let other = other.and_then(Expectation::other_words);
        let message = trial.message();
        let message = bounded(&message, 16 * 1024);
        html! {
            @if trial.cause() != said { p.cause { (Shown(&bounded(&trial.cause(), 2000))) } }
            @if let Some(repeats) = end.repeats { p { "Repeated at once and alone: " (repeats.words()) } }
            @if let Some(other) = other { p { "Expected was " (Shown(&other)) } }
            @if message.trim() != trial.cause() {
                @if self.reader.spend(message.len()) { pre { (Shown(&message)) } }
                @else { (left_out("the rest of the message")) }
            }
            @if let Some(past) = self.earlier.past.get(trial.name()) {
                (past.strip())
                p.quiet { (earlier::LEGEND) }
            }
            @if !end.reproduce.is_empty() {
                p.quiet { "Run it again:" }
                pre.command { (Shown(&end.reproduce)) }
            }
            @for note in &end.notes { p { "Note: " (Shown(&bounded(note, 2000))) } }
            p.facts.quiet { (Shown(&facts(trial))) }
            (self.artifacts(trial))
        }
    }

    /// The ends of the trial's logs and its files; without its directory, the console's end as the events have it.
    fn artifacts(&self, trial: &Trial) -> Markup {
        let end = &trial.end;
        let Some(dir) = self.reader.directory(&end.artifacts) else {
            return html! {
                @if !end.serial_tail.trim().is_empty() {
                    (excerpt("Serial console", Some("its last lines"), &end.serial_tail, &self.reader))
                }
                @if !end.artifacts.is_empty() {
                    p.quiet { "The artifact directory is not here: " code { (Shown(&end.artifacts)) } }
                }
            };
        };
        let excerpts = self.reader.excerpts(&dir);
        let (files, more) = self.reader.artifacts(&dir);
        let console = excerpts.iter().any(|e| e.title == "Serial console");
        html! {
            @if !console && !end.serial_tail.trim().is_empty() {
                (excerpt("Serial console", Some("its last lines"), &end.serial_tail, &self.reader))
            }
            @for shown in &excerpts {
                (log(&shown.title, shown.part.as_deref(), &shown.text))
            }
            @if excerpts.is_empty() && !files.is_empty() { (left_out("the excerpts of its logs")) }
            details.log {
                summary { "Artifacts" span.quiet { " " (text::counted(files.len() + more, "file")) } }
                p { code { (Shown(&dir.to_string_lossy())) } }
                ul.files {
                    @for file in &files {
                        li {
                            @match &file.link {
                                Some(link) => a href=(link) { (Shown(&file.name)) },
                                None => code { (Shown(&file.name)) },
                            }
                            span.quiet { " " (bytes(file.size)) }
                        }
                    }
                    @if more > 0 { li.quiet { "and " (more) " more" } }
                }
            }
        }
    }
}

fn excerpt(title: &str, part: Option<&str>, text: &str, reader: &Reader) -> Markup {
    let text = bounded(text, 16 * 1024);
    match reader.spend(text.len()) {
        true => log(title, part, &text),
        false => left_out(title),
    }
}

fn log(title: &str, part: Option<&str>, text: &str) -> Markup {
    html! {
        details.log {
            summary {
                (Shown(title))
                @if let Some(part) = part { span.quiet { " " (part) } }
            }
            pre tabindex="0" { (Shown(text.trim_matches('\n'))) }
        }
    }
}

fn left_out(what: &str) -> Markup {
    html! { p.quiet { "Left out, as the page would become too large: " (what) "." } }
}

/// How it ran, in a line.
fn facts(trial: &Trial) -> String {
    let end = &trial.end;
    let mut facts = Vec::new();
    if !trial.plan_item.is_empty() {
        facts.push(format!("test plan item {}", trial.plan_item));
    }
    if end.attempts > 0 && end.seconds > 0.0 {
        facts.push(text::duration(end.seconds));
    }
    if end.attempts > 1 {
        facts.push(format!("{} tries", end.attempts));
    }
    facts.extend(
        end.start
            .as_ref()
            .map(|start| format!("started from: {start}")),
    );
    facts.extend(end.host.as_ref().map(|host| format!("host: {host}")));
    if let Some(peak) = end.vm_peak_kib {
        facts.push(format!("QEMU's peak memory {}", bytes(peak * 1024)));
    }
    facts.join(" · ")
}

/// An axis: its name, and a trial's value on it.
type Axis = (&'static str, fn(&TrialName) -> &str);

const AXES: [Axis; 5] = [
    ("case", |name| &name.case),
    ("NIC", |name| &name.nic),
    ("guest", |name| &name.guest),
    ("backend", |name| &name.backend),
    ("QEMU", TrialName::qemu),
];

/// Where a run's trials are on the axes: put in order once, as each finding asks for it.
pub struct Places<'r> {
    /// The axes on which the run has more than one value.
    axes: Vec<Axis>,
    by_case: HashMap<&'r str, Vec<&'r Trial>>,
}

impl<'r> Places<'r> {
    /// Of a run.
    pub fn of(results: &'r Results) -> Places<'r> {
        let trials = &results.trials;
        let several =
            |(_, value): &Axis| distinct(trials.iter().map(|t| value(t.parts()))).len() > 1;
        let mut by_case: HashMap<&str, Vec<&Trial>> = HashMap::new();
        for trial in trials {
            by_case.entry(&trial.parts().case).or_default().push(trial);
        }
        Places {
            axes: AXES.into_iter().filter(several).collect(),
            by_case,
        }
    }

    /// Each axis on which the run has more than one value: those with a trial of the finding, and those on
    /// which the same cases passed and none is of the finding.
    fn axes(&self, finding: &Finding) -> Vec<(&'static str, String, String)> {
        let cases = distinct(finding.trials.iter().map(|t| t.parts().case.as_str()));
        let of_cases = || {
            cases
                .iter()
                .filter_map(|case| self.by_case.get(case))
                .flatten()
        };
        let passed = || of_cases().filter(|t| *t.outcome() == Outcome::Passed);
        let mut shown = Vec::new();
        for (axis, value) in &self.axes {
            let red = distinct(finding.trials.iter().map(|t| value(t.parts())));
            let of_these = distinct(of_cases().map(|t| value(t.parts())));
            if red.len() > 1 && red.len() == of_these.len() && *axis != "case" {
                shown.push(("every", (*axis).to_owned(), String::new()));
                continue;
            }
            let mut green = distinct(passed().map(|t| value(t.parts())));
            green.retain(|value| !red.contains(value));
            shown.push((*axis, listed(&red), listed(&green)));
        }
        shown
    }
}

/// At most some of them.
fn listed(words: &[&str]) -> String {
    const MOST: usize = 6;
    match words.len().checked_sub(MOST) {
        Some(more @ 1..) => format!("{} and {more} more", words[..MOST].join(", ")),
        _ => words.join(", "),
    }
}

fn distinct<'t>(words: impl Iterator<Item = &'t str>) -> Vec<&'t str> {
    let mut seen = std::collections::HashSet::new();
    words.filter(|word| seen.insert(*word)).collect()
}

/// A link to a trial's place, with its name.
pub fn link(trial: &Trial) -> impl Render + use<> {
    html! { a href=(anchor::link(trial.name())) { (plain(trial.name())) } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Event;
    use crate::html::{Past, PastNight};
    use crate::past::Verdict;
    use crate::tests::{end, failed};

    #[test]
    fn what_is_new_comes_before_what_was_red_and_all_failed_before_the_broken() {
        let broken = Outcome::Broken {
            message: "no QEMU".into(),
        };
        let ends = [
            end("a::e1000::rhel6::tap", failed("it is red for long")),
            end("b::e1000::rhel6::tap", broken),
            end("c::e1000::rhel6::tap", failed("it is new")),
        ];
        let results = Results::from_events(&ends.map(Event::TrialEnded));
        let order = |earlier: &Earlier| -> Vec<String> {
            let all = findings(&results, earlier);
            all.iter()
                .map(|f| f.trials[0].parts().case.clone())
                .collect()
        };
        assert_eq!(
            order(&Earlier::default()),
            ["a", "c", "b"],
            "the plan's order"
        );
        let mut earlier = Earlier::default();
        for (trial, verdict) in [("a", Verdict::Failed), ("c", Verdict::Passed)] {
            let nights = vec![PastNight {
                unix_time: 1_795_600_000,
                verdict,
            }];
            let name = format!("{trial}::e1000::rhel6::tap");
            earlier.past.insert(name, Past { nights });
        }
        assert_eq!(order(&earlier), ["c", "a", "b"]);
    }
}
