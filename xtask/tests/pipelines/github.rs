//! The scripts of the shared workflow.

use super::machine::{Machine, obeys_nothing, run_dir};
use super::{GITHUB_MATRIX, script};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

#[test]
fn the_verdict_of_github_is_reached_by_its_own_scripts() {
    let red = "driver2::e1000::rhel9::tap";
    for (red, code, conclusion) in [(None, 0, "nothing_worse"), (Some(red), 1, "worse")] {
        let machine = Machine::new();
        run_dir(
            &machine.path("target/plan/baseline"),
            1_795_600_000,
            None,
            None,
        );
        run_dir(
            &machine.path("target/shards/a/r1"),
            1_795_700_000,
            Some((1, 2)),
            red,
        );
        run_dir(
            &machine.path("target/shards/b/r2"),
            1_795_700_001,
            Some((2, 2)),
            red,
        );
        let mut printed = String::new();
        for words in [
            "xtask merge",
            "xtask report",
            "xtask compare",
            "xtask history add",
        ] {
            let script = script(GITHUB_MATRIX, words);
            let (status, said) = machine.run(&script, &[("NAME", "mine")]);
            assert_eq!(status, 0, "{words}: {said}");
            printed += &said;
        }
        obeys_nothing(&printed);
        obeys_nothing(&machine.read("summary.md"));
        let output = machine.read("output");
        assert_eq!(
            output,
            format!("exit_code={code}\nconclusion={conclusion}\n")
        );
        assert!(machine.read("mine-report.html").contains("driver4"));
        assert!(machine.read("summary.md").contains("## nicmatrix"));
        assert!(
            machine
                .read("target/nicmatrix/history.jsonl")
                .contains("driver4")
        );
        let verdict = script(GITHUB_MATRIX, "The run ended with");
        let code_text = code.to_string();
        let variables = [("CODE", code_text.as_str()), ("CONCLUSION", conclusion)];
        assert_eq!(machine.run(&verdict, &variables).0, code);
        let worse = [("CODE", "0"), ("CONCLUSION", "worse")];
        assert_eq!(machine.run(&verdict, &worse).0, 1, "a skip that ran before");
    }
}

#[test]
fn a_lost_shard_is_no_success_and_a_first_run_has_no_baseline() {
    let machine = Machine::new();
    run_dir(
        &machine.path("target/shards/a/r1"),
        1_795_700_000,
        Some((1, 2)),
        None,
    );
    let (status, said) = machine.run(&script(GITHUB_MATRIX, "xtask merge"), &[]);
    assert_eq!(status, 0, "{said}");
    assert!(
        said.contains("driver2::e1000::rhel9::tap"),
        "the lost are named: {said}"
    );
    assert_eq!(
        machine.run(&script(GITHUB_MATRIX, "xtask compare"), &[]).0,
        0
    );
    assert_eq!(machine.read("output"), "exit_code=3\nconclusion=none\n");
    // Without any there is nothing to report of.
    let empty = Machine::new();
    fs::create_dir_all(empty.path("target/shards")).unwrap();
    assert_ne!(empty.run(&script(GITHUB_MATRIX, "xtask merge"), &[]).0, 0);
}

