//! What happened, one JSON object a line in `events.jsonl`: all that a report may read.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// How a trial ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Outcome {
    /// Every check held.
    Passed,
    /// Passed on a later try; `failures` are the earlier tries' messages. Never plainly a pass.
    Flaky {
        /// Messages of the tries that failed, in order.
        failures: Vec<String>,
    },
    /// A check of the NIC did not hold. In fault mode: the case stayed green, it is blind.
    Failed {
        /// First line: the cause in one sentence. Then the facts.
        message: String,
    },
    /// The harness could not do its work; says nothing of the NIC.
    Broken {
        /// As for `Failed`.
        message: String,
    },
    /// Not run, or not decidable, for this reason.
    Skipped {
        /// A true sentence.
        reason: String,
    },
    /// The run was interrupted before this trial ended.
    Interrupted,
}

/// One line of `events.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// First line of a run.
    RunStarted {
        /// Seconds since the epoch.
        unix_time: u64,
        /// QEMU version and path, accelerator, kernels, host, profile, stand-ins …
        properties: BTreeMap<String, String>,
        /// Whether cases run under their faults.
        faults: bool,
    },
    /// A trial of the plan that this run selected.
    Planned {
        /// The trial's full name.
        trial: String,
        /// Its case, with `!fault` where it runs under one.
        case: String,
        /// NIC model.
        nic: String,
        /// Guest.
        guest: String,
        /// Backend.
        backend: String,
        /// Items of the manual plan.
        plan_item: String,
    },
    /// A trial was begun.
    TrialStarted {
        /// The trial's full name.
        trial: String,
    },
    /// A trial ended.
    TrialEnded(TrialEnded),
    /// Last line of a run; absent after a kill.
    RunEnded {
        /// Wall time, seconds.
        seconds: f64,
        /// Whether a signal ended it.
        interrupted: bool,
        /// Peak resident memory of the harness, KiB.
        harness_peak_kib: u64,
        /// Processor time of the harness and of all its children that ended, since the run began,
        /// seconds; none in logs of earlier versions.
        cpu_seconds: Option<f64>,
        /// Processors that it could use; none in logs of earlier versions.
        processors: Option<usize>,
    },
}

/// How one trial went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrialEnded {
    /// The trial's full name.
    pub trial: String,
    /// Verdict.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Tries made.
    pub attempts: u32,
    /// Wall time of all tries, seconds.
    pub seconds: f64,
    /// Processor time of the trial's thread and children, all tries, seconds; none where it was not
    /// measured.
    pub cpu_seconds: Option<f64>,
    /// How long its VM's threads stood ready with no processor free for them, summed, seconds; none
    /// where it was not measured.
    pub queued_seconds: Option<f64>,
    /// Of the wall time, inside the case, seconds.
    pub case_seconds: f64,
    /// The host, where it was not this machine itself, and what guests run under there: "lab, Linux
    /// 6.1.0-56-amd64, …, guests under KVM".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// From exec to the first word of the lab that this trial started, seconds; in `seconds` as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lab_start_seconds: Option<f64>,
    /// What the guest was started from: "warm NIC", "cold driver" or "boot"; none where no VM came up.
    #[serde(default)]
    pub start: Option<String>,
    /// From QEMU's exec to the agent's first answer, seconds; none where no VM came up.
    pub boot_seconds: Option<f64>,
    /// From QEMU's exec to the first ping answered, of a guest restored with its NIC up, seconds.
    #[serde(default)]
    pub first_ping_seconds: Option<f64>,
    /// Peak resident memory of the trial's VM, KiB.
    pub vm_peak_kib: Option<u64>,
    /// What was measured; empty for most cases, and in logs of earlier versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub figures: Vec<Figure>,
    /// Things worth knowing that decide nothing, for example "guest is a stand-in".
    pub notes: Vec<String>,
    /// Last lines of the serial console; empty unless it failed.
    pub serial_tail: String,
    /// The artifact directory.
    pub artifacts: String,
    /// Command that runs it again.
    pub reproduce: String,
}

impl TrialEnded {
    /// Of a trial of which nothing was measured: a skip, or one that never ended.
    pub fn unmeasured(trial: String, outcome: Outcome) -> TrialEnded {
        TrialEnded {
            trial,
            outcome,
            attempts: 0,
            seconds: 0.0,
            cpu_seconds: None,
            queued_seconds: None,
            case_seconds: 0.0,
            host: None,
            lab_start_seconds: None,
            start: None,
            boot_seconds: None,
            first_ping_seconds: None,
            vm_peak_kib: None,
            figures: Vec::new(),
            notes: Vec::new(),
            serial_tail: String::new(),
            artifacts: String::new(),
            reproduce: String::new(),
        }
    }
}

