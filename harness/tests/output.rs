//! Nobody reads on (`| head`), or the disk is full: what is printed is lost, and nothing else.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A trial that is excluded: its run needs no VM.
const SKIPPED: &str = "link_status::e1000e::rhel6::tap";

/// A matrix file that excludes it.
fn excluding(dir: &Path) -> PathBuf {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../matrix.toml");
    let entry = "[[exclude]]\nnic = 'e1000e'\ncase = 'link_status'\nreason = 'for this test'\n";
    let file = dir.join("matrix.toml");
    let text = std::fs::read_to_string(shipped).unwrap();
    std::fs::write(&file, format!("{text}\n{entry}")).unwrap();
    file
}

fn nicmatrix(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nicmatrix"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("NEXTEST") || name.starts_with("NICMATRIX_") {
            command.env_remove(name);
        }
    }
    command.env_remove("GITHUB_STEP_SUMMARY");
    command.args(arguments).stdin(Stdio::null());
    command
}

/// What nothing can be written to: a pipe that nobody reads, and a full disk.
fn dead_ends() -> [Stdio; 2] {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    [writer.into(), File::create("/dev/full").unwrap().into()]
}

fn expect(output: &Output, code: i32) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn what_is_printed_may_be_lost() {
    for (arguments, code) in [
        (&["list"][..], 0),
        (&["list", "--json"], 0),
        (&["list", "--plan"], 0),
        (&["run", "--list", "--format", "terse"], 0),
        (&["run", "--list", "--ignored"], 0),
        (&["explain", SKIPPED], 0),
        (&["list", "no_such_trial"], 2),
        (&["run", "no_such_trial"], 2),
    ] {
        for dead in dead_ends() {
            let output = nicmatrix(arguments).stdout(dead).output().unwrap();
            expect(&output, code);
        }
        for dead in dead_ends() {
            let output = nicmatrix(arguments).stderr(dead).output().unwrap();
            expect(&output, code);
        }
    }
}

#[test]
fn a_run_whose_output_is_lost_writes_its_reports() {
    for table in ["", "1"] {
        for dead in dead_ends() {
            let dir = tempfile::tempdir().unwrap();
            let mut command = nicmatrix(&["run", "--exact", SKIPPED]);
            command
                .env("NICMATRIX_DIR", dir.path())
                .env("NICMATRIX_MATRIX", excluding(dir.path()))
                .env("NICMATRIX_TABLE", table);
            expect(&command.stdout(dead).output().unwrap(), 0);
            expect_reports(&dir.path().join("runs/latest"));
        }
    }
}

fn expect_reports(run: &Path) {
    let results = report::read(&run.join(report::log::FILE)).unwrap();
    assert_eq!(results.counts().skipped, 1);
    assert!(results.seconds.is_some(), "the run has an end");
    let junit = std::fs::read_to_string(run.join("junit.xml")).unwrap();
    assert!(junit.contains(SKIPPED), "{junit}");
    let page = std::fs::read_to_string(run.join(report::html::FILE)).unwrap();
    assert!(page.contains(SKIPPED), "{page}");
}

#[test]
fn libtests_lines_are_passed_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = nicmatrix(&["run", "--exact", SKIPPED]);
    command.env("NICMATRIX_MATRIX", excluding(dir.path()));
    let output = command.env("NICMATRIX_DIR", dir.path()).output().unwrap();
    expect(&output, 0);
    let said = String::from_utf8_lossy(&output.stdout);
    for words in [
        "running 1 test\n",
        &format!("test {SKIPPED} ... ignored"),
        "test result: ok. 0 passed",
    ] {
        assert!(said.contains(words), "no {words:?} in: {said}");
    }
    assert!(!said.contains('\u{1b}'), "{said}");
}
