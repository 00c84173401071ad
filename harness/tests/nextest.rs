//! `.config/nextest.toml` says the same of the trials as their cases do: nextest has a process a
//! trial, and so a schedule of its own.

use harness::cases::{self, Load};
use std::collections::BTreeSet;
use std::path::Path;
use toml::{Table, Value};

/// How an override names the cases that it is for.
const HEAD: &str = "package(harness) and binary(matrix) and test(/^";
const TAIL: &str = "(::|!)/)";

/// Keys of an override that make up the schedule.
const KEYS: [&str; 3] = ["threads-required", "priority", "test-group"];

/// What nextest must be told of a case.
fn wanted(load: Load) -> Table {
    let text = match load {
        Load::Busy => "",
        // A whole thread, as there are no fractions; but it is long, and so it comes early.
        Load::Waits => "priority = 10",
        Load::Alone => "threads-required = \"num-test-threads\"\npriority = 100",
    };
    text.parse().expect("TOML")
}

/// The cases that a filter is for: `test(/^name(::|!)/)` or `test(/^(one|other)(::|!)/)`.
fn named(filter: &str) -> Option<Vec<&str>> {
    let names = filter.strip_prefix(HEAD)?.strip_suffix(TAIL)?;
    let names = match names.strip_prefix('(') {
        Some(several) => several.strip_suffix(')')?,
        None => names,
    };
    Some(names.split('|').collect())
}

/// Where `config` differs from what the cases say.
fn disagreements(config: &str, cases: &[(&str, Load)]) -> Vec<String> {
    let config: Table = config.parse().expect("TOML");
    let overrides = config["profile"]["default"]["overrides"].as_array();
    let mut told: Vec<(&str, Table)> = cases.iter().map(|(n, _)| (*n, Table::new())).collect();
    let mut wrong = Vec::new();
    for table in overrides
        .expect("an array")
        .iter()
        .filter_map(Value::as_table)
    {
        let keys = table.iter().filter(|(key, _)| KEYS.contains(&key.as_str()));
        let keys: Table = keys.map(|(k, v)| (k.clone(), v.clone())).collect();
        if keys.is_empty() {
            continue;
        }
        let filter = table["filter"].as_str().unwrap_or_default();
        let Some(names) = named(filter) else {
            wrong.push(format!("cannot tell whom this is for: {filter}"));
            continue;
        };
        for name in names {
            match told.iter_mut().find(|(n, _)| *n == name) {
                Some((_, told)) => told.extend(keys.clone()),
                None => wrong.push(format!("there is no case {name}")),
            }
        }
    }
    for ((name, told), (_, load)) in told.iter().zip(cases) {
        if *told != wanted(*load) {
            wrong.push(format!("{name} is {load:?}, and nextest is told: {told:?}"));
        }
    }
    wrong
}

#[test]
fn nextest_is_told_what_the_cases_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.config/nextest.toml");
    let config = std::fs::read_to_string(path).expect("the shipped file");
    let cases: Vec<_> = cases::all().iter().map(|c| (c.name, c.load)).collect();
    let loads: BTreeSet<_> = cases.iter().map(|(_, load)| format!("{load:?}")).collect();
    assert!(loads.len() > 1, "there is nothing to tell apart: {loads:?}");
    assert_eq!(disagreements(&config, &cases), [""; 0]);
}

#[test]
fn a_config_that_says_otherwise_is_told_of() {
    let cases = [
        ("driver", Load::Busy),
        ("promisc", Load::Waits),
        ("ping", Load::Waits),
        ("netperf", Load::Alone),
    ];
    let entry = |names: &str, more: &str| {
        format!("[[profile.default.overrides]]\nfilter = \"{HEAD}{names}{TAIL}\"\n{more}\n")
    };
    let all = "threads-required = \"num-test-threads\"\npriority = 100";
    let right = entry("(promisc|ping)", "priority = 10") + &entry("netperf", all);
    assert_eq!(disagreements(&right, &cases), [""; 0]);
    let other_matters = right.clone() + &entry("driver", "retries = 0");
    assert_eq!(disagreements(&other_matters, &cases), [""; 0]);

    let group = entry("driver", "test-group = \"serial\"");
    let everybody = "[[profile.default.overrides]]\nfilter = \"binary(matrix)\"\npriority = 1\n";
    for (config, complaint) in [
        (right.replace("promisc|", ""), "promisc is Waits"),
        (
            right.replace("promisc|", "driver|promisc|"),
            "driver is Busy",
        ),
        (
            right.replace("promisc|", "promisk|"),
            "there is no case promisk",
        ),
        (right.replace("priority = 100", ""), "netperf is Alone"),
        (
            right.replace("num-test-threads", "num-cpus"),
            "netperf is Alone",
        ),
        (
            right.replace("priority = 10\n", "priority = 9\n"),
            "ping is Waits",
        ),
        (right.clone() + &group, "driver is Busy"),
        (right.clone() + everybody, "cannot tell whom this is for"),
    ] {
        assert_ne!(config, right, "{complaint}");
        let found = disagreements(&config, &cases);
        assert!(
            found.iter().any(|w| w.contains(complaint)),
            "{complaint}: {found:?}"
        );
    }
}
