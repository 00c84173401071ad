use super::*;
use crate::events::{Outcome, SCHEMA};
use crate::identity::{Host, Qemu};
use crate::log::EventLog;
use crate::tests::{end, failed, planned};
use crate::{Results, STAND_INS};
use std::fs;
use tempfile::TempDir;

/// A plan of seven trials, each with another end.
const TRIALS: [&str; 7] = [
    "driver::e1000::rhel9::tap",
    "driver::virtio::rhel9::tap",
    "mtu_set::e1000::rhel9::tap",
    "mtu_set::virtio::rhel9::tap",
    "pxe::e1000::rhel9::tap",
    "pxe::virtio::rhel9::tap",
    "pxe::virtio::rhel9::vhost",
];

fn outcome(trial: &str) -> Outcome {
    match TRIALS.iter().position(|name| *name == trial) {
        Some(1) => failed("e1000 is bound by e1000e\nfacts"),
        Some(2) => Outcome::Flaky {
            failures: vec!["lost 3".into()],
        },
        Some(4) => Outcome::Broken {
            message: "no tun".into(),
        },
        Some(6) => Outcome::Skipped {
            reason: "no vhost".into(),
        },
        _ => Outcome::Passed,
    }
}

fn identity(plan: &[&str], shard: Option<Shard>) -> Identity {
    Identity {
        commit: Some("0123".into()),
        matrix_digest: "ab".into(),
        plan_digest: plan_digest(&plan_text(plan)),
        shard,
        qemu: Qemu {
            version: "7.2.22".into(),
            build: Some("build-id:5f".into()),
        },
        others: BTreeMap::new(),
        host: Host {
            processor: "AMD EPYC".into(),
            cores: 2,
            accelerator: Some("TCG".into()),
            kernel: "6.18".into(),
        },
    }
}

/// What is written as a run.
struct Run<'t> {
    plan: &'t [&'t str],
    trials: Vec<&'t str>,
    identity: Identity,
    profile: &'t str,
    faults: bool,
    boot: bool,
    nics: Vec<&'t str>,
    host: String,
    ended: bool,
}

impl<'t> Run<'t> {
    fn whole() -> Run<'t> {
        Run {
            plan: &TRIALS,
            trials: TRIALS.to_vec(),
            identity: identity(&TRIALS, None),
            profile: "smoke",
            faults: false,
            boot: false,
            nics: Vec::new(),
            host: "builder".into(),
            ended: true,
        }
    }

    /// The k-th of n of a plan.
    fn shard(plan: &'t [&'t str], k: u32, n: u32) -> Run<'t> {
        let shard = Shard {
            k,
            n,
            plan: Some(plan_digest(&plan_text(plan))),
            durations: None,
        };
        let own = plan.iter().skip(k as usize - 1).step_by(n as usize);
        Run {
            plan,
            trials: own.copied().collect(),
            identity: identity(plan, Some(shard)),
            host: format!("host{k}"),
            ..Run::whole()
        }
    }

    fn write(self, directory: &Path) -> PathBuf {
        fs::create_dir_all(directory).unwrap();
        let log = EventLog::create(directory).unwrap();
        if self.identity.shard.is_some() {
            fs::write(directory.join(PLAN), plan_text(self.plan)).unwrap();
        }
        let properties = [
            ("host", self.host.as_str()),
            ("profile", self.profile),
            (STAND_INS, "rhel6, rhel9"),
        ];
        let mut events = vec![Event::RunStarted {
            schema: SCHEMA,
            unix_time: 1_790_000_000,
            identity: Some(Box::new(self.identity)),
            properties: properties.map(|(k, v)| (k.into(), v.into())).into(),
            settings: self.boot.then(|| [("boot".to_owned(), true.into())].into()),
            only: match self.nics.as_slice() {
                [] => BTreeMap::new(),
                nics => [("nic".to_owned(), serde_json::json!(nics))].into(),
            },
            faults: self.faults,
        }];
        events.extend(self.trials.iter().map(|trial| planned(trial)));
        for trial in &self.trials {
            let artifacts = directory.join(trial.replace("::", "."));
            fs::create_dir_all(&artifacts).unwrap();
            events.push(Event::TrialEnded(crate::events::TrialEnded {
                artifacts: artifacts.to_string_lossy().into_owned(),
                ..end(trial, outcome(trial))
            }));
        }
        if self.ended {
            events.push(Event::RunEnded {
                seconds: self.trials.len() as f64,
                interrupted: false,
                harness_peak_kib: 1000,
                cpu_seconds: Some(2.0),
                harness_cpu_seconds: None,
                labs_cpu_seconds: None,
                processors: Some(2),
            });
        }
        for event in &events {
            log.append(event).unwrap();
        }
        directory.to_owned()
    }
}

