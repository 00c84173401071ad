//! One trial: on a thread of its own, under a deadline, judged.

use super::context::Context;
use super::expected::{self, Held};
use super::shell;
use super::verdict::{judge, under_fault, with_witnesses};
use crate::base::artifacts::Artifacts;
use crate::base::deadline::{self, Deadline, Limit};
use crate::base::delay::{self, Meter};
use crate::base::error::{CannotRun, find};
use crate::base::share::Share;
use crate::base::{cpu, memory, panics};
use crate::cases::disruption;
use crate::matrix::schema::Profile;
use crate::plan::PlannedTrial;
use crate::testbed::Testbed;
use crate::testbed::order::Moment;
use crate::vm::process::{Handle, SERIAL_LOG};
use crate::vm::serial;
use crate::vm::start_state::StartState;
use anyhow::{Context as _, anyhow};
use parking_lot::Mutex;
use report::events::{Figure, Outcome, TrialEnded};
use report::expectation::Expectation;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Lines of the serial console in a report.
const TAIL_LINES: usize = 30;
/// How long a trial whose VM was killed may take to notice: at once, but for what the host's tools do meanwhile.
const AFTER_KILL: Limit = Limit {
    what: "the trial to notice that its VM was killed",
    seconds: 20.0,
};

/// One try of a trial.
struct Attempt {
    outcome: Outcome,
    /// The expectation that applied, and what became of it.
    expectation: Option<Expectation>,
    /// The case's error, where there was one: a trial under a fault is judged by it.
    error: Option<anyhow::Error>,
    /// Processor time of its thread and children; none of one that does not end.
    cpu: Option<Duration>,
    /// How long its VM was in the queue for a processor, where the kernel tells.
    queued: Option<Duration>,
    case: Duration,
    /// Of the processor time, that of the case; of the tries, the last one's.
    case_cpu: Option<Duration>,
    start: Option<StartState>,
    boot: Option<Duration>,
    first_ping: Option<Duration>,
    peak_kib: Option<u64>,
    figures: Vec<Figure>,
    notes: Vec<String>,
    tail: String,
    artifacts: PathBuf,
    /// The release of the guest's kernel, where it is known.
    release: Option<String>,
    /// Whether the fault, if there is one, was reached.
    struck: bool,
}

/// Is told what a trial does from now on, "starting" or "case", and when it is given up, after its begin.
pub type Phases = Arc<dyn Fn(&'static str, Option<Duration>) + Send + Sync>;

/// Runs `trial`, again up to the set number of retries, and says how it went. Its artifacts go to a
/// directory in `run`.
pub fn run(
    trial: &PlannedTrial,
    context: &Arc<Context>,
    run: &Path,
    phases: &Phases,
) -> TrialEnded {
    let begun = Instant::now();
    let (mut cpu, mut queued) = (Duration::ZERO, Duration::ZERO);
    let (attempts, attempt) = tries(context.settings.retries, || {
        let attempt = guarded(trial, context, run, phases);
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
        case_cpu_seconds: attempt.case_cpu.map(|cpu| cpu.as_secs_f64()),
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
        expectation: attempt.expectation,
        repeats: None,
        outcome: attempt.outcome,
    }
}

/// Tries until one does not fail, at most `retries` times more; how many tries were made, and the
/// last of them. A pass after a failure is flaky; a known failure is not tried again.
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
            Outcome::Known { .. } => {
                let mut last = last;
                let with_other_words = failures.iter().map(|failure| {
                    format!("a try before this one failed with other words: {failure}")
                });
                last.notes.extend(with_other_words);
                return (made, last);
            }
            _ => return (made, last),
        }
    }
    unreachable!("the tries are numbered without end")
}

/// How long `trial` may take.
fn limit(trial: &PlannedTrial, profile: &Profile) -> Deadline {
    let own = (trial.case.seconds)(profile);
    let more = match trial.disruption {
        None => own,
        // What the guest goes through and the second run may take as long again.
        Some(_) => own + deadline::TRIAL.seconds + own,
    };
    deadline::TRIAL.start_with(Duration::from_secs_f64(more * deadline::speed()))
}

