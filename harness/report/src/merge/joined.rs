//! The event log of the run that shards come to.

use super::Part;

use crate::events::{Event, Line, SCHEMA};
use crate::identity::{Host, Identity};
use crate::name::TrialName;
use crate::{Results, STAND_INS};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

/// The property of a merged run that names the shards that are not there; absent where none is missing.
const LOST: &str = "lost_shards";

/// The lines of the log: the beginning, the plan in its order, what happened to trials in the order of
/// time, and the end, unless a shard is lost or has none.
pub(super) fn joined(parts: &[Part], plan: &[String], lost: &[u32], directory: &Path) -> Vec<Line> {
    let mut lines = vec![started(parts, lost)];
    lines.extend(planned(parts, plan));
    let mut of_trials: Vec<Line> = parts
        .iter()
        .flat_map(|part| of_trials(part, directory))
        .collect();
    let time = |line: &Line| line.time.unwrap_or_default();
    of_trials.sort_by(|a, b| time(a).total_cmp(&time(b)));
    lines.extend(of_trials);
    if lost.is_empty() {
        lines.extend(ended(parts));
    }
    lines
}

/// What happened to the trials of a part, with their artifacts below `directory`.
fn of_trials<'p>(part: &'p Part, directory: &'p Path) -> impl Iterator<Item = Line> + 'p {
    part.lines.iter().filter_map(move |line| {
        let mut line = line.clone();
        match &mut line.event {
            Event::TrialStarted { .. } => {}
            Event::TrialEnded(end) => {
                let name = Path::new(&end.artifacts).file_name();
                if let Some(name) = name.filter(|name| part.directory.join(name).is_dir()) {
                    end.artifacts = directory.join(name).to_string_lossy().into_owned();
                }
            }
            Event::RunStarted { .. }
            | Event::Planned { .. }
            | Event::RunEnded { .. }
            | Event::Unknown => return None,
        }
        Some(line)
    })
}

fn planned(parts: &[Part], plan: &[String]) -> Vec<Line> {
    let mut known: HashMap<&str, &Line> = HashMap::new();
    let mut items: HashMap<&str, &str> = HashMap::new();
    for line in parts.iter().flat_map(|part| &part.lines) {
        if let Event::Planned {
            trial,
            name,
            plan_item,
        } = &line.event
        {
            known.insert(trial, line);
            items.insert(&name.case, plan_item);
        }
    }
    let of_lost = |trial: &String| {
        let name = TrialName::parse_or_case(trial);
        let item = items.get(name.case.as_str()).copied();
        Line {
            time: parts.first().and_then(|part| part.lines.first()?.time),
            event: Event::Planned {
                trial: trial.clone(),
                plan_item: item.unwrap_or_default().to_owned(),
                name,
            },
        }
    };
    let lines = plan.iter().map(|trial| match known.get(trial.as_str()) {
        Some(line) => (*line).clone(),
        None => of_lost(trial),
    });
    lines.collect()
}

/// The first line of each part.
fn starts(parts: &[Part]) -> impl Iterator<Item = (&Part, &Line)> {
    parts.iter().filter_map(|part| {
        let is_start = |line: &&Line| matches!(line.event, Event::RunStarted { .. });
        Some((part, part.lines.iter().find(is_start)?))
    })
}

