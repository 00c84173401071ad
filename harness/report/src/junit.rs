//! JUnit XML as GitLab and Jenkins read it.
//!
//! A suite is a NIC model; class names are `nicmatrix.NIC.CASE`, which Jenkins splits at the dots;
//! test names are whole trial names, which GitLab shows and `repro` takes. Of a run that boots every guest
//! they are `nicmatrix.booted.NIC.CASE`: of two tests of one name in a job GitLab drops the second. GitLab
//! reads the body of a failure, Jenkins its message: the reason is in both.

use crate::events::Outcome;
use crate::expectation::{Expectation, State};
use crate::{HOST, Results, Trial, out, text};
use anyhow::{Context, Result, anyhow};
use junit_report::{
    Duration, OffsetDateTime, ReportBuilder, TestCase, TestCaseBuilder, TestResult, TestSuite,
    TestSuiteBuilder,
};
use quick_xml::events::{BytesCData, BytesEnd, BytesStart, Event};
use quick_xml::{Reader, Writer};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What a file may have: GitLab refuses one of more than 30 MB.
const LIMIT: usize = 29_000_000;

/// How GitLab is told of a file.
const ATTACHMENT: &str = "[[ATTACHMENT|";

/// How much a report tells.
#[derive(Clone, Copy)]
struct Detail {
    /// Whether what passed has its output.
    passes: bool,
    /// How much of each text, bytes.
    text: usize,
    /// What is left out, in words.
    left_out: Option<&'static str>,
}

/// The first that fits is taken.
const DETAILS: [Detail; 4] = [
    Detail {
        passes: true,
        text: usize::MAX,
        left_out: None,
    },
    Detail {
        passes: false,
        text: usize::MAX,
        left_out: Some("the output of passes"),
    },
    Detail {
        passes: false,
        text: 16 * 1024,
        left_out: Some("the output of passes, and what is beyond 16 KiB of a text"),
    },
    Detail {
        passes: false,
        text: 512,
        left_out: Some("the output of passes, and what is beyond 512 bytes of a text"),
    },
];

/// Writes the report to `path`, whole or not at all; into a device or a pipe as far as it takes it.
/// Attachments' paths are relative to `root`, where GitLab looks for them.
pub fn write(results: &Results, path: &Path, root: &Path) -> Result<()> {
    let xml = render(results, root)?;
    out::replace_file(path, &xml).map_err(|error| {
        anyhow!(
            "cannot write the JUnit report {}: {error}; choose another place with --junit PATH",
            path.display()
        )
    })
}

/// The report's XML, of a size that GitLab takes. Reads the artifact directories for what can be attached.
pub fn render(results: &Results, root: &Path) -> Result<String> {
    within(results, root, LIMIT)
}

/// The most detailed that has `limit` bytes at most, or else the least detailed.
fn within(results: &Results, root: &Path, limit: usize) -> Result<String> {
    let mut xml = String::new();
    for detail in DETAILS {
        xml = detailed(results, root, detail)?;
        if xml.len() <= limit {
            break;
        }
    }
    Ok(xml)
}

fn detailed(results: &Results, root: &Path, detail: Detail) -> Result<String> {
    let mut by_nic: BTreeMap<&str, Vec<&Trial>> = BTreeMap::new();
    for trial in &results.trials {
        by_nic.entry(&trial.parts().nic).or_default().push(trial);
    }
    let suites = by_nic
        .iter()
        .map(|(nic, trials)| suite(results, nic, trials, root, detail));
    let report = ReportBuilder::new().add_testsuites(suites).build();
    let mut plain = Vec::new();
    report
        .write_xml(&mut plain)
        .context("cannot write JUnit XML")?;
    let trials: Vec<&Trial> = by_nic.into_values().flatten().collect();
    let xml = enrich(std::str::from_utf8(&plain)?, results, &trials, detail)
        .context("cannot add properties to JUnit XML")?;
    Ok(String::from_utf8(xml)? + "\n")
}

fn suite(
    results: &Results,
    nic: &str,
    trials: &[&Trial],
    root: &Path,
    detail: Detail,
) -> TestSuite {
    let started = results.unix_time.and_then(|t| i64::try_from(t).ok());
    let timestamp = started.and_then(|t| OffsetDateTime::from_unix_timestamp(t).ok());
    let mut suite = TestSuiteBuilder::new(&format!("{}.{}", family(results), class(nic)))
        .set_timestamp(timestamp.unwrap_or(OffsetDateTime::UNIX_EPOCH))
        .add_testcases(trials.iter().map(|t| case(t, results, root, detail)))
        .build();
    suite.package = "nicmatrix".into();
    if let Some(host) = results.properties.get(HOST) {
        suite.hostname = text::one_line(host);
    }
    suite
}

/// What all class names of a run begin with.
fn family(results: &Results) -> &'static str {
    match results.booted {
        true => "nicmatrix.booted",
        false => "nicmatrix",
    }
}

/// A part of a dotted class name.
fn class(part: &str) -> String {
    text::one_line(part).replace('.', "_")
}

