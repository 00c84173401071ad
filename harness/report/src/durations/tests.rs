use super::*;
use crate::events::{Event, Line, Outcome};
use crate::past::sample::Sample;
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

/// The lines of a run that began at `time` and took `seconds`.
fn lines(time: u32, ends: &[(&str, f64, Outcome)], seconds: f64) -> Vec<Line> {
    let mut night = Sample::night(time);
    night.trials.clear();
    for (trial, seconds, outcome) in ends {
        let mut end = end(trial, outcome.clone());
        end.seconds = *seconds;
        night.trials.insert((*trial).to_owned(), Some(end));
    }
    let mut lines = night.lines();
    if let Some(Event::RunEnded { seconds: wall, .. }) = lines.last_mut().map(|l| &mut l.event) {
        *wall = seconds;
    }
    lines
}

fn run(time: u32, ends: &[(&str, f64, Outcome)], seconds: f64) -> PastRun {
    PastRun::from_lines("run", &lines(time, ends, seconds)).unwrap()
}

fn read(path: &Path) -> Result<Durations> {
    Durations::read(path, mode("full"))
}

fn mode(profile: &str) -> Mode<'_> {
    Mode {
        profile,
        faults: false,
        booted: false,
    }
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
            1,
            &[
                ("a", 2.0, Outcome::Passed),
                ("b", 9.0, broken.clone()),
                ("s", 0.0, skip()),
                ("now", 0.0, skip()),
            ],
            2.0,
        ),
        run(
            2,
            &[("a", 40.0, failed("lost")), ("now", 3.0, Outcome::Passed)],
            4.0,
        ),
        run(3, &[("a", 4.0, Outcome::Passed)], 14.0),
    ];
    let durations = Durations::of(&runs).unwrap();
    let expected = [("a", 4.0), ("now", 3.0), ("s", 0.0)];
    let expected: BTreeMap<String, f64> = expected.map(|(n, s)| (n.to_owned(), s)).into();
    assert_eq!(durations.trials, expected);
    assert_eq!(durations.at_once, 49.0 / 20.0);
    let none = run(1, &[("b", 9.0, broken)], 1.0);
    assert!(Durations::of(&[none]).is_err());
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
    let again = read(&file).unwrap();
    assert_eq!((&again, again.digest()), (&written, written.digest()));
    assert_ne!(written.digest(), durations([("a", 1.0)]).digest());

    let log = log::EventLog::create(directory.path()).unwrap();
    for line in lines(1, &[("a", 3.4, Outcome::Passed)], 4.0) {
        log.append(&line.event).unwrap();
    }
    let of_run = read(directory.path()).unwrap();
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
        let error = format!("{:#}", read(&file).unwrap_err());
        assert!(error.contains("d.json") && error.contains(word), "{error}");
    }
    let missing = read(&directory.path().join("none")).unwrap_err();
    assert!(format!("{missing:#}").contains("none"), "{missing:#}");
}

#[test]
fn a_history_gives_those_of_the_profile_and_of_the_newest_nights() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history.jsonl");
    let night = |number: u32, seconds: f64| run(number, &[("a", seconds, Outcome::Passed)], 10.0);
    let mut runs: Vec<PastRun> = (1..=10).map(|number| night(number, 50.0)).collect();
    runs.extend((11..=19).map(|number| night(number, 2.0)));
    for (number, profile, faults) in [(20, "smoke", false), (21, "full", true)] {
        let mut other = night(number, 7.0);
        other.properties.insert("profile".into(), profile.into());
        other.faults = faults;
        runs.push(other);
    }
    file::add(&path, &runs).unwrap();
    let durations = read(&path).unwrap();
    assert_eq!(durations.trials["a"], 2.0, "the ten newest: nine of 2 s");
    assert_eq!(read(&path).unwrap().digest(), durations.digest());
    // One implementation: the runs themselves give the same.
    assert_eq!(
        Durations::of(&runs[..19]).unwrap().digest(),
        durations.digest()
    );
    assert_eq!(
        Durations::read(&path, mode("smoke")).unwrap().trials["a"],
        7.0
    );
    let none = Durations::read(&path, mode("netperf")).unwrap_err();
    let none = format!("{none:#}");
    let booted = Mode {
        booted: true,
        ..mode("full")
    };
    let of_booted = format!("{:#}", Durations::read(&path, booted).unwrap_err());
    assert!(of_booted.contains("of profile full with --boot: no trial ran"));
    assert!(
        none.contains("history.jsonl: of profile netperf: no trial ran"),
        "{none}"
    );
}
