use super::*;
use crate::events::{Event, Outcome, SCHEMA, TrialEnded};
use crate::expectation::{Expectation, State};
use crate::name::TrialName;
use crate::text::clean;
use insta::assert_snapshot;

pub(super) fn end(trial: &str, outcome: Outcome) -> TrialEnded {
    TrialEnded {
        trial: trial.into(),
        name: TrialName::parse_or_case(trial),
        outcome,
        expectation: None,
        repeats: None,
        attempts: 1,
        seconds: 3.4,
        cpu_seconds: Some(2.8),
        queued_seconds: Some(0.3),
        case_seconds: 1.2,
        case_cpu_seconds: None,
        host: None,
        lab_start_seconds: None,
        start: Some("boot".into()),
        boot_seconds: Some(1.9),
        first_ping_seconds: None,
        vm_peak_kib: Some(300_000),
        figures: Vec::new(),
        notes: Vec::new(),
        serial_tail: String::new(),
        artifacts: format!("target/nicmatrix/runs/r/{}", trial.replace("::", ".")),
        reproduce: format!("cargo xtask repro {trial}"),
    }
}

pub(super) fn failed(message: &str) -> Outcome {
    Outcome::Failed {
        message: message.into(),
    }
}

pub(super) fn known() -> Outcome {
    Outcome::Known {
        message: "operstate of eth0 is not \"down\"\nfacts".into(),
        reason: "set_link | is *not* told".into(),
        link: Some("https://example.org/1".into()),
    }
}

pub(super) fn expected(state: State) -> Expectation {
    Expectation {
        state,
        message: "is not \"down\"".into(),
        reason: "set_link | is *not* told".into(),
        link: Some("https://example.org/1".into()),
        sometimes: state == State::NotNow,
        until: Some("2026-11-01".into()),
        due: true,
    }
}

pub(super) fn skipped(reason: &str) -> Outcome {
    Outcome::Skipped {
        reason: reason.into(),
    }
}

pub(super) fn planned(trial: &str) -> Event {
    Event::Planned {
        trial: trial.into(),
        name: TrialName::parse_or_case(trial),
        plan_item: "2, 20".into(),
    }
}

fn started(trial: &str) -> Event {
    Event::TrialStarted {
        trial: trial.into(),
        name: TrialName::parse_or_case(trial),
    }
}

fn run_started(faults: bool) -> Event {
    let properties = [
        ("qemu", "7.2.22 (/usr/bin/qemu-system-x86_64)"),
        ("accelerator", "tcg"),
        ("host", "builder"),
        ("stand_ins", "rhel6, rhel9"),
    ];
    Event::RunStarted {
        schema: SCHEMA,
        unix_time: 1_790_000_000,
        identity: None,
        properties: properties.map(|(k, v)| (k.into(), v.into())).into(),
        settings: None,
        only: Default::default(),
        faults,
    }
}

/// A run with each outcome in it. `ended`: whether its last line is there.
pub(super) fn sample(ended: bool) -> Results {
    let cases = ["driver", "link_status", "offload_toggle", "multiqueue"];
    let nics = ["rtl8139", "e1000", "e1000e", "virtio"];
    let mut names = Vec::new();
    for case in cases {
        for nic in nics {
            for guest in ["rhel6", "rhel9"] {
                for backend in ["tap", "vhost", "vhost_zcopy"] {
                    let virtio = nic == "virtio";
                    if virtio || backend == "tap" && case != "multiqueue" {
                        names.push(format!("{case}::{nic}::{guest}::{backend}"));
                    }
                }
            }
        }
    }
    let mut events = vec![run_started(false)];
    events.extend(names.iter().map(|name| planned(name)));
    for name in &names {
        let skip = match name.as_str() {
            n if n.ends_with("::vhost") => Some("this kernel has no vhost_net"),
            n if n.contains("driver") && n.ends_with("zcopy") => Some("no vhost_net | at all"),
            n if n.ends_with("zcopy") => Some("no zcopytx"),
            n if n.contains("e1000e") => Some("this QEMU has no device e1000e"),
            _ => None,
        };
        if let Some(reason) = skip {
            events.push(Event::TrialEnded(TrialEnded {
                artifacts: String::new(),
                ..end(name, skipped(reason))
            }));
            continue;
        }
        let trial = name.clone();
        let plain = |outcome| Some(end(name, outcome));
        let ended = match name.as_str() {
            "driver::e1000::rhel6::tap" => Some(TrialEnded {
                serial_tail: "\u{1b}[1m[    1.2] e1000 0000:00:03.0: \u{0}]]> <oops>\r\n\r\n# "
                    .into(),
                notes: vec!["guest is a stand-in".into()],
                expectation: Some(expected(State::OtherWords)),
                ..end(
                    name,
                    failed("e1000 is bound by `e1000e`, not by e1000 | see *sysfs*\nreadlink: <x>"),
                )
            }),
            "link_status::virtio::rhel9::tap" => Some(TrialEnded {
                attempts: 2,
                ..end(
                    name,
                    Outcome::Flaky {
                        failures: vec!["operstate is down 5.0 s after set_link on\nfacts".into()],
                    },
                )
            }),
            "link_status::e1000::rhel6::tap" | "link_status::e1000::rhel9::tap" => {
                Some(TrialEnded {
                    expectation: Some(expected(State::Met)),
                    ..end(name, known())
                })
            }
            "offload_toggle::e1000::rhel6::tap" => Some(TrialEnded {
                expectation: Some(expected(State::Fixed)),
                ..end(name, Outcome::Passed)
            }),
            "offload_toggle::e1000::rhel9::tap" => Some(TrialEnded {
                expectation: Some(expected(State::NotNow)),
                ..end(name, Outcome::Passed)
            }),
            "offload_toggle::rtl8139::rhel6::tap" => plain(Outcome::Broken {
                message: "cannot create a tap: no /dev/net/tun".into(),
            }),
            "multiqueue::virtio::rhel6::tap" | "multiqueue::virtio::rhel9::tap" if !ended => None,
            _ => plain(Outcome::Passed),
        };
        if ended.is_some() || name.contains("rhel6") {
            events.push(started(&trial));
        }
        events.extend(ended.map(Event::TrialEnded));
    }
    if ended {
        events.push(Event::RunEnded {
            seconds: 372.4,
            interrupted: false,
            harness_peak_kib: 40_000,
            cpu_seconds: Some(600.0),
            harness_cpu_seconds: None,
            labs_cpu_seconds: None,
            processors: Some(2),
        });
    }
    Results::from_events(&events)
}