/// A figure for comparison with other runs; it decides nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// netperf's name of the test.
    pub test: String,
    /// Bytes of a message, where it was given.
    pub size: Option<u32>,
    /// Bytes of request and response, where they were given.
    pub transaction: Option<(u32, u32)>,
    /// Who ran netperf.
    pub sender: String,
    /// Who ran netserver.
    pub receiver: String,
    /// What was measured, of a UDP stream what was received.
    pub value: f64,
    /// "10^6bits/s" or "Trans/s".
    pub unit: String,
    /// How long it was measured for.
    pub seconds: f64,
    /// What reached the receiver.
    pub received_bytes: u64,
    /// Whether no other trial ran meanwhile: only then it is worth comparing.
    pub alone: bool,
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.test)?;
        if let Some(size) = self.size {
            write!(f, ", {size} bytes")?;
        }
        if let Some((request, response)) = self.transaction {
            write!(f, ", {request} and {response} bytes")?;
        }
        write!(
            f,
            ", {} to {}: {:.2} {} in {:.2} s",
            self.sender, self.receiver, self.value, self.unit, self.seconds
        )?;
        f.write_str(if self.alone {
            ""
        } else {
            ", beside other trials"
        })
    }
}

/// The event log's name in a run's directory.
pub const FILE: &str = "events.jsonl";

/// The open `events.jsonl` of a run. Threads may share one, and processes may each have their own
/// on the same file.
#[derive(Debug)]
pub struct EventLog {
    file: File,
    path: PathBuf,
}

impl EventLog {
    /// Opens [`FILE`] in `dir`, making it where there is none yet.
    ///
    /// # Errors
    /// A directory that cannot be written to.
    pub fn create(dir: &Path) -> io::Result<EventLog> {
        let path = dir.join(FILE);
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        Ok(EventLog { file, path })
    }

