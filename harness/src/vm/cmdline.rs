//! From a VM's description to QEMU's command line. Pure.

/// A VM, before it is a command line.
pub struct VmSpec {}
