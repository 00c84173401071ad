//! QEMU: how it is started, a VM's command line, its monitors and the guest's serial console.

pub mod accel;
pub mod checkpoint;
pub mod cmdline;
mod held;
pub mod kernel_words;
pub mod process;
pub mod qemu;
pub mod serial;
pub mod standard;
pub mod start_state;
pub mod wire;
