//! What share of a processor the host gave what a trial waits for: where it was next to nothing, a failure says nothing
//! of a NIC.

use super::delay;
use super::error::CannotRun;
use std::time::{Duration, Instant};

/// Nothing can be said of a NIC where the host let run less than such a part of the time: the trials of one run keep
/// each other from running for up to three quarters of it, and guests live through that.
const SCANT: u32 = 10;

/// So long kept from running, a guest's kernel may complain of a stall by the host's doing: RCU does after 21 s.
const STALLS: Duration = Duration::from_secs(10);

/// How much the host lets run of what the calling thread has started, from a moment on.
pub struct Share {
    begun: Instant,
}

impl Share {
    /// From now on.
    pub fn begin() -> Share {
        delay::meter().note();
        Share {
            begun: Instant::now(),
        }
    }

    /// What is to be said where that was so little up to now that nothing can be said of a NIC.
    pub fn starved(&self) -> Option<String> {
        let delayed = delay::meter().since(self.begun);
        starved(self.begun.elapsed(), delayed)
    }

    /// As [`Share::starved`], of a guest whose kernel has complained of a stall.
    pub fn stalled(&self) -> Option<String> {
        let delayed = delay::meter().since(self.begun);
        (delayed >= STALLS).then(|| gave(self.begun.elapsed(), delayed))
    }

    /// Adds that to an error.
    pub fn excused(&self, error: anyhow::Error) -> anyhow::Error {
        excused(error, self.starved())
    }
}

/// Adds what is to be said of the host to an error, which then says nothing of a NIC.
pub(super) fn excused(error: anyhow::Error, starved: Option<String>) -> anyhow::Error {
    match starved {
        Some(words) => error.context(CannotRun(words)),
        None => error,
    }
}

/// What is to be said where the host let run so little in that time that nothing can be said of a NIC.
pub(super) fn starved(time: Duration, delayed: Duration) -> Option<String> {
    let ran = time.saturating_sub(delayed);
    (ran * SCANT <= time && !time.is_zero()).then(|| gave(time, delayed))
}

fn gave(time: Duration, delayed: Duration) -> String {
    let ran = time.saturating_sub(delayed);
    let percent = 100.0 * ran.as_secs_f64() / time.as_secs_f64();
    format!(
        "the host gave the VM {percent:.0} % of a processor in {:.1} s",
        time.as_secs_f64()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_lets_run_no_more_than_a_tenth_is_named() {
        let seconds = Duration::from_secs;
        assert_eq!(starved(seconds(40), seconds(35)), None);
        assert_eq!(
            starved(seconds(40), seconds(38)).unwrap(),
            "the host gave the VM 5 % of a processor in 40.0 s"
        );
        assert_eq!(starved(Duration::ZERO, Duration::ZERO), None);
    }
}
