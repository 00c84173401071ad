//! Which trials run at once: each takes a slot as large as what it needs of the processors and of
//! the memory, and waits in a line until there is one.
//!
//! The line is served in order, but a trial that fits may pass one that does not fit, which is passed up
//! to `PASSES` times: then the line stands still until it fits. So small trials fill the gaps, and a
//! trial that needs everything is not put off for ever.

use super::ledger::Ledger;
use super::need::Need;
use super::watch::Watch;
use std::time::{Duration, Instant};

/// How many may pass a trial that waits. A few seconds each: small beside a run, and enough to keep
/// the processors busy while the large slot comes together.
const PASSES: u32 = 8;

/// How many trials are looked at for each that can run: the more there are in line, the likelier
/// one of them fits the gap.
const LOOKAHEAD: usize = 3;

/// How old what is known of other runs may be: some trials take less than a second.
const LOOK: Duration = Duration::from_millis(250);

/// The slots of a run. Threads share them.
pub struct Slots {
    whole: Need,
    line: Watch<Line>,
    /// Where runs on one machine share what there is.
    ledger: Option<Ledger>,
}

/// A trial's slot; it is free again when this is dropped.
pub struct Slot<'s> {
    slots: &'s Slots,
    need: Need,
}

/// Who waits, in the order in which they came, and what is used.
struct Line {
    whole: Need,
    used: Need,
    /// What other runs on this machine use, each.
    others: Vec<Need>,
    waiting: Vec<Waiter>,
    tickets: u64,
    /// When others were last asked about.
    looked: Option<Instant>,
}

/// Where one joins the line.
#[derive(Clone, Copy)]
pub enum Joins {
    /// Before all others that wait: what holds something scarcer already, or goes on with what has begun.
    First,
    /// After them.
    Last,
}

struct Waiter {
    ticket: u64,
    need: Need,
    passed: u32,
}

impl Slots {
    /// Slots that together take no more than `whole`.
    pub fn new(whole: Need) -> Slots {
        Slots {
            whole,
            line: Watch::new(Line {
                whole,
                used: Need::NONE,
                others: Vec::new(),
                waiting: Vec::new(),
                tickets: 0,
                looked: None,
            }),
            ledger: None,
        }
    }

    /// As [`Slots::new`], of what runs on this machine share.
    pub fn shared(whole: Need) -> Slots {
        Slots {
            ledger: Some(Ledger::of_machine()),
            ..Slots::new(whole)
        }
    }

    /// How many threads must wait for slots so that slots, not threads, decide which trials run;
    /// each trial takes `smallest` or more.
    pub fn threads(&self, smallest: u32) -> usize {
        LOOKAHEAD * self.whole.processors.div_ceil(smallest.max(1)) as usize
    }

    /// Waits for a slot. A need larger than the whole takes the whole.
    pub fn wait(&self, need: Need) -> Slot<'_> {
        self.wait_at(Joins::Last, need)
    }

    /// As [`Slots::wait`], at that place in the line.
    pub fn wait_at(&self, joins: Joins, need: Need) -> Slot<'_> {
        let need = need.min(self.whole);
        let ticket = self.line.lock().join(joins, need);
        let mut enter = |line: &mut Line| {
            self.look(line);
            line.enter(ticket).then_some(())
        };
        match self.ledger {
            None => self.line.wait_forever(enter),
            // Nobody tells when another run has ended a trial.
            Some(_) => while (self.line.wait(Instant::now() + LOOK, &mut enter)).is_none() {},
        }
        self.write_down();
        // The next in line may fit as well.
        self.line.wake();
        Slot { slots: self, need }
    }
}

impl Slots {
    /// Has the line know what other runs use.
    fn look(&self, line: &mut Line) {
        let recent = line.looked.is_some_and(|looked| looked.elapsed() < LOOK);
        if let Some(ledger) = &self.ledger
            && !recent
        {
            // Where that cannot be asked, this run is alone.
            line.others = ledger.exchange(line.used).unwrap_or_default();
            line.looked = Some(Instant::now());
        }
    }

    /// Has other runs know at once what this one uses now.
    fn write_down(&self) {
        if self.ledger.is_some() {
            let mut line = self.line.lock();
            line.looked = None;
            self.look(&mut line);
        }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.slots.line.update(|line| line.leave(self.need));
        self.slots.write_down();
    }
}

impl Line {
    fn join(&mut self, joins: Joins, need: Need) -> u64 {
        self.tickets += 1;
        let waiter = Waiter {
            ticket: self.tickets,
            need,
            passed: 0,
        };
        match joins {
            Joins::First => self.waiting.insert(0, waiter),
            Joins::Last => self.waiting.push(waiter),
        }
        self.tickets
    }

