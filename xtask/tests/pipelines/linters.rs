//! What linters say of the files.

use super::{GITHUB, ROOT, documents, text};
use std::fs;
use std::path::Path;
use std::process::Command;
use yaml_rust2::Yaml;

/// What `cargo xtask test` has installed, or None.
fn linter(name: &str) -> Option<Command> {
    let program = Path::new(ROOT)
        .join("target/nicmatrix/linters/bin")
        .join(name);
    if !program.is_file() {
        report::outln!("skipped: `cargo xtask test` installs {name}");
        return None;
    }
    let mut command = Command::new(program);
    command.current_dir(ROOT);
    Some(command)
}

fn judged(mut command: Command) -> (bool, String) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.success(), said)
}

#[test]
fn actionlint_finds_nothing_and_would() {
    let bad = tempfile::Builder::new().suffix(".yml").tempfile().unwrap();
    let broken = text(GITHUB[0]).replace("runs-on: ubuntu-24.04", "runs-on: ${{ nothing.there }}");
    fs::write(bad.path(), broken).unwrap();
    for (files, good) in [
        (&GITHUB[..3], true),
        (&[bad.path().to_str().unwrap()], false),
    ] {
        let Some(mut command) = linter("actionlint") else {
            return;
        };
        command.args(files);
        let (found_nothing, said) = judged(command);
        assert_eq!(found_nothing, good, "{said}");
    }
}

/// The component as a pipeline has it: its inputs' defaults put in.
fn component() -> String {
    let file = text("templates/matrix.yml");
    let (_, jobs) = file.split_once("\n---\n").unwrap();
    let mut jobs = jobs.to_owned();
    let spec = &documents("templates/matrix.yml")[0];
    for (name, input) in spec["spec"]["inputs"].as_hash().unwrap() {
        let value = match &input["default"] {
            Yaml::String(text) => text.clone(),
            Yaml::Integer(number) => number.to_string(),
            // Rules.
            _ => r#"[{ "when": "on_success" }]"#.to_owned(),
        };
        jobs = jobs.replace(&format!("$[[ inputs.{} ]]", name.as_str().unwrap()), &value);
    }
    assert!(!jobs.contains("$[["), "{jobs}");
    jobs
}

#[test]
fn gitlabs_schema_accepts_the_pipelines_and_would_not() {
    let good = component();
    let bad = good.replace("allow_failure: true", "allow_failure: sometimes");
    for (jobs, valid) in [(good, true), (bad, false)] {
        let Some((accepted, said)) = gitlab_takes(&jobs) else {
            return;
        };
        assert_eq!(accepted, valid, "{said}");
    }
    let Some((accepted, said)) = gitlab_takes(&text("ci/gitlab-ci.yml")) else {
        return;
    };
    assert!(accepted, "{said}");
}

/// Whether GitLab's schema accepts a pipeline, and what is said of it; None without the linter.
fn gitlab_takes(pipeline: &str) -> Option<(bool, String)> {
    let file = tempfile::Builder::new().suffix(".yml").tempfile().unwrap();
    fs::write(file.path(), pipeline).unwrap();
    let mut command = linter("check-jsonschema")?;
    command
        .args(["--builtin-schema", "vendor.gitlab-ci"])
        .arg(file.path());
    Some(judged(command))
}

/// What `.shards` has that `cargo xtask ci shards --format gitlab` writes. The schema looks into no hidden job.
const SHARDS: &str = r#"parallel: {"matrix":[{"SHARD":"1/3"},{"SHARD":"2/3"}]}"#;

#[test]
fn gitlabs_schema_accepts_the_child_pipeline_of_the_manual_and_would_not() {
    let manual = text("docs/shards.md");
    let blocks = manual.split("```yaml\n").skip(1);
    let blocks: Vec<&str> = blocks.filter_map(|rest| rest.split("```").next()).collect();
    let [parent, child] = blocks[..] else {
        panic!("a parent and a child");
    };
    assert!(child.contains("extends: .shards") && child.contains("\"$SHARD\""));
    let child = child.replace("extends: .shards", SHARDS);
    for (pipeline, valid) in [
        (parent.to_owned(), true),
        (child.clone(), true),
        (
            parent.replace("artifact: shards.yml", "artefact: shards.yml"),
            false,
        ),
        (child.replace("[{\"SHARD\"", "[1, {\"SHARD\""), false),
    ] {
        let Some((accepted, said)) = gitlab_takes(&pipeline) else {
            return;
        };
        assert_eq!(accepted, valid, "{pipeline}\n{said}");
    }
}