/// One try on a thread of its own (its network namespace and its children end with it), watched.
fn guarded(trial: &PlannedTrial, context: &Arc<Context>, run: &Path, phases: &Phases) -> Attempt {
    let (sender, receiver) = mpsc::channel();
    let vm: Arc<Mutex<Option<Handle>>> = Arc::default();
    let (theirs, shared, handle) = (trial.clone(), context.clone(), vm.clone());
    let run = run.to_owned();
    let told = phases.clone();
    // With a person at the console there is no limit.
    let limit = (!context.settings.shell).then(|| limit(trial, &context.profile));
    phases("starting", limit.as_ref().map(Deadline::span));
    let (hand_over, handed_over) = mpsc::channel();
    let spawned = std::thread::Builder::new()
        .name(trial.name.clone())
        .spawn(move || {
            // The receiver waits for it.
            let _ = hand_over.send(delay::meter());
            let started = |started| *handle.lock() = Some(started);
            let mut attempt = attempt(&theirs, &shared, &run, &told, started);
            // The testbed is gone, and its children with it.
            (attempt.cpu, attempt.queued) = (Some(cpu::of_thread()), cpu::queued());
            // The receiver is gone only when the harness ends.
            let _ = sender.send(attempt);
        });
    let thread = match spawned {
        Ok(thread) => thread,
        Err(error) => return broken(format!("cannot start a thread for the trial: {error}")),
    };
    let limit = limit.and_then(|limit| {
        // A thread that panics before it sends its meter ends the channel below as well.
        let meter = handed_over.recv().ok()?;
        Some((limit, meter))
    });
    let received = match &limit {
        None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
        Some((limit, meter)) => receive(&receiver, limit, meter),
    };
    let mut attempt = match (received, limit) {
        (Ok(attempt), _) => attempt,
        (Err(RecvTimeoutError::Timeout), Some((limit, meter))) => {
            if let Some(handle) = &*vm.lock() {
                handle.kill();
            }
            let late = limit.missed_on(&meter, "its VM was killed");
            match receive(&receiver, &AFTER_KILL.start(), &meter) {
                Ok(attempt) => outran(attempt, &late),
                // The thread is left behind; its children end with the harness.
                Err(_) => return broken(format!("{late:#}, and the trial still does not end")),
            }
        }
        (Err(_), _) => {
            let panic = thread.join().err();
            let words = panic.as_deref().map_or("(no message)", panics::words);
            return broken(format!("the trial panicked: {words}"));
        }
    };
    // It has sent its attempt, and only ends.
    let _ = thread.join();
    memory::give_back();
    match trial.fault {
        // Its verdict is turned round, and where a failure is expected it does not run.
        Some(fault) => {
            let error = attempt.error.as_ref();
            attempt.outcome = under_fault(fault, attempt.struck, attempt.outcome, error);
        }
        None => {
            let (today, strict) = (expected::today(), context.settings.strict);
            let release = attempt.release.as_deref();
            let held = expected::held(&trial.known, release, today, strict, attempt.outcome);
            Held {
                outcome: attempt.outcome,
                expectation: attempt.expectation,
            } = held;
        }
    }
    attempt
}

/// What the trial on the thread of `meter` sends before `limit` is over.
fn receive<T>(
    receiver: &Receiver<T>,
    limit: &Deadline,
    meter: &Meter,
) -> Result<T, RecvTimeoutError> {
    while let Some(left) = limit.left_on(meter) {
        match receiver.recv_timeout(left) {
            Err(RecvTimeoutError::Timeout) => {}
            received => return received,
        }
    }
    Err(RecvTimeoutError::Timeout)
}

