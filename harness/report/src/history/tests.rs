use super::*;
use crate::events::Outcome;
use crate::expectation::State;
use crate::past::sample::Sample;
use crate::tests::{expected, failed, known, skipped};
use file::{Added, add, read};
use insta::assert_snapshot;
use std::fs;
use std::path::PathBuf;

const RED: &str = "mac_change::e1000e::rhel6::tap";

struct Place {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new/history.jsonl");
    Place { _dir: dir, path }
}

/// A night with one of each verdict.
fn night(number: u32) -> Sample {
    let mut night = Sample::night(number)
        .set("driver::e1000::rhel6", "", failed("lost 3 of 100"))
        .set("driver::e1000::rhel9", "", known())
        .set("driver::e1000e::rhel6", "", skipped("no vhost_net"))
        .set(
            "driver::e1000e::rhel9",
            "",
            Outcome::Broken {
                message: "no QEMU".into(),
            },
        )
        .set(
            "link_status::e1000::rhel6",
            "",
            Outcome::Flaky {
                failures: vec!["lost 1".into()],
            },
        )
        .set("link_status::e1000::rhel9", "", Outcome::Interrupted)
        .measured("netperf::virtio::rhel9::vhost", 16384, 941.2);
    night.booted = true;
    night.only = [("nic".to_owned(), serde_json::json!(["virtio", "e1000"]))].into();
    night.of("driver::e1000::rhel6", "", |end| {
        end.repeats = Some(crate::repeats::Repeats {
            failed: 4,
            passed: 0,
            undecided: 1,
        });
    });
    night.of("mac_change::virtio::rhel6", "tap", |end| {
        end.expectation = Some(expected(State::Fixed));
    });
    night.of("mac_change::virtio::rhel9", "tap", |end| {
        end.expectation = Some(crate::expectation::Expectation {
            sometimes: true,
            ..expected(State::NotNow)
        });
    });
    night.trials.insert("pxe::e1000::rhel6::tap".into(), None);
    night.trials.retain(|name, _| !name.ends_with("zcopy"));
    night
}

/// The run, less what a history does not keep.
fn kept(run: &PastRun) -> PastRun {
    let mut run = run.clone();
    for trial in run.trials.values_mut() {
        trial.reproduce.clear();
    }
    run
}

#[test]
fn a_line_of_the_history_gives_the_run_that_the_events_give() {
    let place = place();
    let runs = [night(1).run(), night(2).run()];
    assert_eq!(add(&place.path, &runs[..1]).unwrap(), [Added::New]);
    assert_eq!(add(&place.path, &runs).unwrap(), [Added::Known, Added::New]);
    let history = read(&place.path).unwrap();
    let read = history.runs(10, |_| true);
    assert_eq!(read, [kept(&runs[1]), kept(&runs[0])]);
    let verdicts: BTreeSet<Verdict> = runs[0].trials.values().map(|t| t.verdict).collect();
    assert_eq!(
        verdicts.len(),
        Verdict::ALL.len(),
        "each verdict is in it: {verdicts:?}"
    );
    let text = fs::read_to_string(&place.path).unwrap();
    assert_eq!(
        text.matches("lost 3 of 100").count(),
        1,
        "a text is written once"
    );
    assert_eq!(text.matches("mac_change::e1000e::rhel6::tap").count(), 1);
}

#[test]
fn the_lines_are_those_of_the_document() {
    let place = place();
    let mut night = night(1);
    night
        .trials
        .retain(|name, _| name.starts_with("driver::e1000::") || name.starts_with("netperf"));
    add(&place.path, &[night.run()]).unwrap();
    assert_snapshot!(fs::read_to_string(&place.path).unwrap());
}

