//! When frames passed, by a clock that nobody sets. The kernel stamps frames with the time of day, which steps
//! where it is set: by NTP after a resume, by an administrator.

use nix::time::{ClockId, clock_gettime};
use std::sync::OnceLock;
use std::time::Duration;

/// By how much the time of day must have moved against the monotonic clock for it to have been set, nanoseconds:
/// reading both takes a microsecond, or as long as this thread waits in between.
const STEP: i128 = 20_000_000;

/// How much later than its stamp a frame may be read from the ring, beyond the last time when it was emptied,
/// nanoseconds.
const SLACK: i128 = 1_000_000;

/// The time of day less the monotonic clock, when this process first asked, nanoseconds.
static FIRST: OnceLock<i128> = OnceLock::new();

/// Turns stamps into moments that can be compared: the time of day as if nobody had set it since the process began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stamps {
    /// The time of day less the monotonic clock, nanoseconds.
    offset: i128,
    /// The same before the time of day was set, for frames that passed before.
    earlier: Option<i128>,
    /// When the ring was last emptied, and now, by the monotonic clock.
    emptied: i128,
    now: i128,
}

impl Stamps {
    pub(super) fn new() -> Stamps {
        let (now, day) = clocks();
        Stamps::at(now, day)
    }

    fn at(now: i128, day: i128) -> Stamps {
        Stamps {
            offset: day - now,
            earlier: None,
            emptied: now,
            now,
        }
    }

    /// To be called before the ring is emptied.
    pub(super) fn look(&mut self) {
        let (now, day) = clocks();
        self.look_at(now, day);
    }

    fn look_at(&mut self, now: i128, day: i128) {
        (self.emptied, self.now) = (self.now, now);
        let offset = day - now;
        let stepped = (offset - self.offset).abs() > STEP;
        self.earlier = stepped.then_some(self.offset);
        if stepped {
            self.offset = offset;
        }
    }

    /// The moment of a stamp.
    pub(super) fn moment(&self, stamp: Duration) -> Duration {
        let first = *FIRST.get_or_init(|| self.offset);
        let nanos = self.monotonic(stamp.as_nanos() as i128) + first;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or_default())
    }

    fn monotonic(&self, stamp: i128) -> i128 {
        let by = |offset| stamp - offset;
        let fits = |moment: &i128| (self.emptied - SLACK..=self.now + SLACK).contains(moment);
        let earlier = self.earlier.map(by).filter(fits);
        match (by(self.offset), earlier) {
            (moment, Some(earlier)) if !fits(&moment) => earlier,
            (moment, _) => moment,
        }
    }
}

/// The monotonic clock and the time of day, nanoseconds.
fn clocks() -> (i128, i128) {
    let read = |clock| {
        // It fails only for a clock that the kernel lacks.
        let time = clock_gettime(clock).map_or(Duration::ZERO, Duration::from);
        time.as_nanos() as i128
    };
    (
        read(ClockId::CLOCK_MONOTONIC),
        read(ClockId::CLOCK_REALTIME),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i128 = 1_000_000_000;

    #[test]
    fn a_clock_that_is_set_moves_no_frame() {
        for step in [3600 * SECOND, -3600 * SECOND, SECOND / 2, -SECOND / 2] {
            let day = 1_700_000_000 * SECOND;
            let mut stamps = Stamps::at(10 * SECOND, day);
            let ms = SECOND / 1000;
            // Frames every 10 ms, read every 100 ms; the clock is set after 150 ms.
            let mut seen = Vec::new();
            for read in 1..=4 {
                let now = read * 100 * ms;
                let set = if now > 150 * ms { step } else { 0 };
                stamps.look_at(10 * SECOND + now, day + now + set);
                for frame in 0..10 {
                    let passed = now - 100 * ms + frame * 10 * ms;
                    let set = if passed >= 150 * ms { step } else { 0 };
                    seen.push(stamps.monotonic(day + passed + set));
                }
            }
            let gaps: Vec<i128> = seen.windows(2).map(|two| two[1] - two[0]).collect();
            assert!(gaps.iter().all(|gap| *gap == 10 * ms), "{step}: {gaps:?}");
        }
    }

    #[test]
    fn without_a_step_a_stamp_is_the_time_of_day() {
        let mut stamps = Stamps::new();
        stamps.look();
        let day = Duration::from(clock_gettime(ClockId::CLOCK_REALTIME).unwrap());
        let moment = stamps.moment(day);
        assert!(
            moment.abs_diff(day) < Duration::from_secs(1),
            "{moment:?} {day:?}"
        );
    }
}
