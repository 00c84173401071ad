use super::*;
use crate::events::Event;
use crate::tests::{end, failed};
use std::fs;

/// Of trials and their seconds.
pub(crate) fn durations<'t>(trials: impl IntoIterator<Item = (&'t str, f64)>) -> Durations {
    Durations {
        version: VERSION,
        at_once: 2.0,
        trials: (trials.into_iter())
            .map(|(name, seconds)| (name.to_owned(), seconds))
            .collect(),
    }
}

fn run(ends: &[(&str, f64, Outcome)], seconds: f64) -> Results {
    let ended = |(trial, seconds, outcome): &(&str, f64, Outcome)| {
        let mut end = end(trial, outcome.clone());
        end.seconds = *seconds;
        Event::TrialEnded(end)
    };
    let mut results = Results::from_events(&ends.iter().map(ended).collect::<Vec<_>>());
    results.seconds = Some(seconds);
    results
}

fn skip() -> Outcome {
    Outcome::Skipped {
        reason: "no vhost".into(),
    }
}

#[test]
fn the_median_of_verdicts_counts_and_a_skip_takes_no_time() {
    let broken = Outcome::Broken {
        message: String::new(),
    };
    let runs = [
        run(
            &[
                ("a", 2.0, Outcome::Passed),
                ("b", 9.0, broken.clone()),
                ("s", 0.0, skip()),
                ("now", 0.0, skip()),
            ],
            2.0,
        ),
        run(
            &[("a", 40.0, failed("lost")), ("now", 3.0, Outcome::Passed)],
            4.0,
        ),
        run(&[("a", 4.0, Outcome::Passed)], 14.0),
    ];
    let durations = Durations::of(&runs).unwrap();
    let expected = [("a", 4.0), ("now", 3.0), ("s", 0.0)];
    let expected: BTreeMap<String, f64> = expected.map(|(n, s)| (n.to_owned(), s)).into();
    assert_eq!(durations.trials, expected);
    assert_eq!(durations.at_once, 49.0 / 20.0);
    let none = run(&[("b", 9.0, broken)], 1.0);
    assert!(Durations::of([&none]).is_err());
}

#[test]
fn what_is_not_known_is_the_median_of_its_case_else_of_all() {
    let known = durations([
        ("driver::e1000::rhel9::tap", 1.0),
        ("driver::virtio::rhel9::tap", 3.0),
        ("driver::virtio::rhel9::vhost", 0.0),
        ("pxe::e1000::rhel9::tap", 20.0),
    ]);
    let names = [
        "driver::e1000::rhel9::tap",
        "driver::virtio::rhel9::vhost",
        "driver::e1000e::rhel9::tap",
        "new::e1000e::rhel9::tap",
    ];
    let seconds = known.expected(&names.map(str::to_owned));
    assert_eq!(seconds, [1.0, 0.0, 2.0, 3.0]);
}

#[test]
fn a_file_of_them_reads_back_and_a_run_reads_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("durations.json");
    let written = durations([("a", 1.25), ("b", 0.1 + 0.2)]);
    fs::write(&file, written.to_json()).unwrap();
    let read = Durations::read(&file).unwrap();
    assert_eq!((&read, read.digest()), (&written, written.digest()));
    assert_ne!(written.digest(), durations([("a", 1.0)]).digest());

    let log = log::EventLog::create(directory.path()).unwrap();
    log.append(&Event::TrialEnded(end("a", Outcome::Passed)))
        .unwrap();
    let of_run = Durations::read(directory.path()).unwrap();
    assert_eq!(of_run.trials["a"], 3.4);
}

#[test]
fn a_file_that_holds_none_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("d.json");
    for (text, word) in [
        ("", "neither"),
        ("[1]", "neither"),
        (r#"{"version":2,"at_once":1,"trials":{}}"#, "version 2"),
        (r#"{"version":1,"at_once":0,"trials":{}}"#, "at_once"),
        (
            r#"{"version":1,"at_once":1,"trials":{"a":-1}}"#,
            "a takes -1 s",
        ),
    ] {
        fs::write(&file, text).unwrap();
        let error = format!("{:#}", Durations::read(&file).unwrap_err());
        assert!(error.contains("d.json") && error.contains(word), "{error}");
    }
    let missing = Durations::read(&directory.path().join("none")).unwrap_err();
    assert!(format!("{missing:#}").contains("none"), "{missing:#}");
}
