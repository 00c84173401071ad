//! The pipelines of this project, and those that others use: what they call is pinned and exists, and their scripts
//! run as they stand in the files, on runs that are written here. Only `cargo` and what wants a network are replaced.

#[path = "pipelines/linters.rs"]
mod linters;
#[path = "pipelines/machine.rs"]
mod machine;

use machine::{Machine, obeys_nothing, run_dir};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use yaml_rust2::{Yaml, YamlLoader};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

const GITHUB: [&str; 4] = [
    ".github/workflows/ci.yml",
    ".github/workflows/nightly.yml",
    ".github/workflows/matrix.yml",
    ".github/actions/prepare/action.yml",
];
const GITLAB: [&str; 2] = ["ci/gitlab-ci.yml", "templates/matrix.yml"];

fn text(file: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(file)).unwrap()
}

fn documents(file: &str) -> Vec<Yaml> {
    YamlLoader::load_from_str(&text(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

/// Every mapping's entries, however deep.
fn entries<'a>(yaml: &'a Yaml, found: &mut Vec<(&'a str, &'a Yaml)>) {
    match yaml {
        Yaml::Hash(hash) => {
            for (key, value) in hash {
                found.push((key.as_str().unwrap_or_default(), value));
                entries(value, found);
            }
        }
        Yaml::Array(items) => items.iter().for_each(|item| entries(item, found)),
        _ => {}
    }
}

/// All scripts of a file.
fn scripts(file: &str) -> Vec<String> {
    let documents = documents(file);
    let mut found = Vec::new();
    documents.iter().for_each(|yaml| entries(yaml, &mut found));
    let is_script = |key: &str| ["run", "script", "before_script", "after_script"].contains(&key);
    let scripts = found.into_iter().filter(|(key, _)| is_script(key));
    scripts
        .flat_map(|(_, value)| match value {
            Yaml::Array(lines) => lines.iter().filter_map(Yaml::as_str).collect(),
            value => value.as_str().into_iter().collect::<Vec<_>>(),
        })
        .map(str::to_owned)
        .collect()
}

/// The script of a step or job of which it is the only one with these words.
fn script(file: &str, words: &str) -> String {
    let all = scripts(file);
    let mut with = all.into_iter().filter(|script| script.contains(words));
    let one = with.next().unwrap_or_else(|| panic!("{file}: no {words}"));
    assert_eq!(with.next(), None, "{file}: more than one {words}");
    one
}

/// What is wrong with a line that calls an action, if anything is.
fn unpinned(line: &str) -> Option<String> {
    let (_, used) = line.split_once("uses: ")?;
    if used.starts_with("./") {
        return None;
    }
    let pinned = used.split_once('@').is_some_and(|(_, rest)| {
        let (commit, version) = rest.split_once(" # v").unwrap_or((rest, ""));
        commit.len() == 40
            && commit.bytes().all(|c| c.is_ascii_hexdigit())
            && version
                .split('.')
                .filter(|n| n.parse::<u32>().is_ok())
                .count()
                == 3
    });
    (!pinned).then(|| used.to_owned())
}

/// What a line of a script leaves to the network that Cargo.lock has settled.
fn unlocked(line: &str) -> bool {
    let cargo = line.trim_start().strip_prefix("cargo ");
    cargo.is_some_and(|words| !words.contains("--locked") && !words.starts_with("fmt"))
}

#[test]
fn actions_are_pinned_rights_are_named_and_cargo_is_locked() {
    for file in GITHUB {
        for line in text(file).lines() {
            assert_eq!(unpinned(line), None, "{file}");
        }
        let yaml = &documents(file)[0];
        if scripts(file).iter().any(|script| script.contains(" | ")) && !yaml["jobs"].is_badvalue()
        {
            // Its own default goes on where the first command of a pipe fails.
            assert_eq!(
                yaml["defaults"]["run"]["shell"].as_str(),
                Some("bash"),
                "{file}"
            );
        }
        if !yaml["jobs"].is_badvalue() {
            let rights = yaml["permissions"].as_hash().expect(file);
            assert_eq!(
                rights.len(),
                1,
                "{file}: more belongs to the job that needs it"
            );
            assert_eq!(yaml["permissions"]["contents"].as_str(), Some("read"));
        }
    }
    for file in GITHUB.iter().chain(&GITLAB) {
        for line in scripts(file).iter().flat_map(|script| script.lines()) {
            assert!(!unlocked(line), "{file}: {line}");
            // What a caller gives would be read as shell.
            assert!(!line.contains("${{"), "{file}: {line}");
        }
    }
}

/// Artifacts that a job cannot leave a second time when it is run again: the steps' names for them.
fn left_once(yaml: &Yaml) -> (usize, Vec<String>) {
    let mut found = Vec::new();
    entries(yaml, &mut found);
    let steps = found.iter().filter(|(key, _)| *key == "steps");
    let steps = steps.flat_map(|(_, steps)| steps.as_vec().into_iter().flatten());
    let uploads: Vec<&Yaml> = steps
        .filter(|step| {
            step["uses"]
                .as_str()
                .is_some_and(|used| used.contains("/upload-artifact@"))
        })
        .map(|step| &step["with"])
        .collect();
    let once = uploads.iter().filter(|with| {
        // What is not packed is named after its file, and deleted by its name.
        let unpacked = with["archive"].as_bool() == Some(false) && with["name"] != with["path"];
        with["overwrite"].as_bool() != Some(true) || unpacked
    });
    let once = once.map(|with| format!("{:?}", with["name"])).collect();
    (uploads.len(), once)
}

#[test]
fn a_job_that_is_run_again_may_leave_its_artifacts_again() {
    let mut all = 0;
    for file in GITHUB {
        let (uploads, once) = left_once(&documents(file)[0]);
        assert!(once.is_empty(), "{file}: {once:?}");
        all += uploads;
    }
    assert_eq!(all, 5);
    let matrix = text(GITHUB_MATRIX);
    for (right, wrong) in [
        ("overwrite: true", "overwrite: false"),
        ("name: ${{ inputs.name }}-report.html", "retention-days: 1"),
    ] {
        assert!(matrix.contains(right));
        let broken = &YamlLoader::load_from_str(&matrix.replace(right, wrong)).unwrap()[0];
        assert!(!left_once(broken).1.is_empty(), "{wrong}");
    }
}

#[test]
fn what_is_not_pinned_or_locked_is_found() {
    for line in [
        "- uses: actions/checkout@v5",
        "- uses: actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1",
        "- uses: actions/checkout@3d3c42e # v7.0.1",
        "- uses: actions/checkout",
    ] {
        assert!(unpinned(line).is_some(), "{line}");
    }
    assert!(unlocked("  cargo xtask test") && !unlocked("cargo --locked xtask test"));
}

#[test]
fn callers_give_inputs_that_exist_and_every_input_is_used() {
    let workflow = &documents(".github/workflows/matrix.yml")[0];
    let declared = workflow["on"]["workflow_call"]["inputs"].as_hash().unwrap();
    for name in declared.keys().filter_map(Yaml::as_str) {
        let used = text(".github/workflows/matrix.yml").contains(&format!("inputs.{name}"));
        assert!(used, "{name} is not used");
    }
    let mut calls = 0;
    for file in &GITHUB[..2] {
        for (job, called) in documents(file)[0]["jobs"].as_hash().unwrap() {
            for given in called["with"]
                .as_hash()
                .into_iter()
                .flat_map(|with| with.keys())
            {
                assert!(declared.contains_key(given), "{file}, {job:?}: {given:?}");
                calls += 1;
            }
        }
    }
    assert!(calls > 5);

    let [spec, jobs] = &documents("templates/matrix.yml")[..] else {
        panic!("a component has two documents");
    };
    assert!(jobs.as_hash().is_some_and(|jobs| jobs.len() == 3));
    let declared = spec["spec"]["inputs"].as_hash().unwrap();
    for name in declared.keys().filter_map(Yaml::as_str) {
        let used = text("templates/matrix.yml").contains(&format!("$[[ inputs.{name} ]]"));
        assert!(used, "{name} is not used");
    }
    let includes = &documents("ci/gitlab-ci.yml")[0]["include"];
    for include in includes.as_vec().unwrap() {
        assert!(
            Path::new(ROOT)
                .join(include["local"].as_str().unwrap())
                .is_file()
        );
        for given in include["inputs"].as_hash().unwrap().keys() {
            let merged = given.as_str() == Some("<<");
            assert!(merged || declared.contains_key(given), "{given:?}");
        }
    }
}

/// The minimum Rust of the workspace is the one that the job of that name tries.
#[test]
fn the_oldest_rust_is_the_one_that_is_promised() {
    let manifest: toml::Table = text("Cargo.toml").parse().unwrap();
    let promised = manifest["workspace"]["package"]["rust-version"]
        .as_str()
        .unwrap();
    let script = script(".github/workflows/ci.yml", "cargo +");
    assert!(
        script.starts_with(&format!("cargo +{promised} ")),
        "{script}"
    );
}

const GITHUB_MATRIX: &str = ".github/workflows/matrix.yml";

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
    if std::process::Command::new("jq")
        .arg("--version")
        .output()
        .is_err()
    {
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