#[test]
fn a_file_that_is_cut_at_any_byte_is_read_and_added_to() {
    let place = place();
    let mut small = night(1);
    small
        .trials
        .retain(|name, _| name.starts_with("driver::e1000::") || name.starts_with("netperf"));
    let mut next = small.run();
    next.name = "night2".into();
    next.time += 86_400.0;
    let runs = [small.run(), next];
    add(&place.path, &runs).unwrap();
    let whole = fs::read(&place.path).unwrap();
    for cut in 0..=whole.len() {
        fs::write(&place.path, &whole[..cut]).unwrap();
        let history = read(&place.path).unwrap();
        for night in history.runs(10, |_| true) {
            let original = runs.iter().find(|run| run.is_same(&night)).unwrap();
            for (name, trial) in &night.trials {
                assert_eq!(Some(trial), kept(original).trials.get(name), "cut at {cut}");
            }
        }
        let lines = whole[..cut].iter().filter(|b| **b == b'\n').count();
        let read_lines = history.texts.len()
            + history
                .nights
                .iter()
                .map(|night| 1 + night.records.len())
                .sum::<usize>();
        assert_eq!(read_lines, lines, "cut at {cut}: each whole line counts");
        add(&place.path, &runs).unwrap();
        let mended = read(&place.path).unwrap().runs(10, |_| true);
        assert_eq!(mended, [kept(&runs[1]), kept(&runs[0])], "cut at {cut}");
    }
}

#[test]
fn the_shards_of_a_night_are_one_night() {
    let place = place();
    let shards = |number| [1, 2, 3].map(|k| Sample::night(number).shard(k, 3).run());
    let all: Vec<PastRun> = (1..=4).flat_map(shards).collect();
    add(&place.path, &all).unwrap();
    let history = read(&place.path).unwrap();
    let names: Vec<String> = (history.runs(2, |_| true).into_iter())
        .map(|run| run.name)
        .collect();
    let newest = [
        "night4-3", "night4-2", "night4-1", "night3-3", "night3-2", "night3-1",
    ];
    assert_eq!(names, newest);
}

#[test]
fn what_was_not_written_whole_may_be_added_again() {
    let place = place();
    let run = night(1).run();
    add(&place.path, std::slice::from_ref(&run)).unwrap();
    let whole = fs::read(&place.path).unwrap();
    fs::write(&place.path, &whole[..whole.len() - 5]).unwrap();
    assert_eq!(
        add(&place.path, std::slice::from_ref(&run)).unwrap(),
        [Added::Again]
    );
    assert_eq!(add(&place.path, &[run]).unwrap(), [Added::Known]);
}

#[test]
fn a_run_that_was_added_while_it_went_on_is_completed_later() {
    let place = place();
    let ended = Sample::night(1).run();
    let begun = |judged: usize| {
        let mut begun = Sample::night(1);
        begun.cut = true;
        begun
            .trials
            .values_mut()
            .skip(judged)
            .for_each(|end| *end = None);
        begun.run()
    };
    for (run, added) in [
        (begun(2), Added::New),
        (begun(2), Added::Known),
        (begun(5), Added::Again),
        (begun(2), Added::Known),
        (begun(usize::MAX), Added::Again),
        (ended.clone(), Added::Again),
        (ended.clone(), Added::Known),
    ] {
        assert_eq!(add(&place.path, &[run]).unwrap(), [added]);
    }
    assert_eq!(
        read(&place.path).unwrap().runs(10, |_| true),
        [kept(&ended)]
    );
}

#[test]
fn a_file_that_is_no_history_is_left_as_it_is() {
    let place = place();
    let run = [night(1).run()];
    add(&place.path, &run).unwrap();
    for other in ["my notes", "{\"histories\":", "{\"event\":\"run_started\""] {
        fs::write(&place.path, other).unwrap();
        let error = add(&place.path, &run).unwrap_err().to_string();
        assert!(error.contains("history.jsonl is no history"), "{error}");
        assert_eq!(fs::read_to_string(&place.path).unwrap(), other);
    }
}

#[test]
fn two_that_add_at_once_lose_nothing() {
    let place = place();
    std::thread::scope(|scope| {
        for number in 1..=8 {
            let path = &place.path;
            scope.spawn(move || add(path, &[night(number).run()]).unwrap());
        }
    });
    let history = read(&place.path).unwrap();
    let names: Vec<&str> = history
        .nights()
        .map(|night| night.run.name.as_str())
        .collect();
    let expected: Vec<String> = (1..=8).map(|n| format!("night{n}")).collect();
    assert_eq!(names, expected, "in the order of their time");
    assert!(history.nights().all(Night::is_whole));
}