    /// Adds one line, by one write(2): lines of several processes do not mix, and what was
    /// appended outlives a SIGKILL.
    ///
    /// # Errors
    /// A line that was not written, or not all of it.
    pub fn append(&self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        // A file takes less than all of it only where the disk is full.
        match (&self.file).write(&line)? {
            written if written < line.len() => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    /// Where the log is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// How every line begins. It cannot occur inside a JSON string, whose quotes are escaped.
const LINE_START: &[u8] = b"{\"event\":";

/// Reads an event log.
///
/// A last line that was cut is left out: its writer was killed. So is the beginning of a line
/// that another process's line follows directly, for the same reason. Any other line that is no
/// event is an error that names it.
pub fn read(path: &Path) -> Result<Vec<Event>> {
    let bytes = std::fs::read(path)
        .with_context(|| format!("cannot read events from {}", path.display()))?;
    let mut events = Vec::new();
    for (index, line) in bytes.split_inclusive(|&b| b == b'\n').enumerate() {
        let cut = !line.ends_with(b"\n");
        let last_start = line
            .windows(LINE_START.len())
            .rposition(|window| window == LINE_START);
        let event = serde_json::from_slice(line).or_else(|error| match last_start {
            Some(start) if start > 0 => serde_json::from_slice(&line[start..]),
            _ => Err(error),
        });
        match event {
            Ok(event) => events.push(event),
            Err(_) if cut => {}
            Err(error) => bail!(
                "{}:{}: not an event: {error}; the line is: {}",
                path.display(),
                index + 1,
                String::from_utf8_lossy(&line[..line.len().min(200)])
            ),
        }
    }
    Ok(events)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn started(trial: &str) -> Event {
        Event::TrialStarted {
            trial: trial.into(),
        }
    }

    /// 10 s alone.
    pub(crate) fn figure() -> Figure {
        Figure {
            test: "UDP_STREAM".into(),
            size: Some(32),
            transaction: None,
            sender: "host".into(),
            receiver: "guest".into(),
            value: 1.5,
            unit: "10^6bits/s".into(),
            seconds: 10.0,
            received_bytes: 1_875_000,
            alone: true,
        }
    }

    fn ended(trial: &str) -> Event {
        Event::TrialEnded(TrialEnded {
            trial: trial.into(),
            outcome: Outcome::Flaky {
                failures: vec!["lost {\"event\":\"x\"}\n3 of 10".into()],
            },
            attempts: 2,
            seconds: 3.25,
            cpu_seconds: Some(2.5),
            queued_seconds: Some(0.25),
            case_seconds: 1.5,
            boot_seconds: None,
            host: None,
            lab_start_seconds: None,
            start: Some("warm NIC".into()),
            first_ping_seconds: Some(0.1),
            vm_peak_kib: Some(90_000),
            figures: vec![figure()],
            notes: vec!["guest is a stand-in".into()],
            serial_tail: "\u{1b}[0m\0 ]]> ✓".into(),
            artifacts: "target/a".into(),
            reproduce: "cargo xtask repro a".into(),
        })
    }

    fn log_with(events: &[Event]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let log = EventLog::create(dir.path()).unwrap();
        for event in events {
            log.append(event).unwrap();
        }
        let path = log.path().to_owned();
        (dir, path)
    }

    #[test]
    fn what_is_appended_is_read_back() {
        let events = vec![
            Event::RunStarted {
                unix_time: 1,
                properties: [("qemu".to_string(), "7.2".to_string())].into(),
                faults: true,
            },
            started("a"),
            ended("a"),
            Event::RunEnded {
                seconds: 4.5,
                interrupted: false,
                harness_peak_kib: 7,
                cpu_seconds: Some(8.25),
                processors: Some(2),
            },
        ];
        let (_dir, path) = log_with(&events);
        assert_eq!(read(&path).unwrap(), events);
    }

    #[test]
    fn a_log_without_processor_times_is_read() {
        let (_dir, path) = log_with(&[]);
        let earlier = concat!(
            r#"{"event":"trial_ended","trial":"a","verdict":"passed","attempts":1,"seconds":3.5,"#,
            r#""case_seconds":0.5,"boot_seconds":2.25,"vm_peak_kib":180000,"notes":[],"#,
            r#""serial_tail":"","artifacts":"a","reproduce":"r"}"#,
            "\n",
            r#"{"event":"run_ended","seconds":4.0,"interrupted":false,"harness_peak_kib":15000}"#,
            "\n",
        );
        std::fs::write(&path, earlier).unwrap();
        let none = |event: &Event| match event {
            Event::TrialEnded(end) => end.cpu_seconds.is_none(),
            Event::RunEnded {
                cpu_seconds,
                processors,
                ..
            } => cpu_seconds.is_none() && processors.is_none(),
            _ => false,
        };
        let events = read(&path).unwrap();
        assert!(events.len() == 2 && events.iter().all(none), "{events:?}");
    }

    #[test]
    fn a_cut_last_line_is_left_out_wherever_it_is_cut() {
        let (_dir, path) = log_with(&[started("a"), ended("a")]);
        let whole = std::fs::read(&path).unwrap();
        let first = whole.iter().position(|&b| b == b'\n').unwrap() + 1;
        for cut in first..whole.len() - 1 {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(read(&path).unwrap(), [started("a")], "cut at byte {cut}");
        }
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert_eq!(read(&path).unwrap(), [started("a"), ended("a")]);
    }

    #[test]
    fn a_line_after_a_killed_writers_half_line_is_kept() {
        let (_dir, path) = log_with(&[ended("a")]);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        EventLog::create(path.parent().unwrap())
            .unwrap()
            .append(&ended("b"))
            .unwrap();
        assert_eq!(read(&path).unwrap(), [ended("b")]);
    }

    #[test]
    fn another_bad_line_is_named() {
        let (_dir, path) = log_with(&[started("a")]);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend(b"{\"event\":\"trial_begun\",\"trial\":\"b\"}\n");
        std::fs::write(&path, bytes).unwrap();
        let error = format!("{:#}", read(&path).unwrap_err());
        assert!(error.contains("events.jsonl:2: not an event"), "{error}");
        assert!(error.contains("trial_begun"), "{error}");
    }

    #[test]
    fn writers_side_by_side_do_not_mix_their_lines() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for name in ["a", "b", "c", "d"] {
                let log = EventLog::create(dir.path()).unwrap();
                scope.spawn(move || (0..50).for_each(|_| log.append(&ended(name)).unwrap()));
            }
        });
        assert_eq!(read(&dir.path().join("events.jsonl")).unwrap().len(), 200);
    }

    #[test]
    fn a_log_that_cannot_be_written_says_so() {
        assert!(EventLog::create(Path::new("/proc/nowhere")).is_err());

        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/full", dir.path().join("events.jsonl")).unwrap();
        let log = EventLog::create(dir.path()).unwrap();
        let error = log.append(&started("a")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
