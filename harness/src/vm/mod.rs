//! QEMU.
pub mod cmdline;