/// An attempt that ended only because its time was up.
fn outran(attempt: Attempt, late: &anyhow::Error) -> Attempt {
    let is_hosts = find::<CannotRun>(late).is_some();
    let error = match attempt.error {
        Some(error) => error.context(format!("{late:#}; it was at")),
        None => anyhow!("{late:#}; it was at: {:?}", attempt.outcome),
    };
    let message = format!("{error:#}");
    Attempt {
        outcome: match is_hosts {
            true => Outcome::Broken { message },
            false => Outcome::Failed { message },
        },
        error: Some(error),
        ..attempt
    }
}

fn broken(message: String) -> Attempt {
    Attempt {
        outcome: Outcome::Broken { message },
        expectation: None,
        error: None,
        cpu: None,
        queued: None,
        case: Duration::ZERO,
        case_cpu: None,
        start: None,
        boot: None,
        first_ping: None,
        peak_kib: None,
        figures: Vec::new(),
        notes: Vec::new(),
        tail: String::new(),
        artifacts: PathBuf::new(),
        release: None,
        struck: false,
    }
}

/// The end of a try that what the matrix file says of this kernel forbids.
fn forbidden(trial: &PlannedTrial, release: Option<&str>) -> Option<Attempt> {
    let reason = trial.known.skip_reason(release, trial.fault)?;
    Some(Attempt {
        outcome: Outcome::Skipped { reason },
        ..broken(String::new())
    })
}