    /// Whether there is room: in what nobody uses, or in this run's part of the whole. Where the run has nothing
    /// under way, one goes on in any case, however much others use.
    fn fits(&self, need: Need) -> bool {
        let after = self.used.plus(need);
        let others = self
            .others
            .iter()
            .fold(Need::NONE, |sum, one| sum.plus(*one));
        let runs = self.others.len() as u32 + 1;
        let part = Need {
            processors: self.whole.processors / runs,
            memory_mib: self.whole.memory_mib / u64::from(runs),
            // Each run has its own.
            descriptors: self.whole.descriptors,
            tasks: self.whole.tasks / runs,
        };
        let left = Need {
            descriptors: self.whole.descriptors,
            ..self.whole.less(others)
        };
        self.used == Need::NONE || after.within(left) || after.within(part)
    }

    /// Whose turn it is: the first that fits, unless it would pass one that was passed [`PASSES`] times.
    fn turn(&self) -> Option<usize> {
        for (index, waiter) in self.waiting.iter().enumerate() {
            if self.fits(waiter.need) {
                return Some(index);
            }
            if waiter.passed >= PASSES {
                return None;
            }
        }
        None
    }

    /// Gives the holder of `ticket` its slot, if it is its turn.
    fn enter(&mut self, ticket: u64) -> bool {
        let Some(index) = self.turn() else {
            return false;
        };
        if self.waiting[index].ticket != ticket {
            return false;
        }
        let need = self.waiting.remove(index).need;
        self.used = self.used.plus(need);
        for passed in &mut self.waiting[..index] {
            passed.passed += 1;
        }
        true
    }

