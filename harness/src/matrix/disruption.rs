//! What a trial `case@word` goes through between its first run and its second.

use serde::Serialize;

/// What happens between a case's first run and its second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Disruption {
    /// Nothing: it holds twice.
    Again,
    /// The VM stands still and goes on (`stop`, `cont`).
    StopCont,
    /// The guest reboots by itself.
    Reboot,
    /// The machine is reset (`system_reset`).
    SystemReset,
    /// The guest unloads the NIC's driver and loads it again.
    Reload,
}

impl Disruption {
    /// Each, by its word in a profile's `after` and in a trial's name.
    pub const WORDS: [(&str, Disruption); 5] = [
        ("again", Disruption::Again),
        ("stop_cont", Disruption::StopCont),
        ("reboot", Disruption::Reboot),
        ("system_reset", Disruption::SystemReset),
        ("reload", Disruption::Reload),
    ];

    /// As in a trial's name.
    pub fn word(self) -> &'static str {
        let found = Self::WORDS
            .iter()
            .find(|(_, disruption)| *disruption == self);
        found.map_or("", |(word, _)| word)
    }
}
