//! A machine of a pipeline, and runs that its scripts read.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A directory in which scripts run, with a `cargo` that calls the xtask of this build.
pub struct Machine {
    pub dir: tempfile::TempDir,
}

/// `cargo --locked xtask …`, where runs of VMs, listings and installations are only noted.
const CARGO: &str = r#"#!/bin/sh
echo "$*" >> "$CALLS"
[ "$1 $2" = "--locked xtask" ] || { echo "unexpected: cargo $*" >&2; exit 99; }
shift 2
case "$1" in
  setup) exit 0 ;;
  matrix|ci) echo 'matrix={"include":[]}'; exit "${RUN_CODE:-0}" ;;
esac
exec "$XTASK" "$@"
"#;

impl Machine {
    pub fn new() -> Machine {
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine { dir };
        machine.program("cargo", CARGO);
        machine
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn program(&self, name: &str, script: &str) {
        let file = self.path("bin").join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, script).unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// Runs a script as GitHub (`bash -e`) and GitLab do; its exit code and what it printed.
    pub fn run(&self, script: &str, variables: &[(&str, &str)]) -> (i32, String) {
        let path = std::env::var("PATH").unwrap();
        let path = format!("{}:{path}", self.path("bin").display());
        let Output {
            status,
            stdout,
            stderr,
        } = Command::new("bash")
            .args(["-e", "-o", "pipefail", "-c", script])
            .current_dir(self.dir.path())
            .env("PATH", path)
            .env("XTASK", env!("CARGO_BIN_EXE_xtask"))
            .env("CALLS", self.path("calls"))
            .env("NICMATRIX_DIR", self.path("target/nicmatrix"))
            .env("GITHUB_OUTPUT", self.path("output"))
            .env("GITHUB_STEP_SUMMARY", self.path("summary.md"))
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let printed = String::from_utf8([stdout, stderr].concat()).unwrap();
        (status.code().unwrap(), printed)
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The calls of cargo since the last time.
    pub fn calls(&self) -> String {
        let calls = self.read("calls");
        let _ = fs::remove_file(self.path("calls"));
        calls
    }
}

/// Writes a run; with a shard `K/N` one of a plan that `merge` takes. `red` fails.
pub fn run_dir(dir: &Path, time: u32, shard: Option<(u32, u32)>, red: Option<&str>) {
    fs::create_dir_all(dir).unwrap();
    let trials: Vec<String> = (1..=4)
        .map(|i| format!("driver{i}::e1000::rhel9::tap"))
        .collect();
    let plan: String = trials.iter().map(|name| format!("{name}\n")).collect();
    let digest = sha256(&plan);
    let identity = serde_json::json!({
        "commit": "0123", "matrix_digest": "ab", "plan_digest": "cd",
        "shard": shard.map(|(k, n)| serde_json::json!({ "k": k, "n": n, "plan": digest })),
        "qemu": { "version": "7.2.22", "build": null }, "others": {},
        "host": { "processor": "P", "cores": 2, "accelerator": "TCG", "kernel": "6.1" },
    });
    let mut lines = vec![serde_json::json!({
        "event": "run_started", "schema": 2, "unix_time": time, "identity": identity, "faults": false,
        "properties": { "profile": "smoke" }, "settings": {}, "time": time,
    })];
    let mine = |i: usize| shard.is_none_or(|(k, n)| i as u32 % n == k - 1);
    for (_, trial) in trials.iter().enumerate().filter(|(i, _)| mine(*i)) {
        let case = trial.split("::").next().unwrap();
        let name = BTreeMap::from([
            ("trial", trial.as_str()),
            ("case", case),
            ("nic", "e1000"),
            ("guest", "rhel9"),
            ("backend", "tap"),
        ]);
        let with = |more: serde_json::Value| {
            let mut line = serde_json::json!(name);
            line.as_object_mut()
                .unwrap()
                .append(&mut more.as_object().unwrap().clone());
            line
        };
        lines.push(with(
            serde_json::json!({ "event": "planned", "plan_item": "5", "time": time }),
        ));
        let mut end = with(serde_json::json!({
            "event": "trial_ended", "verdict": "passed", "attempts": 1, "seconds": 3.0, "case_seconds": 1.0,
            "notes": [], "serial_tail": "", "artifacts": "", "reproduce": "", "time": time,
        }));
        if red == Some(trial) {
            end["verdict"] = "failed".into();
            end["message"] = "::error::lost 3 of 100\n::stop-commands::x".into();
        }
        lines.push(end);
    }
    lines.push(serde_json::json!({
        "event": "run_ended", "seconds": 9.0, "interrupted": false, "harness_peak_kib": 1, "time": time,
    }));
    let log: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(dir.join("events.jsonl"), log).unwrap();
    fs::write(dir.join("plan.txt"), plan).unwrap();
}

fn sha256(text: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("text");
    fs::write(&file, text).unwrap();
    let output = Command::new("sha256sum").arg(file).output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

/// No line that a pipeline would obey.
pub fn obeys_nothing(printed: &str) {
    let command = |line: &&str| line.trim_start().starts_with("::") || line.contains("##[");
    assert_eq!(printed.lines().find(command), None, "{printed}");
}
