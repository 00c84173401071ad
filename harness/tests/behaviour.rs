//! What a user meets when something is wrong: a wrong name, a wrong file, a signal, a kill.
//!
//! They run `nicmatrix run`, which is the matrix's test binary under a name that cargo keeps up to
//! date for this test.

mod disk;
mod host;
mod own;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use own::{ENDS, LOOK, Own, Process, Started, Traces};
use own::{changed_matrix, expect_words, matrix, nicmatrix, refused};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// A trial that boots a VM and takes some seconds.
const TRIAL: &str = "ping_sweep::virtio::rhel9::tap";
/// A trial that an entry of a matrix file excludes.
const EXCLUDED: &str = "driver::e1000e::rhel9::tap";
const EXCLUDES: &str = "[[exclude]]\nnic = 'e1000e'\ncase = 'driver'\nreason = 'it is excluded'";
/// From exec to a VM that takes commands, on a loaded host too.
const VM_RUNS: Duration = Duration::from_secs(120);
/// A file that is no kernel, or a kernel that panics, must be reported well before the agent's deadline
/// of 120 s.
const TOLD: Duration = Duration::from_secs(60);

/// The shipped matrix with these entries in place of its own `[[expect]]` and `[[exclude]]`.
fn matrix_with(directory: &Path, entries: &str) -> String {
    let text = fs::read_to_string(own::root().join("matrix.toml")).expect("the shipped matrix");
    // Comments name them too.
    let begins = |entry: &str| text.find(&format!("\n[[{entry}]]"));
    let known = begins("expect").into_iter().chain(begins("exclude")).min();
    let tables = &text[..known.unwrap_or(text.len())];
    let path = directory.join("matrix.toml");
    fs::write(&path, format!("{tables}\n{entries}\n")).expect("written");
    path.to_string_lossy().into_owned()
}

#[test]
fn a_filter_that_matches_nothing_is_an_error_with_the_nearest_names() {
    let nearest = ["matches none of the", "ping_sweep::virtio"];
    refused(&["ping_swep::virtio"], &[], 2, &nearest);
    let exact = ["--exact", "driver::virtio::rhel9::tab"];
    refused(&exact, &[], 2, &["driver::virtio::rhel9::tap"]);
}

#[test]
fn a_listing_has_names_alone_on_stdout_and_skips_under_ignored() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = matrix_with(directory.path(), EXCLUDES);
    let list = |more: &[&str]| {
        let mut words = vec!["--list", "--format", "terse"];
        words.extend(more);
        let variables = [("NICMATRIX_MATRIX", &*path)];
        let output = matrix(&words, &variables).output().expect("it runs");
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(text.lines().all(|line| line.ends_with(": test")), "{text}");
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let (all, ignored) = (list(&[]), list(&["--ignored"]));
    assert!(all.contains(&format!("{TRIAL}: test")));
    assert!(ignored.contains(&format!("{EXCLUDED}: test")));
    assert!(ignored.len() < all.len());
    assert!(!ignored.contains(&format!("{TRIAL}: test")));
}

#[test]
fn a_qemu_that_is_none_is_said_before_anything_runs() {
    let qemu = |path: &str, code, words: &[&str]| {
        refused(&[TRIAL], &[("NICMATRIX_QEMU", path)], code, words);
    };
    qemu("/nonexistent/qemu", 2, &["no file /nonexistent/qemu"]);
    qemu(
        "/bin/false",
        3,
        &["/bin/false does not work as a QEMU", "exit status: 1"],
    );
    qemu(
        "/bin/echo",
        3,
        &["/bin/echo does not work as a QEMU", "expected QMP, found"],
    );
}