fn attempt(
    trial: &PlannedTrial,
    context: &Arc<Context>,
    run: &Path,
    phases: &Phases,
    started: impl FnOnce(Handle),
) -> Attempt {
    let mut release = context.kernel_release(&trial.cell.guest);
    if let Some(forbidden) = forbidden(trial, release.as_deref()) {
        return forbidden;
    }
    let artifacts = match Artifacts::new(run, &trial.name) {
        Ok(artifacts) => artifacts,
        Err(error) => return broken(format!("{error:#}")),
    };
    let directory = artifacts.dir().to_owned();
    let share = Share::begin();
    let mut bed = match context.testbed(trial, artifacts, started) {
        Ok(bed) => bed,
        Err(error) => {
            let error = share.excused(error);
            return Attempt {
                outcome: judge(&error),
                error: Some(error),
                // Of a guest that did not come up there is at most a log.
                tail: std::fs::read(directory.join(SERIAL_LOG)).map_or_else(
                    |_| String::new(),
                    |log| serial::last_lines(&log, TAIL_LINES),
                ),
                artifacts: directory,
                release,
                ..broken(String::new())
            };
        }
    };
    if release.is_none() && trial.known.asks_kernel() {
        // A guest that does not answer goes on to fail in its case.
        let answer = bed.agent.sh("uname -r").ok();
        release = answer.map(|answer| answer.trim().to_owned());
        if let Some(forbidden) = forbidden(trial, release.as_deref()) {
            return forbidden;
        }
    }
    phases("case", None);
    let spent = |bed: &Testbed| Some(cpu::of_thread() + cpu::of_running(bed.vm.pid())?);
    let (begun, spent_before) = (Instant::now(), spent(&bed));
    let result = std::panic::catch_unwind(AssertUnwindSafe(|| {
        bed.moment(Moment::Start)?;
        (trial.case.run)(&mut bed)?;
        if let Some(disruption) = trial.disruption {
            let word = disruption.word();
            phases(word, None);
            disruption::happen(disruption, &mut bed, trial.case)
                .with_context(|| format!("in the {word}, after the case had passed"))?;
            (trial.case.run)(&mut bed).with_context(|| format!("after {word}, the second time"))?;
        }
        bed.expect_quiet_kernel()?;
        bed.expect_sound_frames()?;
        match trial.case.damages {
            true => Ok(()),
            false => bed.expect_sound_reception(),
        }
    }));
    let case = begun.elapsed();
    // A case that moves its guest to another QEMU has another VM by now.
    let case_cpu = spent(&bed)
        .zip(spent_before)
        .map(|(after, before)| after.saturating_sub(before));
    let error = match result {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(with_witnesses(&bed, bed.vm.explain(error), &share)),
        Err(panic) => {
            let text = panics::words(&*panic);
            Some(CannotRun(format!("the case panicked: {text}")).into())
        }
    };
    let outcome = error.as_ref().map_or(Outcome::Passed, judge);
    bed.record_findings();
    if matches!(outcome, Outcome::Failed { .. } | Outcome::Broken { .. }) {
        bed.forensics();
    }
    if context.settings.shell {
        shell::attach(&bed, &outcome);
    }
    Attempt {
        outcome,
        expectation: None,
        error,
        cpu: None,
        queued: None,
        case,
        case_cpu,
        start: Some(bed.start_state),
        boot: Some(bed.boot),
        first_ping: bed.first_ping,
        peak_kib: bed.vm.peak_kib(),
        figures: std::mem::take(&mut bed.figures),
        notes: std::mem::take(&mut bed.notes),
        tail: bed.vm.serial.tail(TAIL_LINES),
        artifacts: directory,
        release,
        struck: bed.struck(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::Case;
    use crate::matrix::disruption::Disruption;

    #[test]
    fn a_trial_that_outran_its_limit_failed_and_says_where_it_was() {
        let text = |error: Option<anyhow::Error>| {
            let attempt = Attempt {
                outcome: error.as_ref().map_or(Outcome::Passed, judge),
                error,
                ..super::broken(String::new())
            };
            match outran(attempt, &anyhow!("waited 9 s")).outcome {
                Outcome::Failed { message } => message,
                other => panic!("{other:?}"),
            }
        };
        let broken = anyhow!("no tun").context(CannotRun("cannot plug".into()));
        assert_eq!(
            text(Some(broken)),
            "waited 9 s; it was at: cannot plug: no tun"
        );
        assert_eq!(text(None), "waited 9 s; it was at: Passed");
        let starved = anyhow!("waited 9 s").context(CannotRun("5 % of a processor".into()));
        let outcome = outran(super::broken(String::new()), &starved).outcome;
        assert!(matches!(outcome, Outcome::Broken { .. }), "{outcome:?}");
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
        let known = Outcome::Known {
            message: "1 of 2".into(),
            reason: "its ring is small".into(),
            link: None,
        };
        for (retries, outcomes, expected) in [
            (0, vec![failed()], (1, failed())),
            (1, vec![failed(), Outcome::Passed], (2, flaky)),
            (1, vec![failed(), failed()], (2, failed())),
            (2, vec![Outcome::Passed], (1, Outcome::Passed)),
            (2, vec![broken.clone()], (1, broken)),
            (2, vec![known.clone()], (1, known.clone())),
            (2, vec![failed(), known.clone()], (2, known)),
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
    fn a_trial_may_take_as_long_as_its_own_case_and_twice_that_when_it_runs_twice() {
        let profile = |figures: &str| {
            let text = "ping_count = 1\nflood_count = 1\npromisc_seconds = 1\nmigrations = 1\n";
            let text = format!("{text}transfer_mib = 1\n{figures}");
            crate::plan::tests::profile(&text)
        };
        let (few, many) = (
            profile("hotplug_cycles = 1"),
            profile("hotplug_cycles = 100"),
        );
        static SLOW: Case = Case {
            seconds: |profile| f64::from(profile.hotplug_cycles),
            ..Case::PLAIN
        };
        let span = |case, profile, disruption| {
            let trial = PlannedTrial {
                case,
                disruption,
                ..crate::plan::tests::planned("driver::e1000::rhel9::tap")
            };
            limit(&trial, profile).span().as_secs()
        };
        assert_eq!(span(&SLOW, &few, None), 241);
        assert_eq!(span(&SLOW, &many, None), 340);
        assert_eq!(span(&SLOW, &many, Some(Disruption::Again)), 680);
        assert_eq!(span(&Case::PLAIN, &many, None), 240);
    }
}
