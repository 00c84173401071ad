//! `cargo xtask report`, as a user calls it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// An event log of the harness, some of its lines shortened.
const LOG: &str = "../harness/report/tests/before_schema_1.jsonl";

const RUN: &str = "20261125T222259Z-7263";

/// A directory with that log as its only kept run.
fn kept() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let runs = dir.path().join("nicmatrix/runs");
    fs::create_dir_all(runs.join(RUN)).unwrap();
    fs::copy(log(), runs.join(RUN).join("events.jsonl")).unwrap();
    std::os::unix::fs::symlink(RUN, runs.join("latest")).unwrap();
    dir
}

fn log() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(LOG)
}

fn report(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command
        .arg("report")
        .args(arguments)
        .current_dir(dir)
        .env("NICMATRIX_DIR", dir.join("nicmatrix"))
        .stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_run_is_found_by_name_directory_and_file() {
    let dir = kept();
    let directory = format!("nicmatrix/runs/{RUN}");
    let file = log().to_string_lossy().into_owned();
    for run in ["latest", RUN, &directory, &file] {
        let summary = succeeded(&report(dir.path(), &[run]).output().unwrap());
        let total = "2 passed, 0 failed, 1 interrupted, 1 skipped in 11 min 11 s";
        assert!(summary.contains(total), "{run}: {summary}");
    }
}

#[test]
fn reports_go_where_they_are_asked_for() {
    let dir = kept();
    let line = [
        "latest",
        "--junit",
        "new/junit.xml",
        "--markdown",
        "run.md",
        "--html",
        "new/run.html",
    ];
    assert_eq!(succeeded(&report(dir.path(), &line).output().unwrap()), "");
    for (flag, file, begins) in [
        ("--junit", "new/junit.xml", "<?xml "),
        ("--markdown", "run.md", "## nicmatrix: 2 passed"),
        ("--html", "new/run.html", "<!DOCTYPE html>"),
    ] {
        let written = fs::read_to_string(dir.path().join(file)).unwrap();
        assert!(written.starts_with(begins), "{written}");
        let printed = report(dir.path(), &["latest", flag, "-"]).output().unwrap();
        assert_eq!(succeeded(&printed), written);
    }
}

#[test]
fn an_unknown_run_is_bad_input_with_the_nearest_names() {
    let dir = kept();
    for (run, words) in [
        ("20261125T222259Z-726", format!("nearest: {RUN}")),
        ("lates", "nearest: latest".into()),
        ("x", format!("kept are: latest, {RUN}")),
        ("empty", "events.jsonl".into()),
        ("bad", "bad:1: not an event".into()),
    ] {
        fs::write(dir.path().join("bad"), "nonsense\n").unwrap();
        fs::create_dir_all(dir.path().join("empty")).unwrap();
        let output = report(dir.path(), &[run]).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(&words), "{said}");
    }
}

#[test]
fn a_report_that_cannot_be_written_is_named() {
    let dir = kept();
    for (flag, path, words) in [
        (
            "--markdown",
            "nowhere/run.md",
            "cannot write the Markdown report nowhere/run.md",
        ),
        (
            "--html",
            "/dev/null/run.html",
            "cannot write the HTML report /dev/null/run.html",
        ),
    ] {
        let line = ["latest", flag, path];
        let output = report(dir.path(), &line).output().unwrap();
        assert_eq!(output.status.code(), Some(3));
        let said = text(&output.stderr);
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn lost_output_is_quiet_and_changes_no_exit_code() {
    let dir = kept();
    for (line, code) in [
        (&["latest"][..], 0),
        (&["latest", "--junit", "-"], 0),
        (&["latest", "--html", "-"], 0),
        (&["x"], 2),
    ] {
        for full in [true, false] {
            let dead = || -> Stdio {
                if full {
                    return File::create("/dev/full").unwrap().into();
                }
                let (reader, writer) = std::io::pipe().unwrap();
                drop(reader);
                writer.into()
            };
            let output = report(dir.path(), line).stdout(dead()).output().unwrap();
            assert_eq!(output.status.code(), Some(code));
            assert!(!text(&output.stderr).contains("panicked"));
            let output = report(dir.path(), line).stderr(dead()).output().unwrap();
            assert_eq!(output.status.code(), Some(code));
        }
    }
}
