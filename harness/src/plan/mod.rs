//! Cases × cells → trials, each to run or to skip with a reason. Pure.

mod cell;
pub mod choose;
pub mod known;
pub mod shard;
mod variants;
mod vm;

use crate::base::words;
use crate::cases::{Case, Fault, Load};
use crate::host::Capabilities;
use crate::host::place::Host;
use crate::host::qemus::OtherQemu;
use crate::matrix::Cell;
use crate::matrix::disruption::Disruption;
use crate::matrix::schema::{Matrix, Profile};
use crate::vm::start_state::StartState;
use cell::PlannedCell;
use known::Known;
use report::name::TrialName;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::sync::Arc;
use variants::{across_variants, destinations, fault_variants, on_its_guests, plain_variants};

/// What is to be done with a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Run it.
    Run,
    /// It cannot run here, for this reason.
    Skip(String),
}

/// A case on a cell, perhaps under a fault.
#[derive(Clone)]
pub struct PlannedTrial {
    /// The full name.
    pub name: String,
    /// The name's parts.
    pub parts: TrialName,
    /// The procedure.
    pub case: &'static Case,
    /// Where it runs.
    pub cell: Arc<Cell>,
    /// What its guest starts from, where a checkpoint can be made.
    pub start_state: StartState,
    /// What happens before the case runs a second time.
    pub disruption: Option<Disruption>,
    /// Under which breakage.
    pub fault: Option<&'static Fault>,
    /// The QEMU that its guest moves to, where that is not its own.
    pub other: Option<Arc<OtherQemu>>,
    /// The version of the machine type, where it is not the QEMU's newest one.
    pub machine_version: Option<String>,
    /// The need of the host's processors: that of its case, but nothing is measured under a fault, nor
    /// in a profile that does not time netperf.
    pub load: Load,
    /// On which machine it runs; for a skip, this one.
    pub host: Host,
    /// What the matrix file knows of it.
    pub known: Known,
    /// Run or skip.
    pub action: Action,
}

/// The trials in a stable order, by case (as in `cases`), then by cell (as on the axes). With
/// `faults`, every case under each of its faults (once a NIC and backend) in place of the plain
/// trials.
pub fn plan(
    matrix: &Matrix,
    cases: &'static [&'static Case],
    profile: &Profile,
    facts: &Capabilities,
    faults: bool,
) -> Vec<PlannedTrial> {
    let cells: Vec<PlannedCell> = matrix
        .cells()
        .map(|c| PlannedCell::new(c, matrix, facts))
        .collect();
    // What runs on one QEMU, and on which guests, does not depend on which others there are.
    let by_qemu = || cells.chunk_by(|a, b| a.cell.qemu == b.cell.qemu);
    let chosen = |case: &&&Case| match &profile.cases {
        Some(names) => names.iter().any(|name| name == case.name),
        None => true,
    };
    let destinations = destinations(matrix, facts);
    let mut trials = Vec::new();
    for case in cases.iter().filter(chosen) {
        let variants = by_qemu().flat_map(|cells| {
            let here = cells.iter().filter(|planned| {
                (case.applies)(&planned.cell) && profile.takes(case.name, planned.cell.backend)
            });
            let variants = match faults {
                true => fault_variants(case, here.collect()),
                false => {
                    plain_variants(case, profile, on_its_guests(case, profile, here.collect()))
                }
            };
            match case.across {
                true => across_variants(variants, &destinations, faults),
                false => variants,
            }
        });
        trials.extend(variants.map(|variant| variant.trial(case, profile)));
    }
    trials
}

/// The names of `trials`.
pub fn names(trials: &[PlannedTrial]) -> Vec<String> {
    trials.iter().map(|trial| trial.name.clone()).collect()
}

/// SHA-256 over the names of `trials`, a line each. Of a plan it is the same on every host.
pub fn digest(trials: &[PlannedTrial]) -> String {
    let mut sha = Sha256::new();
    for trial in trials {
        sha.update(&trial.name);
        sha.update(b"\n");
    }
    format!("{:x}", sha.finalize())
}

/// How much less alike than the best a further suggestion may be.
const ALMOST: f64 = 0.1;
/// How many suggestions are made.
const SUGGESTIONS: usize = 3;

/// What a filter that selected none of `names` probably meant, the likeliest first: filters that
/// select something, of as many parts as the given one (`ping_swep::virtio` gives
/// `ping_sweep::virtio`); for an `exact` one, full names.
pub fn nearest(names: &[String], filter: &str, exact: bool) -> Vec<String> {
    let parts = filter.split("::").count();
    let mut candidates: BTreeSet<String> = BTreeSet::new();
    for name in names {
        let words: Vec<&str> = name.split("::").collect();
        if exact || parts >= words.len() {
            candidates.insert(name.clone());
        } else {
            candidates.extend(words.windows(parts).map(|window| window.join("::")));
        }
    }
    let scored = words::alike(filter, candidates);
    let best = scored.first().map_or(0.0, |(likeness, _)| *likeness);
    scored
        .into_iter()
        .filter(|(likeness, _)| *likeness >= best - ALMOST)
        .take(SUGGESTIONS)
        .map(|(_, candidate)| candidate)
        .collect()
}

/// The error for a filter that selected none of `names`.
pub fn nothing_matches(names: &[String], filter: &str, exact: bool) -> anyhow::Error {
    if names.is_empty() {
        return anyhow::anyhow!(
            "no trial of this profile has those NICs, guests, backends and cases together; \
             `--profile full` has each case on every NIC"
        );
    }
    let what = if exact { "is the name of" } else { "matches" };
    let hint = match nearest(names, filter, exact) {
        nearest if nearest.is_empty() => {
            "`cargo xtask matrix list` shows all names, `--profile full` has more".to_owned()
        }
        nearest => format!("nearest: {}", nearest.join(", ")),
    };
    anyhow::anyhow!(
        "{filter:?} {what} none of the {} trials planned; {hint}",
        names.len()
    )
}

#[cfg(test)]
mod nextest;
#[cfg(test)]
pub(crate) mod tests;
