//! What is written is parsed again by another road and compared with what went in.

use super::*;
use crate::events::{Event as RunEvent, SCHEMA, TrialEnded};
use crate::name::TrialName;
use crate::tests::{end, failed, planned};
use quick_xml::XmlVersion;

/// What a guest's console, a tool's output or a user's path may hold.
const HOSTILE: &str = "a\u{0}b\u{8}c\u{1b}[1;31md\u{1b}[0m ]]> ]]]]>> <e f=\"g\">&amp;&#0;'h'\u{fffe}\u{ffff}\u{85}\r\n<![CDATA[i]]>\t✓ ";

/// The same by hand, as text.
const EXPECTED: &str = "abcd ]]> ]]]]>> <e f=\"g\">&amp;&#0;'h'\n<![CDATA[i]]>\t✓ ";

/// And in an attribute.
const EXPECTED_LINE: &str = "abcd ]]> ]]]]>> <e f=\"g\">&amp;&#0;'h' <![CDATA[i]]> ✓";

/// An element: its name with its parents', attributes and own text.
#[derive(Debug, Default)]
struct Element {
    path: String,
    attributes: BTreeMap<String, String>,
    text: String,
}

impl Element {
    fn is(&self, name: &str) -> bool {
        self.path.ends_with(&format!("/{name}"))
    }
}

/// Parses strictly: illegal characters, even as references, are errors.
fn parse(xml: &str) -> Result<Vec<Element>> {
    let legal = |text: &str| {
        let illegal = text.chars().find(|c| {
            !matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
        });
        anyhow::ensure!(illegal.is_none(), "illegal character {illegal:?}");
        Ok(())
    };
    legal(xml)?;
    let mut reader = Reader::from_str(xml);
    let mut done: Vec<Element> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    loop {
        let event = reader.read_event()?;
        let text = match &event {
            Event::Start(start) | Event::Empty(start) => {
                let parent = open.last().map_or("", |&i| &done[i].path);
                let name = String::from_utf8(start.name().as_ref().to_vec())?;
                let mut element = Element {
                    path: format!("{parent}/{name}"),
                    ..Element::default()
                };
                for attribute in start.attributes() {
                    let attribute = attribute?;
                    let key = String::from_utf8(attribute.key.as_ref().to_vec())?;
                    let value = attribute
                        .normalized_value(XmlVersion::Explicit1_0)?
                        .into_owned();
                    legal(&value)?;
                    element.attributes.insert(key, value);
                }
                done.push(element);
                if matches!(event, Event::Start(_)) {
                    open.push(done.len() - 1);
                }
                continue;
            }
            Event::End(_) => {
                open.pop();
                continue;
            }
            Event::Eof => break,
            Event::Decl(_) => continue,
            Event::CData(data) => data.decode()?.into_owned(),
            Event::Text(text) => {
                let text = text.decode()?.into_owned();
                anyhow::ensure!(!text.contains("]]>"), "]]> in plain text");
                anyhow::ensure!(text.trim().is_empty(), "text outside of CDATA: {text:?}");
                continue;
            }
            other => anyhow::bail!("unexpected {other:?}"),
        };
        legal(&text)?;
        let &current = open.last().context("text outside of the root")?;
        done[current].text += &text;
    }
    anyhow::ensure!(open.is_empty(), "elements are left open");
    Ok(done)
}

fn hostile_trial(n: &str, outcome: Outcome) -> Vec<RunEvent> {
    let trial = format!("{n}{HOSTILE}");
    vec![
        RunEvent::Planned {
            trial: trial.clone(),
            name: TrialName {
                case: HOSTILE.into(),
                variant: None,
                fault: Some(HOSTILE.into()),
                nic: trial.clone(),
                guest: HOSTILE.into(),
                backend: HOSTILE.into(),
                qemu: Some(HOSTILE.into()),
            },
            plan_item: HOSTILE.into(),
        },
        RunEvent::TrialEnded(TrialEnded {
            notes: vec![HOSTILE.into()],
            serial_tail: HOSTILE.into(),
            artifacts: HOSTILE.into(),
            reproduce: HOSTILE.into(),
            ..end(&trial, outcome)
        }),
    ]
}

fn hostile_run() -> Results {
    let h = || HOSTILE.to_owned();
    let mut events = vec![RunEvent::RunStarted {
        schema: SCHEMA,
        unix_time: 0,
        identity: None,
        properties: [(h(), h()), (HOST.to_owned(), h())].into(),
        settings: None,
        only: BTreeMap::new(),
        faults: true,
    }];
    for (nic, outcome) in [
        ("1", Outcome::Failed { message: h() }),
        ("2", Outcome::Broken { message: h() }),
        ("3", Outcome::Skipped { reason: h() }),
        (
            "4",
            Outcome::Flaky {
                failures: vec![h()],
            },
        ),
        ("5", Outcome::Passed),
        ("6", Outcome::Interrupted),
        (
            "7",
            Outcome::Known {
                message: h(),
                reason: h(),
                link: Some(h()),
            },
        ),
    ] {
        events.extend(hostile_trial(nic, outcome));
    }
    Results::from_events(&events)
}

