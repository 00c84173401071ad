//! Several QEMUs in one run: one that is added by its path, one that is fetched, one that is damaged.

#[expect(dead_code, reason = "the other tests use more of it")]
mod own;

use own::{Own, expect_words, matrix, refused};
use std::fs;
use std::path::Path;
use std::process::Command;

/// A trial that takes a second, on any QEMU.
const TRIAL: &str = "driver::e1000::rhel9::tap";

/// What a skip says where a suite's QEMU cannot be had: no network, or another distribution.
const NOT_TO_FETCH: [&str; 2] = ["cannot be fetched", "can be fetched on Debian only"];

fn events(own: &Own) -> Vec<serde_json::Value> {
    let log = Path::new(&own.dir).join("runs/latest/events.jsonl");
    let text = fs::read_to_string(log).expect("the log");
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().expect("JSON lines")
}

fn run(own: &Own, qemus: &str) -> (Option<i32>, String) {
    let variables = [
        ("NICMATRIX_DIR", &*own.dir),
        ("NICMATRIX_QEMU", qemus),
        ("NICMATRIX_TABLE", "1"),
        ("NICMATRIX_FILTER", TRIAL),
    ];
    let output = matrix(&[], &variables).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text.into_owned())
}

#[test]
fn an_added_qemu_runs_beside_the_default_one() {
    let own = Own::new();
    let (code, text) = run(&own, "new=qemu-system-x86_64");
    assert_eq!(code, Some(0), "{text}");
    expect_words(&text, &["2 passed, 0 failed", "default", "new"]);
    let events = events(&own);
    let ended: Vec<_> = (events.iter())
        .filter(|event| event["event"] == "trial_ended")
        .map(|event| (event["trial"].as_str(), event["qemu"].as_str()))
        .collect();
    let with_name = format!("{TRIAL}::new");
    assert!(ended.contains(&(Some(TRIAL), None)), "{ended:?}");
    assert!(
        ended.contains(&(Some(&with_name), Some("new"))),
        "{ended:?}"
    );
    let identity = &events[0]["identity"];
    assert_eq!(identity["others"]["new"], identity["qemu"]);
}

#[test]
fn a_suites_qemu_is_fetched_and_tested_and_saves_guests() {
    let own = Own::new();
    for (suite, version) in [("trixie", "QEMU 10."), ("backports", "QEMU 11.")] {
        let (code, text) = run(&own, suite);
        assert_eq!(code, Some(0), "{text}");
        match NOT_TO_FETCH.iter().any(|why| text.contains(why)) {
            true => expect_words(&text, &["0 passed, 0 failed, 1 skipped"]),
            false => expect_words(&text, &["1 passed, 0 failed, 0 skipped", version]),
        }
        assert!(!text.contains("there is no checkpoint"), "{text}");
    }
}

#[test]
fn a_qemu_whose_rom_is_gone_is_not_tested_as_it_is() {
    let own = Own::new();
    let (_, text) = run(&own, "trixie");
    let shared = Path::new(&own.dir).join("qemus");
    if NOT_TO_FETCH.iter().any(|why| text.contains(why)) {
        return;
    }
    // The same files, with a directory of this test's own around them.
    let from = shared.canonicalize().expect("a directory");
    let copied = own.directory.path().join("copied");
    let copy = Command::new("cp")
        .arg("-al")
        .arg(&from)
        .arg(&copied)
        .status();
    assert!(copy.expect("cp runs").success());
    fs::remove_file(&shared).expect("a link");
    fs::rename(&copied, &shared).expect("moved");
    let roots = fs::read_dir(&shared).expect("listed").flatten();
    // Other suites' QEMUs may be there as well.
    let roms = roots.map(|root| root.path().join("usr/share/qemu/efi-e1000.rom"));
    let removed = roms.filter(|rom| fs::remove_file(rom).is_ok()).count();
    assert!(removed > 0, "no QEMU has the ROM");
    let variables = [
        ("NICMATRIX_DIR", &*own.dir),
        ("NICMATRIX_QEMU", "trixie"),
        ("NICMATRIX_TABLE", "1"),
        ("NICMATRIX_FILTER", TRIAL),
        // Nobody listens there: it cannot be fetched again.
        ("http_proxy", "http://127.0.0.1:9"),
        ("https_proxy", "http://127.0.0.1:9"),
    ];
    let words = [
        "efi-e1000.rom cannot be read",
        "fetching it again",
        "the QEMU of Debian trixie cannot be fetched",
        "0 passed, 0 failed, 1 skipped",
    ];
    refused(&[], &variables, 0, &words);
}

/// The run's last line but for its bound and its files: how many trials ended how.
fn all_passed(own: &Own, variables: &[(&str, &str)]) -> String {
    let dir = [("NICMATRIX_DIR", &*own.dir), ("NICMATRIX_TABLE", "1")];
    let variables = [&dir[..], variables].concat();
    let output = matrix(&[], &variables).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}");
    text.into_owned()
}

#[test]
fn a_guest_moves_to_another_qemu_and_a_lost_property_is_seen() {
    let own = Own::new();
    let across = [
        ("NICMATRIX_QEMU", "new=qemu-system-x86_64"),
        ("NICMATRIX_CASE", "migrate_across"),
    ];
    let plain = [&across[..], &[("NICMATRIX_NIC", "e1000")]].concat();
    // There, and from there to the default one.
    let text = all_passed(&own, &plain);
    expect_words(&text, &["0 passed, 0 failed, 2 known, 0 skipped"]);
    expect_words(&text, &["QEMU announces a NIC that has moved by the MAC"]);
    let faults = [
        &across[..],
        &[("NICMATRIX_FAULTS", "1"), ("NICMATRIX_NIC", "e1000,virtio")],
    ];
    let text = all_passed(&own, &faults.concat());
    expect_words(&text, &["6 red as expected, 0 BLIND, 0 skipped"]);
}

#[test]
fn a_property_that_is_ignored_is_seen() {
    let own = Own::new();
    let properties = [
        ("NICMATRIX_PROFILE", "full"),
        ("NICMATRIX_CASE", "properties"),
        ("NICMATRIX_BACKEND", "tap"),
        ("NICMATRIX_NIC", "virtio-mtu1400,virtio-behind-iommu"),
    ];
    let text = all_passed(&own, &properties);
    expect_words(&text, &["0 failed, 0 skipped"]);
    let faults = [&properties[..], &[("NICMATRIX_FAULTS", "1")]].concat();
    let text = all_passed(&own, &faults);
    expect_words(&text, &["red as expected, 0 BLIND, 0 skipped"]);
}
