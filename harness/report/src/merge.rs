//! Joins runs that are shards of one plan into one run, and proves that it is whole: the trials of the
//! shards are those of the plan, none twice. What a lost shard had to run is planned in the joined run,
//! and has no end.

mod joined;

use crate::events::{Event, Line};
use crate::flags::Only;
use crate::identity::{Identity, Shard};
use crate::log;
use crate::past::PastRun;
use crate::text::counted;
use anyhow::{Context, Result, bail, ensure};
use joined::joined;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// In the directory of a run that is a shard: the names of the trials of all shards, a line each, in the
/// plan's order.
pub const PLAN: &str = "plan.txt";

/// The content of [`PLAN`].
pub fn plan_text<S: AsRef<str>>(names: &[S]) -> String {
    names.iter().fold(String::new(), |mut text, name| {
        text += name.as_ref();
        text.push('\n');
        text
    })
}

/// The digest of [`PLAN`]'s content, for [`Shard::plan`].
pub fn plan_digest(text: &str) -> String {
    format!("{:x}", Sha256::digest(text))
}

/// A run that is a shard.
pub struct Part {
    /// The run's directory.
    pub directory: PathBuf,
    identity: Identity,
    shard: Shard,
    /// What its trials ask, as "profile smoke".
    mode: String,
    only: Only,
    lines: Vec<Line>,
    /// Of its [`PLAN`], where there is one.
    plan: Option<Vec<String>>,
    /// What it planned or ended.
    trials: BTreeSet<String>,
}

impl Part {
    /// Reads the run in `directory`. None where nothing was written yet: it was killed at once, and is as good
    /// as missing.
    ///
    /// # Errors
    /// A log or plan that cannot be read, is damaged, or is not that of a shard.
    pub fn read(directory: &Path) -> Result<Option<Part>> {
        let shown = directory.display();
        let lines = log::read(&directory.join(log::FILE))?;
        if lines.is_empty() {
            return Ok(None);
        }
        let mut identities = lines.iter().filter_map(|line| match &line.event {
            Event::RunStarted { identity, .. } => identity.as_deref(),
            _ => None,
        });
        let identity = identities.next().cloned().with_context(|| {
            format!("{shown} does not say what was run: its log has no identity")
        })?;
        let shard = identity.shard.clone().with_context(|| {
            format!("{shown} is no shard: it was run without --shard, and is whole by itself")
        })?;
        if let Some(other) = identities.find(|other| other.shard.as_ref() != Some(&shard)) {
            let other = other.shard.as_ref().map_or("no shard".to_owned(), name);
            bail!(
                "{shown} holds the runs of two shards, {} and {other}",
                name(&shard)
            );
        }
        let run = PastRun::from_lines("", &lines).context("a run with an identity has begun")?;
        let digest = shard.plan.as_ref().with_context(|| {
            format!("{shown} was written by a version whose shards cannot be merged")
        })?;
        let plan = match std::fs::read_to_string(directory.join(PLAN)) {
            Ok(text) => {
                ensure!(
                    plan_digest(&text) == *digest,
                    "{shown}/{PLAN} is damaged: it is not the plan of which the log speaks"
                );
                Some(text.lines().map(str::to_owned).collect())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {shown}/{PLAN}"));
            }
        };
        let trials = lines.iter().filter_map(|line| match &line.event {
            Event::Planned { trial, .. } => Some(trial.clone()),
            Event::TrialEnded(end) => Some(end.trial.clone()),
            _ => None,
        });
        Ok(Some(Part {
            mode: run.mode().to_string(),
            only: run.only,
            directory: directory.to_owned(),
            trials: trials.collect(),
            identity,
            shard,
            plan,
            lines,
        }))
    }
}

/// "shard 2/3"
fn name(shard: &Shard) -> String {
    format!("shard {}/{}", shard.k, shard.n)
}

/// The one run that shards come to.
#[derive(Debug)]
pub struct Merged {
    /// Its event log.
    pub lines: Vec<Line>,
    /// Which shards are not there.
    pub lost: Vec<u32>,
    /// How many there should be.
    pub of: u32,
    /// Trials of the plan that no shard at hand was given.
    pub not_run: Vec<String>,
}

impl Merged {
    /// What is lost, in a sentence; none where the run is whole.
    pub fn lack(&self) -> Option<String> {
        if self.not_run.is_empty() && self.lost.is_empty() {
            return None;
        }
        let mut text = match self.lost.as_slice() {
            [] => format!(
                "none of the {} shards was given all that it should run",
                self.of
            ),
            [one] => format!("shard {one}/{} is missing", self.of),
            several => {
                let several: Vec<String> = several.iter().map(u32::to_string).collect();
                format!(
                    "of {} shards these are missing: {}",
                    self.of,
                    several.join(", ")
                )
            }
        };
        let _ = match self.not_run.as_slice() {
            [] => write!(text, "; it had no trials"),
            trials => write!(text, "; not run: {}", few(trials)),
        };
        Some(text)
    }
}

/// How many names are given where there may be thousands.
const NAMED: usize = 3;

/// "2 trials, a, b"; "12 trials, a, b, c and 9 more"
fn few<S: AsRef<str>>(names: &[S]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMED).map(AsRef::as_ref).collect();
    let trials = counted(names.len(), "trial");
    let more = match names.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{trials}, {}{more}", shown.join(", "))
}

