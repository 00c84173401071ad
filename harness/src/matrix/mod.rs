//! `matrix.toml`, from text to cells. Pure.

pub mod bound;
pub mod disruption;
pub mod expand;
pub mod known;
pub mod load;
pub mod offload;
mod properties;
pub(crate) mod read;
pub mod schema;

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a cell's `vhost` and `zcopy` come to; how a trial's name ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// A tap served by QEMU itself.
    Tap,
    /// vhost-net, `experimental_zcopytx=0`.
    Vhost,
    /// vhost-net, `experimental_zcopytx=1`.
    VhostZcopy,
}

impl Backend {
    /// Every backend.
    pub const ALL: [Backend; 3] = [Backend::Tap, Backend::Vhost, Backend::VhostZcopy];

    /// How a trial's name ends.
    pub const fn name(self) -> &'static str {
        match self {
            Backend::Tap => "tap",
            Backend::Vhost => "vhost",
            Backend::VhostZcopy => "vhost_zcopy",
        }
    }

    /// Whether QEMU's NIC chooses by MAC and VLAN what its guest gets. vhost takes what the tap gives it, and leaves the
    /// choice to the guest's kernel.
    pub fn filters(self) -> bool {
        self == Backend::Tap
    }

    /// The backend of that name.
    pub fn from_name(name: &str) -> Option<Backend> {
        Backend::ALL.into_iter().find(|b| b.name() == name)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One value of every axis, with what the matrix says of each resolved.
#[derive(Debug, Clone)]
pub struct Cell {
    /// The QEMU's name.
    pub qemu: String,
    /// The NIC model, with this guest's overrides applied.
    pub nic: schema::Nic,
    /// The guest.
    pub guest: schema::Guest,
    /// Where its frames go.
    pub backend: Backend,
}