fn case(trial: &Trial, results: &Results, root: &Path, detail: Detail) -> TestCase {
    let cause = Some(cdata(&text::shortened(&body(trial), detail.text)));
    let message = text::shortened(&trial.cause(), detail.text).into_owned();
    let result = match trial.outcome() {
        // It failed first: the passes among its repeats make no success of it.
        Outcome::Flaky { .. } if trial.end.repeats.is_some() => TestResult::Failure {
            type_: "flaky".into(),
            message,
            cause,
        },
        Outcome::Passed | Outcome::Flaky { .. } => TestResult::Success,
        Outcome::Failed { .. } => TestResult::Failure {
            type_: if results.faults { "blind" } else { "failed" }.into(),
            message,
            cause,
        },
        Outcome::Broken { .. } => TestResult::Error {
            type_: "broken".into(),
            message,
            cause,
        },
        Outcome::Interrupted => TestResult::Error {
            type_: "interrupted".into(),
            message,
            cause,
        },
        // No viewer has a word for it, and as a failure it would hide those that are new.
        Outcome::Known { reason, link, .. } => TestResult::SkippedWithCause {
            type_: "known".into(),
            message: text::shortened(
                &text::one_line(&format!(
                    "known failure: {}",
                    with_link(reason, link.as_deref())
                )),
                detail.text,
            )
            .into_owned(),
            cause,
        },
        Outcome::Skipped { reason } => TestResult::SkippedWithCause {
            type_: "skipped".into(),
            message,
            cause: Some(cdata(&text::shortened(reason, detail.text))),
        },
    };
    let milliseconds = (trial.end.seconds * 1000.0).round() as i64;
    let name = trial.parts();
    let mut test = TestCaseBuilder::success(
        &text::one_line(trial.name()),
        Duration::milliseconds(milliseconds),
    )
    .set_classname(&format!(
        "{}.{}.{}",
        family(results),
        class(&name.nic),
        class(&name.case_and_variant())
    ))
    .set_system_out(&cdata(&system_out(trial, root, detail)))
    .build();
    test.result = result;
    test
}

/// "REASON (LINK)"
fn with_link(reason: &str, link: Option<&str>) -> String {
    let link = link.map(|link| format!(" ({link})"));
    format!("{reason}{}", link.unwrap_or_default())
}

/// What became of an expectation, a line.
fn expected(expectation: &Expectation) -> String {
    let reason = with_link(&expectation.reason, expectation.link.as_deref());
    let words = &expectation.message;
    let mut line = match expectation.state {
        State::Met => format!("KNOWN, failed as expected: {reason}"),
        State::OtherWords => {
            format!("Another failure was expected, which says {words:?}: {reason}")
        }
        State::Fixed => format!("FIXED, passed though a failure was expected: {reason}"),
        State::NotNow => format!("Passed, and fails now and then: {reason}"),
    };
    line.extend(expectation.due().map(|due| format!("; {due}")));
    line + "\n"
}

/// The reason, and what helps to look into it.
fn body(trial: &Trial) -> String {
    let mut body = trial.message();
    body += "\n";
    for (what, value) in [
        ("Reproduce", &trial.end.reproduce),
        ("Artifacts", &trial.end.artifacts),
    ] {
        if !value.is_empty() {
            body += &format!("\n{what}: {value}");
        }
    }
    if !trial.end.serial_tail.is_empty() {
        body += "\n\nSerial console, last lines:\n";
        body += &trial.end.serial_tail;
    }
    body
}

fn system_out(trial: &Trial, root: &Path, detail: Detail) -> String {
    let mut out = String::new();
    if !detail.passes && *trial.outcome() == Outcome::Passed {
        return out;
    }
    if !trial.plan_item.is_empty() {
        out += &format!("Plan item: {}\n", trial.plan_item);
    }
    if let Some(host) = &trial.end.host {
        out += &format!("Host: {host}\n");
    }
    if let Some(repeats) = trial.end.repeats {
        out += &format!("Repeated: {}\n", repeats.words());
    }
    for figure in &trial.end.figures {
        out += &format!("Figure: {figure}\n");
    }
    out.extend(trial.end.expectation.as_ref().map(expected));
    for note in &trial.end.notes {
        out += &format!("Note: {note}\n");
    }
    if matches!(trial.outcome(), Outcome::Flaky { .. }) {
        out += &format!("FLAKY, not a plain pass: {}\n", body(trial));
    }
    // In a guest's mouth GitLab would take it for a file of ours.
    out = out.replace(ATTACHMENT, "[ [ATTACHMENT|");
    out = text::shortened(&out, detail.text).into_owned();
    // Passes and skips need no evidence, and of known failures there is enough.
    if !matches!(
        trial.outcome(),
        Outcome::Passed | Outcome::Known { .. } | Outcome::Skipped { .. }
    ) {
        for file in attachments(&trial.end.artifacts, root) {
            out += &format!("\n{ATTACHMENT}{}]]", text::one_line(&file));
        }
    }
    out
}