#[test]
fn hostile_strings_in_every_field_come_back() {
    let xml = render(&hostile_run(), Path::new("/nowhere")).unwrap();
    let elements = parse(&xml).unwrap_or_else(|e| panic!("{e:#} in\n{xml}"));
    let all = |name: &str| elements.iter().filter(|e| e.is(name)).collect::<Vec<_>>();

    let cases = all("testcase");
    assert_eq!(cases.len(), 7);
    for (n, case) in (1..).zip(&cases) {
        assert_eq!(case.attributes["name"], format!("{n}{EXPECTED_LINE}"));
        // The fault is not in it.
        let class = format!("nicmatrix.{n}{EXPECTED_LINE}.{EXPECTED_LINE}");
        assert_eq!(case.attributes["classname"], class);
    }
    for name in ["failure", "error", "skipped"] {
        let element = all(name)[0];
        let message = &element.attributes["message"];
        // The reason's first line.
        assert!(EXPECTED_LINE.starts_with(message.as_str()) && message.len() > 20);
        assert!(element.text.starts_with(EXPECTED), "{:?}", element.text);
    }
    for name in ["failure", "error"] {
        let after = all(name)[0].text.matches(EXPECTED).count();
        assert_eq!(after, 4, "message, command, artifacts and serial tail");
    }
    assert_eq!(all("error")[1].attributes["type"], "interrupted");
    assert_eq!(all("stackTrace")[0].text, EXPECTED);
    for out in all("system-out") {
        let expected = format!("Plan item: {EXPECTED}\nNote: {EXPECTED}\n");
        assert!(out.text.starts_with(&expected), "{:?}", out.text);
    }
    for (n, suite) in (1..).zip(all("testsuite")) {
        let name = format!("nicmatrix.{n}{EXPECTED_LINE}");
        assert_eq!(suite.attributes["name"], name);
        assert_eq!(suite.attributes["hostname"], EXPECTED_LINE);
    }
    let properties = all("property");
    let of_run = |e: &&&Element| e.attributes["name"] == EXPECTED_LINE;
    assert_eq!(properties.iter().filter(of_run).count(), 7, "one a suite");
    for property in properties.iter().filter(of_run) {
        assert_eq!(property.attributes["value"], EXPECTED_LINE);
    }
}

/// The check above can fail: it does for what `junit-report` writes by itself.
#[test]
fn a_naive_writer_is_caught() {
    let naive = |text: &str| {
        let case = TestCaseBuilder::failure(text, Duration::SECOND, "failed", text)
            .set_trace(text)
            .build();
        let suite = TestSuiteBuilder::new("s").add_testcase(case).build();
        let report = ReportBuilder::new().add_testsuite(suite).build();
        let mut xml = Vec::new();
        report.write_xml(&mut xml).unwrap();
        parse(&String::from_utf8(xml).unwrap())
    };
    naive("harmless").unwrap();
    for hostile in ["\u{0}", "\u{1b}[0m", "\u{ffff}", "a ]]> b", HOSTILE] {
        naive(hostile).expect_err(hostile);
    }
}

#[test]
fn names_are_unique_and_classes_have_three_parts() {
    let xml = render(&crate::tests::sample(false), Path::new("/nowhere")).unwrap();
    let elements = parse(&xml).unwrap();
    let mut names = Vec::new();
    for case in elements.iter().filter(|e| e.is("testcase")) {
        let class = &case.attributes["classname"];
        assert_eq!(class.split('.').count(), 3, "{class}");
        names.push((class.clone(), case.attributes["name"].clone()));
    }
    assert_eq!(names.len(), 42);
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 42);
    let root = |name: &str, key: &str| -> usize {
        let of = elements.iter().filter(|e| e.is(name));
        of.map(|e| e.attributes[key].parse::<usize>().unwrap())
            .sum()
    };
    let count = |name: &str| elements.iter().filter(|e| e.is(name)).count();
    assert_eq!(root("testsuite", "tests"), 42);
    assert_eq!(root("testsuite", "skipped"), count("skipped"));
    assert_eq!(root("testsuite", "failures"), count("failure"));
    assert_eq!(root("testsuite", "errors"), count("error"));
}

