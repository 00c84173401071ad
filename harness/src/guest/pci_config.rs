//! A PCI function's configuration space, as the guest reads it.

use crate::guest::agent::Agent;
use crate::matrix::schema::Interrupts;
use anyhow::{Context as _, Result, ensure};

/// Where the status register is, and its bit that says that there are capabilities (PCI 3.0, 6.2.3).
const STATUS: usize = 0x06;
const HAS_CAPABILITIES: u8 = 1 << 4;
/// Where the first capability's place is (6.7).
const FIRST: usize = 0x34;
/// The capabilities of MSI and MSI-X (6.8): their ids, and the byte and bit of their control registers that enables them.
const KINDS: [(u8, usize, u8, Interrupts); 2] = [
    (0x05, 2, 1 << 0, Interrupts::Msi),
    (0x11, 3, 1 << 7, Interrupts::Msix),
];
/// The space has no room for more capabilities of 4 bytes behind its header of 64.
const MOST: usize = 48;

/// How the interrupts of the function `domain:bus:slot.function` reach the guest, as its driver has set it up.
///
/// # Errors
/// When the guest cannot read it; what it reads is no configuration space.
pub fn interrupts(agent: &Agent, pci: &str) -> Result<Interrupts> {
    let text = agent.sh(&format!(
        "od -An -v -tx1 -N256 /sys/bus/pci/devices/{pci}/config"
    ))?;
    let bytes = text
        .split_whitespace()
        .map(|byte| u8::from_str_radix(byte, 16));
    let config: Vec<u8> = bytes
        .collect::<Result<_, _>>()
        .with_context(|| format!("`od` shows no bytes of {pci}: {text}"))?;
    enabled(&config).with_context(|| format!("of {pci} the guest reads: {text}"))
}

/// What is enabled in a configuration space, by its list of capabilities.
fn enabled(config: &[u8]) -> Result<Interrupts> {
    let byte = |at: usize| {
        let byte = config.get(at).copied();
        byte.with_context(|| format!("the configuration space ends before {at:#x}"))
    };
    if byte(STATUS)? & HAS_CAPABILITIES == 0 {
        return Ok(Interrupts::Intx);
    }
    let mut at = usize::from(byte(FIRST)? & !3);
    let mut found = Interrupts::Intx;
    for _ in 0..MOST {
        if at == 0 {
            return Ok(found);
        }
        for (id, register, bit, kind) in KINDS {
            if byte(at)? == id && byte(at + register)? & bit != 0 {
                ensure!(
                    found == Interrupts::Intx,
                    "both {found} and {kind} are enabled"
                );
                found = kind;
            }
        }
        at = usize::from(byte(at + 1)? & !3);
    }
    anyhow::bail!("its list of capabilities has no end")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A space with capabilities from 0x40 on, 16 bytes each: id and control register.
    fn config(capabilities: &[(u8, u16)]) -> Vec<u8> {
        let mut config = vec![0; 256];
        config[STATUS] = HAS_CAPABILITIES;
        config[FIRST] = if capabilities.is_empty() { 0 } else { 0x40 };
        for (n, (id, control)) in capabilities.iter().enumerate() {
            let at = 0x40 + 16 * n;
            let next = if n + 1 < capabilities.len() {
                at + 16
            } else {
                0
            };
            config[at] = *id;
            config[at + 1] = next as u8;
            config[at + 2..at + 4].copy_from_slice(&control.to_le_bytes());
        }
        config
    }

    #[test]
    fn what_is_enabled_counts_and_not_what_is_there() {
        for (capabilities, kind) in [
            (&[][..], Interrupts::Intx),
            (&[(0x01, 0xffff)], Interrupts::Intx),
            (&[(0x05, 0x0080), (0x11, 0x0004)], Interrupts::Intx),
            (&[(0x05, 0x0081), (0x11, 0x0004)], Interrupts::Msi),
            (
                &[(0x05, 0x0080), (0x10, 0x0002), (0x11, 0x8004)],
                Interrupts::Msix,
            ),
        ] {
            assert_eq!(
                enabled(&config(capabilities)).unwrap(),
                kind,
                "{capabilities:?}"
            );
        }
        assert_eq!(enabled(&[0; 64]).unwrap(), Interrupts::Intx);
    }

    #[test]
    fn a_space_that_makes_no_sense_is_no_answer() {
        let why = |config: &[u8]| enabled(config).unwrap_err().to_string();
        assert!(why(&[0; 4]).contains("ends before 0x6"));
        let mut round = config(&[(0x01, 0)]);
        round[0x41] = 0x40;
        assert!(why(&round).contains("has no end"));
        let both = config(&[(0x05, 0x0001), (0x11, 0x8000)]);
        assert_eq!(why(&both), "both MSI and MSI-X are enabled");
    }
}
