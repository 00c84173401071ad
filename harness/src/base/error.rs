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

/// The first `T` in an error's chain, whether it is the root or the context of another error.
pub fn find<T: std::error::Error + Send + Sync + 'static>(error: &anyhow::Error) -> Option<&T> {
    error
        .downcast_ref()
        .or_else(|| error.chain().find_map(|cause| cause.downcast_ref()))
}

/// Marks any error as [`CannotRun`], with a sentence that says what was being done. The error stays in
/// the chain: a [`Skip`] in it is still a skip.
pub trait OrCannotRun<T> {
    /// `what` reads after "cannot", for example "create a bridge".
    fn or_cannot_run(self, what: impl FnOnce() -> String) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> OrCannotRun<T> for Result<T, E> {
    fn or_cannot_run(self, what: impl FnOnce() -> String) -> anyhow::Result<T> {
        self.map_err(|e| e.into().context(CannotRun(format!("cannot {}", what()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn a_marked_error_says_what_it_said_and_keeps_its_markers() {
        let skip = || Err::<(), _>(Skip("the guest has no netperf".into()));
        let error = skip()
            .context("in the guest")
            .or_cannot_run(|| "measure".into())
            .context("in round 2")
            .unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            "in round 2: cannot measure: in the guest: the guest has no netperf"
        );
        assert_eq!(find::<CannotRun>(&error).unwrap().0, "cannot measure");
        assert!(find::<Skip>(&error).is_some());
        assert!(find::<std::io::Error>(&error).is_none());
    }
}
