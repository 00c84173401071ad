use super::*;
use crate::events::tests::figure;
use crate::events::{Outcome, TrialEnded};
use crate::expectation::{Expectation, State};
use crate::identity::{Host, Identity, Qemu, Shard};
use crate::repeats::Repeats;

fn started(trial: &str) -> Event {
    Event::TrialStarted {
        trial: trial.into(),
        name: TrialName::parse_or_case(trial),
    }
}

fn ended(trial: &str) -> Event {
    Event::TrialEnded(TrialEnded {
        trial: trial.into(),
        name: TrialName::parse_or_case(trial),
        outcome: Outcome::Flaky {
            failures: vec!["lost {\"event\":\"x\"}\n3 of 10".into()],
        },
        expectation: Some(Expectation {
            state: State::NotNow,
            message: "lost".into(),
            reason: "its ring is small".into(),
            link: Some("https://example.org/1".into()),
            sometimes: true,
            until: Some("2027-03-31".into()),
            due: true,
        }),
        repeats: Some(Repeats {
            failed: 1,
            passed: 4,
            undecided: 0,
        }),
        attempts: 2,
        seconds: 3.25,
        cpu_seconds: Some(2.5),
        queued_seconds: Some(0.25),
        case_seconds: 1.5,
        case_cpu_seconds: None,
        boot_seconds: None,
        host: None,
        lab_start_seconds: None,
        start: Some("warm NIC".into()),
        first_ping_seconds: Some(0.1),
        vm_peak_kib: Some(90_000),
        figures: vec![figure()],
        notes: vec!["guest is a stand-in".into()],
        serial_tail: "\u{1b}[0m\0 ]]> ✓".into(),
        artifacts: "target/a".into(),
        reproduce: "cargo xtask repro a".into(),
    })
}

fn identity() -> Identity {
    Identity {
        commit: Some("0123456789abcdef0123456789abcdef01234567-dirty".into()),
        matrix_digest: "ab".repeat(32),
        plan_digest: "cd".repeat(32),
        shard: Some(Shard {
            k: 1,
            n: 4,
            plan: Some("ef".repeat(32)),
            durations: None,
        }),
        qemu: Qemu {
            version: "7.2.22".into(),
            build: Some("build-id:5f0e".into()),
        },
        others: [(
            "trixie".to_owned(),
            Qemu {
                version: "10.0.13".into(),
                build: None,
            },
        )]
        .into(),
        host: Host {
            processor: "AMD EPYC".into(),
            cores: 2,
            accelerator: Some("TCG".into()),
            kernel: "6.18.44".into(),
        },
    }
}

fn events_of(path: &Path) -> Vec<Event> {
    let lines = read(path).unwrap();
    lines.into_iter().map(|line| line.event).collect()
}

fn log_with(events: &[Event]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let log = EventLog::create(dir.path()).unwrap();
    for event in events {
        log.append(event).unwrap();
    }
    let path = log.path().to_owned();
    (dir, path)
}

#[test]
fn what_is_appended_is_read_back() {
    let events = vec![
        Event::RunStarted {
            schema: SCHEMA,
            unix_time: 1,
            identity: Some(Box::new(identity())),
            properties: [("qemu".to_string(), "7.2".to_string())].into(),
            settings: Some([("boot".to_owned(), true.into())].into()),
            only: Default::default(),
            faults: true,
        },
        started("a"),
        ended("a"),
        Event::RunEnded {
            seconds: 4.5,
            interrupted: false,
            harness_peak_kib: 7,
            cpu_seconds: Some(8.25),
            harness_cpu_seconds: None,
            labs_cpu_seconds: None,
            processors: Some(2),
        },
    ];
    let (_dir, path) = log_with(&events);
    assert_eq!(events_of(&path), events);
}

#[test]
fn a_log_without_processor_times_is_read() {
    let (_dir, path) = log_with(&[]);
    let earlier = concat!(
        r#"{"event":"trial_ended","trial":"a","verdict":"passed","attempts":1,"seconds":3.5,"#,
        r#""case_seconds":0.5,"boot_seconds":2.25,"vm_peak_kib":180000,"notes":[],"#,
        r#""serial_tail":"","artifacts":"a","reproduce":"r"}"#,
        "\n",
        r#"{"event":"run_ended","seconds":4.0,"interrupted":false,"harness_peak_kib":15000}"#,
        "\n",
    );
    std::fs::write(&path, earlier).unwrap();
    let none = |event: &Event| match event {
        Event::TrialEnded(end) => end.cpu_seconds.is_none(),
        Event::RunEnded {
            cpu_seconds,
            processors,
            ..
        } => cpu_seconds.is_none() && processors.is_none(),
        _ => false,
    };
    let events = events_of(&path);
    assert!(events.len() == 2 && events.iter().all(none), "{events:?}");
}

#[test]
fn a_cut_last_line_is_left_out_wherever_it_is_cut() {
    let (_dir, path) = log_with(&[started("a"), ended("a")]);
    let whole = std::fs::read(&path).unwrap();
    let first = whole.iter().position(|&b| b == b'\n').unwrap() + 1;
    for cut in first..whole.len() - 1 {
        std::fs::write(&path, &whole[..cut]).unwrap();
        assert_eq!(events_of(&path), [started("a")], "cut at byte {cut}");
    }
    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    assert_eq!(events_of(&path), [started("a"), ended("a")]);
}