/// The files in an artifact directory, the serial console's log first: GitLab shows one only.
fn attachments(artifacts: &str, root: &Path) -> Vec<String> {
    if artifacts.is_empty() {
        return Vec::new();
    }
    let entries = fs::read_dir(root.join(artifacts)).into_iter().flatten();
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .map(|entry| entry.path())
        .collect();
    let is_serial = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with("serial")
    };
    files.sort_by_key(|path| (!is_serial(path), path.clone()));
    files
        .iter()
        .map(|path| {
            path.strip_prefix(root)
                .unwrap_or(path)
                .display()
                .to_string()
        })
        .collect()
}

/// `junit-report` writes CDATA as it is, so an end mark inside is split between two sections.
fn cdata(text: &str) -> String {
    text.replace("]]>", "]]]]><![CDATA[>")
}

/// Adds what `junit-report` does not know: the suites' number of skips and properties, the cases'
/// plan items, and Surefire's `flakyFailure`. `trials` are in the order of the XML.
fn enrich(xml: &str, results: &Results, trials: &[&Trial], detail: Detail) -> Result<Vec<u8>> {
    let mut reader = Reader::from_str(xml);
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    let mut left = trials.iter();
    loop {
        match reader.read_event()? {
            Event::Eof => return Ok(writer.into_inner()),
            Event::Start(start) if start.name().as_ref() == b"testsuite" => {
                let suite: Vec<_> = left
                    .as_slice()
                    .chunk_by(|a, b| a.parts().nic == b.parts().nic)
                    .collect();
                let skipped = suite.first().map_or(0, |trials| {
                    let skipped = |t: &&&Trial| {
                        matches!(t.outcome(), Outcome::Skipped { .. } | Outcome::Known { .. })
                    };
                    trials.iter().filter(skipped).count()
                });
                let mut start = start.into_owned();
                start.push_attribute(("skipped", skipped.to_string().as_str()));
                writer.write_event(Event::Start(start))?;
                let own = [
                    ("left_out", detail.left_out),
                    ("faults", results.faults.then_some("true")),
                    ("interrupted", results.interrupted.then_some("true")),
                    ("killed", results.seconds.is_none().then_some("true")),
                ];
                let own = own.iter().filter_map(|(k, v)| Some((*k, (*v)?)));
                let of_run = results.properties.iter();
                properties(&mut writer, of_run.map(|(k, v)| (&**k, &**v)).chain(own))?;
            }
            Event::Start(start) if start.name().as_ref() == b"testcase" => {
                let trial = left.next().context("more test cases than trials")?;
                writer.write_event(Event::Start(start))?;
                let item = Some(("plan_item", trial.plan_item.as_str()));
                let item = item.filter(|(_, value)| !value.is_empty());
                let expected = trial.end.expectation.iter().flat_map(expectation);
                properties(&mut writer, item.into_iter().chain(expected))?;
                if let Outcome::Flaky { failures } = trial.outcome() {
                    flaky(&mut writer, failures, detail)?;
                }
            }
            event => writer.write_event(event)?,
        }
    }
}

/// A test case's properties of an expectation.
fn expectation(expectation: &Expectation) -> impl Iterator<Item = (&str, &str)> {
    let state = match expectation.state {
        State::Met => "met",
        State::OtherWords => "other words",
        State::Fixed => "fixed",
        State::NotNow => "not now",
    };
    let all = [
        Some(("expectation", state)),
        Some(("expectation_reason", expectation.reason.as_str())),
        (expectation.link.as_deref()).map(|link| ("expectation_link", link)),
        (expectation.until.as_deref().filter(|_| expectation.due))
            .map(|since| ("expectation_due_since", since)),
    ];
    all.into_iter().flatten()
}

fn properties<'a>(
    writer: &mut Writer<Vec<u8>>,
    pairs: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<()> {
    let mut pairs = pairs.peekable();
    if pairs.peek().is_none() {
        return Ok(());
    }
    writer.write_event(Event::Start(BytesStart::new("properties")))?;
    for (name, value) in pairs {
        let (name, value) = (text::one_line(name), text::one_line(value));
        let attributes = [("name", name.as_str()), ("value", value.as_str())];
        let property = BytesStart::new("property").with_attributes(attributes);
        writer.write_event(Event::Empty(property))?;
    }
    writer.write_event(Event::End(BytesEnd::new("properties")))?;
    Ok(())
}

fn flaky(writer: &mut Writer<Vec<u8>>, failures: &[String], detail: Detail) -> Result<()> {
    for failure in failures {
        let message = text::first_line(failure);
        let message = text::shortened(&message, detail.text);
        let attributes = [("message", message.as_ref()), ("type", "flaky")];
        let start = BytesStart::new("flakyFailure").with_attributes(attributes);
        writer.write_event(Event::Start(start))?;
        writer.write_event(Event::Start(BytesStart::new("stackTrace")))?;
        writer.write_event(Event::CData(BytesCData::new(cdata(&text::shortened(
            failure,
            detail.text,
        )))))?;
        writer.write_event(Event::End(BytesEnd::new("stackTrace")))?;
        writer.write_event(Event::End(BytesEnd::new("flakyFailure")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
