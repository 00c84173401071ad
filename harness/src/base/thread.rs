//! Threads, which a host may refuse: a limit of processes counts them too.

use super::error::OrCannotRun as _;
use anyhow::Result;
use std::thread::{Builder, JoinHandle};

/// Starts a thread. `std::thread::spawn` panics where the host has no room for one.
///
/// # Errors
/// [`super::error::CannotRun`]: the host refuses it.
pub fn start<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .or_cannot_run(|| format!("start the thread \"{name}\""))
}
