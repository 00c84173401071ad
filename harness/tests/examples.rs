//! Trials that `--help`, the documents and the pipelines name exist.

use report::flags::{self, Conditions, Flags, Selection};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where commands stand, from the root: files, and directories of them.
const TEXTS: [&str; 6] = [
    "README.md",
    "CONTRIBUTING.md",
    "docs",
    ".github/workflows",
    "ci",
    "xtask/src",
];

/// Those among their arguments that name trials, wholly or in part; the rest of a line is not looked at.
const COMMANDS: [&str; 3] = ["cargo xtask ", "cargo nextest run ", "cargo test "];

/// Commands that take one trial's full name.
const OF_ONE: [&str; 2] = ["repro", "explain"];

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The names of all trials, as `nicmatrix list` prints them.
fn listed(profile: &str, faults: bool) -> Vec<String> {
    let variables = flags::variables().expect("UTF-8");
    let user = Flags::from_variables(&variables).expect("they are understood");
    let all = Flags {
        conditions: Conditions {
            profile: Some(profile.into()),
            qemu: user.conditions.qemu,
            firmware: user.conditions.firmware,
            ..Conditions::default()
        },
        selection: Selection {
            faults,
            ..Selection::default()
        },
        output: user.output,
        ..Flags::default()
    };
    let output = Command::new(env!("CARGO_BIN_EXE_nicmatrix"))
        .arg("list")
        .env(flags::ALL, all.to_json().expect("UTF-8"))
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let names = text.lines().filter_map(|line| line.split(' ').next());
    names.map(str::to_owned).collect()
}

/// A command's words that name trials, each with whether it must be a full name.
fn named(line: &str) -> Vec<(&str, bool)> {
    let arguments = |command: &&str| Some(line.split_once(*command)?.1);
    let Some(arguments) = COMMANDS.iter().find_map(arguments) else {
        return Vec::new();
    };
    let marks = |c: char| !c.is_ascii_alphanumeric() && c != ':';
    let words = arguments.split_whitespace();
    let (names, others): (Vec<_>, Vec<_>) = words
        .map(|word| word.trim_matches(marks))
        .partition(|word| word.contains("::"));
    let whole = others.iter().any(|word| OF_ONE.contains(word));
    names.into_iter().map(|name| (name, whole)).collect()
}

fn files(path: PathBuf) -> Vec<PathBuf> {
    match path.read_dir() {
        Ok(entries) => (entries.flatten())
            .flat_map(|entry| files(entry.path()))
            .collect(),
        Err(_) => vec![path],
    }
}

#[test]
fn trials_in_examples_exist() {
    let mut names = BTreeSet::new();
    for (profile, faults) in [("smoke", false), ("smoke", true), ("full", false)] {
        names.extend(listed(profile, faults));
    }
    let mut seen = 0;
    for file in TEXTS.iter().flat_map(|text| files(root().join(text))) {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        for (number, line) in text.lines().enumerate() {
            for (name, whole) in named(line) {
                let exists = match whole {
                    true => names.contains(name),
                    false => names.iter().any(|each| each.contains(name)),
                };
                let place = format!("{}:{}", file.display(), number + 1);
                assert!(exists, "{place}: there is no trial {name}");
                seen += 1;
            }
        }
    }
    assert!(seen >= 10, "{seen} names were found");
}

#[test]
fn names_are_found_in_a_command() {
    let whole = "  cargo xtask repro 'a!b::c::d::tap' --shell";
    assert_eq!(named(whole), [("a!b::c::d::tap", true)]);
    let filter = "#[command(after_help = \"cargo xtask matrix list ::virtio::\")]";
    assert_eq!(named(filter), [("::virtio::", false)]);
    assert_eq!(named("use crate::matrix;"), []);
}
