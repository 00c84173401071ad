//! What README and docs say is so: the table of cases has each, and links lead somewhere.

use harness::cases;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

/// The pages that people read, README first.
fn pages() -> Vec<PathBuf> {
    let mut pages = vec![root().join("README.md"), root().join("CONTRIBUTING.md")];
    let docs = root().join("docs").read_dir().expect("docs/");
    let docs = docs.map(|entry| entry.expect("an entry").path());
    pages.extend(docs.filter(|path| path.extension().is_some_and(|e| e == "md")));
    pages
}

#[test]
fn the_table_of_cases_has_each_case_once() {
    let page = read(&root().join("docs/cases.md"));
    let rows = page.lines().filter(|line| line.starts_with("| "));
    let first_cells = rows.filter_map(|row| row.split(" | ").next());
    let mut named: Vec<&str> = first_cells
        .flat_map(|cell| cell.trim_start_matches("| ").split(", "))
        .filter(|name| *name != "case" && *name != "---")
        .collect();
    let count = named.len();
    named.sort_unstable();
    named.dedup();
    assert_eq!(named.len(), count, "a case stands in two rows");
    let named: BTreeSet<&str> = named.into_iter().collect();
    let cases: BTreeSet<&str> = cases::all().iter().map(|case| case.name).collect();
    let missing: Vec<_> = cases.difference(&named).collect();
    let extra: Vec<_> = named.difference(&cases).collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "docs/cases.md lacks {missing:?} and has {extra:?}, which are no cases"
    );
}

#[test]
fn links_between_the_pages_lead_to_files() {
    let mut broken = Vec::new();
    for page in pages() {
        let text = read(&page);
        for (_, rest) in text
            .match_indices("](")
            .map(|(at, m)| text.split_at(at + m.len()))
        {
            let target = rest.split(')').next().unwrap_or_default();
            let target = target.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let file = page.parent().expect("a directory").join(target);
            if !file.exists() {
                broken.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(
        broken.is_empty(),
        "links to nothing:\n{}",
        broken.join("\n")
    );
}
