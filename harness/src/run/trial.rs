//! One trial: on a thread of its own, under a deadline, judged.

use super::artifacts::Artifacts;
use super::context::Context;
use super::cpu;
use super::deadline;
use super::shell;
use crate::cases::{Fault, Moment, Start};
use crate::error::{CannotRun, Skip};
use crate::matrix::schema::Profile;
use crate::net::netperf;
use crate::plan::PlannedTrial;
use crate::testbed::Testbed;
use crate::vm::process::{Handle, SERIAL_LOG};
use crate::vm::serial;
use anyhow::{Context as _, anyhow};
use report::events::{Figure, Outcome, TrialEnded};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Lines of the serial console in a report.
const TAIL_LINES: usize = 30;
/// How long a trial whose VM was killed may take to notice.
const AFTER_KILL: Duration = Duration::from_secs(20);

/// One try of a trial.
struct Attempt {
    outcome: Outcome,
    /// Processor time of its thread and children; none of one that does not end.
    cpu: Option<Duration>,
    /// How long its VM was in the queue for a processor, where the kernel tells.
    queued: Option<Duration>,
    case: Duration,
    start: Option<Start>,
    boot: Option<Duration>,
    first_ping: Option<Duration>,
    peak_kib: Option<u64>,
    figures: Vec<Figure>,
    notes: Vec<String>,
    tail: String,
    artifacts: PathBuf,
    /// Whether the fault, if there is one, was reached.
    struck: bool,
}

/// Runs `trial`, again up to the set number of retries, and says how it went. Its artifacts go to a
/// directory in `run`.
pub fn run(trial: &PlannedTrial, context: &Arc<Context>, run: &Path) -> TrialEnded {
    let begun = Instant::now();
    let (mut cpu, mut queued) = (Duration::ZERO, Duration::ZERO);
    let (attempts, attempt) = tries(context.settings.retries, || {
        let attempt = guarded(trial, context, run);
        cpu += attempt.cpu.unwrap_or_default();
        queued += attempt.queued.unwrap_or_default();
        attempt
    });
    let bad = matches!(
        attempt.outcome,
        Outcome::Failed { .. } | Outcome::Broken { .. }
    );
    TrialEnded {
        trial: trial.name.clone(),
        name: trial.parts.clone(),
        attempts,
        seconds: begun.elapsed().as_secs_f64(),
        cpu_seconds: attempt.cpu.map(|_| cpu.as_secs_f64()),
        queued_seconds: attempt.queued.map(|_| queued.as_secs_f64()),
        case_seconds: attempt.case.as_secs_f64(),
        host: None,
        lab_start_seconds: None,
        start: attempt.start.map(|start| start.name().to_owned()),
        boot_seconds: attempt.boot.map(|d| d.as_secs_f64()),
        first_ping_seconds: attempt.first_ping.map(|d| d.as_secs_f64()),
        vm_peak_kib: attempt.peak_kib,
        figures: attempt.figures,
        notes: attempt.notes,
        serial_tail: if bad { attempt.tail } else { String::new() },
        artifacts: attempt.artifacts.display().to_string(),
        reproduce: context.settings.reproduce(&trial.name),
        outcome: attempt.outcome,
    }
}

/// Tries until one does not fail, at most `retries` times more; how many tries were made, and the
/// last of them. A pass after a failure is flaky.
fn tries(retries: u32, mut attempt: impl FnMut() -> Attempt) -> (u32, Attempt) {
    let mut failures = Vec::new();
    for made in 1.. {
        let last = attempt();
        match last.outcome {
            Outcome::Failed { message } if made <= retries => failures.push(message),
            Outcome::Passed if !failures.is_empty() => {
                let outcome = Outcome::Flaky { failures };
                return (made, Attempt { outcome, ..last });
            }
            _ => return (made, last),
        }
    }
    unreachable!("the tries are numbered without end")
}

/// How long the profile's figures make a case, beyond [`deadline::TRIAL`]: the sweep's slowest
/// interval and replies, a flood of 12 sizes at a millisecond an echo, two unplugs a cycle, a
/// migration, a file that is made, hashed and sent both ways.
fn allowance(profile: &Profile) -> Duration {
    let seconds = f64::from(profile.ping_count) * 12.0 * 0.3
        + f64::from(profile.flood_count) * 12.0 * 0.01
        + f64::from(profile.hotplug_cycles) * 30.0
        + f64::from(profile.migrations) * 30.0
        + f64::from(profile.promisc_seconds)
        + f64::from(profile.transfer_mib) * deadline::TRANSFER_MIB * 4.0
        + f64::from(profile.netperf_seconds.unwrap_or(0)) * netperf::LONGEST;
    Duration::from_secs_f64(seconds * deadline::speed())
}