/// The runs, joined below `/out`.
fn merge(directories: &[PathBuf]) -> Result<Merged> {
    let parts = directories.iter().map(|directory| Part::read(directory));
    let parts: Vec<Option<Part>> = parts.collect::<Result<_>>()?;
    join(parts.into_iter().flatten().collect(), Path::new("/out"))
}

fn results(lines: &[Line]) -> Results {
    Results::from_events(lines.iter().map(|line| &line.event))
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn three(directory: &TempDir) -> [PathBuf; 3] {
    [1, 2, 3].map(|k| {
        let to = directory.path().join(format!("s{k}"));
        Run::shard(&TRIALS, k, 3).write(&to)
    })
}

/// The complaint, with the temporary directory left out.
fn complaint(directories: &[PathBuf], directory: &TempDir) -> String {
    let error = match merge(directories) {
        Ok(merged) => panic!("merged: {merged:?}"),
        Err(error) => format!("{error:#}"),
    };
    error.replace(&format!("{}/", directory.path().display()), "")
}

#[test]
fn three_shards_merged_are_the_unsplit_run_trial_by_trial() {
    let directory = directory();
    let whole = Run::whole().write(&directory.path().join("whole"));
    let whole = results(&log::read(&whole.join(log::FILE)).unwrap());
    let [one, two, three] = three(&directory);
    let merged = merge(&[three, one, two]).unwrap();
    assert_eq!(merged.lack(), None);
    let merged = results(&merged.lines);
    assert_eq!(merged.trials.len(), TRIALS.len());
    for (merged, whole) in merged.trials.iter().zip(&whole.trials) {
        let mut alike = merged.clone();
        let name = Path::new(&whole.end.artifacts).file_name().unwrap();
        assert_eq!(
            Path::new(&merged.end.artifacts),
            Path::new("/out").join(name)
        );
        alike.end.artifacts.clone_from(&whole.end.artifacts);
        assert_eq!(&alike, whole);
    }
    assert_eq!(merged.counts(), whole.counts());
    assert_eq!((merged.exit_code(), whole.exit_code()), (1, 1));
    assert_eq!(merged.seconds, Some(3.0), "the longest shard's");
    assert_eq!(
        (merged.cpu_seconds, merged.processors),
        (Some(6.0), Some(6))
    );
    assert_eq!(merged.properties["profile"], "smoke");
    assert_eq!(merged.properties[STAND_INS], "rhel6, rhel9");
    assert_eq!(
        merged.properties["host"],
        "host1 (shard 1); host2 (shard 2); host3 (shard 3)"
    );
}

#[test]
fn the_merged_log_is_read_as_any_other_and_is_no_shard() {
    let directory = directory();
    let merged = merge(&three(&directory)).unwrap();
    let text: String = (merged.lines.iter())
        .map(|line| serde_json::to_string(line).unwrap() + "\n")
        .collect();
    fs::write(directory.path().join(log::FILE), text).unwrap();
    let read = log::read(&directory.path().join(log::FILE)).unwrap();
    assert_eq!(read, merged.lines);
    let error = complaint(&[directory.path().to_owned()], &directory);
    assert!(error.contains("is no shard"), "{error}");
}

#[test]
fn the_trials_of_a_lost_shard_are_named_and_not_run() {
    let directory = directory();
    let [one, _, three] = three(&directory);
    let merged = merge(&[one.clone(), three]).unwrap();
    assert_eq!(
        merged.lack().unwrap(),
        "shard 2/3 is missing; not run: 2 trials, driver::virtio::rhel9::tap, pxe::e1000::rhel9::tap"
    );
    let both = merge(&[one]).unwrap();
    assert_eq!(
        both.lack().unwrap(),
        "of 3 shards these are missing: 2, 3; not run: 4 trials, driver::virtio::rhel9::tap, \
         mtu_set::e1000::rhel9::tap, pxe::e1000::rhel9::tap and 1 more"
    );
    // Killed before it wrote a line.
    let killed = directory.path().join("killed");
    fs::create_dir(&killed).unwrap();
    fs::write(killed.join(log::FILE), "").unwrap();
    let with_killed = merge(&[directory.path().join("s1"), killed]).unwrap();
    assert_eq!(with_killed.lost, [2, 3]);
    let results = results(&merged.lines);
    let lost = &results.trials[1];
    assert_eq!(lost.name(), TRIALS[1]);
    assert_eq!(
        (lost.outcome(), lost.end.attempts),
        (&Outcome::Interrupted, 0)
    );
    assert_eq!(results.properties["lost_shards"], "2 of 3");
    assert_eq!(results.seconds, None);
    assert_eq!(results.exit_code(), 3);
}

#[test]
fn a_shard_that_was_killed_leaves_the_whole_without_an_end() {
    let directory = directory();
    let [one, two, _] = three(&directory);
    let mut killed = Run::shard(&TRIALS, 3, 3);
    killed.ended = false;
    let killed = killed.write(&directory.path().join("killed"));
    let merged = merge(&[one, two, killed]).unwrap();
    assert_eq!(merged.lack(), None);
    assert_eq!(results(&merged.lines).seconds, None);
}

#[test]
fn a_shard_that_did_not_plan_all_of_its_trials_is_found_out() {
    let directory = directory();
    let [one, two, _] = three(&directory);
    let mut short = Run::shard(&TRIALS, 3, 3);
    short.trials.pop();
    let short = short.write(&directory.path().join("short"));
    let merged = merge(&[one, two, short]).unwrap();
    assert_eq!(
        merged.lack().unwrap(),
        "none of the 3 shards was given all that it should run; not run: 1 trial, \
         pxe::virtio::rhel9::tap"
    );
    assert_eq!(
        results(&merged.lines).exit_code(),
        1,
        "a failed NIC outweighs it"
    );
}

#[test]
fn what_is_not_one_run_is_refused_with_the_trials() {
    let directory = directory();
    let [one, two, three] = three(&directory);
    let other_plan = [&TRIALS[..3], &["ping::e1000::rhel9::tap"]].concat();
    let write = |name: &str, run: Run| run.write(&directory.path().join(name));
    let changed = |name: &str, change: fn(&mut Run)| {
        let mut run = Run::shard(&TRIALS, 2, 3);
        change(&mut run);
        write(name, run)
    };
    let again = write("again", Run::shard(&TRIALS, 2, 3));
    let other = write("other", Run::shard(&other_plan, 2, 3));
    let quarter = write("quarter", Run::shard(&TRIALS, 2, 4));
    let whole = write("whole", Run::whole());
    let overlap = changed("overlap", |run| run.trials.push(TRIALS[0]));
    let stranger = changed("stranger", |run| run.trials.push("ping::e1000::rhel9::tap"));
    let commit = changed("commit", |run| {
        run.identity.commit = Some("4567-dirty".into())
    });
    let qemu = changed("qemu", |run| run.identity.qemu.version = "10.0.13".into());
    let durations = changed("durations", |run| {
        let shard = run.identity.shard.as_mut().unwrap();
        shard.durations = Some("ab".into());
    });
    let profile = changed("profile", |run| run.profile = "full");
    let faults = changed("faults", |run| run.faults = true);
    let boot = changed("boot", |run| run.boot = true);
    let only = changed("only", |run| run.nics = vec!["e1000"]);
    let old = changed("old", |run| {
        run.identity.shard.as_mut().unwrap().plan = None
    });
    let all = [
        complaint(&[one.clone(), two.clone(), again, three], &directory),
        complaint(&[one.clone(), other], &directory),
        complaint(&[one.clone(), quarter], &directory),
        complaint(&[one.clone(), whole], &directory),
        complaint(&[one.clone(), overlap], &directory),
        complaint(&[one.clone(), stranger], &directory),
        complaint(&[one.clone(), commit], &directory),
        complaint(&[one.clone(), qemu], &directory),
        complaint(&[one.clone(), durations], &directory),
        complaint(&[one.clone(), profile], &directory),
        complaint(&[one.clone(), faults], &directory),
        complaint(&[one.clone(), boot], &directory),
        complaint(&[one.clone(), only], &directory),
        complaint(&[one, old], &directory),
        complaint(&[], &directory),
    ];
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn one_plan_file_is_enough_and_a_damaged_one_is_refused() {
    let directory = directory();
    let all = three(&directory);
    fs::remove_file(all[0].join(PLAN)).unwrap();
    fs::remove_file(all[2].join(PLAN)).unwrap();
    assert_eq!(merge(&all).unwrap().lack(), None);
    fs::write(all[1].join(PLAN), &plan_text(&TRIALS)[..80]).unwrap();
    assert!(complaint(&all, &directory).contains("s2/plan.txt is damaged"));
    fs::remove_file(all[1].join(PLAN)).unwrap();
    assert!(complaint(&all, &directory).starts_with("no plan.txt is there"));
}
