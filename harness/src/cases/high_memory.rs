//! A guest with memory above 4 GiB, as all but small ones have some: its NIC reads and writes there, and
//! a device that keeps 32 bits of an address reads and writes elsewhere.

use super::every_size::answers_each;
use super::faults::{AT_START, IN_TRAFFIC};
use super::transfer::{self as files, ALTERED, SENT};
use super::{Case, Fault, Moment, Red};
use crate::guest::dialect::Op;
use crate::guest::link::Link;
use crate::net::addr::HOST;
use crate::net::transfer;
use crate::testbed::Testbed;
use anyhow::{Context as _, ensure};
use std::time::Duration;

/// Where a device with addresses of 32 bits ends.
const FOUR_GIB: u64 = 4 << 30;

/// What the machine has above that, MiB, beside all that it has elsewhere.
const HIGH_MIB: u32 = 256;

/// QEMU's machine property: memory beyond so much begins at 4 GiB.
const LOW: &str = "max-ram-below-4g";

/// Drivers that have their NIC use addresses of 64 bits. The kernel copies what others send or receive.
const WIDE: [&str; 5] = ["virtio_net", "8139cp", "e1000e", "igb", "vmxnet3"];

/// Bytes from one length of echo requests to the next.
const STEP: usize = 64;

/// Beyond the plan.
pub static HIGH_MEMORY: Case = Case {
    name: "high_memory",
    passes: "with 256 MiB of the guest's memory above 4 GiB, which the kernel gives away first, and a NIC that is told addresses of 64 bits where its driver knows such, echo requests of lengths up to the MTU's are answered by the same bytes, and a file that netcat sends to the host, and one that it receives, have the same SHA-256 at both ends",
    vm: |spec| {
        let low = format!("{LOW}={}M", spec.memory_mib);
        spec.machine_properties.push(low);
        spec.memory_mib += HIGH_MIB;
    },
    ops: &[Op::Address],
    seconds: files::seconds,
    faults: &[
        Fault {
            name: "all_low",
            breaks: "the guest has all of its memory below 4 GiB",
            vm: |spec, _| {
                let properties = &mut spec.machine_properties;
                properties.retain(|property| !property.starts_with(LOW));
            },
            red: Red::Says("MiB above 4 GiB"),
            ..AT_START
        },
        Fault {
            name: "narrow",
            breaks: "the guest says that its NIC is told addresses of 32 bits",
            applies: |cell| WIDE.contains(&cell.nic.driver.as_str()),
            inject: |bed| {
                let path = mask_path(&bed.link()?);
                let script = format!("echo 32 >/tmp/narrow && mount --bind /tmp/narrow {path}");
                bed.agent.sh(&script).map(drop)
            },
            red: Red::Says("addresses of 32 bits"),
            ..IN_TRAFFIC
        },
        ALTERED,
    ],
    run: high_memory,
    ..Case::PLAIN
};

/// How many bits the addresses have that the NIC may be told (kernel: `dma_mask_bits_show`).
fn mask_path(link: &Link) -> String {
    format!("/sys/bus/pci/devices/{}/dma_mask_bits", link.pci)
}

fn high_memory(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    let iomem = bed.agent.sh("cat /proc/iomem")?;
    let high = ram_above(&iomem, FOUR_GIB);
    ensure!(
        high >> 20 == u64::from(HIGH_MIB),
        "the guest was to have {HIGH_MIB} MiB above 4 GiB, and /proc/iomem has {}",
        high >> 20
    );
    let blocks = transfer::blocks(bed.profile.transfer_mib);
    files::make_file(bed, blocks)?;
    bed.moment(Moment::Traffic)?;
    let bits = bed.agent.sh(&format!("cat {}", mask_path(&link)))?;
    let bits: u32 = bits
        .trim()
        .parse()
        .with_context(|| format!("the guest's dma_mask_bits is {bits:?}"))?;
    ensure!(
        bits == 64 || !WIDE.contains(&link.driver.as_str()),
        "{} tells its NIC addresses of {bits} bits, not of 64",
        link.driver
    );
    bed.notes
        .push(format!("the NIC is told addresses of {bits} bits"));
    answers_each(bed, STEP)?;
    files::from_guest(bed, HOST.into(), blocks, Duration::ZERO)?;
    // The guest's memory has room for one.
    bed.agent.sh(&format!("rm {SENT}"))?;
    files::to_guest(bed, HOST.into(), blocks, Duration::ZERO)?;
    bed.expect_quiet_kernel()
}

/// Bytes of memory that begins at `from` or above it, by /proc/iomem.
fn ram_above(iomem: &str, from: u64) -> u64 {
    let ranges = iomem.lines().filter_map(|line| {
        let (range, what) = line.split_once(" : ")?;
        let (first, last) = range.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        (what == "System RAM").then_some((number(first)?, number(last)?))
    });
    ranges
        .filter(|(first, _)| *first >= from)
        .map(|(first, last)| last - first + 1)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_above_4_gib_is_what_the_kernel_shows_there() {
        let iomem = "00001000-0009fbff : System RAM\n00100000-0ffdffff : System RAM\n  \
                     01000000-01ffffff : Kernel code\nfee00000-fee00fff : Local APIC\n\
                     100000000-10fffffff : System RAM\n";
        assert_eq!(ram_above(iomem, FOUR_GIB), 256 << 20);
        assert_eq!(ram_above(&iomem.replace("\n1", "\n0"), FOUR_GIB), 0);
    }
}