#[test]
fn a_script_for_qemu_must_exec_it_and_answer() {
    let directory = tempfile::tempdir().expect("a directory");
    let script = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
        path.to_string_lossy().into_owned()
    };
    let qemu = std::env::var("NICMATRIX_QEMU").unwrap_or("qemu-system-x86_64".into());
    let forks = script("forks", &format!("{qemu} \"$@\"\nexit $?"));
    refused(
        &[TRIAL],
        &[("NICMATRIX_QEMU", &forks)],
        3,
        &["begin that line", "`exec`"],
    );
    let execs = script("execs", &format!("exec {qemu} \"$@\""));
    let list = ["--list", "--exact", TRIAL];
    refused(&list, &[("NICMATRIX_QEMU", &execs)], 0, &[TRIAL]);

    let mark = "sleep 98.7";
    let chatty = script("chatty", &format!("echo hello\n{mark}"));
    let begun = Instant::now();
    refused(
        &[TRIAL],
        &[("NICMATRIX_QEMU", &chatty)],
        3,
        &["expected QMP, found `hello`"],
    );
    assert!(begun.elapsed() < ENDS, "took {:?}", begun.elapsed());
    let all = fs::read_dir("/proc").expect("/proc").flatten();
    let mut lines = all.map(|entry| Process(entry.path()).line());
    assert!(!lines.any(|line| line.trim() == mark), "its child lives on");
}

#[test]
fn a_panic_around_a_trial_is_broken_and_never_green() {
    let own = Own::new();
    // A proof of the accelerator of its own, for this test to damage.
    let host = Path::new(&own.dir).join("host");
    fs::remove_file(&host).expect("a link");
    let mut doctor = nicmatrix(&["doctor"]);
    doctor.env("NICMATRIX_DIR", &own.dir);
    assert!(doctor.output().expect("it runs").status.success());
    let proofs = fs::read_dir(&host).expect("listed").flatten();
    let mut proofs = proofs.map(|entry| entry.path());
    let proof = proofs.find(|path| path.to_string_lossy().contains("accel-auto-"));
    let proof = proof.expect("a proof");
    let text = fs::read_to_string(&proof).expect("the proof");
    let mut proof_of: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    // No deadline can be as long as that.
    proof_of["proven"]["speed"] = 1e300.into();
    fs::write(&proof, proof_of.to_string()).expect("written");
    let words = ["0 passed, 0 failed, 1 broken", "the harness panicked"];
    let dir = [("NICMATRIX_DIR", &*own.dir), ("NICMATRIX_TABLE", "1")];
    refused(&["--exact", TRIAL], &dir, 3, &words);
    let nextest = [
        ("NICMATRIX_DIR", &*own.dir),
        ("NEXTEST", "1"),
        ("NICMATRIX_RUN", "panics"),
    ];
    refused(&["--exact", TRIAL], &nextest, 3, &["the harness panicked"]);
}

#[test]
fn a_trial_that_runs_its_case_twice_still_says_what_its_guest_was_restored_from() {
    let own = Own::new();
    let (plain, again) = ("transfer_mib = 4", "transfer_mib = 4\nafter = [\"again\"]");
    let matrix = changed_matrix(own.directory.path(), plain, again);
    let mut started = own.run("mtu_set@again::virtio::rhel9::tap", Some(&matrix));
    let status = started.ended_within(VM_RUNS);
    assert!(status.success(), "{status}: {}", own.said());
    let log = Path::new(&own.dir).join("runs/latest/events.jsonl");
    let events = fs::read_to_string(log).expect("the log");
    let ended = events.lines().find(|line| line.contains("\"trial_ended\""));
    expect_words(ended.expect("it ended"), &["\"start\":\"warm NIC\""]);
}

#[test]
fn a_shard_without_a_match_is_empty_and_not_an_error() {
    let directory = tempfile::tempdir().expect("a directory");
    let own = directory.path().to_string_lossy();
    let shard = |k| [("NICMATRIX_SHARD", k), ("NICMATRIX_DIR", &*own)];
    let none = [
        "shard 1/9999 has none of the 1 trials",
        "0 passed, 0 failed",
    ];
    refused(&["--exact", TRIAL], &shard("1/9999"), 0, &none);
    let nearest = ["matches none of the", "ping_sweep"];
    refused(&["ping_swep"], &shard("1/9999"), 2, &nearest);
    // Filters that are settings, as `cargo xtask matrix` gives them, choose what the shards share out: the
    // first takes the one trial.
    let filtered = |filter| {
        let [k, own] = shard("2/9999");
        [k, own, ("NICMATRIX_FILTER", filter)]
    };
    let other = "shard 2/9999 has none of the 1 trials";
    refused(&[], &filtered(TRIAL), 0, &[other, none[1]]);
    refused(&[], &filtered("driver,ping_swep"), 2, &nearest);
}

