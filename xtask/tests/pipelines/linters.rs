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
        let file = tempfile::Builder::new().suffix(".yml").tempfile().unwrap();
        fs::write(file.path(), jobs).unwrap();
        let Some(mut command) = linter("check-jsonschema") else {
            return;
        };
        command.args(["--builtin-schema", "vendor.gitlab-ci", "ci/gitlab-ci.yml"]);
        command.arg(file.path());
        let (accepted, said) = judged(command);
        assert_eq!(accepted, valid, "{said}");
    }
}
