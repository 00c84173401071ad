//! What one trial is handed.

/// A trial's own network, VM and guest.
pub struct Testbed {}
