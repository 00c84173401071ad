//! Other work on the machine, as a shared one has it.

use anyhow::{Context as _, Result};
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Builder};

/// Busy loops for each processor.
const LOOPS: usize = 2;

/// Keeps every processor busy until it is dropped.
pub struct Load(Arc<AtomicBool>);

impl Load {
    /// Begins.
    ///
    /// # Errors
    /// A thread that cannot be started.
    pub fn begin() -> Result<Load> {
        let load = Load(Arc::default());
        let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        for _ in 0..LOOPS * processors {
            let ended = load.0.clone();
            let spin = move || {
                let mut turns = 0_u64;
                while !ended.load(Ordering::Relaxed) {
                    turns = black_box(turns.wrapping_add(1));
                }
            };
            Builder::new()
                .name("load".into())
                .spawn(spin)
                .context("cannot start a busy loop")?;
        }
        Ok(load)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// What this process has had of the processors.
    fn spent() -> Duration {
        let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF);
        let time = usage.expect("it is told").user_time();
        Duration::from_micros((time.tv_sec() * 1_000_000 + time.tv_usec()).unsigned_abs())
    }

    #[test]
    fn it_takes_the_processors_until_it_is_dropped() {
        let load = Load::begin().unwrap();
        let (before, limit) = (spent(), Instant::now() + Duration::from_secs(20));
        while spent() < before + Duration::from_millis(50) {
            assert!(Instant::now() < limit, "the loops do not run");
            thread::sleep(Duration::from_millis(1));
        }
        let ended = load.0.clone();
        drop(load);
        while Arc::strong_count(&ended) > 1 {
            assert!(Instant::now() < limit, "the loops do not end");
            thread::sleep(Duration::from_millis(1));
        }
    }
}
