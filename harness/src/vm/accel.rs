//! How guest code is run: the accelerator's arguments, and the CPU model that goes with it.

use serde::{Deserialize, Serialize};

/// How guest code is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// Hardware virtualisation, shown to run a stock kernel here.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

impl Accel {
    /// QEMU's arguments for this accelerator and the CPU model that goes best with it.
    ///
    /// Under TCG, `qemu64` has few features that the kernel would patch itself for or emulate at a
    /// loss (`max` has ERMS: `rep movsb`, a byte a step); RDRAND seeds the guest's random numbers at
    /// once. CMPXCHG16B is left out: before QEMU 8.0 it sets the flags by a state that may be out of
    /// date, with a pointer's bits in EFLAGS, which an interrupt at just that instruction saves and
    /// brings back as a single step or a nested task (Linux 6.12's allocator oopsed in one trial of
    /// eight in a lab).
    pub fn qemu_args(self) -> [&'static str; 4] {
        match self {
            Accel::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Accel::Tcg => ["-accel", "tcg", "-cpu", "qemu64,+rdrand,-cx16"],
        }
    }

    /// As [`Accel::qemu_args`], for a real release: RHEL 9 is built for x86-64-v2 and RHEL 10 for v3,
    /// which under TCG `max` has (AVX2 from QEMU 7.2 on).
    pub fn qemu_args_for_release(self) -> [&'static str; 4] {
        match self {
            Accel::Kvm => self.qemu_args(),
            Accel::Tcg => ["-accel", "tcg", "-cpu", "max"],
        }
    }

    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Accel::Kvm => "KVM",
            Accel::Tcg => "TCG",
        }
    }
}