#[test]
fn under_nextest_a_process_answers_for_its_own_trials_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let run = directory.path().join("runs/shared");
    fs::create_dir_all(&run).expect("made");
    // Another process's trial is under way.
    let other = "{\"event\":\"trial_started\",\"trial\":\"driver::virtio::rhel9::tap\"}\n";
    fs::write(run.join("events.jsonl"), other).expect("written");
    let own = directory.path().to_string_lossy();
    let path = matrix_with(directory.path(), EXCLUDES);
    let nextest = [
        ("NICMATRIX_DIR", &*own),
        ("NICMATRIX_MATRIX", &path),
        ("NEXTEST", "1"),
        ("NEXTEST_RUN_ID", "shared"),
    ];
    let excluded = ["--exact", EXCLUDED, "--nocapture"];
    refused(&excluded, &nextest, 0, &["ignored"]);
}

#[test]
fn a_model_that_qemu_lacks_is_a_skip_with_the_reason() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = changed_matrix(
        directory.path(),
        "device = \"e1000e\"",
        "device = \"e1000z\"",
    );
    let own = directory.path().to_string_lossy();
    let variables = [("NICMATRIX_MATRIX", &*path), ("NICMATRIX_DIR", &own)];
    let reason = ["has no device model e1000z", "0 passed", "1 skipped"];
    refused(
        &["--exact", "driver::e1000e::rhel9::tap"],
        &variables,
        0,
        &reason,
    );
}

/// Runs a trial that expectations speak of, with these further variables; fails unless it ends with `code`
/// and these words.
fn expected(
    own: &Own,
    entries: &str,
    trial: &str,
    more: &[(&str, &str)],
    code: i32,
    words: &[&str],
) {
    let path = matrix_with(own.directory.path(), entries);
    let mut variables = vec![("NICMATRIX_DIR", &*own.dir), ("NICMATRIX_MATRIX", &*path)];
    variables.extend(more);
    refused(&["--exact", trial], &variables, code, words);
    let log = Path::new(&own.dir).join("runs/latest/events.jsonl");
    let results = report::read(&log).expect("the log");
    let junit = fs::read_to_string(log.with_file_name("junit.xml"));
    let [ended] = &results.trials[..] else {
        panic!("{:?}", results.trials)
    };
    if let (Some(expectation), Ok(junit)) = (&ended.end.expectation, junit) {
        expect_words(&junit, &["name=\"expectation\"", &expectation.reason]);
    }
}

/// The case `driver` passes on an e1000.
const PASSES: &str = "driver::e1000::rhel9::tap";
const TABLE: (&str, &str) = ("NICMATRIX_TABLE", "1");

#[test]
fn a_pass_where_a_failure_is_expected_is_fixed_and_with_strict_a_failure() {
    let own = Own::new();
    let entry =
        "[[expect]]\nnic = 'e1000'\ncase = 'driver'\nmessage = 'bound'\nreason = 'an old bug'";
    let fixed = ["0 passed, 0 failed, 1 fixed", "an old bug: driver::e1000"];
    expected(&own, entry, PASSES, &[TABLE], 0, &fixed);
    let strict = ("NICMATRIX_STRICT", "1");
    let failed = [
        "0 passed, 1 failed",
        "the trial passed, though",
        "an old bug",
    ];
    expected(&own, entry, PASSES, &[TABLE, strict], 1, &failed);
    // A bound that leaves this QEMU or kernel out.
    for bound in ["qemu = '<2'", "kernel = '<2'"] {
        let entry = format!("{entry}\n{bound}");
        expected(
            &own,
            &entry,
            PASSES,
            &[TABLE, strict],
            0,
            &["1 passed, 0 failed"],
        );
    }
    let sometimes = format!("{entry}\nsometimes = true");
    let words = ["1 passed, 0 failed", "now and then", "an old bug"];
    expected(&own, &sometimes, PASSES, &[TABLE, strict], 0, &words);
}

