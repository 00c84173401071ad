//! `cargo xtask ci`: what a pipeline asks before it starts its jobs.

use crate::settings::Settings;
use crate::{BadInput, CANNOT_RUN, Workspace, matrix, runs};
use anyhow::{Context, Result, bail};
use clap::{Subcommand, ValueEnum};
use report::durations::Durations;
use report::flags::{DEFAULT_PROFILE, Flags, Only};
use report::past::{Mode, PastRun};
use report::words::OneOf;
use report::{errln, out, shards};
use serde::Serialize;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  cargo xtask ci shards --shards 6                    how many trials each of 6 machines gets
  cargo xtask ci shards --shards 2 hotplug ::virtio::    of those whose name contains one of these
  cargo xtask ci shards --target 45m --durations latest --profile full
  cargo xtask ci shards --shards 6 --durations target/nicmatrix/history.jsonl --write durations.json --format github
  cargo xtask matrix --shard 2/6 --durations durations.json

Each machine computes the same shards from the same plan and durations; `cargo xtask merge` refuses
shards of different ones. Minutes are those of trials: a machine also builds and makes checkpoints.";

/// GitHub's and GitLab's own limits: 256 jobs of a matrix, 200 of `parallel`.
const GITHUB_JOBS: u32 = 256;
const GITLAB_JOBS: u32 = 200;

#[derive(clap::Args)]
#[command(after_help = "Example:\n  cargo xtask ci shards --shards 6")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Say into how many shards a run is split, and how long each takes
    #[command(after_help = EXAMPLES)]
    Shards(Box<ShardsArgs>),
}

#[derive(clap::Args)]
struct ShardsArgs {
    /// Only trials whose name contains one of these
    #[arg(value_name = "FILTER")]
    words: Vec<String>,
    /// How many shards
    #[arg(
        long,
        value_name = "N",
        required_unless_present = "target",
        conflicts_with = "target"
    )]
    shards: Option<NonZeroU32>,
    /// As many shards as it takes for each to end within this time, such as 45m or 1h30m
    #[arg(long, value_name = "TIME", value_parser = time, requires = "durations")]
    target: Option<Duration>,
    /// Fill the shards by what trials took there: a run, a directory of runs, a history, or a file that --write
    /// wrote; may be given more than once
    #[arg(long, value_name = "RUN|DIR|HISTORY|FILE")]
    durations: Vec<PathBuf>,
    /// Write the durations there, for `--durations` of the shards' runs
    #[arg(long, value_name = "FILE", requires = "durations")]
    write: Option<PathBuf>,
    /// For whom: a line for $GITHUB_OUTPUT, a file with `.shards` that jobs of GitLab's child pipeline extend, or
    /// text
    #[arg(long, value_parser = OneOf::<Format>::new(), default_value = "text")]
    format: Format,
    /// Every case under each of its faults
    #[arg(long)]
    faults: bool,
    #[command(flatten)]
    only: Only,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    #[value(help = None)]
    Text,
    #[value(help = None)]
    Github,
    #[value(help = None)]
    Gitlab,
}

/// A shard, as a pipeline's matrix has it.
#[derive(Debug, PartialEq, Serialize)]
struct Entry {
    shard: u32,
    of: u32,
    trials: usize,
    /// None without durations.
    #[serde(skip_serializing_if = "Option::is_none")]
    minutes: Option<u64>,
}

/// "45m", "1h30m", "90s"
fn time(text: &str) -> Result<Duration, String> {
    let bad = || format!("expected a time such as 45m, 1h30m or 90s, found `{text}`");
    let (mut seconds, mut digits) = (0_u64, String::new());
    for c in text.chars() {
        let unit = match c {
            '0'..='9' => {
                digits.push(c);
                continue;
            }
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return Err(bad()),
        };
        let count: u64 = digits.parse().map_err(|_| bad())?;
        digits.clear();
        let more = count.checked_mul(unit).ok_or_else(bad)?;
        seconds = seconds.checked_add(more).ok_or_else(bad)?;
    }
    match digits.is_empty() && seconds > 0 {
        true => Ok(Duration::from_secs(seconds)),
        false => Err(bad()),
    }
}

