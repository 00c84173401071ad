//! What everything stands on: errors, deadlines, child processes, slots, files.

pub mod artifacts;
pub mod cgroup;
pub mod child;
pub mod collected;
pub mod cpu;
pub mod deadline;
pub mod delay;
pub mod error;
pub mod json;
pub mod kept;
pub mod killed;
pub mod ledger;
pub mod lines;
pub mod memory;
pub mod need;
pub mod output;
pub mod panics;
pub mod rights;
pub mod sealed;
pub mod share;
pub mod slots;
pub mod thread;
pub mod watch;
pub mod words;