/// One try on a thread of its own (its network namespace and its children end with it), watched.
fn guarded(trial: &PlannedTrial, context: &Arc<Context>, run: &Path) -> Attempt {
    let (sender, receiver) = mpsc::channel();
    let vm: Arc<Mutex<Option<Handle>>> = Arc::default();
    let (theirs, shared, handle) = (trial.clone(), context.clone(), vm.clone());
    let run = run.to_owned();
    let spawned = std::thread::Builder::new()
        .name(trial.name.clone())
        .spawn(move || {
            let mut attempt = attempt(&theirs, &shared, &run, |started| {
                *handle.lock().unwrap_or_else(|p| p.into_inner()) = Some(started);
            });
            // The testbed is gone, and its children with it.
            (attempt.cpu, attempt.queued) = (Some(cpu::of_thread()), cpu::queued());
            // The receiver is gone only when the harness ends.
            let _ = sender.send(attempt);
        });
    let thread = match spawned {
        Ok(thread) => thread,
        Err(error) => return broken(format!("cannot start a thread for the trial: {error}")),
    };
    // A person at the console has all the time in the world.
    let limit = match context.settings.shell {
        true => None,
        false => {
            let runs = 1 + u32::from(trial.after.is_some());
            Some(deadline::TRIAL.start_with(allowance(&context.profile) * runs))
        }
    };
    let received = match &limit {
        None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
        Some(limit) => receiver.recv_timeout(limit.span()),
    };
    let mut attempt = match (received, limit) {
        (Ok(attempt), _) => attempt,
        (Err(RecvTimeoutError::Timeout), Some(limit)) => {
            if let Some(handle) = &*vm.lock().unwrap_or_else(|p| p.into_inner()) {
                handle.kill();
            }
            let late = limit.missed("its VM was killed").to_string();
            match receiver.recv_timeout(AFTER_KILL) {
                Ok(attempt) => {
                    let was = match &attempt.outcome {
                        Outcome::Failed { message } | Outcome::Broken { message } => {
                            message.clone()
                        }
                        other => format!("{other:?}"),
                    };
                    Attempt {
                        outcome: Outcome::Failed {
                            message: format!("{late}; it was at: {was}"),
                        },
                        ..attempt
                    }
                }
                // The thread is left behind; its children end with the harness.
                Err(_) => return broken(format!("{late}, and the trial still does not end")),
            }
        }
        (Err(_), _) => broken("the trial's thread ended without a verdict".into()),
    };
    let _ = thread.join();
    if let Some(fault) = trial.fault {
        attempt.outcome = under_fault(fault, attempt.struck, attempt.outcome);
    }
    attempt
}

fn broken(message: String) -> Attempt {
    Attempt {
        outcome: Outcome::Broken { message },
        cpu: None,
        queued: None,
        case: Duration::ZERO,
        start: None,
        boot: None,
        first_ping: None,
        peak_kib: None,
        figures: Vec::new(),
        notes: Vec::new(),
        tail: String::new(),
        artifacts: PathBuf::new(),
        struck: false,
    }
}

fn attempt(
    trial: &PlannedTrial,
    context: &Arc<Context>,
    run: &Path,
    started: impl FnOnce(Handle),
) -> Attempt {
    let artifacts = match Artifacts::new(run, &trial.name) {
        Ok(artifacts) => artifacts,
        Err(error) => return broken(format!("{error:#}")),
    };
    let directory = artifacts.dir().to_owned();
    let mut bed = match Testbed::build(trial, context, artifacts, started) {
        Ok(bed) => bed,
        Err(error) => {
            let outcome = judge(Err(error));
            return Attempt {
                outcome,
                // A guest that did not come up left a log at best.
                tail: std::fs::read(directory.join(SERIAL_LOG)).map_or_else(
                    |_| String::new(),
                    |log| serial::last_lines(&log, TAIL_LINES),
                ),
                artifacts: directory,
                ..broken(String::new())
            };
        }
    };
    let begun = Instant::now();
    let result = std::panic::catch_unwind(AssertUnwindSafe(|| {
        bed.moment(Moment::Start)?;
        (trial.case.run)(&mut bed)?;
        if let Some(after) = trial.after {
            let word = after.word();
            after
                .happen(&mut bed, trial.case)
                .with_context(|| format!("in the {word} after it had held"))?;
            (trial.case.run)(&mut bed).with_context(|| format!("after {word}, the second time"))?;
        }
        bed.expect_quiet_kernel()
    }));
    let case = begun.elapsed();
    let outcome = match result {
        Ok(result) => {
            judge(result.map_err(|error| with_kernel_trouble(&bed, bed.vm.explain(error))))
        }
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied());
            Outcome::Broken {
                message: format!("the case panicked: {}", text.unwrap_or("(no message)")),
            }
        }
    };
    if matches!(outcome, Outcome::Failed { .. } | Outcome::Broken { .. }) {
        bed.forensics();
    }
    if context.settings.shell {
        shell::attach(&bed, &outcome);
    }
    Attempt {
        outcome,
        cpu: None,
        queued: None,
        case,
        start: Some(bed.start),
        boot: Some(bed.boot),
        first_ping: bed.first_ping,
        peak_kib: bed.vm.peak_kib(),
        figures: std::mem::take(&mut bed.figures),
        notes: std::mem::take(&mut bed.notes),
        tail: bed.vm.serial.tail(TAIL_LINES),
        artifacts: directory,
        struck: bed.struck(),
    }
}

