//! A value that threads change and wait for: mutex, condition variable and deadline in one.

use super::deadline::Until;
use parking_lot::{Condvar, Mutex, MutexGuard};

/// A value that threads share. A panic of one leaves it unlocked for the others, as it is.
#[derive(Default)]
pub struct Watch<T> {
    value: Mutex<T>,
    changed: Condvar,
}

impl<T> Watch<T> {
    /// Of `value`.
    pub const fn new(value: T) -> Watch<T> {
        Watch {
            value: Mutex::new(value),
            changed: Condvar::new(),
        }
    }

    /// The value, to read it, or to change what nobody waits for.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.value.lock()
    }

    /// Changes the value, and has all who wait look at it.
    pub fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.value.lock());
        self.changed.notify_all();
        result
    }

    /// Has all who wait look again, after a `look` that changed the value.
    pub fn wake(&self) {
        self.changed.notify_all();
    }

    /// Waits until `look` finds something, at most until `until`. `look` sees the value at once and
    /// after each [`Watch::update`]; after a change of its own, see [`Watch::wake`].
    pub fn wait<R>(
        &self,
        until: impl Into<Until>,
        mut look: impl FnMut(&mut T) -> Option<R>,
    ) -> Option<R> {
        let until = until.into();
        let mut value = self.value.lock();
        loop {
            let found = look(&mut value);
            let left = until.left();
            match (found, left) {
                (None, Some(left)) => self.changed.wait_for(&mut value, left),
                (found, _) => return found,
            };
        }
    }

    /// As [`Watch::wait`], without a deadline.
    pub fn wait_forever<R>(&self, mut look: impl FnMut(&mut T) -> Option<R>) -> R {
        let mut value = self.value.lock();
        loop {
            if let Some(found) = look(&mut value) {
                return found;
            }
            self.changed.wait(&mut value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::{Duration, Instant};

    const LONG: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(30);

    #[test]
    fn what_is_there_already_is_found_without_a_wait() {
        let watch = Watch::new(7);
        let begun = Instant::now();
        assert_eq!(watch.wait(begun, |value| Some(*value)), Some(7));
        assert_eq!(watch.wait(begun + LONG, |value| Some(*value)), Some(7));
        assert!(begun.elapsed() < LONG / 2);
    }

    #[test]
    fn an_update_wakes_all_who_wait() {
        let watch = Watch::new(0);
        std::thread::scope(|scope| {
            let reaches = |wanted| move |value: &mut i32| (*value >= wanted).then_some(*value);
            let watch = &watch;
            let timed = scope.spawn(move || watch.wait(Instant::now() + LONG, reaches(2)));
            let untimed = scope.spawn(move || watch.wait_forever(reaches(1)));
            for value in 1..=2 {
                std::thread::sleep(SHORT);
                assert_eq!(watch.update(|now| std::mem::replace(now, value)), value - 1);
            }
            assert_eq!(timed.join().unwrap(), Some(2));
            assert!(untimed.join().unwrap() >= 1);
        });
    }

    #[test]
    fn a_wait_in_vain_ends_at_the_deadline_whatever_else_changes() {
        let watch = Watch::new(0);
        let looked = AtomicU32::new(0);
        let begun = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..3 {
                    std::thread::sleep(SHORT / 10);
                    watch.update(|value| *value += 1);
                }
            });
            let found = watch.wait(begun + SHORT, |value| {
                looked.fetch_add(1, Ordering::Relaxed);
                (*value > 3).then_some(())
            });
            assert_eq!(found, None);
        });
        assert!(begun.elapsed() >= SHORT && begun.elapsed() < LONG);
        assert!(looked.into_inner() >= 2, "it looks again at the end");
    }

    #[test]
    fn one_that_finds_may_take_it_and_the_other_goes_on_waiting() {
        let watch = Watch::new(Vec::new());
        std::thread::scope(|scope| {
            let takers: Vec<_> = (0..2)
                .map(|_| scope.spawn(|| watch.wait_forever(Vec::pop)))
                .collect();
            watch.update(|values| values.push(1));
            std::thread::sleep(SHORT);
            watch.update(|values| values.push(2));
            let mut taken: Vec<i32> = takers.into_iter().map(|t| t.join().unwrap()).collect();
            taken.sort_unstable();
            assert_eq!(taken, [1, 2]);
        });
    }

    #[test]
    fn a_panic_of_one_thread_is_not_passed_on() {
        let watch = Watch::new(1);
        let panicked = std::thread::scope(|scope| {
            let looking = scope.spawn(|| {
                watch.update(|value| {
                    *value = 2;
                    panic!("as a predicate might");
                })
            });
            looking.join()
        });
        assert!(panicked.is_err());
        assert_eq!(*watch.lock(), 2);
    }
}
