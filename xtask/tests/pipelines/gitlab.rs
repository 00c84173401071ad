//! The scripts of the component.

use super::machine::{Machine, obeys_nothing, run_dir};
use super::{GITLAB, script};
use std::fs;

#[test]
fn the_verdict_of_gitlab_is_reached_by_its_own_script() {
    let red = Some("driver2::e1000::rhel9::tap");
    let verdict = script(GITLAB[1], "xtask merge");
    let none = "No green run of n on main is kept to compare with";
    for (red, baseline, branch, code, said) in [
        (None, true, "main", 0, "Nothing is worse"),
        (None, true, "topic", 0, "Nothing is worse"),
        (red, true, "main", 1, "Worse: 1 new failure"),
        (None, false, "main", 0, none),
        (None, false, "topic", 0, none),
        (red, false, "main", 1, none),
    ] {
        let machine = Machine::new();
        let kept = machine.path("target/nicmatrix/baseline");
        if baseline {
            run_dir(&kept, 1_795_600_000, None, None);
        }
        run_dir(
            &machine.path("target/nicmatrix/shards/1/r"),
            1_795_700_000,
            Some((1, 2)),
            red,
        );
        run_dir(
            &machine.path("target/nicmatrix/shards/2/r"),
            1_795_700_000,
            Some((2, 2)),
            red,
        );
        let variables = [
            ("BRANCH", "main"),
            ("NAME", "n"),
            ("CI_COMMIT_BRANCH", branch),
        ];
        let before = fs::read_to_string(kept.join("events.jsonl")).ok();
        let (status, printed) = machine.run(&verdict, &variables);
        assert_eq!(status, code, "{printed}");
        assert!(printed.contains(said), "{printed}");
        obeys_nothing(&printed);
        // Only what is green on that branch is compared with later.
        let after = fs::read_to_string(kept.join("events.jsonl")).ok();
        let expected = match code == 0 && branch == "main" {
            true => Some(machine.read("target/nicmatrix/merged/events.jsonl")),
            false => before,
        };
        assert_eq!(after, expected);
        for left in ["report.html", "merged/junit.xml", "history.jsonl"] {
            assert!(
                machine.path("target/nicmatrix").join(left).is_file(),
                "{left}"
            );
        }
    }
}

#[test]
fn a_comparison_that_fails_turns_gitlabs_verdict_red_and_keeps_the_baseline() {
    let machine = Machine::new();
    for k in [1, 2] {
        let shard = machine.path(&format!("target/nicmatrix/shards/{k}/r"));
        run_dir(&shard, 1_795_700_000, Some((k, 2)), None);
    }
    let kept = machine.path("target/nicmatrix/baseline/events.jsonl");
    fs::create_dir_all(kept.parent().unwrap()).unwrap();
    fs::write(&kept, "damaged").unwrap();
    let variables = [
        ("BRANCH", "main"),
        ("NAME", "n"),
        ("CI_COMMIT_BRANCH", "main"),
    ];
    let verdict = script(GITLAB[1], "xtask merge");
    let (status, said) = machine.run(&verdict, &variables);
    assert_eq!(status, 2, "{said}");
    assert!(said.contains("baseline/events.jsonl"), "{said}");
    assert_eq!(fs::read_to_string(kept).unwrap(), "damaged");
}

#[test]
fn gitlab_runs_with_the_inputs() {
    let machine = Machine::new();
    let variables = [
        ("PROFILE", "full"),
        ("MATRIX_FILE", "m.toml"),
        ("FILTER", ""),
        ("SKIP", "netperf"),
        ("CONFIRM", "2"),
        ("QEMU", "build/q"),
        ("FIRMWARE", ""),
        ("CI_NODE_INDEX", "2"),
        ("CI_NODE_TOTAL", "6"),
        ("CI_PROJECT_DIR", "/p"),
    ];
    let (status, said) = machine.run(&script(GITLAB[1], "xtask matrix"), &variables);
    assert_eq!(status, 0, "{said}");
    assert_eq!(
        machine.calls(),
        "--locked xtask setup\n\
         --locked xtask matrix --profile full --matrix m.toml --shard 2/6 --confirm 2 --skip netperf \
         --qemu /p/build/q\n"
    );
    fs::create_dir_all(machine.path("nicmatrix-results/runs/r")).unwrap();
    for line in [
        "mkdir -p nicmatrix-results",
        "rm -f nicmatrix-results",
        "mv nicmatrix-results",
    ] {
        assert_eq!(machine.run(&script(GITLAB[1], line), &variables).0, 0);
    }
    assert!(machine.path("nicmatrix-results/shards/2/r").is_dir());
}

#[test]
fn gitlab_clones_nicmatrix_for_another_project_only() {
    let clone = script(GITLAB[1], "git clone") + "\npwd";
    for (source, ends) in [("", ""), ("https://x/nicmatrix.git", "/nicmatrix")] {
        let machine = Machine::new();
        let git = "#!/bin/sh\necho \"$*\" >> \"$CALLS\"; mkdir nicmatrix\n";
        machine.program("git", git);
        let (status, said) = machine.run(&clone, &[("SOURCE", source), ("REF", "v1")]);
        assert_eq!(status, 0, "{said}");
        let place = format!("{}{ends}\n", machine.dir.path().display());
        assert!(said.ends_with(&place), "{said}");
        let cloned = "clone --quiet --depth 1 --branch v1 https://x/nicmatrix.git nicmatrix\n";
        assert_eq!(machine.calls(), if source.is_empty() { "" } else { cloned });
    }
}
