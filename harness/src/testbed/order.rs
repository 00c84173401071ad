//! What a testbed is built from: all that is known of one trial before its VM starts.

use super::Testbed;
use crate::host::qemus::OtherQemu;
use crate::matrix::Cell;
use crate::matrix::schema::Profile;
use crate::vm::cmdline::VmSpec;
use crate::vm::standard::Kit;
use crate::vm::start_state::StartState;
use std::sync::Arc;

/// A testbed to be built.
pub struct Order {
    /// The cell under test.
    pub cell: Arc<Cell>,
    /// Its VM, finished.
    pub spec: VmSpec,
    /// Its VM as it would be without what a fault changes: tells which checkpoint fits.
    pub plain: VmSpec,
    /// What its guest starts from, where a checkpoint can be made.
    pub start_state: StartState,
    /// How often and how long.
    pub profile: Profile,
    /// What it is struck with.
    pub strike: Option<Strike>,
    /// What further VMs of the same cell are made of.
    pub kit: Kit,
    /// Another QEMU that the guest is to move to.
    pub other: Option<Arc<OtherQemu>>,
}

/// What a testbed is struck with, once.
#[derive(Clone, Copy)]
pub struct Strike {
    /// For messages.
    pub name: &'static str,
    /// When.
    pub moment: Moment,
    /// A change of the running testbed.
    pub inject: fn(&mut Testbed) -> anyhow::Result<()>,
}

/// When a strike falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The guest has booted and its NIC is up; the case has not begun.
    Start,
    /// The case has traffic under way, or is about to send it.
    Traffic,
    /// The case is about to unplug the NIC.
    Unplug,
    /// Half of the rounds are through.
    Midway,
    /// The case is about to ask for what must be refused.
    Refusal,
    /// The guest is on its way to another QEMU.
    Migrating,
    /// The guest has arrived at another QEMU.
    Arrived,
    /// The guest has come back from there.
    Returned,
    /// The guest is suspended.
    Asleep,
    /// The guest was suspended, and runs again.
    Awake,
    /// The guest was set back to a snapshot.
    SetBack,
    /// The NIC's driver begins anew: it was unloaded and loaded again, or another kernel has taken over.
    Reloaded,
    /// Files have crossed, and their frames have not been looked at.
    Crossed,
}