#[test]
fn newer_files_are_refused_and_newer_fields_passed_over() {
    let place = place();
    add(&place.path, &[night(1).run()]).unwrap();
    let text = fs::read_to_string(&place.path).unwrap();
    for newer in [
        text.replacen("\"history\":1", "\"history\":2", 1),
        text.replacen("\"history\":1,\"run\"", "\"history\":2,\"name\"", 1),
    ] {
        fs::write(&place.path, newer).unwrap();
        let error = read(&place.path).unwrap_err().to_string();
        assert!(
            error.contains("has lines of schema 2, and this version reads up to 1"),
            "{error}"
        );
    }
    let more = text.replace("{\"t\":", "{\"new\":[{}],\"t\":");
    let more = more.replacen("\"run\":", "\"new\":1,\"run\":", 1);
    // Fields of a line may come in any order but for the first of a run and of a text.
    fs::write(&place.path, more).unwrap();
    assert_eq!(
        read(&place.path).unwrap().runs(1, |_| true),
        [kept(&night(1).run())]
    );
    for (line, words) in [
        ("nonsense", "not a line of a history"),
        (
            "{\"t\":9999,\"v\":\"p\"}",
            "the file has no text number 9999",
        ),
        ("{\"t\":0,\"v\":\"z\"}", "unknown verdict `z`"),
    ] {
        fs::write(&place.path, format!("{text}{line}\n{text}")).unwrap();
        let error = read(&place.path).unwrap_err().to_string();
        let at = format!("history.jsonl:{}: ", text.lines().count() + 1);
        assert!(error.contains(words) && error.contains(&at), "{error}");
    }
}

/// Six nights: a trial breaks on the third, and another flips.
fn week() -> History {
    let place = place();
    let nights = (1..=6).map(|number| {
        let mut night = Sample::night(number);
        if number >= 3 {
            night = night.set(RED, "", failed("no announcement of 52:54:00:ab:cd:ef"));
        }
        if number == 5 {
            night = night.set(RED, "", skipped("no tap"));
        }
        if number % 2 == 0 {
            night = night.set("driver::virtio::rhel6", "tap", failed("lost 3"));
        }
        night.of("link_status::virtio", "tap", |end| {
            end.seconds = if number == 6 {
                90.0
            } else {
                10.0 + f64::from(number)
            };
        });
        night.run()
    });
    add(&place.path, &nights.collect::<Vec<_>>()).unwrap();
    read(&place.path).unwrap()
}