fn started(parts: &[Part], lost: &[u32]) -> Line {
    let mut of_each: BTreeMap<&str, Vec<(u32, &str)>> = BTreeMap::new();
    let (mut began, mut under_faults, mut time) = (u64::MAX, false, None);
    let (mut settings, mut only) = (None, BTreeMap::new());
    for (part, line) in starts(parts) {
        if let Event::RunStarted {
            unix_time,
            properties,
            settings: own,
            only: own_only,
            faults,
            ..
        } = &line.event
        {
            if *unix_time < began {
                (began, time) = (*unix_time, line.time);
            }
            settings = settings.or_else(|| own.clone());
            only.clone_from(own_only);
            under_faults |= faults;
            for (key, value) in properties {
                let values = of_each.entry(key).or_default();
                values.push((part.shard.k, value));
            }
        }
    }
    let mut properties: BTreeMap<String, String> = of_each
        .into_iter()
        .map(|(key, values)| {
            let value = match key {
                STAND_INS => listed(&values),
                _ => told_apart(&values),
            };
            (key.to_owned(), value)
        })
        .collect();
    if !lost.is_empty() {
        let lost: Vec<String> = lost.iter().map(u32::to_string).collect();
        let of = parts.first().map_or(0, |part| part.shard.n);
        properties.insert(LOST.into(), format!("{} of {of}", lost.join(", ")));
    }
    Line {
        event: Event::RunStarted {
            schema: SCHEMA,
            unix_time: began,
            identity: identity(parts).map(Box::new),
            properties,
            settings,
            only,
            faults: under_faults,
        },
        time,
    }
}

/// The values of a list, each once.
fn listed(values: &[(u32, &str)]) -> String {
    let items: BTreeSet<&str> = values
        .iter()
        .flat_map(|(_, value)| value.split(", "))
        .collect();
    items.into_iter().collect::<Vec<_>>().join(", ")
}

/// The value, where all have the same; else "TCG (shard 1); KVM (shards 2, 3)".
fn told_apart(values: &[(u32, &str)]) -> String {
    let mut distinct: Vec<(&str, Vec<String>)> = Vec::new();
    for (shard, value) in values {
        match distinct.iter_mut().find(|(other, _)| other == value) {
            Some((_, shards)) => shards.push(shard.to_string()),
            None => distinct.push((value, vec![shard.to_string()])),
        }
    }
    if let [(value, _)] = distinct.as_slice() {
        return (*value).to_owned();
    }
    let distinct = distinct.iter().map(|(value, shards)| {
        let s = if shards.len() == 1 { "" } else { "s" };
        format!("{value} (shard{s} {})", shards.join(", "))
    });
    distinct.collect::<Vec<_>>().join("; ")
}

/// That of any part, but of no shard, and of the machines of all.
fn identity(parts: &[Part]) -> Option<Identity> {
    let first = &parts.first()?.identity;
    let of_all = |value: fn(&Host) -> Option<&str>| {
        let values = parts.iter().filter_map(|part| value(&part.identity.host));
        let values: BTreeSet<&str> = values.collect();
        values.into_iter().collect::<Vec<_>>().join("; ")
    };
    let cores = parts.iter().map(|part| part.identity.host.cores).min();
    Some(Identity {
        shard: None,
        host: Host {
            processor: of_all(|host| Some(&host.processor)),
            cores: cores?,
            accelerator: Some(of_all(|host| host.accelerator.as_deref()))
                .filter(|all| !all.is_empty()),
            kernel: of_all(|host| Some(&host.kernel)),
        },
        ..first.clone()
    })
}

/// The end of the whole, where each part has come to its end: as long as the longest took.
fn ended(parts: &[Part]) -> Option<Line> {
    let runs: Vec<Results> = parts
        .iter()
        .map(|part| Results::from_events(part.lines.iter().map(|line| &line.event)))
        .collect();
    let seconds: Option<Vec<f64>> = runs.iter().map(|run| run.seconds).collect();
    let times = parts.iter().flat_map(|part| &part.lines);
    let times = times.filter_map(|line| line.time);
    Some(Line {
        event: Event::RunEnded {
            seconds: seconds?.into_iter().fold(0.0, f64::max),
            interrupted: runs.iter().any(|run| run.interrupted),
            harness_peak_kib: (runs.iter().filter_map(|run| run.harness_peak_kib))
                .max()
                .unwrap_or_default(),
            cpu_seconds: runs.iter().map(|run| run.cpu_seconds).sum(),
            harness_cpu_seconds: runs.iter().map(|run| run.harness_cpu_seconds).sum(),
            labs_cpu_seconds: runs.iter().map(|run| run.labs_cpu_seconds).sum(),
            processors: runs.iter().map(|run| run.processors).sum(),
        },
        time: times.reduce(f64::max),
    })
}
