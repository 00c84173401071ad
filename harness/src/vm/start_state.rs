//! What a guest starts from.

/// What a case's guest is restored from. A case takes the warmest state in which all that it tests
/// is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartState {
    /// A checkpoint with the NIC up and addressed: for traffic and behaviour.
    WarmNic,
    /// A checkpoint without the NIC, which is added and gets its driver in the trial: for probing,
    /// negotiation, features, properties.
    ColdDriver,
    /// Nothing: it boots, as the boot is what it tests.
    Boot,
}

impl StartState {
    /// As people read it.
    pub const fn name(self) -> &'static str {
        match self {
            StartState::WarmNic => "warm NIC",
            StartState::ColdDriver => "cold driver",
            StartState::Boot => "boot",
        }
    }
}