#[test]
fn a_failure_is_known_by_its_words_alone() {
    // Its device model is not the one of its driver, on any QEMU.
    const FAILS: &str = "driver::rtl8139::rhel9::tap";
    let own = Own::new();
    let known = |message: &str| {
        format!(
            "[[expect]]\nnic = 'rtl8139'\ncase = 'driver'\nmessage = {message:?}\n\
             reason = 'another driver'\nlink = 'https://example.org/1'\nuntil = 2020-01-01\n\
             [guests.rhel9.nics.rtl8139]\ndriver = '8139z'"
        )
    };
    let due = "https://example.org/1; due for another look since 2020-01-01";
    let words = ["0 passed, 0 failed, 1 known", "another driver", due];
    expected(&own, &known("8139z"), FAILS, &[TABLE], 0, &words);
    let nextest = [("NEXTEST", "1"), ("NICMATRIX_RUN", "known")];
    let nextest_words = ["is known to fail (another driver)"];
    expected(&own, &known("8139z"), FAILS, &nextest, 0, &nextest_words);
    let other = [
        "0 passed, 1 failed",
        "8139z",
        "expected   another failure, which says",
        "no such words",
    ];
    expected(&own, &known("no such words"), FAILS, &[TABLE], 1, &other);
}

#[test]
fn a_failure_that_is_repeated_is_solid_or_flaky_and_never_green() {
    const CONFIRM: (&str, &str) = ("NICMATRIX_CONFIRM", "2");
    let own = Own::new();
    let words = ["0 passed, 1 failed", "solid: failed 3 of 3 times"];
    let solid = "[guests.rhel9.nics.rtl8139]\ndriver = '8139z'";
    let fails = "driver::rtl8139::rhel9::tap";
    expected(&own, solid, fails, &[TABLE, CONFIRM], 1, &words);

    // The first VM gets another NIC, the later ones get theirs.
    let script = own.directory.path().join("qemu");
    let first = own.directory.path().join("first");
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in *' e1000,'*) if mkdir {} 2>/dev/null; then for a; do shift; \
         set -- \"$@\" \"$(echo \"$a\" | sed 's/^e1000,/rtl8139,/')\"; done; fi;; esac\n\
         exec qemu-system-x86_64 \"$@\"\n",
        first.display()
    );
    fs::write(&script, text).expect("written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("executable");
    let script = script.to_string_lossy();
    let qemu = ("NICMATRIX_QEMU", &*script);
    let (boot, pass) = (("NICMATRIX_BOOT", "1"), ("NICMATRIX_FLAKY_RESULT", "pass"));
    let flaky = ["0 passed, 1 flaky, 0 failed", "flaky: failed 1 of 3 times"];
    expected(&own, "", PASSES, &[TABLE, CONFIRM, qemu, boot], 1, &flaky);
    fs::remove_dir(&first).expect("the first VM was another");
    let all = [TABLE, CONFIRM, qemu, boot, pass];
    expected(&own, "", PASSES, &all, 0, &flaky);

    let retries = [CONFIRM, ("NICMATRIX_RETRIES", "1")];
    refused(&[], &retries, 2, &["both run a failed trial again"]);
    let nextest = [CONFIRM, ("NEXTEST", "1")];
    refused(&[], &nextest, 2, &["nextest has a process a trial"]);
}

#[test]
fn a_bad_property_is_said_with_its_line_and_qemus_words_before_anything_runs() {
    let directory = tempfile::tempdir().expect("a directory");
    let device = "[nics.virtio]\n";
    let bad = |lines: &str, words: &[&str]| {
        let path = changed_matrix(directory.path(), device, &format!("{device}{lines}\n"));
        refused(&[TRIAL], &[("NICMATRIX_MATRIX", &path)], 2, words);
        refused(&["--list"], &[("NICMATRIX_MATRIX", &path)], 2, words);
    };
    let unknown = [
        "matrix.toml:",
        "[nics.virtio]",
        "paked=on",
        "not found",
        "`packed`",
    ];
    bad("properties = [\"paked=on\"]", &unknown);
    bad(
        "properties = [\"vectors=many\"]",
        &["refuses `vectors=many`"],
    );
    bad(
        "machine_properties = [\"smm=maybe\"]",
        &["`machine_properties`", "maybe"],
    );
    bad(
        "properties = [\"packed\"]",
        &["`packed` is no property", "key=value"],
    );
}