/// What the guest's kernel said explains most failures better than the check that met it.
fn with_kernel_trouble(bed: &Testbed, error: anyhow::Error) -> anyhow::Error {
    match bed.expect_quiet_kernel() {
        Err(trouble) if !format!("{error:#}").contains(&trouble.to_string()) => {
            anyhow!("{trouble}; meanwhile: {error:#}")
        }
        _ => error,
    }
}

/// From a case's result to a verdict: the marker in the error's chain decides.
fn judge(result: anyhow::Result<()>) -> Outcome {
    let Err(error) = result else {
        return Outcome::Passed;
    };
    let message = format!("{error:#}");
    if let Some(skip) = error.chain().find_map(|cause| cause.downcast_ref::<Skip>()) {
        Outcome::Skipped {
            reason: skip.0.clone(),
        }
    } else if error.chain().any(|cause| cause.is::<CannotRun>()) {
        Outcome::Broken { message }
    } else {
        Outcome::Failed { message }
    }
}

/// Under a fault that has struck, red for the right reason is what must be.
fn under_fault(fault: &Fault, struck: bool, outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Failed { message } if !struck => Outcome::Failed {
            message: format!("the case went red before the fault struck: {message}"),
        },
        Outcome::Failed { message } if message.contains(fault.red) => Outcome::Passed,
        Outcome::Failed { message } => Outcome::Failed {
            message: format!(
                "the case went red for another reason than {:?} when {}: {message}",
                fault.red, fault.breaks
            ),
        },
        Outcome::Passed => Outcome::Failed {
            message: format!("blind: the case passed although {}", fault.breaks),
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn markers_are_found_wherever_they_are_in_the_chain() {
        let skip = Err::<(), _>(Skip("no such module".into())).context("while asking");
        assert_eq!(
            judge(skip),
            Outcome::Skipped {
                reason: "no such module".into()
            }
        );
        let broken = Err::<(), _>(CannotRun("cannot open /dev/net/tun".into())).context("building");
        assert!(matches!(judge(broken), Outcome::Broken { .. }));
        let failed: anyhow::Result<()> = Err(anyhow!("0 of 3 replies"));
        assert_eq!(
            judge(failed),
            Outcome::Failed {
                message: "0 of 3 replies".into()
            }
        );
        assert_eq!(judge(Ok(())), Outcome::Passed);
    }

    #[test]
    fn a_pass_after_a_failure_is_flaky_and_trouble_of_the_harness_is_not_tried_again() {
        let failed = || Outcome::Failed {
            message: "1 of 2".into(),
        };
        let broken = Outcome::Broken {
            message: "no tun".into(),
        };
        let flaky = Outcome::Flaky {
            failures: vec!["1 of 2".into()],
        };
        for (retries, outcomes, expected) in [
            (0, vec![failed()], (1, failed())),
            (1, vec![failed(), Outcome::Passed], (2, flaky)),
            (1, vec![failed(), failed()], (2, failed())),
            (2, vec![Outcome::Passed], (1, Outcome::Passed)),
            (2, vec![broken.clone()], (1, broken)),
        ] {
            let mut outcomes = outcomes.into_iter();
            let (made, last) = tries(retries, || Attempt {
                outcome: outcomes.next().unwrap(),
                ..super::broken(String::new())
            });
            assert_eq!((made, last.outcome), expected);
            assert_eq!(outcomes.len(), 0);
        }
    }

    #[test]
    fn under_a_fault_only_the_right_red_counts() {
        let fault = Fault {
            red: "replies came back",
            ..crate::cases::faults::TAP_UNPLUGGED
        };
        let failed = |text: &str| Outcome::Failed {
            message: text.into(),
        };
        assert_eq!(
            under_fault(&fault, true, failed("2 of 3 replies came back")),
            Outcome::Passed
        );
        assert!(matches!(
            under_fault(&fault, true, failed("QEMU ended")),
            Outcome::Failed { .. }
        ));
        assert!(matches!(
            under_fault(&fault, true, Outcome::Passed),
            Outcome::Failed { .. }
        ));
        let early = under_fault(&fault, false, failed("2 of 3 replies came back"));
        assert!(matches!(early, Outcome::Failed { .. }));
        let broken = Outcome::Broken {
            message: "replies came back".into(),
        };
        assert_eq!(under_fault(&fault, true, broken.clone()), broken);
    }
}