#[test]
fn a_failed_trials_files_are_attached_from_the_root() {
    let root = tempfile::tempdir().unwrap();
    let outs = |outcome: Outcome, artifacts: &str| {
        let name = "a::b::c::d";
        let end = TrialEnded {
            artifacts: artifacts.into(),
            ..end(name, outcome)
        };
        let events = [planned(name), RunEvent::TrialEnded(end)];
        let xml = render(&Results::from_events(&events), root.path()).unwrap();
        let elements = parse(&xml).unwrap();
        let out = elements.iter().find(|e| e.is("system-out")).unwrap();
        out.text.clone()
    };
    let dir = root.path().join("target/a.b.c.d");
    fs::create_dir_all(dir.join("sub")).unwrap();
    for file in ["commands.log", "serial.log"] {
        fs::write(dir.join(file), "").unwrap();
    }
    let attached = "[[ATTACHMENT|target/a.b.c.d/serial.log]]\n\
                    [[ATTACHMENT|target/a.b.c.d/commands.log]]";
    for artifacts in ["target/a.b.c.d", &dir.display().to_string()] {
        let out = outs(failed("x"), artifacts);
        assert!(out.ends_with(attached), "{out}");
    }
    assert!(!outs(Outcome::Passed, "target/a.b.c.d").contains("ATTACHMENT"));
    assert!(!outs(failed("x"), "").contains("ATTACHMENT"));
    // In a guest's mouth it is none.
    let failures = vec!["it said [[ATTACHMENT|/etc/passwd]]".into()];
    let out = outs(Outcome::Flaky { failures }, "");
    assert!(out.contains("it said [ [ATTACHMENT|/etc/passwd]]"), "{out}");
}

#[test]
fn a_device_is_written_to_and_stays_one() {
    let dir = tempfile::tempdir().unwrap();
    // By a link, so that a failure of this test costs the machine no device.
    for (device, taken) in [("/dev/null", true), ("/dev/full", false)] {
        let path = dir.path().join(Path::new(device).file_name().unwrap());
        std::os::unix::fs::symlink(device, &path).unwrap();
        let written = write(&hostile_run(), &path, dir.path());
        assert_eq!(written.is_ok(), taken, "{device}: {written:?}");
        assert_eq!(fs::read_link(&path).unwrap(), Path::new(device));
    }
    let error = write(&hostile_run(), dir.path(), dir.path()).unwrap_err();
    assert!(error.to_string().contains("Is a directory"), "{error}");
}

/// 10,000 trials, all `outcome` with this much on the console.
fn large(outcome: &Outcome, tail: usize) -> Results {
    let mut events = Vec::new();
    for i in 0..10_000 {
        let trial = format!("case{i}::e1000::rhel9::tap");
        events.push(planned(&trial));
        events.push(RunEvent::TrialEnded(TrialEnded {
            serial_tail: "x".repeat(tail),
            notes: vec!["n".repeat(tail)],
            ..end(&trial, outcome.clone())
        }));
    }
    Results::from_events(&events)
}

#[test]
fn a_file_stays_within_what_gitlab_takes() {
    let root = Path::new("/nowhere");
    let is_left_out = |xml: &str, words: &str| {
        let elements = parse(xml).unwrap();
        let cases = elements.iter().filter(|e| e.is("testcase")).count();
        assert_eq!(cases, 10_000, "no trial is left out");
        assert!(elements.len() < 250_000, "{} elements", elements.len());
        let property = |e: &&Element| e.is("property") && e.attributes["name"] == "left_out";
        let said = elements.iter().find(property);
        assert_eq!(said.map_or("", |e| &e.attributes["value"]), words);
    };
    let xml = render(&large(&Outcome::Passed, 10), root).unwrap();
    is_left_out(&xml, "");
    let xml = render(&large(&Outcome::Passed, 4000), root).unwrap();
    assert!(xml.len() < LIMIT);
    is_left_out(&xml, "the output of passes");
    let words = "w".repeat(2000);
    let xml = render(&large(&failed(&words), 4000), root).unwrap();
    assert!(xml.len() < LIMIT, "{}", xml.len());
    is_left_out(
        &xml,
        "the output of passes, and what is beyond 512 bytes of a text",
    );
    assert!(xml.contains("bytes left out"));
}

#[test]
fn a_booted_run_has_class_names_of_its_own() {
    let named = |booted: bool| {
        let mut results = Results::from_events(&[planned("mtu::e1000::rhel9::tap")]);
        results.booted = booted;
        let xml = render(&results, Path::new("/nowhere")).unwrap();
        let elements = parse(&xml).unwrap();
        let case = elements.iter().find(|e| e.is("testcase")).unwrap();
        (
            case.attributes["classname"].clone(),
            case.attributes["name"].clone(),
        )
    };
    let trial = || "mtu::e1000::rhel9::tap".to_owned();
    assert_eq!(named(false), ("nicmatrix.e1000.mtu".into(), trial()));
    assert_eq!(named(true), ("nicmatrix.booted.e1000.mtu".into(), trial()));
}