fn faults() -> Results {
    let mut events = vec![run_started(true)];
    for (name, outcome) in [
        (
            "ping_flood!sysrq_panic::virtio::rhel9::tap",
            Outcome::Passed,
        ),
        (
            "driver!unbound::virtio::rhel9::tap",
            failed("driver stayed green while its NIC was unbound"),
        ),
        (
            "driver!unbound::virtio::rhel9::vhost",
            skipped("this kernel has no vhost_net"),
        ),
    ] {
        events.push(planned(name));
        events.push(Event::TrialEnded(end(name, outcome)));
    }
    events.push(Event::RunEnded {
        seconds: 20.0,
        interrupted: true,
        harness_peak_kib: 1,
        cpu_seconds: Some(30.0),
        harness_cpu_seconds: None,
        labs_cpu_seconds: None,
        processors: Some(2),
    });
    Results::from_events(&events)
}

#[test]
fn terminal() {
    let mut results = sample(true);
    results.junit = Some("target/nicmatrix/junit.xml".into());
    results.html = Some("target/nicmatrix/report.html".into());
    assert_snapshot!(terminal::render(&results, false, 100));
}

#[test]
fn terminal_of_a_killed_run() {
    assert_snapshot!(terminal::render(&sample(false), false, 100));
}

#[test]
fn terminal_of_a_faults_run() {
    assert_snapshot!(terminal::render(&faults(), false, 100));
}

#[test]
fn markdown_of_each_outcome() {
    assert_snapshot!(markdown::render(&sample(false)));
}

#[test]
fn markdown_of_a_faults_run() {
    assert_snapshot!(markdown::render(&faults()));
}

#[test]
fn junit_of_each_outcome() {
    let mut results = sample(false);
    let mut words = Vec::new();
    results.trials.retain(|trial| {
        let word = trial.word(false);
        let first = !words.contains(&word);
        words.push(word);
        first
    });
    assert_eq!(results.trials.len(), 8);
    assert_snapshot!(junit::render(&results, Path::new("/nowhere")).unwrap());
}

fn table_lines(text: &str) -> Vec<&str> {
    let blocks = text.split("\n\n").filter(|b| b.starts_with("tap "));
    blocks.flat_map(str::lines).collect()
}

#[test]
fn tables_fit_the_width_and_lose_no_cell() {
    let results = sample(true);
    let cells = |width| {
        let text = terminal::render(&results, false, width);
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        let count = |word: &str| words.iter().filter(|w| *w == word).count();
        (
            text,
            [count("ok"), count("FAIL"), count("flaky"), count("—")],
        )
    };
    let (_, all) = cells(1000);
    for width in [40, 60, 80, 100] {
        let (text, some) = cells(width);
        assert_eq!(all[..3], some[..3], "at width {width}");
        let lines = table_lines(&text);
        assert!(lines.len() > 4, "{text}");
        for line in lines {
            assert!(line.chars().count() <= width, "{width}: {line}");
        }
    }
    assert_eq!(cells(100).1, all, "100 columns are enough for one block");
}