#[test]
fn a_line_after_a_killed_writers_half_line_is_kept() {
    let (_dir, path) = log_with(&[ended("a")]);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    EventLog::create(path.parent().unwrap())
        .unwrap()
        .append(&ended("b"))
        .unwrap();
    assert_eq!(events_of(&path), [ended("b")]);
}

#[test]
fn another_bad_line_is_named() {
    let (_dir, path) = log_with(&[started("a")]);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend(b"{\"event\":\"run_ended\",\"seconds\":\"x\"}\n");
    std::fs::write(&path, bytes).unwrap();
    let error = format!("{:#}", read(&path).unwrap_err());
    assert!(error.contains("events.jsonl:2: not an event"), "{error}");
    assert!(error.contains("run_ended"), "{error}");
}

#[test]
fn what_a_later_version_added_is_passed_over() {
    let (_dir, path) = log_with(&[]);
    let later = concat!(
        r#"{"event":"trial_confirmed","trial":"a","times":5,"time":1.5}"#,
        "\n",
        r#"{"event":"trial_started","trial":"driver::e1000::rhel9::tap::old","case":"driver","#,
        r#""nic":"e1000","guest":"rhel9","backend":"tap","qemu":"old","colour":"red","time":2.5}"#,
        "\n",
    );
    let first =
        r#"{"event":"run_started","schema":1,"unix_time":1,"properties":{},"faults":false}"#;
    std::fs::write(&path, format!("{first}\n{later}")).unwrap();
    let lines = read(&path).unwrap();
    assert_eq!(lines[1].event, Event::Unknown);
    assert_eq!(lines[2].time, Some(2.5));
    let Event::TrialStarted { name, .. } = &lines[2].event else {
        panic!("{lines:?}")
    };
    assert_eq!(name.to_string(), "driver::e1000::rhel9::tap::old");
}

#[test]
fn a_log_of_a_newer_schema_is_refused() {
    let (_dir, path) = log_with(&[Event::RunStarted {
        schema: SCHEMA + 1,
        unix_time: 1,
        identity: None,
        properties: [].into(),
        settings: None,
        only: Default::default(),
        faults: false,
    }]);
    let error = read(&path).unwrap_err().to_string();
    assert!(
        error.contains("has events of schema 3, and this version reads up to 2"),
        "{error}"
    );
}

#[test]
fn a_newer_schema_is_named_before_what_it_changed() {
    let (_dir, path) = log_with(&[]);
    let without_time = r#"{"event":"run_started","schema":9,"properties":{},"faults":false}"#;
    let with_a_new_verdict = concat!(
        r#"{"event":"run_started","schema":9,"unix_time":1,"properties":{},"faults":false}"#,
        "\n",
        r#"{"event":"trial_ended","trial":"a","verdict":"confirmed"}"#,
    );
    for log in [without_time, with_a_new_verdict] {
        std::fs::write(&path, format!("{log}\n")).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("has events of schema 9"), "{error}");
    }
}

#[test]
fn every_line_has_the_time_it_was_written_at() {
    let before = now();
    let (_dir, path) = log_with(&[started("a")]);
    let time = read(&path).unwrap()[0].time.unwrap();
    assert!((before..=now()).contains(&time), "{time}");
}

/// Lines that the version before schema 1 wrote, some of them shortened.
#[test]
fn a_log_from_before_schema_1_is_read() {
    let lines = read(Path::new("tests/before_schema_1.jsonl")).unwrap();
    assert!(lines.iter().all(|line| line.time.is_none()));
    let results = crate::Results::from_events(lines.iter().map(|line| &line.event));
    assert_eq!(results.unix_time, Some(1_795_645_379));
    let trials: Vec<String> = (results.trials.iter())
        .map(|trial| {
            assert_eq!(trial.parts().to_string(), trial.name());
            let word = trial.outcome().word(false);
            format!("{word} {} {}", trial.parts().row(), trial.plan_item)
        })
        .collect();
    insta::assert_snapshot!(trials.join("\n"), @r"
    ok hotplug_qmp 1
    skip link_status 2, 20
    ok netperf_host 21, 1)
    cut driver@boot!unbound 5
    ");
}

#[test]
fn writers_side_by_side_do_not_mix_their_lines() {
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for name in ["a", "b", "c", "d"] {
            let log = EventLog::create(dir.path()).unwrap();
            scope.spawn(move || (0..50).for_each(|_| log.append(&ended(name)).unwrap()));
        }
    });
    assert_eq!(read(&dir.path().join("events.jsonl")).unwrap().len(), 200);
}

#[test]
fn a_log_that_cannot_be_written_says_so() {
    assert!(EventLog::create(Path::new("/proc/nowhere")).is_err());

    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/full", dir.path().join("events.jsonl")).unwrap();
    let log = EventLog::create(dir.path()).unwrap();
    let error = log.append(&started("a")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
}
