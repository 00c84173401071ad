//! What a trial, or a whole run, takes of a machine.

/// One processor, in the units of [`Need::processors`].
pub const PROCESSOR: u32 = 1000;

/// What a trial takes while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Thousandths of a processor.
    pub processors: u32,
    /// MiB.
    pub memory_mib: u64,
    /// Threads and processes.
    pub tasks: u32,
    /// Open files and sockets of this process.
    pub descriptors: u32,
}

impl Need {
    /// Everything: nothing else runs beside it.
    pub const ALL: Need = Need {
        processors: u32::MAX,
        memory_mib: u64::MAX,
        tasks: u32::MAX,
        descriptors: u32::MAX,
    };

    /// Nothing.
    pub const NONE: Need = Need {
        processors: 0,
        memory_mib: 0,
        tasks: 0,
        descriptors: 0,
    };

    pub(super) fn within(self, other: Need) -> bool {
        self.processors <= other.processors
            && self.memory_mib <= other.memory_mib
            && self.tasks <= other.tasks
            && self.descriptors <= other.descriptors
    }

    pub(super) fn min(self, other: Need) -> Need {
        self.with(other, Ord::min, Ord::min)
    }

    /// The larger of each.
    pub(super) fn max(self, other: Need) -> Need {
        self.with(other, Ord::max, Ord::max)
    }

    pub(super) fn plus(self, other: Need) -> Need {
        self.with(other, u32::saturating_add, u64::saturating_add)
    }

    pub(super) fn less(self, other: Need) -> Need {
        self.with(other, u32::saturating_sub, u64::saturating_sub)
    }

    fn with(self, other: Need, small: fn(u32, u32) -> u32, large: fn(u64, u64) -> u64) -> Need {
        Need {
            processors: small(self.processors, other.processors),
            memory_mib: large(self.memory_mib, other.memory_mib),
            tasks: small(self.tasks, other.tasks),
            descriptors: small(self.descriptors, other.descriptors),
        }
    }
}