#[test]
fn what_cannot_be_compared_is_undecided_and_said() {
    let compare = script(GITHUB_MATRIX, "xtask compare");
    let warning = "::warning::mine cannot be compared with the last green run";
    for (faults, conclusion) in [(false, "nothing_worse"), (true, "undecided")] {
        let machine = Machine::new();
        let base = machine.path("target/plan/baseline");
        run_dir(&base, 1_795_600_000, None, None);
        run_dir(
            &machine.path("target/nicmatrix/runs/merged"),
            1_795_700_000,
            None,
            None,
        );
        let log = base.join("events.jsonl");
        let text = fs::read_to_string(&log).unwrap();
        let text = text.replace(r#""faults":false"#, &format!(r#""faults":{faults}"#));
        fs::write(log, text).unwrap();
        let (status, said) = machine.run(&compare, &[("NAME", "mine")]);
        assert_eq!(status, 0, "{said}");
        assert_eq!(said.contains(warning), faults, "{said}");
        assert_eq!(machine.read("output"), format!("conclusion={conclusion}\n"));
        let summary = machine.read("summary.md");
        assert_eq!(summary.contains("mine cannot be compared"), faults);
    }
}

#[test]
fn github_plans_and_runs_with_the_inputs() {
    let machine = Machine::new();
    let set = |variables: &[(&'static str, &'static str)]| {
        let defaults = [
            ("PROFILE", "smoke"),
            ("MATRIX_FILE", "matrix.toml"),
            ("FILTER", ""),
            ("SKIP", ""),
            ("SHARDS", "3"),
            ("SHARD", "2/3"),
            ("CONFIRM", "2"),
            ("QEMU", ""),
            ("FIRMWARE", ""),
            ("NAME", "n"),
        ];
        [&defaults, variables].concat()
    };
    let (plan, shard) = (
        script(GITHUB_MATRIX, "ci shards"),
        script(GITHUB_MATRIX, "xtask matrix"),
    );
    let (status, said) = machine.run(&plan, &set(&[]));
    assert_eq!(status, 0, "{said}");
    assert_eq!(machine.read("output"), "matrix={\"include\":[]}\n");
    assert_eq!(
        machine.calls(),
        "--locked xtask ci shards --shards 3 --profile smoke --matrix matrix.toml --format github\n"
    );
    machine.run(&shard, &set(&[]));
    assert_eq!(
        machine.calls(),
        "--locked xtask matrix --profile smoke --matrix matrix.toml --shard 2/3 --confirm 2\n"
    );

    run_dir(
        &machine.path("target/plan/baseline"),
        1_795_600_000,
        None,
        None,
    );
    fs::write(machine.path("target/plan/durations.json"), "{}").unwrap();
    fs::create_dir_all(machine.path("target/qemu")).unwrap();
    fs::write(machine.path("target/qemu/q"), "").unwrap();
    let given = set(&[
        ("FILTER", "a,b"),
        ("SKIP", "$(touch owned)"),
        ("QEMU", "q"),
        ("FIRMWARE", "pc-bios"),
    ]);
    machine.run(&plan, &given);
    assert!(machine.calls().ends_with(
        "--filter a,b --skip $(touch owned) --durations target/plan/baseline --write target/plan/durations.json \
         --format github\n"
    ));
    let failing = [&given[..], &[("RUN_CODE", "1")]].concat();
    assert_eq!(machine.run(&shard, &failing).0, 1);
    assert!(machine.calls().ends_with(
        "--durations target/plan/durations.json --qemu target/qemu/q --firmware target/qemu/pc-bios\n"
    ));
    assert!(!machine.path("owned").exists());
    let mode = fs::metadata(machine.path("target/qemu/q"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o111, 0o111);
    // A plan that could not be made is no plan.
    assert_ne!(machine.run(&plan, &failing).0, 0);
}

/// `gh`, which answers from the files `runs` and `artifacts`; its last argument is what `--jq` takes.
const GH: &str = r#"#!/bin/sh
set -e
for last; do :; done
case "$1 $2" in
"run list") jq -r "$last" runs ;;
"run download") DOWNLOAD ;;
"api --method")
  [ "$3 $4 $5 $6" = "GET repos/o/r/actions/runs/7/artifacts --raw-field name=n-run" ]
  [ -s artifacts ] || { echo "HTTP 502" >&2; exit 5; }
  jq -r "$last" artifacts
  ;;
*) exit 99 ;;
esac
"#;

#[test]
fn the_last_green_run_is_fetched_where_there_is_one() {
    if Command::new("jq").arg("--version").output().is_err() {
        report::outln!("skipped: jq is not installed");
        return;
    }
    let fetch = script(GITHUB_MATRIX, "gh run download");
    let variables = [
        ("BASELINE", "nightly.yml"),
        ("BRANCH", "main"),
        ("NAME", "n"),
        ("GITHUB_REPOSITORY", "o/r"),
    ];
    let requests = r#"{"databaseId": 9, "event": "pull_request"}, {"databaseId": 8, "event": "pull_request_target"}"#;
    let pushed = r#"{"databaseId": 7, "event": "push"}, {"databaseId": 6, "event": "schedule"}"#;
    let (none, one) = ("[]".to_owned(), format!("[{requests}, {pushed}]"));
    let gone = r#"{"artifacts": [{"expired": true}]}"#;
    let kept = r#"{"artifacts": [{"expired": false}]}"#;
    for (runs, artifacts, download, status, said) in [
        (
            &none,
            "",
            "exit 1",
            0,
            "nightly.yml has no green run on main yet\n",
        ),
        (
            &format!("[{requests}]"),
            "",
            "exit 1",
            0,
            "nightly.yml has no green run on main yet\n",
        ),
        (
            &one,
            r#"{"artifacts": []}"#,
            "exit 1",
            0,
            "Run 7 of nightly.yml has no artifact n-run, or none any more\n",
        ),
        (
            &one,
            gone,
            "exit 1",
            0,
            "Run 7 of nightly.yml has no artifact n-run, or none any more\n",
        ),
        // That it cannot be fetched is not that there is none.
        (&one, "", "exit 1", 5, "HTTP 502\n"),
        (&one, kept, "echo broken pipe; exit 4", 4, "broken pipe\n"),
        (
            &one,
            kept,
            "[ $3 = 7 ]; mkdir -p target/baseline; touch target/baseline/events.jsonl target/baseline/big",
            0,
            "",
        ),
    ] {
        let machine = Machine::new();
        fs::write(machine.path("runs"), runs).unwrap();
        fs::write(machine.path("artifacts"), artifacts).unwrap();
        machine.program("gh", &GH.replace("DOWNLOAD", download));
        assert_eq!(machine.run(&fetch, &variables), (status, said.to_owned()));
        let files = fs::read_dir(machine.path("target/plan/baseline"))
            .into_iter()
            .flatten();
        let files: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
        let expected: &[&str] = if status == 0 && said.is_empty() {
            &["events.jsonl"]
        } else {
            &[]
        };
        assert_eq!(files, expected);
    }
}
