//! What a host does to a run says nothing of a NIC: the trial is broken and the exit code 3, never 0, 1 or a panic.

use super::own::{self, ENDS, LOOK, Own, Process, Started, expect_words};
use harness::base::cgroup;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const TRIAL: &str = "driver::virtio::rhel9::tap";
/// One that runs for some seconds.
const LONG: &str = "ping_sweep::virtio::rhel9::tap";
/// From exec to a VM that takes commands, on a loaded host too.
const VM_RUNS: Duration = Duration::from_secs(120);
/// A trial takes some seconds, on a loaded host more.
const TRIAL_ENDS: Duration = Duration::from_secs(240);

/// How long a VM gets no processor: a ping gives up waiting for a reply after 12 s.
const STARVES: Duration = Duration::from_secs(40);

/// Runs a trial by the shell commands `before`, and `"$@"` behind them.
fn under(own: &Own, trial: &str, before: &str) -> Started {
    let plain = own::matrix(&["--exact", trial], &[("NICMATRIX_DIR", &own.dir)]);
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{before} \"$@\""), "sh"]);
    command.arg(plain.get_program()).args(plain.get_args());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("TMPDIR", &own.tmp).stdin(Stdio::null());
    command.stdout(fs::File::create(own.file("stdout")).expect("made"));
    command.stderr(fs::File::create(own.file("stderr")).expect("made"));
    Started {
        child: command.spawn().expect("it starts"),
    }
}

/// Waits for an end as of a host that could not run the trial, with those words.
fn expect_broken(own: &Own, started: &mut Started, words: &[&str]) {
    let status = started.ended_within(TRIAL_ENDS);
    let said = own.said();
    assert_eq!(status.code(), Some(3), "{status}: {said}");
    assert!(!said.contains("panicked"), "{said}");
    expect_words(&said, words);
}

#[test]
fn too_few_descriptors_are_the_hosts() {
    // The fewer, the earlier they are used up: before the run, at a VM's start, within a trial.
    for most in [20, 24, 28, 32, 40, 48] {
        let own = Own::with_own_checkpoints();
        let mut started = under(&own, TRIAL, &format!("ulimit -n {most}; exec"));
        let status = started.ended_within(TRIAL_ENDS);
        let said = own.said();
        assert!(!said.contains("panicked"), "{most}: {said}");
        match status.code() {
            // It was enough.
            Some(0) => assert!(most > 40, "{most}: {said}"),
            code => {
                assert_eq!(code, Some(3), "{most}: {said}");
                assert!(said.contains("Too many open files"), "{most}: {said}");
            }
        }
    }
}

#[test]
fn a_disk_that_is_full_is_the_hosts() {
    // The less room, the earlier it is used up: by the event log, a VM's transcripts, a report.
    for kib in [4, 8, 12, 24] {
        let own = Own::new();
        let runs = Path::new(&own.dir).join("runs");
        fs::create_dir_all(&runs).expect("made");
        let mount = format!("mount -t tmpfs -o size={kib}k tmpfs {}", runs.display());
        let script = format!("{mount} && exec");
        let flags = match nix::unistd::geteuid().is_root() {
            true => "-m",
            false => "-Urm",
        };
        let before = format!("exec unshare {flags} sh -c '{script} \"$@\"' sh");
        let mut started = under(&own, TRIAL, &before);
        let status = started.ended_within(TRIAL_ENDS);
        let said = own.said();
        assert!(!said.contains("panicked"), "{kib}: {said}");
        assert_eq!(status.code(), Some(3), "{kib}: {said}");
        assert!(said.contains("No space left"), "{kib}: {said}");
    }
}

/// The run's QEMU.
fn qemu(own: &Own) -> Pid {
    let is_vm = |process: &Process| process.line().contains("-name nicmatrix ");
    let found = own.processes().into_iter().find(is_vm);
    let Process(path) = found.expect("a VM runs");
    let name = path.file_name().expect("/proc/PID").to_string_lossy();
    Pid::from_raw(name.parse().expect("a number"))
}

#[test]
fn a_qemu_that_is_killed_is_the_hosts() {
    for (signal, words) in [
        (Signal::SIGKILL, "(SIGKILL), from outside: "),
        (Signal::SIGTERM, "from outside: by signal 15"),
    ] {
        let own = Own::new();
        let mut started = own.run(LONG, None);
        own.await_vm(&mut started, VM_RUNS);
        kill(qemu(&own), signal).expect("sent");
        expect_broken(&own, &mut started, &[words, "0 passed, 0 failed, 1 broken"]);
    }
}

/// A group of processes below this one's that together get a thousandth of one processor; removed when it is
/// dropped.
struct Throttled(PathBuf);