pub fn run(workspace: &Workspace, args: Args) -> Result<ExitCode> {
    let What::Shards(args) = args.what;
    let most = match args.format {
        Format::Gitlab => GITLAB_JOBS,
        Format::Text | Format::Github => GITHUB_JOBS,
    };
    let mut flags = Flags {
        only: matrix::chosen(args.only, args.words)?,
        ..Flags::default()
    };
    flags.selection.faults = args.faults;
    let all = args.settings.with(workspace, flags.clone())?;
    let mode = Mode {
        profile: all.conditions.profile.as_deref().unwrap_or(DEFAULT_PROFILE),
        faults: args.faults,
        booted: all.conditions.boot,
    };
    let durations = durations(workspace, &args.durations, mode)?;
    let mut command = args.settings.command(workspace, |h| &h.nicmatrix, flags)?;
    let listed = command.arg("list").stderr(Stdio::inherit()).output();
    let listed = listed.context("cannot start the harness")?;
    if !listed.status.success() {
        // It has said why.
        let code = listed
            .status
            .code()
            .and_then(|code| u8::try_from(code).ok());
        return Ok(ExitCode::from(code.unwrap_or(CANNOT_RUN)));
    }
    let names = String::from_utf8(listed.stdout).context("a name is not UTF-8")?;
    let names: Vec<String> = names.lines().map(str::to_owned).collect();
    let entries = match (args.shards, args.target, &durations) {
        (Some(n), _, durations) if n.get() <= most => split(&names, durations.as_ref(), n.get()),
        (Some(n), ..) => bail!(BadInput(format!(
            "--shards {n}: at most {most} jobs can be started"
        ))),
        (None, Some(target), Some(durations)) => within(&names, durations, target, most)?,
        (None, ..) => bail!(BadInput(
            "--target: without durations nothing says how many shards end in time".into()
        )),
    };
    if let (Some(file), Some(durations)) = (&args.write, &durations) {
        std::fs::write(workspace.cwd.join(file), durations.to_json())
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    out::text(&render(&entries, args.format)?);
    Ok(ExitCode::SUCCESS)
}

/// Of all runs that are named, or None where no trial of theirs was judged, which is said; a file of durations
/// or a history must be the only one.
fn durations(workspace: &Workspace, given: &[PathBuf], mode: Mode) -> Result<Option<Durations>> {
    let bad_input = |error: anyhow::Error| BadInput(format!("{error:#}"));
    if let [one] = given {
        let file = workspace.cwd.join(one);
        if file.is_file() {
            match Durations::read(&file, mode) {
                Ok(durations) => return Ok(Some(durations)),
                // An event log has no durations where all was skipped.
                Err(_) if runs::past_runs(workspace, one).is_ok() => {}
                Err(error) => return Err(bad_input(error).into()),
            }
        }
    }
    if given.is_empty() {
        return Ok(None);
    }
    let mut all: Vec<PastRun> = Vec::new();
    for path in given {
        all.extend(runs::past_runs(workspace, path)?);
    }
    match Durations::of(&all) {
        Ok(durations) => Ok(Some(durations)),
        // A pipeline goes on: its first green run may have skipped everything.
        Err(error) => {
            errln!("{}: {error}; none are used or written", listed(given));
            Ok(None)
        }
    }
}

fn listed(paths: &[PathBuf]) -> String {
    let paths: Vec<_> = paths.iter().map(|path| path.to_string_lossy()).collect();
    paths.join(", ")
}

/// The shards when there are `n`.
fn split(names: &[String], durations: Option<&Durations>, n: u32) -> Vec<Entry> {
    let shards = shards::partition(names, durations, n);
    let loads = durations.map(|durations| {
        let loads = shards::loads(&shards, &durations.expected(names), n);
        let minutes = loads
            .iter()
            .map(|seconds| seconds / durations.at_once / 60.0);
        minutes
            .map(|minutes| minutes.ceil() as u64)
            .collect::<Vec<_>>()
    });
    let entry = |shard: u32| Entry {
        shard,
        of: n,
        trials: shards.iter().filter(|own| **own == shard).count(),
        minutes: loads.as_ref().map(|loads| loads[(shard - 1) as usize]),
    };
    (1..=n).map(entry).collect()
}

/// The fewest shards that end within `target` each.
fn within(
    names: &[String],
    durations: &Durations,
    target: Duration,
    most: u32,
) -> Result<Vec<Entry>> {
    let seconds = durations.expected(names);
    let all = seconds.iter().sum::<f64>() / durations.at_once;
    let least = ((all / target.as_secs_f64()).ceil() as u32).max(1);
    let fits = |n: &u32| {
        let shards = shards::partition(names, Some(durations), *n);
        let loads = shards::loads(&shards, &seconds, *n).into_iter();
        let longest = loads.fold(0.0, f64::max) / durations.at_once;
        longest <= target.as_secs_f64()
    };
    match (least..=most).find(fits) {
        Some(n) => Ok(split(names, Some(durations), n)),
        None => bail!(BadInput(format!(
            "{} trials take {:.1} minutes in all, the longest {:.1} minutes by itself: not even {most} jobs, \
             the most that can be started, end within {:.1} minutes",
            names.len(),
            all / 60.0,
            seconds.iter().copied().fold(0.0, f64::max) / 60.0,
            target.as_secs_f64() / 60.0
        ))),
    }
}

fn render(entries: &[Entry], format: Format) -> Result<String> {
    Ok(match format {
        Format::Github => {
            let mut matrix = serde_json::json!({ "include": entries });
            // Otherwise the order depends on what else is built with serde_json.
            matrix.sort_all_objects();
            format!("matrix={matrix}\n")
        }
        // JSON is YAML. `parallel: matrix:` wants lists of strings.
        Format::Gitlab => {
            let jobs = entries.iter().map(
                |entry| serde_json::json!({ "SHARD": format!("{}/{}", entry.shard, entry.of) }),
            );
            let jobs: Vec<_> = jobs.collect();
            let parallel = serde_json::json!({ "parallel": { "matrix": jobs } });
            format!(".shards: {parallel}\n")
        }
        Format::Text => {
            let lines = entries.iter().map(|entry| {
                let trials = if entry.trials == 1 { "trial" } else { "trials" };
                let minutes = match entry.minutes {
                    Some(minutes) => format!(", about {minutes} min"),
                    None => String::new(),
                };
                format!(
                    "{}/{}: {} {trials}{minutes}\n",
                    entry.shard, entry.of, entry.trials
                )
            });
            lines.collect()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Mode = Mode {
        profile: "full",
        faults: false,
        booted: false,
    };

    /// Ten trials of a minute each, two at once.
    fn ten() -> (Vec<String>, Durations) {
        let names: Vec<String> = (0..10)
            .map(|i| format!("c{i}::e1000::rhel9::tap"))
            .collect();
        let directory = tempfile::tempdir().unwrap();
        let trials = names.iter().map(|name| (name.clone(), 60.0.into()));
        let trials: serde_json::Map<String, serde_json::Value> = trials.collect();
        let file = serde_json::json!({ "version": 1, "at_once": 2.0, "trials": trials });
        let path = &directory.path().join("d.json");
        std::fs::write(path, file.to_string()).unwrap();
        let mode = FULL;
        (names, Durations::read(path, mode).unwrap())
    }

    #[test]
    fn each_platform_gets_what_it_reads() {
        let (names, durations) = ten();
        let entries = split(&names, Some(&durations), 3);
        let minutes: Vec<_> = entries.iter().map(|entry| entry.minutes).collect();
        assert_eq!(minutes, [Some(2), Some(2), Some(2)]);
        assert_eq!(
            render(&entries[..2], Format::Github).unwrap(),
            "matrix={\"include\":[{\"minutes\":2,\"of\":3,\"shard\":1,\"trials\":4},\
             {\"minutes\":2,\"of\":3,\"shard\":2,\"trials\":3}]}\n"
        );
        assert_eq!(
            render(&entries[..2], Format::Gitlab).unwrap(),
            ".shards: {\"parallel\":{\"matrix\":[{\"SHARD\":\"1/3\"},{\"SHARD\":\"2/3\"}]}}\n"
        );
        let text = render(&entries[..1], Format::Text).unwrap();
        assert_eq!(text, "1/3: 4 trials, about 2 min\n");
        let unknown = render(&split(&names, None, 10)[..1], Format::Text).unwrap();
        assert_eq!(unknown, "1/10: 1 trial\n");
    }

    #[test]
    fn runs_in_which_nothing_was_judged_have_no_durations_and_a_damaged_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let workspace = Workspace {
            root: directory.path().to_owned(),
            cwd: directory.path().to_owned(),
            variables: Flags::default(),
        };
        let log = |name: &str, verdict: &str| {
            let lines = [
                serde_json::json!({ "event": "run_started", "schema": 2, "unix_time": 1, "settings": {},
                    "faults": false, "properties": { "profile": "full" }, "time": 1, "identity": {
                    "commit": "0123", "matrix_digest": "ab", "plan_digest": "cd", "shard": null,
                    "qemu": { "version": "7.2.22", "build": null }, "others": {},
                    "host": { "processor": "P", "cores": 2, "accelerator": "TCG", "kernel": "6.1" } } }),
                serde_json::json!({ "event": "trial_ended", "trial": "driver::e1000::rhel9::tap",
                    "case": "driver", "nic": "e1000", "guest": "rhel9", "backend": "tap", "verdict": verdict,
                    "reason": "no NIC of that name",
                    "attempts": 1, "seconds": 3.0, "case_seconds": 1.0, "notes": [], "serial_tail": "",
                    "artifacts": "", "reproduce": "", "time": 1 }),
            ];
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let run = directory.path().join(name);
            std::fs::create_dir(&run).unwrap();
            std::fs::write(run.join("events.jsonl"), text).unwrap();
        };
        log("ran", "passed");
        log("skipped", "skipped");
        std::fs::write(directory.path().join("damaged.json"), "{\"version\": 1}").unwrap();
        let of = |given: &[&str]| {
            let given: Vec<PathBuf> = given.iter().map(PathBuf::from).collect();
            durations(&workspace, &given, FULL)
        };
        for none in [&[][..], &["skipped"], &["skipped/events.jsonl"]] {
            assert_eq!(of(none).unwrap(), None, "{none:?}");
        }
        for some in [&["ran"][..], &["ran/events.jsonl"], &["skipped", "ran"]] {
            let seconds = of(some).unwrap().unwrap().trials;
            assert_eq!(seconds["driver::e1000::rhel9::tap"], 3.0, "{some:?}");
        }
        for wrong in ["damaged.json", "nothing"] {
            assert!(of(&[wrong]).unwrap_err().is::<BadInput>(), "{wrong}");
        }
    }

    #[test]
    fn the_fewest_shards_that_end_in_time_are_taken_and_the_impossible_is_said() {
        let (names, durations) = ten();
        let n = |seconds| within(&names, &durations, Duration::from_secs(seconds), 256);
        assert_eq!(n(300).unwrap().len(), 1);
        assert_eq!(n(299).unwrap().len(), 2);
        assert_eq!(n(30).unwrap().len(), 10);
        let error = n(29).unwrap_err();
        assert!(error.is::<BadInput>());
        let said = error.to_string();
        assert!(
            said.contains("the longest 1.0 minutes") && said.contains("256 jobs"),
            "{said}"
        );
    }

    #[test]
    fn times_are_read_and_nonsense_is_not() {
        for (text, seconds) in [("45m", 2700), ("1h30m", 5400), ("90s", 90)] {
            assert_eq!(time(text).unwrap(), Duration::from_secs(seconds));
        }
        for bad in [
            "",
            "45",
            "m",
            "0m",
            "4.5m",
            "45 m",
            "99999999999999999999h",
            "-1m",
        ] {
            assert!(time(bad).unwrap_err().contains("such as 45m"), "{bad}");
        }
    }
}
