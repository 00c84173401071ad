//! How long a trial's guest takes to come up, over and over: `nicmatrix restores`. `cargo xtask bench`
//! takes its figures from it, and its soak, which shows that not one restore in a thousand fails.

use crate::base::artifacts::Artifacts;
use crate::base::error::{CannotRun, OrCannotRun};
use crate::net;
use crate::plan::{Action, PlannedTrial};
use crate::run::context::Context;
use crate::run::planned::planned;
use crate::settings::Settings;
use anyhow::{Context as _, anyhow};
use serde::Serialize;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::time::Instant;

/// One guest that came up.
#[derive(Debug, Serialize)]
pub struct Sample {
    /// What it was started from.
    start: &'static str,
    /// From QEMU's exec to the agent's first answer, seconds.
    agent_seconds: f64,
    /// From QEMU's exec to the first ping answered, seconds.
    first_ping_seconds: f64,
    /// The testbed around it, begin to end, seconds.
    testbed_seconds: f64,
    /// QEMU's memory, what it shares with others counted in parts (`Pss` of `smaps_rollup`), while all
    /// `at_once` guests run, KiB.
    unique_kib: u64,
}

/// Starts the guest of the trial named `name`, `times` times, `at_once` of them at a time, and hands
/// over each measurement. The case is not run.
///
/// # Errors
/// The first guest that does not come up or is not reached, with its number.
pub fn restores(
    settings: &Settings,
    name: &str,
    times: usize,
    at_once: usize,
    mut report: impl FnMut(&Sample) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let planned = planned(settings)?;
    let trial = &planned.trial(name)?.clone();
    if let Action::Skip(reason) = &trial.action {
        return Err(CannotRun(format!("{name} cannot run here: {reason}")).into());
    }
    net::userns::enter_if_needed()?;
    net::tun::check()?;
    let context = Arc::new(Context::prepare(
        settings.clone(),
        planned,
        std::slice::from_ref(trial),
    )?);
    let directory = tempfile::Builder::new()
        .prefix("restores-")
        .tempdir_in(&settings.dir)
        .or_cannot_run(|| format!("create a directory in {}", settings.dir.display()))?;
    // Each on a thread of its own, as a trial is.
    let batch = |count: usize| -> Vec<anyhow::Result<Sample>> {
        let all_up = Barrier::new(count);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..count)
                .map(|number| {
                    let directory = directory.path().join(number.to_string());
                    let (context, all_up) = (&context, &all_up);
                    scope.spawn(move || one(trial, context, &directory, all_up))
                })
                .collect();
            let ends = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
            ends.map(|end| end.unwrap_or_else(|_| Err(anyhow!("it panicked"))))
                .collect()
        })
    };
    // The first makes the checkpoint, and is not measured.
    batch(1).into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let mut done = 0;
    while done < times {
        for sample in batch(at_once.min(times - done)) {
            done += 1;
            report(&sample.with_context(|| format!("start {done} of {times}"))?)?;
        }
    }
    Ok(())
}

/// Brings a guest up on the calling thread, waits for the others, and ends it.
fn one(
    trial: &PlannedTrial,
    context: &Arc<Context>,
    directory: &Path,
    all_up: &Barrier,
) -> anyhow::Result<Sample> {
    let begun = Instant::now();
    let bed = std::fs::create_dir_all(directory)
        .or_cannot_run(|| format!("create {}", directory.display()))
        .and_then(|()| Artifacts::new(directory, &trial.name))
        .and_then(|artifacts| context.testbed(trial, artifacts, |_| ()))
        .and_then(|mut bed| {
            let first_ping = match bed.first_ping {
                Some(after) => after,
                None => {
                    bed.up()?;
                    bed.vm.started.elapsed()
                }
            };
            Ok((bed, first_ping))
        });
    let built = begun.elapsed();
    // Whether it came up or not: the others wait for all, and end when all have been looked at.
    all_up.wait();
    let unique_kib = bed.as_ref().ok().and_then(|(bed, _)| bed.vm.unique_kib());
    all_up.wait();
    let (bed, first_ping) = bed?;
    let (start, boot) = (bed.start_state, bed.boot);
    let ending = Instant::now();
    drop(bed);
    Ok(Sample {
        start: start.name(),
        agent_seconds: boot.as_secs_f64(),
        first_ping_seconds: first_ping.as_secs_f64(),
        testbed_seconds: (built + ending.elapsed()).as_secs_f64(),
        unique_kib: unique_kib.context("QEMU's memory cannot be read")?,
    })
}