impl Throttled {
    /// Why it cannot be made, where that is so.
    fn new() -> Result<Throttled, String> {
        let groups = cgroup::of_process("cpu");
        let own = groups
            .directories
            .first()
            .ok_or("there are no groups for cpu")?;
        let made = Throttled(own.join(format!("nicmatrix-test-{}", std::process::id())));
        let write = |file: &str, text: &str| fs::write(made.0.join(file), text);
        // Of a period, microseconds: the least and the most that the kernel takes.
        let (quota, period) = ("1000", "1000000");
        fs::create_dir(&made.0)
            .and_then(|()| match groups.first_version {
                true => write("cpu.cfs_period_us", period)
                    .and_then(|()| write("cpu.cfs_quota_us", quota)),
                false => write("cpu.max", &format!("{quota} {period}")),
            })
            .map_err(|error| format!("{}: {error}", made.0.display()))?;
        Ok(made)
    }
}

impl Throttled {
    fn lift(&self) {
        let lifted = match self.0.join("cpu.max").exists() {
            true => fs::write(self.0.join("cpu.max"), "max"),
            false => fs::write(self.0.join("cpu.cfs_quota_us"), "-1"),
        };
        lifted.expect("lifted");
    }
}

impl Drop for Throttled {
    fn drop(&mut self) {
        // Where a test fails, its VM is still ending.
        let deadline = Instant::now() + TRIAL_ENDS;
        while fs::remove_dir(&self.0).is_err() && Instant::now() < deadline {
            std::thread::sleep(LOOK);
        }
    }
}

#[test]
fn a_vm_that_gets_no_processor_says_nothing_of_its_nic() {
    let throttled = match Throttled::new() {
        Ok(throttled) => throttled,
        Err(why) => return report::errln!("skipped: no VM can be throttled here: {why}"),
    };
    let own = Own::new();
    let mut started = own.run(LONG, None);
    own.await_vm(&mut started, VM_RUNS);
    fs::write(throttled.0.join("cgroup.procs"), qemu(&own).to_string()).expect("moved");
    let until = Instant::now() + STARVES;
    let ended = |started: &mut Started| started.child.try_wait().expect("it can be waited for");
    while ended(&mut started).is_none() && Instant::now() < until {
        std::thread::sleep(LOOK);
    }
    throttled.lift();
    let status = started.ended_within(TRIAL_ENDS);
    let said = own.said();
    match status.code() {
        Some(0) => {}
        code => {
            assert_eq!(code, Some(3), "{said}");
            expect_words(&said, &["the host gave the VM", "% of a processor"]);
        }
    }
}

#[test]
fn a_run_goes_by_any_path_and_locale_and_without_a_home() {
    let own = Own::called(&format!("a, b \"c\" 'd' ü%s=; {}", "x".repeat(200)));
    // It serves files by TFTP, saves and restores guests.
    let trial = "pxe::virtio::rhel6::tap";
    let bare = "exec env -u HOME -u TERM LC_ALL=tr_TR.UTF-8 LANG=tr_TR.UTF-8";
    let mut started = under(&own, trial, bare);
    let status = started.ended_within(TRIAL_ENDS);
    assert_eq!(status.code(), Some(0), "{}", own.said());
    expect_words(&own.said(), &["1 passed"]);
}

#[test]
fn a_terminal_that_is_closed_ends_the_run_unless_it_was_told_not_to_heed_it() {
    let own = Own::new();
    let mut started = own.run(LONG, None);
    own.await_vm(&mut started, VM_RUNS);
    started.signal(Signal::SIGHUP);
    let status = started.ended_within(ENDS);
    assert_eq!(status.code(), Some(130), "{}", own.said());
    expect_words(&own.said(), &["interrupted"]);

    let own = Own::new();
    let mut started = under(&own, TRIAL, "exec nohup");
    own.await_vm(&mut started, VM_RUNS);
    started.signal(Signal::SIGHUP);
    let status = started.ended_within(TRIAL_ENDS);
    assert_eq!(status.code(), Some(0), "{}", own.said());
}

#[test]
fn a_second_ctrl_c_ends_the_run_at_once() {
    let own = Own::new();
    // It cannot write its report, for which it waits at the first.
    let report = own.file("junit");
    nix::unistd::mkfifo(&report, nix::sys::stat::Mode::S_IRWXU).expect("made");
    let mut command = own::matrix(&["--exact", LONG], &[("NICMATRIX_DIR", &own.dir)]);
    command
        .env("NICMATRIX_JUNIT", &report)
        .env("TMPDIR", &own.tmp);
    command.process_group(0);
    let mut started = Started {
        child: command.spawn().expect("it starts"),
    };
    own.await_vm(&mut started, VM_RUNS);
    started.signal(Signal::SIGINT);
    let ended = Path::new(&own.dir).join("runs/latest/events.jsonl");
    let deadline = Instant::now() + ENDS;
    let closes = || fs::read_to_string(&ended).is_ok_and(|log| log.contains("run_ended"));
    while !closes() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(LOOK);
    }
    let running = started.child.try_wait().expect("it can be waited for");
    assert!(running.is_none(), "it waits for its report");
    started.signal(Signal::SIGINT);
    assert_eq!(started.ended_within(ENDS).code(), Some(130));
}
