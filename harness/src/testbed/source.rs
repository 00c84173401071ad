//! What a guest is started from.

use crate::vm::checkpoint::Checkpoint;
use crate::vm::cmdline::VmSpec;
use crate::vm::start_state::StartState;
use serde::{Deserialize, Serialize};

/// Where a guest comes from.
pub enum Source {
    /// A boot.
    Boot,
    /// A checkpoint with its NICs up, or without them.
    Restore(Checkpoint, Saved),
}

impl Source {
    /// The state that its guest is in when it answers.
    pub fn start_state(&self) -> StartState {
        match self {
            Source::Boot => StartState::Boot,
            Source::Restore(_, saved) => saved.start_state(),
        }
    }
}

/// The state in which a guest is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Saved {
    /// NICs up and addressed.
    WithNics,
    /// No NIC yet.
    WithoutNics,
}

impl Saved {
    /// What a guest restored from it starts from, in a case's words.
    pub fn start_state(self) -> StartState {
        match self {
            Saved::WithNics => StartState::WarmNic,
            Saved::WithoutNics => StartState::ColdDriver,
        }
    }

    /// `spec` as it is saved in this state.
    pub(super) fn of(self, spec: &VmSpec) -> VmSpec {
        let mut saved = spec.clone();
        // A SPICE server and a later migration do not change the guest.
        saved.spice = None;
        saved.migratable = false;
        if self == Saved::WithoutNics {
            saved.nics.clear();
        }
        saved
    }
}