#[test]
fn a_typo_in_a_setting_or_in_the_matrix_names_what_is_allowed() {
    let typo = |name, value, words: &[&str]| refused(&[], &[(name, value)], 2, words);
    typo("NICMATRIX_PROFILE", "smok", &["smok", "smoke"]);
    typo("NICMATRIX_ACCEL", "kmv", &["kmv", "kvm"]);
    typo("NICMATRIX_SHARD", "3/2", &["3/2", "K/N"]);
    typo("NICMATRIX_RETRIES", "-1", &["-1", "whole number"]);
    typo("NICMATRIX_MATRIX", "nowhere.toml", &["nowhere.toml"]);
    typo("NICMATRIX_PROFLIE", "full", &["PROFLIE", "`PROFILE`"]);
    typo("NICMATRIX_SETTINGS", "{", &["NICMATRIX_SETTINGS"]);
    let directory = tempfile::tempdir().expect("a directory");
    let path = changed_matrix(directory.path(), "[axes]", "[axes]\nnicc = []\n");
    typo("NICMATRIX_MATRIX", &path, &["matrix.toml:", "nicc", "nic"]);
}

#[test]
fn the_hidden_words_are_arguments_of_the_program_itself_alone() {
    let none = [
        ("nicmatrix/inside", "this is no lab"),
        ("nicmatrix/keeper", "expected a module"),
    ];
    for (hidden, words) in none {
        let output = nicmatrix(&[hidden]).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(words), "{said}");
        // libtest's filter
        refused(&[hidden], &[], 2, &["matches none of the"]);
    }
}

#[test]
fn the_program_is_its_own_keeper_of_vhost_net() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str| directory.path().join(name);
    // Written by a process of its own: one that this process has open for writing could be inherited by
    // another test's child, and then not be executed.
    let modprobe = r#"printf '#!/bin/sh\ncd "${0%%/*}"\necho "$*" >>calls\n[ "$1" = -r ] && exec rm parameter\necho "${2#*=}" >parameter\n' >modprobe; chmod +x modprobe"#;
    let made = Command::new("sh")
        .args(["-c", modprobe])
        .current_dir(&directory)
        .status();
    assert!(made.expect("it runs").success());
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("read");
    let found = format!(r#"{{"boot":"{}","value":"0"}}"#, boot.trim());
    fs::write(file("lock"), found).expect("written");
    fs::write(file("parameter"), "1\n").expect("written");
    let module = format!(
        r#"{{"modprobe":{:?},"parameter":{:?},"lock":{:?},"keeper":[]}}"#,
        file("modprobe"),
        file("parameter"),
        file("lock")
    );
    let output = nicmatrix(&["nicmatrix/keeper", &module]).output();
    let output = output.expect("it runs");
    assert!(output.status.success(), "{output:?}");
    let calls = fs::read_to_string(file("calls")).expect("read");
    assert_eq!(calls, "-r vhost_net\nvhost_net experimental_zcopytx=0\n");
}

#[test]
fn a_directory_that_cannot_be_written_is_said() {
    let directory = [("NICMATRIX_DIR", "/proc/nicmatrix")];
    refused(&[TRIAL], &directory, 3, &["/proc/nicmatrix"]);
}

/// Starts a trial, and looks at what it holds while its VM runs.
fn running(own: &Own) -> (Started, Traces) {
    let mut traces = Traces::before();
    let mut started = own.run(TRIAL, None);
    own.await_vm(&mut started, VM_RUNS);
    let processes = own.processes();
    let lines: Vec<_> = processes.iter().map(Process::line).collect();
    for program in ["qemu", "dnsmasq"] {
        let there = lines.iter().any(|line| line.contains(program));
        assert!(there, "there was no {program} to leave behind: {lines:?}");
    }
    let home = Process("/proc/self".into()).networks();
    let all: BTreeSet<_> = processes.iter().flat_map(Process::networks).collect();
    traces.networks = all.difference(&home).cloned().collect();
    assert!(
        !traces.networks.is_empty(),
        "the trial has no network of its own"
    );
    own.expect_own_files();
    (started, traces)
}

