//! Three nights as a user looks at them: one trial breaks and one is mended between the first two, and on
//! the third nothing changes.

mod kept;

use insta::assert_snapshot;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// The trials of the plan.
fn trials() -> impl Iterator<Item = String> {
    ["driver", "mac_change", "link_status"]
        .into_iter()
        .flat_map(|case| {
            ["e1000e", "virtio"].into_iter().flat_map(move |nic| {
                ["rhel6", "rhel9"].map(|guest| format!("{case}::{nic}::{guest}::tap"))
            })
        })
}

/// Writes the run of that night, as the harness does. `says` is the message of a trial that fails.
fn night(runs: &Path, number: u32, says: impl Fn(&str) -> Option<&'static str>) {
    let time = 1_795_600_000 + 86_400 * number;
    let commit = number.to_string().repeat(40);
    let host =
        r#""host":{"processor":"AMD EPYC","cores":2,"accelerator":"TCG","kernel":"6.18.44"}"#;
    let mut log = format!(
        r#"{{"event":"run_started","schema":2,"unix_time":{time},"identity":{{"commit":"{commit}","matrix_digest":"{}","plan_digest":"{}","shard":null,"qemu":{{"version":"7.2.22","build":null}},"others":{{}},{host}}},"properties":{{"profile":"full","accelerator":"TCG, as KVM does not work"}},"settings":{{"profile":"full"}},"faults":false,"time":{time}}}"#,
        "a".repeat(64),
        "b".repeat(64),
    );
    for trial in trials() {
        let verdict = match says(&trial) {
            Some(message) => format!(
                r#""verdict":"failed","message":"{message}","repeats":{{"failed":5,"passed":0,"undecided":0}}"#
            ),
            None => r#""verdict":"passed""#.to_owned(),
        };
        let again = format!("cargo xtask repro {trial} --profile full");
        log += &kept::trial(&trial, &verdict, &again, time);
    }
    log += &kept::end(41.0, time);
    let directory = runs.join(format!("night{number}"));
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("events.jsonl"), log).unwrap();
}

/// On the first night the link status of one guest fails; on the others an announcement does, on one NIC.
fn three_nights() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let runs = dir.path().join("nicmatrix/runs");
    night(&runs, 1, |trial| {
        (trial == "link_status::virtio::rhel9::tap")
            .then_some("operstate of eth0 is not \\\"down\\\": waited 9.1 s; the guest shows: up")
    });
    let broken = |seen: &'static str| {
        move |trial: &str| trial.starts_with("mac_change::e1000e").then_some(seen)
    };
    night(
        &runs,
        2,
        broken(
            "no announcement of 52:54:00:ab:cd:ef reached the bridge; the tap showed: 3 ARP, 1 IPv6",
        ),
    );
    night(
        &runs,
        3,
        broken(
            "no announcement of 52:54:00:ab:cd:01 reached the bridge; the tap showed: 1 IPv6, 3 ARP",
        ),
    );
    dir
}

fn xtask(dir: &Path, line: &str) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(line.split(' '))
        .current_dir(dir)
        .env("NICMATRIX_DIR", dir.join("nicmatrix"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code().unwrap(), text)
}

