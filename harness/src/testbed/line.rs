//! The interrupt lines that devices hold up, as QEMU's interrupt controller has them.

use super::Testbed;
use anyhow::{Context as _, Result};
use std::collections::BTreeSet;

impl Testbed {
    /// The pins of the I/O APIC whose interrupts the guest has not taken yet (`info pic`; Intel's 82093AA, 3.0).
    ///
    /// # Errors
    /// When QEMU shows no I/O APIC.
    pub fn pending_lines(&self) -> Result<BTreeSet<u32>> {
        let shown = self.vm.hmp("info pic")?;
        pending(&shown).with_context(|| format!("QEMU's `info pic` shows: {shown}"))
    }
}

/// By the line `IRR 10 11`, or `IRR (none)`.
fn pending(shown: &str) -> Option<BTreeSet<u32>> {
    let mut lines = shown.lines().map(str::trim);
    let pins = lines.find_map(|line| line.strip_prefix("IRR "))?;
    Some(pins.split_whitespace().flat_map(str::parse).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_read_and_there_may_be_none() {
        let shown = |pins: &str| {
            format!(
                "ioapic0: ver=0x20 id=0x00 sel=0x26 (redir[11])\n  \
                 pin 0  0x0000000000010000 dest=0 vec=0   active-hi edge  masked fixed  physical\n  \
                 IRR      {pins}\n  Remote IRR 9\npic1: irr=00 imr=ff isr=00 hprio=0\n"
            )
        };
        assert_eq!(pending(&shown("(none)")), Some(BTreeSet::new()));
        assert_eq!(pending(&shown("10 11")), Some(BTreeSet::from([10, 11])));
        assert_eq!(pending("pic0: irr=00"), None);
    }
}
