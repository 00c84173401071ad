//! QEMU: its command line, its process, its monitors and the guest's serial console.

pub mod checkpoint;
pub mod cmdline;
pub mod process;
pub mod serial;
pub mod standard;
pub mod wire;
