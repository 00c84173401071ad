//! What happened, one JSON object a line in `events.jsonl`: all that a report may read.
//!
//! `docs/events.md` says how readers and writers of different versions get along;
//! `docs/events.schema.json` is made of these types.

use crate::expectation::Expectation;
use crate::identity::Identity;
use crate::name::TrialName;
use crate::repeats::Repeats;
use crate::text::first_line;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// The version of the events' schema. It goes up when an older reader would misread a log; an
/// added field or kind of event leaves it as it is.
pub const SCHEMA: u32 = 2;

/// A line of `events.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Line {
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
    /// When it was written, seconds since the epoch, to the millisecond; none in logs before schema 1.
    #[serde(default)]
    pub time: Option<f64>,
}

/// How a trial ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Outcome {
    /// Every check held.
    Passed,
    /// Failed on one try and passed on another: never plainly a pass.
    Flaky {
        /// Messages of the tries that failed, in order.
        failures: Vec<String>,
    },
    /// A check of the NIC did not hold. In fault mode: the case stayed green, it is blind.
    Failed {
        /// First line: the cause in one sentence. Then the facts.
        message: String,
    },
    /// A check of the NIC did not hold, as the matrix file expects: no failure of the run.
    Known {
        /// As for `Failed`.
        message: String,
        /// Why it is so, in the matrix file's words.
        reason: String,
        /// Where there is more about it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        link: Option<String>,
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

impl Outcome {
    /// The verdict, as in the events.
    pub fn verdict(&self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Flaky { .. } => "flaky",
            Outcome::Failed { .. } => "failed",
            Outcome::Known { .. } => "known",
            Outcome::Broken { .. } => "broken",
            Outcome::Skipped { .. } => "skipped",
            Outcome::Interrupted => "interrupted",
        }
    }

    /// The verdict's reason on one line; empty for a verdict without one.
    pub(crate) fn cause(&self) -> String {
        match self {
            Outcome::Passed | Outcome::Interrupted => String::new(),
            Outcome::Flaky { failures } => first_line(failures.last().map_or("", String::as_str)),
            Outcome::Failed { message }
            | Outcome::Known { message, .. }
            | Outcome::Broken { message } => first_line(message),
            Outcome::Skipped { reason } => first_line(reason),
        }
    }

    /// The verdict in a word, so that tables are readable without colours. Under a fault a pass is
    /// `red` (the case saw the breakage) and a failure is `BLIND`.
    pub(crate) fn word(&self, fault: bool) -> &'static str {
        match self {
            Outcome::Passed if fault => "red",
            Outcome::Passed => "ok",
            Outcome::Flaky { .. } => "flaky",
            Outcome::Failed { .. } if fault => "BLIND",
            Outcome::Failed { .. } => "FAIL",
            Outcome::Known { .. } => "known",
            Outcome::Broken { .. } => "BROKEN",
            Outcome::Skipped { .. } => "skip",
            Outcome::Interrupted => "cut",
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(
    clippy::large_enum_variant,
    reason = "a third of all events are the largest"
)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// First line of a run.
    RunStarted {
        /// The version of the schema that the writer knew; 0 in logs from before there was one.
        #[serde(default)]
        schema: u32,
        /// When the run began, seconds since the epoch.
        unix_time: u64,
        /// What was run, on what and where; none in logs before schema 1.
        #[serde(default)]
        identity: Option<Box<Identity>>,
        /// QEMU version and path, accelerator, kernels, host, profile, stand-ins …
        properties: BTreeMap<String, String>,
        /// The conditions that were not the defaults, each as the flag is named (`allow_module_reload`); a
        /// path below the workspace's root is meant from there. None in logs of before they were recorded.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        settings: Option<BTreeMap<String, Value>>,
        /// Which trials of the plan were asked for, each as the flag is named (`nic`); empty for all of them.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        only: BTreeMap<String, Value>,
        /// Whether cases run under their faults.
        faults: bool,
    },
    /// A trial of the plan that this run selected.
    Planned {
        /// The trial's full name.
        trial: String,
        /// Its parts.
        #[serde(flatten)]
        name: TrialName,
        /// Items of the manual plan.
        plan_item: String,
    },
    /// A trial was begun.
    TrialStarted {
        /// The trial's full name.
        trial: String,
        /// Its parts.
        #[serde(flatten)]
        name: TrialName,
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
        /// Of that, the harness's own threads, seconds; none in logs of earlier versions.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        harness_cpu_seconds: Option<f64>,
        /// Of that, the labs, with all trials in them, seconds; none in logs of earlier versions.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        labs_cpu_seconds: Option<f64>,
        /// Processors that it could use; none in logs of earlier versions.
        processors: Option<usize>,
    },
    /// An event of a kind that this version does not know; it is never written.
    #[serde(other, skip_serializing)]
    #[cfg_attr(test, schemars(skip))]
    Unknown,
}

impl Event {
    /// The full name and the parts of the trial that it is about.
    pub(crate) fn trial_mut(&mut self) -> Option<(&str, &mut TrialName)> {
        match self {
            Event::Planned { trial, name, .. } | Event::TrialStarted { trial, name } => {
                Some((trial, name))
            }
            Event::TrialEnded(end) => Some((&end.trial, &mut end.name)),
            Event::RunStarted { .. } | Event::RunEnded { .. } | Event::Unknown => None,
        }
    }
}

/// How one trial went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TrialEnded {
    /// The trial's full name.
    pub trial: String,
    /// Its parts.
    #[serde(flatten)]
    pub name: TrialName,
    /// Verdict.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The expectation of the matrix file that applied, where one did and the trial was judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expectation: Option<Expectation>,
    /// How it ended when it ran again after its failure (`--confirm`); none where it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeats: Option<Repeats>,
    /// Tries made, without those repeats.
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
    /// Of the processor time, inside the case, seconds: that of the trial's thread, of the children that ended
    /// meanwhile, and of its VM; none where it was not measured, and in logs of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub case_cpu_seconds: Option<f64>,
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
    /// The end of a trial in which nothing was measured: a skip, or one that never ended.
    pub fn unmeasured(trial: String, outcome: Outcome) -> TrialEnded {
        TrialEnded {
            name: TrialName::parse_or_case(&trial),
            trial,
            outcome,
            expectation: None,
            repeats: None,
            attempts: 0,
            seconds: 0.0,
            cpu_seconds: None,
            queued_seconds: None,
            case_seconds: 0.0,
            case_cpu_seconds: None,
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
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
    /// Processor time of the guest's QEMU and of the vhost workers that serve it meanwhile, seconds; none
    /// in logs of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<f64>,
    /// Whether no other trial ran meanwhile: only then it is worth comparing.
    pub alone: bool,
}

impl Figure {
    /// "UDP_STREAM, 32 bytes, host to guest"
    pub fn what(&self) -> String {
        let size = self.size.map(|size| format!(", {size} bytes"));
        let transaction = (self.transaction)
            .map(|(request, response)| format!(", {request} and {response} bytes"));
        format!(
            "{}{}{}, {} to {}",
            self.test,
            size.unwrap_or_default(),
            transaction.unwrap_or_default(),
            self.sender,
            self.receiver
        )
    }

    /// Processor seconds of QEMU and vhost for each GiB that arrived; none where nothing did, or where it
    /// was not measured.
    pub fn cost(&self) -> Option<f64> {
        const GIB: f64 = (1 << 30) as f64;
        let cpu_seconds = self.cpu_seconds?;
        (self.received_bytes > 0).then(|| cpu_seconds / (self.received_bytes as f64 / GIB))
    }

    /// [`Figure::cost`] of a stream: what transactions cost is not a matter of bytes.
    pub fn cost_of_stream(&self) -> Option<f64> {
        self.cost().filter(|_| self.test.ends_with("_STREAM"))
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = self.what();
        let (value, unit, seconds) = (self.value, &self.unit, self.seconds);
        write!(f, "{what}: {value:.2} {unit} in {seconds:.2} s")?;
        if let Some(cost) = self.cost() {
            write!(f, ", {cost:.1} s of processor time a GiB")?;
        }
        f.write_str(match self.alone {
            true => "",
            false => ", beside other trials",
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

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
            cpu_seconds: Some(4.5),
            alone: true,
        }
    }

    /// Where the schema is kept.
    const SCHEMA_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/events.schema.json");

    #[test]
    fn the_schema_that_is_checked_in_is_that_of_the_types() {
        let settings = schemars::generate::SchemaSettings::draft2020_12().for_serialize();
        let mut schema = settings.into_generator().into_root_schema_for::<Line>();
        schema.insert("title".into(), "A line of events.jsonl".into());
        let mut schema = schema.to_value();
        // Otherwise the order depends on what else is built with serde_json.
        schema.sort_all_objects();
        let made = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::write(SCHEMA_FILE, &made).unwrap();
        }
        let kept = std::fs::read_to_string(SCHEMA_FILE).unwrap_or_default();
        assert!(
            kept == made,
            "docs/events.schema.json is not the schema of the types any more; renew it with \
             `UPDATE_SCHEMA=1 cargo test --package report schema`, and read in docs/events.md \
             whether SCHEMA goes up"
        );
    }
}