#[test]
fn the_qemus_of_a_guest_stand_side_by_side() {
    let mut events = vec![run_started(false)];
    for qemu in ["", "::trixie"] {
        for cell in [
            "e1000::rhel6::tap",
            "e1000::rhel9::tap",
            "virtio::rhel9::tap",
        ] {
            let name = format!("driver::{cell}{qemu}");
            let outcome = match name.contains("virtio") && !qemu.is_empty() {
                true => failed("no driver"),
                false => Outcome::Passed,
            };
            events.push(planned(&name));
            events.push(Event::TrialEnded(end(&name, outcome)));
        }
    }
    let results = Results::from_events(&events);
    let text = terminal::render(&results, false, 100);
    let table = text.split("\n\n").find(|part| part.starts_with("tap"));
    insta::assert_snapshot!(table.unwrap(), @r"
    tap     e1000                             virtio
            rhel6            rhel9            rhel9
            default  trixie  default  trixie  default  trixie
    driver  ok       ok      ok       ok      ok       FAIL
    ");
    let markdown = markdown::render(&results);
    assert!(
        markdown.contains("| virtio<br>rhel9<br>default | virtio<br>rhel9<br>trixie |"),
        "{markdown}"
    );
}

#[test]
fn colours_change_no_text() {
    let results = sample(false);
    let coloured = terminal::render(&results, true, 100);
    assert!(coloured.contains("\u{1b}[1;31mFAIL"));
    assert_eq!(clean(&coloured), terminal::render(&results, false, 100));
}

#[test]
fn a_trial_without_an_end_is_never_a_pass() {
    let counts = sample(false).counts();
    assert_eq!(counts.interrupted, 2);
    assert_eq!(
        counts.passed + counts.interrupted,
        sample(true).counts().passed
    );
    let only_planned = [run_started(false), planned("a::b::c::d")];
    let results = Results::from_events(&only_planned);
    assert_eq!(results.trials[0].outcome(), &Outcome::Interrupted);
    assert_eq!(
        results.trials[0].cause(),
        "the run was cut off before this trial began"
    );
}

fn of_tries(tries: &[Option<Outcome>]) -> Trial {
    let name = "a::b::c::d";
    let mut events = vec![planned(name)];
    for outcome in tries {
        events.push(started(name));
        events.extend(outcome.clone().map(|o| Event::TrialEnded(end(name, o))));
    }
    let mut results = Results::from_events(&events);
    assert_eq!(results.trials.len(), 1);
    results.trials.remove(0)
}

#[test]
fn tries_in_processes_of_their_own_are_one_trial() {
    let passed = || Some(Outcome::Passed);
    assert_eq!(of_tries(&[passed()]).outcome(), &Outcome::Passed);

    let trial = of_tries(&[Some(failed("lost 3")), passed()]);
    assert_eq!(trial.cause(), "passed at try 2, after: lost 3");

    let trial = of_tries(&[None, passed()]);
    let killed = "passed at try 2, after: the try was killed before it gave a verdict";
    assert_eq!(trial.cause(), killed);

    let own = Outcome::Flaky {
        failures: vec!["second".into()],
    };
    let trial = of_tries(&[Some(failed("first")), Some(own)]);
    let both = Outcome::Flaky {
        failures: vec!["first".into(), "second".into()],
    };
    assert_eq!(trial.outcome(), &both);

    let trial = of_tries(&[Some(failed("lost 3")), Some(skipped("no tap"))]);
    assert_eq!(trial.outcome(), &failed("lost 3"));
    let trial = of_tries(&[Some(failed("lost 3")), None]);
    assert_eq!(trial.outcome(), &failed("lost 3"));
}

#[test]
fn a_known_failure_in_one_of_several_processes_is_no_failure_before_a_pass() {
    let trial = of_tries(&[Some(known()), Some(Outcome::Passed)]);
    assert_eq!(trial.outcome(), &Outcome::Passed);
    let trial = of_tries(&[Some(known()), None]);
    assert_eq!(trial.outcome(), &known());
}

#[test]
fn what_was_not_planned_is_reported_all_the_same() {
    let name = "driver::e1000::rhel6::tap";
    let results = Results::from_events(&[Event::TrialEnded(end(name, Outcome::Passed))]);
    let trial = &results.trials[0];
    assert_eq!(Some(trial.parts()), TrialName::parse(name).as_ref());
    assert_eq!(results.counts().passed, 1);
}

fn bound_of(trials: &[f64], ends: &[(f64, Option<f64>)]) -> Option<String> {
    let mut events = vec![run_started(false)];
    for (index, seconds) in trials.iter().enumerate() {
        events.push(Event::TrialEnded(TrialEnded {
            seconds: *seconds,
            ..end(&format!("driver::nic{index}::rhel9::tap"), Outcome::Passed)
        }));
    }
    let skip = TrialEnded::unmeasured("driver::z::rhel9::tap".into(), skipped("no z"));
    events.push(Event::TrialEnded(skip));
    events.extend(ends.iter().map(|&(seconds, cpu_seconds)| Event::RunEnded {
        seconds,
        interrupted: false,
        harness_peak_kib: 1,
        cpu_seconds,
        harness_cpu_seconds: None,
        labs_cpu_seconds: None,
        processors: cpu_seconds.map(|_| 2),
    }));
    let bound = Results::from_events(&events).bound();
    bound.map(|bound| bound.to_string())
}

#[test]
fn a_run_is_held_against_the_time_that_no_schedule_can_beat() {
    let bound = |trials: &[f64], seconds, cpu| bound_of(trials, &[(seconds, cpu)]);
    assert_snapshot!(bound(&[5.0, 35.0], 312.0, Some(578.0)).unwrap(), @"wall 312 s, 1.08 x the bound of 289 s (CPU 578 s on 2 processors; longest trial 35 s)");
    // One long trial, which the processors mostly wait for.
    assert_snapshot!(bound(&[5.0, 35.0], 42.0, Some(20.0)).unwrap(), @"wall 42 s, 1.20 x the bound of 35 s (CPU 20 s on 2 processors; longest trial 35 s)");
    assert_eq!(bound(&[35.0], 36.0, Some(20.0)), None, "one trial");
    assert_eq!(bound(&[5.0, 35.0], 36.0, None), None, "an old log");
    // Processes of their own: nextest's.
    let two = bound_of(&[5.0, 5.0], &[(5.0, Some(4.0)), (5.0, Some(8.0))]).unwrap();
    assert!(two.contains("CPU 12 s"), "{two}");
}

#[test]
fn what_ran_alone_is_no_fault_of_the_schedule() {
    let mut measured = TrialEnded {
        seconds: 100.0,
        cpu_seconds: Some(120.0),
        ..end("netperf_host::e1000::rhel9::tap", Outcome::Passed)
    };
    measured.figures.push(crate::events::tests::figure());
    let beside = TrialEnded {
        seconds: 10.0,
        ..end("driver::e1000::rhel9::tap", Outcome::Passed)
    };
    let bound = Results::from_events(&[
        Event::TrialEnded(measured),
        Event::TrialEnded(beside),
        Event::RunEnded {
            seconds: 132.0,
            interrupted: false,
            harness_peak_kib: 1,
            cpu_seconds: Some(160.0),
            harness_cpu_seconds: None,
            labs_cpu_seconds: None,
            processors: Some(2),
        },
    ])
    .bound();
    assert_snapshot!(bound.unwrap(), @"wall 132 s, 1.10 x the bound of 120 s (CPU 160 s on 2 processors; longest trial 10 s; beside 1 trial alone, 100 s)");
}

#[test]
fn everything_is_written_where_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let log = log::EventLog::create(dir.path()).unwrap();
    log.append(&run_started(false)).unwrap();
    log.append(&planned("a::b::c::d")).unwrap();
    let junit = dir.path().join("new/junit.xml");
    let step = dir.path().join("step.md");
    std::fs::write(&step, "earlier").unwrap();
    let mut results = read(log.path()).unwrap();
    write_all(&mut results, Some(&junit), Some(&step), dir.path()).unwrap();
    assert_eq!(results.junit.as_ref(), Some(&junit));
    let xml = std::fs::read_to_string(&junit).unwrap();
    assert!(xml.contains(r#"name="a::b::c::d""#), "{xml}");
    let markdown = std::fs::read_to_string(&step).unwrap();
    assert!(
        markdown.starts_with("earlier\n## nicmatrix: "),
        "{markdown}"
    );
    let left: Vec<_> = std::fs::read_dir(dir.path().join("new")).unwrap().collect();
    assert_eq!(left.len(), 1, "no temporary file is left");
}

#[test]
fn a_huge_number_of_failures_stays_below_githubs_limit() {
    let mut events = vec![run_started(false)];
    for n in 0..2000 {
        let name = format!("driver::nic{n}::rhel9::tap");
        events.push(Event::TrialEnded(TrialEnded {
            serial_tail: "<panic>\n".repeat(100),
            ..end(&name, failed("it is bound by nothing"))
        }));
    }
    let text = markdown::render(&Results::from_events(&events));
    assert!(text.len() < 1024 * 1024, "{} bytes", text.len());
    assert!(text.contains("further trials to look at"));
}