/// Joins `parts`; artifacts are then below `directory`.
///
/// # Errors
/// Parts that are not shards of one plan, run of the same checkout on the same QEMU and in the same mode; a
/// shard that is there twice; a trial of two shards, or of none of the plan; no part with a [`PLAN`].
pub fn join(mut parts: Vec<Part>, directory: &Path) -> Result<Merged> {
    parts.sort_by_key(|part| part.shard.k);
    let first = parts.first().context("there is no shard to merge")?;
    for part in &parts[1..] {
        ensure_alike(first, part)?;
    }
    for pair in parts.windows(2) {
        ensure!(
            pair[0].shard.k != pair[1].shard.k,
            "{} is there twice, in {} and in {}: {}",
            name(&pair[0].shard),
            pair[0].directory.display(),
            pair[1].directory.display(),
            few(&pair[0].trials.iter().collect::<Vec<_>>())
        );
    }
    let plan = parts.iter().find_map(|part| part.plan.clone());
    let plan = plan.with_context(|| {
        format!(
            "no {PLAN} is there, which names the trials of all shards: merge wants the runs' whole \
             directories, and one {PLAN} is enough"
        )
    })?;
    let owners = owners(&parts, &plan)?;
    let not_run: Vec<String> = (plan.iter())
        .filter(|trial| !owners.contains_key(trial.as_str()))
        .cloned()
        .collect();
    let of = first.shard.n;
    let there: BTreeSet<u32> = parts.iter().map(|part| part.shard.k).collect();
    let lost: Vec<u32> = (1..=of).filter(|k| !there.contains(k)).collect();
    Ok(Merged {
        lines: joined(&parts, &plan, &lost, directory),
        lost,
        of,
        not_run,
    })
}

/// Which of `parts` has each trial.
fn owners<'p>(parts: &'p [Part], plan: &[String]) -> Result<HashMap<&'p str, usize>> {
    let planned: BTreeSet<&str> = plan.iter().map(String::as_str).collect();
    let mut owners: HashMap<&str, usize> = HashMap::new();
    let mut twice: BTreeMap<(usize, usize), Vec<&str>> = BTreeMap::new();
    for (index, part) in parts.iter().enumerate() {
        let own = part.trials.iter().map(String::as_str);
        let unknown: Vec<&str> = own
            .clone()
            .filter(|trial| !planned.contains(trial))
            .collect();
        ensure!(
            unknown.is_empty(),
            "{} ({}) has what is not in the plan: {}",
            name(&part.shard),
            part.directory.display(),
            few(&unknown)
        );
        for trial in own {
            if let Some(other) = owners.insert(trial, index) {
                twice.entry((other, index)).or_default().push(trial);
            }
        }
    }
    if let Some(((one, other), trials)) = twice.first_key_value() {
        bail!(
            "{} and {} have run the same: {}",
            name(&parts[*one].shard),
            name(&parts[*other].shard),
            few(trials)
        );
    }
    Ok(owners)
}

/// Fails where two parts cannot be of one run.
fn ensure_alike(one: &Part, other: &Part) -> Result<()> {
    let (a, b) = (&one.identity, &other.identity);
    let part = format!("{} ({})", name(&other.shard), other.directory.display());
    let first = format!("{} ({})", name(&one.shard), one.directory.display());
    let asked = |part: &Part| match part.only.recorded() {
        Ok(only) if !only.is_empty() => serde_json::to_string(&only).unwrap_or_default(),
        _ => "all".to_owned(),
    };
    for (what, one, other) in [
        ("mode", one.mode.clone(), other.mode.clone()),
        ("choice of trials", asked(one), asked(other)),
    ] {
        ensure!(
            one == other,
            "{part} is of another {what} than {first}: {other}, not {one}"
        );
    }
    let same_plan = a.plan_digest == b.plan_digest && one.shard.plan == other.shard.plan;
    if !same_plan {
        bail!(
            "{part} is of another plan than {first}: {}",
            plans(one, other)
        );
    }
    if !one.shard.is_beside(&other.shard) {
        let trials = few(&other.trials.iter().collect::<Vec<_>>());
        let how = match one.shard.n == other.shard.n {
            true => "was filled by other durations than",
            false => "is of another division than",
        };
        bail!(
            "{part} {how} {first}, so that trials may be run twice or not at all; it has {trials}"
        );
    }
    let commit = |identity: &Identity| identity.commit.clone().unwrap_or("none".into());
    let qemus = |identity: &Identity| {
        let all = std::iter::once(("default", &identity.qemu))
            .chain(identity.others.iter().map(|(name, qemu)| (&**name, qemu)));
        let all = all.map(|(name, qemu)| format!("{name} {qemu}"));
        all.collect::<Vec<_>>().join(", ")
    };
    for (what, one, other) in [
        (
            "matrix file",
            a.matrix_digest.clone(),
            b.matrix_digest.clone(),
        ),
        ("commit", commit(a), commit(b)),
        ("QEMU", qemus(a), qemus(b)),
    ] {
        ensure!(
            one == other,
            "{part} is of another {what} than {first}: {other}, not {one}"
        );
    }
    Ok(())
}

/// In which trials two plans differ.
fn plans(one: &Part, other: &Part) -> String {
    let (Some(a), Some(b)) = (&one.plan, &other.plan) else {
        return format!("it has {}", few(&other.trials.iter().collect::<Vec<_>>()));
    };
    let lacks = |a: &[String], b: &[String]| -> Vec<String> {
        let there: BTreeSet<&String> = a.iter().collect();
        b.iter()
            .filter(|name| !there.contains(name))
            .cloned()
            .collect()
    };
    match (lacks(a, b), lacks(b, a)) {
        (more, less) if more.is_empty() && less.is_empty() => {
            "the same trials were selected from plans that differ".into()
        }
        (more, less) if less.is_empty() => format!("only it plans {}", few(&more)),
        (more, less) if more.is_empty() => format!("it does not plan {}", few(&less)),
        (more, less) => format!(
            "only it plans {}; it does not plan {}",
            few(&more),
            few(&less)
        ),
    }
}

#[cfg(test)]
mod tests;
