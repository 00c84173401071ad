//! A PCI function's configuration space, as the guest reads it.

use crate::guest::agent::Agent;
use crate::matrix::schema::Interrupts;
use anyhow::{Context as _, Result, bail, ensure};
use std::fmt;

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
    let space = Space::read(agent, pci)?;
    enabled(&space.0).with_context(|| format!("of {pci} the guest reads: {space}"))
}

/// What the function `domain:bus:slot.function` is, in a line that names all by which a driver knows it and what it
/// has room for: ids, revision, class, regions with their sizes, capabilities in their order. Its ROM is left out, which
/// a host may lack.
///
/// # Errors
/// As [`interrupts`].
pub fn describe(agent: &Agent, pci: &str) -> Result<String> {
    let space = Space::read(agent, pci)?;
    let regions = agent.sh(&format!("cat /sys/bus/pci/devices/{pci}/resource"))?;
    let said = || format!("of {pci} the guest reads: {space}, and of its regions: {regions}");
    Ok(format!(
        "{}; {}; {}",
        identity(&space.0).with_context(said)?,
        described_regions(&regions).with_context(said)?,
        described_capabilities(&space.0).with_context(said)?
    ))
}

/// The first 256 bytes.
struct Space(Vec<u8>);

impl Space {
    fn read(agent: &Agent, pci: &str) -> Result<Space> {
        let text = agent.sh(&format!(
            "od -An -v -tx1 -N256 /sys/bus/pci/devices/{pci}/config"
        ))?;
        let bytes = text
            .split_whitespace()
            .map(|byte| u8::from_str_radix(byte, 16));
        let config: Result<_, _> = bytes.collect();
        config
            .map(Space)
            .with_context(|| format!("`od` shows no bytes of {pci}: {text}"))
    }
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// `8086:100e, revision 03, class 020000, subsystem 1af4:1100` (PCI 3.0, 6.2.1 and 6.2.4).
fn identity(config: &[u8]) -> Result<String> {
    let header = config.first_chunk::<64>().context("it has no header")?;
    let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let [revision, class @ ..] = [header[0x08], header[0x0b], header[0x0a], header[0x09]];
    let class: String = class.iter().map(|byte| format!("{byte:02x}")).collect();
    let several = match header[0x0e] & 0x80 {
        0 => "",
        _ => ", one of several functions",
    };
    Ok(format!(
        "{:04x}:{:04x}, revision {revision:02x}, class {class}, subsystem {:04x}:{:04x}{several}",
        word(0x00),
        word(0x02),
        word(0x2c),
        word(0x2e)
    ))
}

/// `memory of 128 KiB, ports of 64 bytes`, from sysfs's `resource`: a line of first address, last address and flags
/// (Linux's `ioport.h`) for each of six regions, and further ones.
fn described_regions(resource: &str) -> Result<String> {
    const PORTS: u64 = 0x100;
    const PREFETCH: u64 = 0x2000;
    const WIDE: u64 = 0x0010_0000;
    let mut described = Vec::new();
    for line in resource.lines().take(6) {
        let number = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16);
        let numbers: Result<Vec<u64>, _> = line.split_whitespace().map(number).collect();
        let Ok([first, last, flags]) = numbers.as_deref() else {
            bail!("{line:?} is no region");
        };
        if *flags == 0 {
            continue;
        }
        // What a guest says may make no sense.
        let size = last.saturating_sub(*first).saturating_add(1);
        let size = match size % 1024 {
            0 => format!("{} KiB", size / 1024),
            _ => format!("{size} bytes"),
        };
        let kind = match flags & PORTS {
            0 => "memory",
            _ => "ports",
        };
        let wide = if flags & WIDE == 0 { "" } else { " (64 bits)" };
        let prefetch = match flags & PREFETCH {
            0 => "",
            _ => " (prefetchable)",
        };
        described.push(format!("{kind} of {size}{wide}{prefetch}"));
    }
    Ok(described.join(", "))
}

/// `power, MSI, MSI-X of 5`.
fn described_capabilities(config: &[u8]) -> Result<String> {
    let mut names = Vec::new();
    for at in capabilities(config)? {
        names.push(match byte(config, at)? {
            0x01 => "power".to_owned(),
            0x05 => "MSI".to_owned(),
            0x09 => "vendor's".to_owned(),
            0x10 => "PCIe".to_owned(),
            0x11 => {
                // One less than there are (6.8.2.3).
                let control = [byte(config, at + 2)?, byte(config, at + 3)?];
                let size = u16::from_le_bytes(control) & 0x7ff;
                format!("MSI-X of {}", size + 1)
            }
            other => format!("capability {other:02x}"),
        });
    }
    Ok(match names.is_empty() {
        true => "no capabilities".into(),
        false => names.join(", "),
    })
}

fn byte(config: &[u8], at: usize) -> Result<u8> {
    let byte = config.get(at).copied();
    byte.with_context(|| format!("the configuration space ends before {at:#x}"))
}

/// Where the capabilities are, in the order of their list.
fn capabilities(config: &[u8]) -> Result<Vec<usize>> {
    let mut places = Vec::new();
    if byte(config, STATUS)? & HAS_CAPABILITIES == 0 {
        return Ok(places);
    }
    let mut at = usize::from(byte(config, FIRST)? & !3);
    while at != 0 {
        ensure!(places.len() < MOST, "its list of capabilities has no end");
        places.push(at);
        at = usize::from(byte(config, at + 1)? & !3);
    }
    Ok(places)
}

/// What is enabled in a configuration space, by its list of capabilities.
fn enabled(config: &[u8]) -> Result<Interrupts> {
    let mut found = Interrupts::Intx;
    for at in capabilities(config)? {
        for (id, register, bit, kind) in KINDS {
            if byte(config, at)? == id && byte(config, at + register)? & bit != 0 {
                ensure!(
                    found == Interrupts::Intx,
                    "both {found} and {kind} are enabled"
                );
                found = kind;
            }
        }
    }
    Ok(found)
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
    fn a_function_is_described_by_what_a_driver_sees_of_it() {
        let mut space = config(&[(0x01, 0), (0x05, 0x0080), (0x11, 0x8004)]);
        space[..12].copy_from_slice(&[0x86, 0x80, 0x0e, 0x10, 7, 4, 0x10, 0, 3, 0, 0, 2]);
        space[0x2c..0x30].copy_from_slice(&[0xf4, 0x1a, 0x00, 0x11]);
        assert_eq!(
            identity(&space).unwrap(),
            "8086:100e, revision 03, class 020000, subsystem 1af4:1100"
        );
        space[0x0e] = 0x80;
        assert!(
            identity(&space)
                .unwrap()
                .ends_with("1af4:1100, one of several functions")
        );
        assert_eq!(
            described_capabilities(&space).unwrap(),
            "power, MSI, MSI-X of 5"
        );
        assert_eq!(
            described_capabilities(&config(&[])).unwrap(),
            "no capabilities"
        );
        let regions = "\
0x00000000febc0000 0x00000000febdffff 0x0000000000040200
0x000000000000c000 0x000000000000c03f 0x0000000000040101
0x00000000fe000000 0x00000000fe003fff 0x000000000014220c
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x00000000feb80000 0x00000000febbffff 0x0000000000046200
";
        assert_eq!(
            described_regions(regions).unwrap(),
            "memory of 128 KiB, ports of 64 bytes, memory of 16 KiB (64 bits) (prefetchable)"
        );
        assert!(described_regions("0x0 0x1").is_err());
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
