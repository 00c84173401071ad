//! A comparison as JSON, for programs. `docs/compare.md` says what the fields are.

use super::{Change, Class, Comparison, Conclusion};
use crate::figures::against::{self, Quantity};
use crate::figures::nights::Verdict as OfFigure;
use crate::past::facts::Changed;
use crate::past::{PastRun, PastTrial};
use crate::repeats::Repeats;
use serde::Serialize;
use std::collections::BTreeMap;

/// The version of the fields: it goes up when one goes or changes its meaning.
pub const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Document<'c> {
    schema: u32,
    conclusion: &'static str,
    exit_code: u8,
    base: Run<'c>,
    head: Run<'c>,
    counts: BTreeMap<Class, usize>,
    findings: Vec<Finding<'c>>,
    changed: &'c [Changed],
    figures: Vec<Figure<'c>>,
    notes: &'c [String],
}

#[derive(Serialize)]
struct Run<'c> {
    run: &'c str,
    time: f64,
    ended: bool,
    profile: &'c str,
    faults: bool,
    commit: Option<&'c str>,
    trials: usize,
}

#[derive(Serialize)]
struct Finding<'c> {
    class: Class,
    worse: bool,
    place: String,
    cause: &'c str,
    trials: Vec<Trial<'c>>,
}

#[derive(Serialize)]
struct Trial<'c> {
    trial: &'c str,
    base: Option<Record<'c>>,
    head: Option<Record<'c>>,
    flips: usize,
    nights: usize,
    red_nights: Option<usize>,
    red_since: Option<f64>,
    last_green_commit: Option<&'c str>,
    reproduce: Option<&'c str>,
}

#[derive(Serialize)]
struct Record<'c> {
    run: &'c str,
    verdict: String,
    cause: &'c str,
    #[serde(skip_serializing_if = "Option::is_none")]
    repeats: Option<Repeats>,
}

#[derive(Serialize)]
struct Figure<'c> {
    trial: &'c str,
    figure: &'c str,
    unit: &'c str,
    base: f64,
    head: f64,
    ratio: f64,
    quantity: Quantity,
    verdict: OfFigure,
    nights: usize,
    usual_change: Option<f64>,
    judged: bool,
}

/// All of it, on one line.
pub fn render(comparison: &Comparison) -> String {
    let conclusion = comparison.conclusion();
    let sides = comparison.sides;
    let head = &sides.head;
    let document = Document {
        schema: SCHEMA,
        conclusion: match conclusion {
            Conclusion::NothingWorse => "nothing_worse",
            Conclusion::Worse => "worse",
            Conclusion::Undecided => "undecided",
        },
        exit_code: conclusion.exit_code(),
        base: run(&sides.base),
        head: run(head),
        counts: comparison.counts(),
        findings: (comparison.findings().into_iter())
            .map(|finding| Finding {
                class: finding.class,
                worse: finding.class.is_worse(),
                place: finding.place,
                cause: finding.cause,
                trials: (finding.changes.into_iter())
                    .map(|change| trial(change, head))
                    .collect(),
            })
            .collect(),
        changed: &comparison.facts,
        figures: (comparison.figures.iter())
            .map(|change| Figure {
                trial: change.trial,
                figure: change.what,
                unit: change.unit,
                base: change.before,
                head: change.value,
                ratio: change.ratio(),
                quantity: change.quantity,
                verdict: change.verdict,
                nights: change.nights,
                usual_change: change.usual,
                judged: change.verdict != OfFigure::Learning && against::decide(&head.properties),
            })
            .collect(),
        notes: &comparison.notes,
    };
    serde_json::to_string(&document).expect("it has string keys only") + "\n"
}

fn run(run: &PastRun) -> Run<'_> {
    Run {
        run: &run.name,
        time: run.time,
        ended: run.ended,
        profile: run.profile(),
        faults: run.faults,
        commit: run.commit(),
        trials: run.trials.len(),
    }
}

fn trial<'c>(change: &'c Change<'c>, head: &'c PastRun) -> Trial<'c> {
    let reproduce = change.head.map(|record| record.reproduce.as_str());
    Trial {
        trial: change.trial,
        base: change.base.map(|(before, run)| record(before, run)),
        head: change.head.map(|now| record(now, head)),
        flips: change.flips.flips,
        nights: change.flips.nights,
        red_nights: change.red.map(|(nights, _)| nights),
        red_since: change.red.map(|(_, run)| run.time),
        last_green_commit: change.green.and_then(PastRun::commit),
        reproduce: reproduce.filter(|command| !command.is_empty()),
    }
}

fn record<'c>(trial: &'c PastTrial, run: &'c PastRun) -> Record<'c> {
    Record {
        run: &run.name,
        verdict: trial.verdict.word().replace(' ', "_"),
        cause: &trial.cause,
        repeats: trial.repeats,
    }
}