#[test]
fn a_regression_and_a_repair_are_told_and_a_night_without_a_change_says_so() {
    let dir = three_nights();
    let (code, added) = xtask(dir.path(), "history add nicmatrix/runs");
    assert_eq!(code, 0, "{added}");
    assert_snapshot!(added, @r"
    nicmatrix/history.jsonl: added night1: 12 trials, 11 passed, 1 failed
    nicmatrix/history.jsonl: added night2: 12 trials, 10 passed, 2 failed
    nicmatrix/history.jsonl: added night3: 12 trials, 10 passed, 2 failed
    ");
    let history = "nicmatrix/history.jsonl";
    let (code, second) = xtask(dir.path(), &format!("compare {history} night2"));
    assert_eq!(code, 1, "{second}");
    assert_snapshot!(second, @r#"
    Worse: 2 new failures
    1 fixed, 9 still passing
    BASE  night1 (2026-11-26 09:46 UTC, commit 111111111111)
    HEAD  night2 (2026-11-27 09:46 UTC, commit 222222222222)

    New failures
       2  mac_change: e1000e on every guest; the other NICs are green
          says: no announcement of 52:54:00:ab:cd:ef reached the bridge; the tap showed: 3 ARP, 1 IPv6
          solid: failed 6 of 6 times
          mac_change::e1000e::rhel6::tap
          mac_change::e1000e::rhel9::tap
          again: cargo xtask repro mac_change::e1000e::rhel6::tap --profile full

    What else changed
      commit  111111111111 → 222222222222

    Fixed
       1  link_status::virtio::rhel9::tap
          failed with: operstate of eth0 is not "down": waited 9.1 s; the guest shows: up
    "#);
    let (code, third) = xtask(dir.path(), &format!("compare {history} night3"));
    assert_eq!(code, 0, "{third}");
    assert_snapshot!(third, @r"
    Nothing is worse
    2 still failing, 10 still passing
    BASE  night2 (2026-11-27 09:46 UTC, commit 222222222222)
    HEAD  night3 (2026-11-28 09:46 UTC, commit 333333333333)

    What else changed
      commit  222222222222 → 333333333333

    Still failing, with the same words
       2  mac_change: e1000e on every guest; the other NICs are green
          says: no announcement of 52:54:00:ab:cd:01 reached the bridge; the tap showed: 1 IPv6, 3 ARP
          solid: failed 6 of 6 times
          red since 2026-11-27, 2 nights; last green at commit 111111111111 (2026-11-26)
          mac_change::e1000e::rhel6::tap
          mac_change::e1000e::rhel9::tap
          again: cargo xtask repro mac_change::e1000e::rhel6::tap --profile full
    ");
    let (code, red) = xtask(dir.path(), "history show mac_change::e1000e::rhel9::tap");
    assert_eq!(code, 0, "{red}");
    assert_snapshot!(red, @r"
    mac_change::e1000e::rhel9::tap
      2026-11-26 09:46  night1  passed          3.4 s
      2026-11-27 09:46  night2  failed          3.4 s  [solid: failed 6 of 6 times] no announcement of 52:54:00:ab:cd:ef reached the bridge; the tap showed: 3 ARP, 1 IPv6
      2026-11-28 09:46  night3  failed          3.4 s  [solid: failed 6 of 6 times] no announcement of 52:54:00:ab:cd:01 reached the bridge; the tap showed: 1 IPv6, 3 ARP
    red since 2026-11-27, 2 nights; last green at commit 111111111111 (2026-11-26)
    1 change in 3 judged nights (50 %)
    median 3.4 s
    ");
    let (code, mended) = xtask(dir.path(), "history show link_status::virtio::rhel9::tap");
    assert_eq!(code, 0, "{mended}");
    assert_snapshot!(mended, @r#"
    link_status::virtio::rhel9::tap
      2026-11-26 09:46  night1  failed          3.4 s  [solid: failed 6 of 6 times] operstate of eth0 is not "down": waited 9.1 s; the guest shows: up
      2026-11-27 09:46  night2  passed          3.4 s
      2026-11-28 09:46  night3  passed          3.4 s
    green since 2026-11-27, 2 nights; last red at commit 111111111111 (2026-11-26)
    1 change in 3 judged nights (50 %)
    median 3.4 s
    "#);
}

#[test]
fn the_page_of_a_night_says_since_when_a_finding_is_red() {
    let dir = three_nights();
    xtask(dir.path(), "history add night1 night2");
    let (code, page) = xtask(dir.path(), "report night3 --html -");
    assert_eq!(code, 0);
    assert!(
        page.contains("red since 2026-11-27, 2 nights"),
        "the default history"
    );
    let (_, page) = xtask(
        dir.path(),
        "report night2 --html - --history nicmatrix/history.jsonl",
    );
    assert!(page.contains("new: not red on 2026-11-26"));
    for (line, code, words) in [
        (
            "report night3 --html - --history none",
            2,
            "there is no history none",
        ),
        (
            "report night3 --history nicmatrix/history.jsonl",
            2,
            "--html <PATH>",
        ),
        (
            "report night3 --html - --history nicmatrix/runs/night3/events.jsonl",
            2,
            "events.jsonl:1: not a line of a history",
        ),
    ] {
        let (found, text) = xtask(dir.path(), line);
        assert_eq!(found, code, "{line}: {text}");
        assert!(text.contains(words), "{line}: {text}");
    }
}
