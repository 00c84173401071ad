//! What everything stands on: errors, deadlines, child processes, slots, files.

pub mod artifacts;
pub mod child;
pub mod cpu;
pub mod deadline;
pub mod error;
pub mod json;
pub mod panics;
pub mod slots;
pub mod watch;
pub mod words;