    fn leave(&mut self, need: Need) {
        self.used = self.used.less(need);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::need::PROCESSOR;
    use std::collections::BTreeMap;

    const BUSY: Need = need(PROCESSOR, 100);
    const WAITS: Need = need(PROCESSOR / 4, 100);

    const fn need(processors: u32, memory_mib: u64) -> Need {
        Need {
            processors,
            memory_mib,
            tasks: 1,
            descriptors: 1,
        }
    }

    /// With enough of all else.
    const fn whole(processors: u32, memory_mib: u64) -> Need {
        Need {
            processors,
            memory_mib,
            ..Need::ALL
        }
    }

    /// A line without threads: all enter that can.
    struct Model {
        slots: Slots,
        inside: BTreeMap<u64, Need>,
    }

    impl Model {
        fn new(processors: u32, memory_mib: u64) -> Model {
            Model::of(whole(processors * PROCESSOR, memory_mib))
        }

        fn of(whole: Need) -> Model {
            Model {
                slots: Slots::new(whole),
                inside: BTreeMap::new(),
            }
        }

        /// Its ticket.
        fn join(&mut self, need: Need) -> u64 {
            let need = need.min(self.slots.whole);
            let ticket = self.slots.line.lock().join(Joins::Last, need);
            self.admit();
            ticket
        }

        fn admit(&mut self) {
            let mut line = self.slots.line.lock();
            while let Some(index) = line.turn() {
                let Waiter { ticket, need, .. } = line.waiting[index];
                assert!(line.enter(ticket));
                self.inside.insert(ticket, need);
            }
        }

        fn leave(&mut self, ticket: u64) {
            let need = self.inside.remove(&ticket).expect("it is inside");
            self.slots.line.lock().leave(need);
            self.admit();
        }

        fn inside(&self) -> Vec<u64> {
            self.inside.keys().copied().collect()
        }
    }

    #[test]
    fn processors_are_shared_out() {
        let mut model = Model::new(2, 10_000);
        for need in [BUSY, WAITS, BUSY, WAITS, WAITS, WAITS] {
            model.join(need);
        }
        // One busy, four that wait; the second busy one does not fit.
        assert_eq!(model.inside(), [1, 2, 4, 5, 6]);
        model.leave(1);
        assert_eq!(model.inside(), [2, 3, 4, 5, 6]);
    }

    #[test]
    fn one_that_joins_first_is_next() {
        let slots = Slots::new(whole(PROCESSOR, 1000));
        let mut line = slots.line.lock();
        let inside = line.join(Joins::Last, BUSY);
        assert!(line.enter(inside));
        let last = line.join(Joins::Last, BUSY);
        let first = line.join(Joins::First, BUSY);
        line.leave(BUSY);
        assert!(!line.enter(last));
        assert!(line.enter(first));
    }

    #[test]
    fn memory_is_shared_out_and_one_that_needs_more_than_all_runs_alone() {
        let mut model = Model::new(8, 1000);
        let large = model.join(need(PROCESSOR, 5000));
        let others = [model.join(need(100, 600)), model.join(need(100, 600))];
        assert_eq!(model.inside(), [large]);
        model.leave(large);
        assert_eq!(model.inside(), [others[0]]);
        model.leave(others[0]);
        assert_eq!(model.inside(), [others[1]]);
    }

    #[test]
    fn tasks_and_descriptors_are_shared_out_too() {
        for few in [
            Need {
                tasks: 2,
                ..whole(8 * PROCESSOR, 1000)
            },
            Need {
                descriptors: 2,
                ..whole(8 * PROCESSOR, 1000)
            },
        ] {
            let mut model = Model::of(few);
            let tickets = [(); 3].map(|()| model.join(BUSY));
            assert_eq!(model.inside(), tickets[..2]);
        }
    }

    #[test]
    fn a_run_has_its_part_of_the_machine_and_what_others_leave_and_always_one_trial() {
        let busy_beside = |others: &[Need]| {
            let mut model = Model::new(4, 1000);
            model.slots.line.lock().others = others.to_vec();
            for _ in 0..8 {
                model.join(BUSY);
            }
            model.inside().len()
        };
        let using = |processors| need(processors * PROCESSOR, 0);
        assert_eq!(busy_beside(&[]), 4);
        assert_eq!(busy_beside(&[using(1)]), 3);
        // It was there first and used all: from now on each has half.
        assert_eq!(busy_beside(&[using(4)]), 2);
        assert_eq!(busy_beside(&[using(1); 3]), 1);
        assert_eq!(busy_beside(&[using(4); 9]), 1);
    }

    #[test]
    fn nothing_runs_beside_one_that_takes_all_and_it_does_not_starve() {
        let mut model = Model::new(2, 10_000);
        let mut running = vec![model.join(WAITS), model.join(WAITS)];
        let alone = model.join(Need::ALL);
        // As one ends, the next comes: it is passed a few times and no more.
        let mut came = 0;
        while !model.inside.contains_key(&alone) {
            came += 1;
            assert!(came < 100, "it starves");
            model.join(WAITS);
            running.retain(|ticket| model.inside.contains_key(ticket));
            running = model.inside();
            let oldest = running[0];
            if oldest != alone {
                model.leave(oldest);
            }
        }
        assert_eq!(model.inside(), [alone]);
        assert!(came >= PASSES as usize, "gaps were not filled: {came}");
        model.join(need(1, 1));
        assert_eq!(model.inside(), [alone]);
        model.leave(alone);
        assert!(model.inside().len() > 1);
    }

    #[test]
    fn whatever_comes_all_get_their_turn_and_never_too_many_at_once() {
        // A fixed sequence of numbers that look random.
        let mut seed = 1u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for _ in 0..200 {
            let mut model = Model::new(1 + random(4) as u32, 500 + random(2000));
            let whole = model.slots.whole;
            let (mut left, mut ended) = (60, 0);
            while ended < 60 {
                if left > 0 && random(2) == 0 {
                    left -= 1;
                    model.join(match random(6) {
                        0 => Need::ALL,
                        1 => BUSY,
                        _ => need(random(3000) as u32, random(3000)),
                    });
                } else if !model.inside.is_empty() {
                    let inside = model.inside();
                    model.leave(inside[random(inside.len() as u64) as usize]);
                    ended += 1;
                }
                let processors: u32 = model.inside.values().map(|n| n.processors).sum();
                let memory: u64 = model.inside.values().map(|n| n.memory_mib).sum();
                assert!(processors <= whole.processors && memory <= whole.memory_mib);
                let waiting = model.slots.line.lock().waiting.len();
                assert!(!model.inside.is_empty() || waiting == 0, "nobody moves");
                let most = model
                    .slots
                    .line
                    .lock()
                    .waiting
                    .iter()
                    .map(|w| w.passed)
                    .max();
                assert!(most.unwrap_or(0) <= PASSES);
            }
            assert_eq!(model.slots.line.lock().used, Need::NONE);
        }
    }

    #[test]
    fn threads_get_in_one_after_the_other_and_a_panic_frees_the_slot() {
        use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
        let slots = Slots::new(whole(2 * PROCESSOR, 1000));
        let (inside, entered) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for index in 0..40 {
                let (slots, inside, entered) = (&slots, &inside, &entered);
                let need = if index % 10 == 3 { Need::ALL } else { BUSY };
                scope.spawn(move || {
                    let _slot = slots.wait(need);
                    let others = inside.fetch_add(1, SeqCst);
                    entered.fetch_add(1, SeqCst);
                    let most = if need == Need::ALL { 0 } else { 1 };
                    assert!(others <= most, "{others} others inside");
                    std::thread::yield_now();
                    inside.fetch_sub(1, SeqCst);
                });
            }
        });
        assert_eq!(entered.into_inner(), 40);

        let panicked = std::thread::scope(|scope| {
            let holder = scope.spawn(|| {
                let _slot = slots.wait(Need::ALL);
                panic!("as a case might");
            });
            holder.join()
        });
        assert!(panicked.is_err());
        assert_eq!(slots.line.lock().used, Need::NONE);
    }

    #[test]
    fn enough_threads_wait_for_the_slots_to_decide() {
        let slots = Slots::new(whole(2 * PROCESSOR, 1000));
        assert!(slots.threads(PROCESSOR / 4) > 8);
    }
}
