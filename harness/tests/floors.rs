//! The modules of the harness are floors: each uses those below it, and none above.

use std::path::{Path, PathBuf};

/// From the ground up; a module that is missing here fails the test.
const FLOORS: [&str; 15] = [
    "base", "debian", "matrix", "settings", "net", "vm", "guest", "host", "testbed", "cases",
    "plan", "lab", "run", "inside", "show",
];
/// Above all of them: the map, and what this process is.
const ROOF: [&str; 2] = ["entry", "lib"];

/// Every Rust file below `directory`.
fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in directory.read_dir().expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The first word of each path that `text` takes from the crate's root, with its line.
fn used(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut take = |at: usize, rest: &str| {
        let word = |text: &str| -> String {
            let end = text.find(|c: char| c != '_' && !c.is_ascii_lowercase());
            text[..end.unwrap_or(text.len())].to_owned()
        };
        let line = text[..at].matches('\n').count() + 1;
        match rest.strip_prefix('{') {
            None => found.push((line, word(rest))),
            Some(group) => {
                // `use crate::{net, vm::cmdline}`: the words at the group's own depth.
                let mut depth = 0;
                let mut starts = true;
                for (index, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => starts = true,
                        c if starts && !c.is_whitespace() => {
                            starts = false;
                            found.push((line, word(&group[index..])));
                        }
                        _ => {}
                    }
                }
            }
        }
    };
    for (at, matched) in text.match_indices("crate::") {
        let before = text[..at].chars().next_back();
        if before.is_none_or(|c| c != '_' && !c.is_alphanumeric()) {
            take(at, &text[at + matched.len()..]);
        }
    }
    found
}

/// What `text`, a file of the floor `floor`, takes from floors above.
fn arrows_up(floor: &str, text: &str) -> Vec<(usize, String)> {
    let height = |name: &str| FLOORS.iter().position(|floor| *floor == name);
    let own = height(floor);
    let code: Vec<&str> = text
        .lines()
        // A link in a comment may point anywhere.
        .map(|line| {
            if line.trim_start().starts_with("//") {
                ""
            } else {
                line
            }
        })
        .collect();
    let above = |name: &str| match (own, height(name)) {
        (Some(own), Some(other)) => other > own,
        (_, None) => ROOF.contains(&name) && own.is_some(),
        (None, Some(_)) => false,
    };
    let mut used = used(&code.join("\n"));
    used.retain(|(_, name)| above(name));
    used
}

#[test]
fn no_arrow_points_up() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    files(&source, &mut all);
    assert!(all.len() > 100, "only {} files were found", all.len());
    let mut wrong = Vec::new();
    for path in all {
        let inner = path.strip_prefix(&source).expect("below src");
        let first = inner.components().next().expect("a name");
        let floor = Path::new(first.as_os_str()).file_stem().expect("a stem");
        let floor = floor.to_str().expect("UTF-8");
        if floor == "bin" {
            continue;
        }
        if !FLOORS.contains(&floor) && !ROOF.contains(&floor) {
            wrong.push(format!(
                "{}: {floor} is no floor of FLOORS",
                inner.display()
            ));
        }
        let text = std::fs::read_to_string(&path).expect("readable");
        for (line, name) in arrows_up(floor, &text) {
            wrong.push(format!("{}:{line}: {floor} uses {name}", inner.display()));
        }
    }
    assert!(
        wrong.is_empty(),
        "imports that point up:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn an_arrow_that_points_up_is_found_however_it_is_written() {
    for text in [
        "use crate::run::session;",
        "use crate::{base::words, run};",
        "use crate::{\n    base::{child, run},\n    run::session,\n};",
        "fn f() -> crate::run::Session {",
        "    use crate::entry;",
    ] {
        assert_eq!(arrows_up("vm", text).len(), 1, "{text}");
    }
    for text in [
        "use crate::vm::wire;",
        "use crate::base::{child, run};",
        "//! See [`crate::run`].",
        "use my_crate::run;",
    ] {
        assert!(arrows_up("vm", text).is_empty(), "{text}");
    }
    assert!(arrows_up("entry", "use crate::run;").is_empty());
}
