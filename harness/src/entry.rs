//! What this process is: the harness that runs trials, the harness inside a lab, or the keeper of a
//! reloaded module.

use crate::host::module;
use crate::{inside, lab, run};
use anyhow::anyhow;
use std::process::ExitCode;

/// Entry point of the test binary.
pub fn main() -> ExitCode {
    hidden().unwrap_or_else(|| run::exit(run::trials(std::env::args().skip(1).collect())))
}

/// Does the work of a process that the harness itself started; none where a person did.
pub fn hidden() -> Option<ExitCode> {
    let served = match std::env::var_os(lab::INSIDE) {
        Some(_) => Some(inside::serve().and_then(|()| Err(anyhow!("the lab's port was closed")))),
        None => module::keep_if_asked(),
    };
    served.map(|served| run::exit(served.map(|()| ExitCode::SUCCESS)))
}