#[test]
fn a_trial_is_shown_night_by_night() {
    let week = week();
    assert_snapshot!(show::trial(&week, RED).unwrap(), @r"
    mac_change::e1000e::rhel6::tap
      2026-11-26 09:46  night1  passed          3.4 s
      2026-11-27 09:46  night2  passed          3.4 s
      2026-11-28 09:46  night3  failed          3.4 s  no announcement of 52:54:00:ab:cd:ef
      2026-11-29 09:46  night4  failed          3.4 s  no announcement of 52:54:00:ab:cd:ef
      2026-11-30 09:46  night5  skipped         3.4 s  no tap
      2026-12-01 09:46  night6  failed          3.4 s  no announcement of 52:54:00:ab:cd:ef
    red since 2026-11-28, 3 nights; last green at commit 222222222222 (2026-11-27)
    1 change in 5 judged nights (25 %)
    median 3.4 s
    ");
    assert_eq!(show::trial(&week, "driver"), None);
    let green = show::trial(&week, "driver::e1000::rhel6::tap").unwrap();
    assert!(
        green.contains("\ngreen since 2026-11-26, 6 nights\n"),
        "{green}"
    );
}

#[test]
fn what_flips_comes_before_what_broke() {
    assert_snapshot!(show::flaky(&week()), @r"
    rate   changes  nights  latest   trial
    100 %        5       6  failed   driver::virtio::rhel6::tap
     25 %        1       5  failed   mac_change::e1000e::rhel6::tap
    ");
    assert_eq!(
        show::flaky(&History::default()),
        "No trial changed between pass and failure.\n"
    );
}

#[test]
fn what_became_slower_comes_first() {
    assert_snapshot!(show::slow(&week(), 3), @r"
    Slower than before
          median        latest    ratio  nights  trial
          13.0 s    1 min 30 s   6.92 x       6  link_status::virtio::rhel6::tap
          13.0 s    1 min 30 s   6.92 x       6  link_status::virtio::rhel9::tap

    Slowest
          median        latest    ratio  nights  trial
          13.0 s    1 min 30 s   6.92 x       6  link_status::virtio::rhel6::tap
          13.0 s    1 min 30 s   6.92 x       6  link_status::virtio::rhel9::tap
           3.4 s         3.4 s   1.00 x       6  driver::e1000::rhel6::tap
    ");
}

#[test]
fn what_is_settled_is_named() {
    let place = place();
    let nights: Vec<PastRun> = (1..=31)
        .map(|number| {
            let mut night = Sample::night(number);
            let state = if number == 1 {
                State::Met
            } else {
                State::NotNow
            };
            night.of(RED, "", |end| {
                end.outcome = if number == 1 {
                    known()
                } else {
                    Outcome::Passed
                };
                end.expectation = Some(crate::expectation::Expectation {
                    sometimes: true,
                    ..expected(state)
                });
            });
            night.run()
        })
        .collect();
    add(&place.path, &nights[..30]).unwrap();
    let shown = show::trial(&read(&place.path).unwrap(), RED).unwrap();
    assert!(!shown.contains("fixed"), "{shown}");
    add(&place.path, &nights[30..]).unwrap();
    let shown = show::trial(&read(&place.path).unwrap(), RED).unwrap();
    assert!(
        shown.contains("fixed, it seems: 30 passes in a row"),
        "{shown}"
    );
}

/// Its size and the time to read it, in docs/history.md:
/// `cargo test --package report --release -- --ignored --nocapture 500_nights`.
#[test]
#[ignore = "makes a file of 200 MB to be measured"]
fn history_of_500_nights() {
    let path = std::env::temp_dir().join("nicmatrix-500-nights.jsonl");
    let mut random = 1u64;
    let mut next = move || {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) as f64 / f64::from(1u32 << 31)
    };
    let mut run = Sample::night(1).run();
    run.trials.clear();
    let model = night(1).run().trials["driver::e1000::rhel6::tap"].clone();
    let (mut history, mut text) = (History::default(), Vec::new());
    for number in 0..500 {
        run.time += 86_400.0;
        run.name = format!("20261126T030224Z-{number}");
        for trial in 0..10_000 {
            let name = format!(
                "case{}::nic{}::rhel{}::tap",
                trial / 200,
                trial / 10 % 20,
                trial % 10
            );
            let typical = 3.0 + f64::from(trial % 97);
            let mut record = PastTrial {
                name: TrialName::parse_or_case(&name),
                verdict: Verdict::Passed,
                cause: String::new(),
                seconds: (typical * (0.9 + 0.2 * next()) * 100.0).round() / 100.0,
                cpu_seconds: Some((typical * (0.5 + 0.1 * next()) * 100.0).round() / 100.0),
                ..model.clone()
            };
            if next() < 0.01 {
                record.verdict = Verdict::Failed;
                record.cause = format!("lost {} of 1000 frames", (next() * 1000.0) as u32);
            }
            run.trials.insert(name, record);
        }
        text.extend(file::block(&mut history, &run).unwrap());
    }
    fs::write(&path, text).unwrap();
    let started = std::time::Instant::now();
    let history = read(&path).unwrap();
    crate::errln!(
        "{}: {} bytes, read in {:?}, {} nights",
        path.display(),
        fs::metadata(&path).unwrap().len(),
        started.elapsed(),
        history.nights.len()
    );
}
