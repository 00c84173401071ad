//! The pipelines of this project, and those that others use: what they call is pinned and exists, and their scripts
//! run as they stand in the files, on runs that are written here. Only `cargo` and what wants a network are replaced.

#[path = "pipelines/github.rs"]
mod github;
#[path = "pipelines/gitlab.rs"]
mod gitlab;
#[path = "pipelines/linters.rs"]
mod linters;
#[path = "pipelines/machine.rs"]
mod machine;

use std::fs;
use std::path::Path;
use yaml_rust2::{Yaml, YamlLoader};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

const GITHUB: [&str; 4] = [
    ".github/workflows/ci.yml",
    ".github/workflows/nightly.yml",
    ".github/workflows/matrix.yml",
    ".github/actions/prepare/action.yml",
];
const GITHUB_MATRIX: &str = ".github/workflows/matrix.yml";
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
    assert_eq!(all, 6);
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

#[test]
fn caches_of_two_names_are_apart_and_the_newest_is_kept() {
    let keys = |file: &str| {
        let documents = documents(file);
        let mut found = Vec::new();
        entries(&documents[0], &mut found);
        let keys = found
            .into_iter()
            .filter(|(key, _)| ["key", "restore-keys"].contains(key));
        keys.filter_map(|(_, value)| value.as_str().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    let histories = keys(GITHUB_MATRIX);
    assert_eq!(histories.len(), 3);
    for key in histories {
        assert!(key.starts_with("history/${{ inputs.name }}/"), "{key}");
    }
    let [key, restored] = &keys(GITHUB[3])[..] else {
        panic!("the images have a cache");
    };
    let nearest = restored.lines().next().unwrap();
    assert_eq!(*key, format!("{nearest}${{{{ github.run_id }}}}"));
}
