//! What can stop a trial, beyond "the NIC is wrong".
//!
//! Cases return [`anyhow::Result`]. An error is a failure of the NIC under test unless its chain
//! holds one of the markers below.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The trial cannot be judged here; the reason is reported and never counts as a pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// The harness itself could not do its work (no tun device, disk full, a tool missing): says
/// nothing about the NIC.
#[derive(Debug)]
pub struct CannotRun(pub String);

impl fmt::Display for CannotRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CannotRun {}

/// Marks any error as [`CannotRun`], with a sentence that says what was being done.
pub trait OrCannotRun<T> {
    /// `what` reads after "cannot", for example "create a bridge".
    fn or_cannot_run(self, what: impl FnOnce() -> String) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> OrCannotRun<T> for Result<T, E> {
    fn or_cannot_run(self, what: impl FnOnce() -> String) -> anyhow::Result<T> {
        self.map_err(|e| {
            let cause = e.into();
            anyhow::Error::new(CannotRun(format!("cannot {}: {cause:#}", what())))
        })
    }
}
