//! A NIC's interrupts, as the guest counts them.

use super::agent::Agent;
use anyhow::Result;

/// A shell command that prints the numbers of a PCI function's interrupts, one a line. (A device that uses MSI has its
/// vectors in a directory, one that does not has a line.)
pub fn numbers_of(pci: &str) -> String {
    let device = format!("/sys/bus/pci/devices/{pci}");
    format!("{{ ls {device}/msi_irqs 2>/dev/null | grep . || cat {device}/irq; }}")
}

/// The numbers of a PCI function's interrupts.
///
/// # Errors
/// When the guest cannot be asked.
pub fn numbers(agent: &Agent, pci: &str) -> Result<Vec<String>> {
    let numbers = agent.sh(&numbers_of(pci))?;
    Ok(numbers.split_whitespace().map(String::from).collect())
}

/// How many of the interrupts with these numbers came to each processor so far.
///
/// # Errors
/// When the guest cannot be asked.
pub fn counts(agent: &Agent, numbers: &[String]) -> Result<Vec<u64>> {
    let text = agent.sh("cat /proc/interrupts")?;
    Ok(by_processor(text.lines(), numbers))
}

/// How many of the interrupts with these numbers came to each processor, by the lines of `/proc/interrupts`. It has none
/// of a vector without a handler.
pub fn by_processor<'a>(
    lines: impl IntoIterator<Item = &'a str>,
    numbers: &[impl AsRef<str>],
) -> Vec<u64> {
    let mut sums = Vec::new();
    for (number, counts) in lines.into_iter().filter_map(|line| line.split_once(':')) {
        if !numbers.iter().any(|one| one.as_ref() == number.trim()) {
            continue;
        }
        let counts = counts
            .split_whitespace()
            .map_while(|n| n.parse::<u64>().ok());
        for (cpu, count) in counts.enumerate() {
            sums.resize(sums.len().max(cpu + 1), 0);
            sums[cpu] += count;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nic_s_interrupts_are_counted_by_processor() {
        let text = "           CPU0       CPU1       \n   9:          5          0   IO-APIC    9-fasteoi   acpi\n  \
                    24:        100          1   PCI-MSI 32768-edge      eth0-rx-0\n  \
                    25:         20          3   PCI-MSI 32769-edge      eth0-tx-0\n NMI:          0          0   \
                    Non-maskable interrupts\n";
        assert_eq!(by_processor(text.lines(), &["24", "25", "26"]), [120, 4]);
        assert_eq!(by_processor("".lines(), &["24"]), [0; 0]);
    }
}
