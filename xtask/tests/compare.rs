//! `cargo xtask compare` and `cargo xtask history`, as a user calls them.

mod kept;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output, Stdio};

const TRIALS: [&str; 3] = [
    "driver::e1000::rhel9::tap",
    "driver::e1000e::rhel9::tap",
    "driver::virtio::rhel9::tap",
];

/// Writes a run of that number in which `red` fail.
fn run(dir: &Path, name: &str, number: u32, red: &[&str]) {
    let directory = dir.join(name);
    fs::create_dir_all(&directory).unwrap();
    let time = 1_795_600_000 + 86_400 * number;
    let mut log = format!(
        r#"{{"event":"run_started","schema":2,"unix_time":{time},"properties":{{"profile":"smoke"}},"faults":false,"time":{time}}}"#
    );
    for trial in TRIALS {
        let verdict = match red.contains(&trial) {
            true => r#""verdict":"failed","message":"lost 3 of 100""#,
            false => r#""verdict":"passed""#,
        };
        let again = format!("cargo xtask repro {trial}");
        log += &kept::trial(trial, verdict, &again, time);
    }
    log += &kept::end(9.0, time);
    fs::write(directory.join("events.jsonl"), log).unwrap();
}

/// Two nights and a third in which a trial became red, as kept runs.
fn nights() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let runs = dir.path().join("nicmatrix/runs");
    run(&runs, "night1", 1, &[]);
    run(&runs, "night2", 2, &[]);
    run(&runs, "night3", 3, &TRIALS[1..2]);
    std::os::unix::fs::symlink("night3", runs.join("latest")).unwrap();
    dir
}

fn xtask(dir: &Path, line: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command
        .args(line)
        .current_dir(dir)
        .env("NICMATRIX_DIR", dir.join("nicmatrix"))
        .stdin(Stdio::null());
    command
}

fn called(dir: &Path, line: &[&str]) -> (i32, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = xtask(dir, line).output().unwrap();
    let text = String::from_utf8([stdout, stderr].concat()).unwrap();
    (status.code().unwrap(), text)
}

#[test]
fn the_exit_code_says_what_it_comes_to() {
    let dir = nights();
    let cut = dir.path().join("cut");
    fs::create_dir(&cut).unwrap();
    let whole = fs::read(dir.path().join("nicmatrix/runs/night2/events.jsonl")).unwrap();
    fs::write(cut.join("events.jsonl"), &whole[..whole.len() - 500]).unwrap();
    fs::write(dir.path().join("bad"), "nonsense\n").unwrap();
    fs::create_dir(dir.path().join("empty")).unwrap();
    for (line, code, words) in [
        (
            &["night1", "night2"][..],
            0,
            "Nothing is worse\n3 still passing",
        ),
        (&["night2", "latest"], 1, "Worse: 1 new failure\n"),
        (&["nicmatrix/runs", "latest"], 1, "BASE  night2 "),
        (&["latest", "night2"], 0, "1 fixed"),
        (&["night1", "cut"], 3, "Undecided: "),
        (
            &["nicmatrix/runs", "night1"],
            3,
            "no run of profile smoke from before night1",
        ),
        (&["night1", "nigth2"], 2, "nearest: night2"),
        (&["bad", "latest"], 2, "bad:1: not an event"),
        (
            &["empty", "latest"],
            2,
            "empty holds no run: there is no events.jsonl in it or below it",
        ),
        (&["night1", "latest", "--format", "jsn"], 2, "'json'"),
        (
            &["night1", "night2", "-o", "nowhere/x"],
            3,
            "cannot write the comparison nowhere/x",
        ),
    ] {
        let line = [&["compare"], line].concat();
        let (found, text) = called(dir.path(), &line);
        assert_eq!(found, code, "{line:?}: {text}");
        assert!(text.contains(words), "{line:?}: {text}");
    }
}

#[test]
fn each_format_goes_where_it_is_asked_for() {
    let dir = nights();
    for (format, begins) in [
        ("terminal", "Worse: 1 new failure\n"),
        ("markdown", "## ❌ Worse: 1 new failure\n"),
        (
            "json",
            "{\"schema\":1,\"conclusion\":\"worse\",\"exit_code\":1,",
        ),
    ] {
        let line = ["compare", "night2", "latest", "--format", format];
        let (code, printed) = called(dir.path(), &line);
        assert_eq!(code, 1);
        assert!(printed.starts_with(begins), "{printed}");
        let (code, silent) = called(dir.path(), &[&line[..], &["-o", "it"]].concat());
        assert_eq!((code, silent.as_str()), (1, ""));
        assert_eq!(fs::read_to_string(dir.path().join("it")).unwrap(), printed);
    }
}

#[test]
fn a_history_is_added_to_and_asked() {
    let dir = nights();
    let file = "nicmatrix/history.jsonl";
    let (code, text) = called(dir.path(), &["history", "flaky"]);
    assert_eq!(code, 2, "{text}");
    assert!(
        text.contains("`cargo xtask history add latest` begins one"),
        "{text}"
    );
    let (code, text) = called(dir.path(), &["history", "add", "night1", "nicmatrix/runs"]);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains(&format!(
            "{file}: added night3: 3 trials, 2 passed, 1 failed"
        )),
        "{text}"
    );
    assert!(text.contains("night1 is there already"), "{text}");
    let red = TRIALS[1];
    for (line, code, words) in [
        (
            &["show", red][..],
            0,
            "red since 2026-11-28, 1 night; last green at run night2",
        ),
        (
            &["show", "driver::e1000e::rhel9"],
            2,
            "nearest: driver::e1000e::rhel9::tap",
        ),
        (
            &["flaky"],
            0,
            " 50 %        1       3  failed   driver::e1000e::rhel9::tap",
        ),
        (&["slow", "--most", "1"], 0, "3.4 s"),
        (&["add", file], 2, "is a history, where a run is asked for"),
        (
            &["add", "latest", "--file", "/dev/null/x"],
            3,
            "cannot add to the history /dev/null/x",
        ),
    ] {
        let line = [&["history"], line].concat();
        let (found, text) = called(dir.path(), &line);
        assert_eq!(found, code, "{line:?}: {text}");
        assert!(text.contains(words), "{line:?}: {text}");
    }
    let (code, text) = called(dir.path(), &["compare", file, "latest"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("BASE  night2 "), "{text}");
    let (code, text) = called(dir.path(), &["compare", file, "night1"]);
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("it has 3 runs of profile smoke"), "{text}");

    fs::write(dir.path().join(file), "{\"history\":9,\"run\":\"x\"}\n").unwrap();
    let (code, text) = called(dir.path(), &["history", "add", "latest"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("schema 9"), "{text}");
}

#[test]
fn lost_output_is_quiet_and_changes_no_exit_code() {
    let dir = nights();
    called(dir.path(), &["history", "add", "nicmatrix/runs"]);
    for (line, code) in [
        (&["compare", "night2", "latest"][..], 1),
        (&["compare", "night2", "latest", "--format", "json"], 1),
        (&["history", "flaky"], 0),
        (&["history", "add", "latest"], 0),
    ] {
        let output = xtask(dir.path(), line)
            .stdout(File::create("/dev/full").unwrap())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(code), "{line:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{line:?}");
    }
}
