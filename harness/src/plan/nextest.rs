//! `.config/nextest.toml` lets run alone what the plan does: nextest has a process a trial, and so a
//! schedule of its own. It goes by names, so that a new case needs no line there.

use super::PlannedTrial;
use super::tests::{shipped, shipped_from_boots, shipped_under_faults};
use crate::cases::Load;
use regex::Regex;
use std::path::Path;
use toml::{Table, Value};

/// How an override names the trials that it is for.
const HEAD: &str = "package(harness) and binary(matrix) and test(/";
const TAIL: &str = "/)";

/// The names of which `config` says that they need all threads.
fn alone(config: &str) -> Vec<Regex> {
    let config: Table = config.parse().expect("TOML");
    let overrides = config["profile"]["default"]["overrides"].as_array();
    let tables = overrides.expect("an array").iter();
    let with_all_threads = tables.filter(|table| {
        let threads = table.get("threads-required").and_then(Value::as_str);
        threads == Some("num-test-threads")
    });
    let name = |table: &Value| {
        let filter = table["filter"].as_str().unwrap_or_default();
        let name = filter.strip_prefix(HEAD).and_then(|f| f.strip_suffix(TAIL));
        let name = name.unwrap_or_else(|| panic!("{filter:?} is not by a trial's name"));
        Regex::new(name).expect("a regular expression")
    };
    with_all_threads.map(name).collect()
}

/// Trials that would run alone by `config` and not by the plan, or the other way round.
fn disagreements(config: &str, trials: &[PlannedTrial]) -> Vec<String> {
    let alone = alone(config);
    let wrong = trials.iter().filter(|trial| {
        let by_config = alone.iter().any(|name| name.is_match(&trial.name));
        by_config != (trial.load == Load::Alone)
    });
    wrong.map(|trial| trial.name.clone()).collect()
}

fn shipped_config() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.config/nextest.toml");
    std::fs::read_to_string(path).expect("the shipped file")
}

/// What `full` has, and what it would have if all its guests booted: in a profile with both starts, what measures has
/// no variant.
fn from_either_start() -> Vec<PlannedTrial> {
    [shipped("full"), shipped_from_boots("full")].concat()
}

#[test]
fn nextest_lets_run_alone_what_measures_and_nothing_else() {
    // With each variant, and those that measure.
    let full = from_either_start();
    let measuring = full.iter().filter(|trial| trial.load == Load::Alone);
    assert!(
        measuring
            .clone()
            .any(|trial| trial.name.contains("@boot::"))
    );
    assert_eq!(disagreements(&shipped_config(), &full), [""; 0]);
    let faulty = shipped_under_faults("full");
    assert_eq!(disagreements(&shipped_config(), &faulty), [""; 0]);
}

#[test]
fn a_config_that_misses_a_variant_or_takes_a_fault_is_noticed() {
    let config = |name: &str| {
        format!(
            "[[profile.default.overrides]]\nfilter = \"{HEAD}{name}{TAIL}\"\n\
             threads-required = \"num-test-threads\"\n"
        )
    };
    let wrong = disagreements(&config("^netperf_[a-z]+::"), &from_either_start());
    assert!(
        wrong
            .iter()
            .any(|name| name.starts_with("netperf_host@boot::"))
    );
    assert!(!wrong.iter().any(|name| name.starts_with("netperf_host::")));
    let faulty = shipped_under_faults("full");
    let wrong = disagreements(&config("^netperf_"), &faulty);
    assert!(wrong.iter().all(|name| name.starts_with("netperf_")));
    assert!(!wrong.is_empty());
    let wrong = disagreements(&config("^netperf_|^promisc"), &shipped("full"));
    assert!(wrong.iter().all(|name| name.starts_with("promisc")));
    assert!(!wrong.is_empty());
}
