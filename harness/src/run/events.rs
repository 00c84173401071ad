//! What happened, one JSON object a line in `events.jsonl`: all that a report may read.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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
    /// Of that, inside the case, seconds.
    pub case_seconds: f64,
    /// From QEMU's exec to the agent's first answer, seconds; none where no VM came up.
    pub boot_seconds: Option<f64>,
    /// Peak resident memory of the trial's VM, KiB.
    pub vm_peak_kib: Option<u64>,
    /// Things worth knowing that decide nothing, for example "guest is a stand-in".
    pub notes: Vec<String>,
    /// Last lines of the serial console; empty unless it failed.
    pub serial_tail: String,
    /// The artifact directory.
    pub artifacts: String,
    /// Command that runs it again.
    pub reproduce: String,
}