#[test]
fn sigkill_leaves_nothing() {
    let own = Own::with_own_checkpoints();
    let (mut started, traces) = running(&own);
    started.signal(Signal::SIGKILL);
    assert_eq!(started.ended_within(ENDS).signal(), Some(9));
    own.expect_gone(&traces);
}

#[test]
fn sigterm_ends_the_run_with_a_partial_report() {
    let own = Own::with_own_checkpoints();
    let (mut started, traces) = running(&own);
    started.signal(Signal::SIGTERM);
    let status = started.ended_within(ENDS);
    let said = own.said();
    assert_eq!(status.code(), Some(130), "{said}");
    assert!(
        said.contains(TRIAL) && said.contains("interrupted"),
        "{said}"
    );
    let junit = Path::new(&own.dir).join("runs/latest/junit.xml");
    let junit = fs::read_to_string(junit).expect("a partial report");
    assert!(junit.contains("type=\"interrupted\""), "{junit}");
    own.expect_gone(&traces);
}

#[test]
fn a_signal_ends_a_run_at_once_whose_trials_wait_for_a_slot() {
    // On one processor there is no slot for all of them; the run inherits it.
    let mut one = CpuSet::new();
    let all = sched_getaffinity(Pid::from_raw(0)).expect("asked");
    let first = (0..CpuSet::count()).find(|cpu| all.is_set(*cpu).is_ok_and(|set| set));
    one.set(first.expect("a processor")).expect("set");
    sched_setaffinity(Pid::from_raw(0), &one).expect("set");

    let own = Own::new();
    // Without those in a lab, which would come first and take minutes on one processor.
    let mut started = own.start(&["ping_sweep::", "--skip", "vhost"], None);
    own.await_vm(&mut started, VM_RUNS);
    started.signal(Signal::SIGINT);
    let status = started.ended_within(ENDS);
    assert_eq!(status.code(), Some(130), "{}", own.said());
    let junit = Path::new(&own.dir).join("runs/latest/junit.xml");
    let junit = fs::read_to_string(junit).expect("a partial report");
    for cut in ["while this trial ran", "before this trial began"] {
        assert!(junit.contains(cut), "no trial was cut off {cut}: {junit}");
    }
    let deadline = Instant::now() + ENDS;
    while let [process, ..] = own.processes().as_slice() {
        assert!(Instant::now() < deadline, "left behind: {}", process.line());
        std::thread::sleep(LOOK);
    }
}

/// Runs `driver` on a rhel9 guest that boots `kernel` and `initrd`; what was printed after it ended with `code`.
fn failed_boot(own: &Own, kernel: &Path, initrd: &str, code: i32) -> String {
    let table = format!("[guests.rhel9]\nkernel = {kernel:?}\ninitrd = {initrd:?}");
    let path = changed_matrix(own.directory.path(), "[guests.rhel9]", &table);
    let mut started = own.run("driver::virtio::rhel9::tap", Some(&path));
    let status = started.ended_within(TOLD);
    let said = own.said();
    assert_eq!(status.code(), Some(code), "{said}");
    said
}

#[test]
fn a_kernel_that_is_none_is_broken_with_qemus_words() {
    let said = failed_boot(&Own::new(), Path::new("/etc/passwd"), "/etc/passwd", 3);
    let facts = [
        "QEMU ended with exit status: 1",
        "stderr: ",
        "linux kernel too old",
    ];
    expect_words(&said, &facts);
}

#[test]
fn a_guest_that_panics_at_boot_fails_at_once_with_the_panic() {
    let own = Own::new();
    // A kernel may well be what is under test: a guest that does not boot is a failure of the trial.
    let said = failed_boot(&own, &own.kernel, "/etc/passwd", 1);
    let facts = ["console shows a panic", "Kernel panic - not syncing", "VFS"];
    expect_words(&said, &facts);
}
