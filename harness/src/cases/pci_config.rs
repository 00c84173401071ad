//! What a guest finds at its NIC's PCI function before a driver has touched it. Drivers are chosen by it, Windows takes
//! a NIC with another subsystem for a new one, and a guest that migrates must find the same.

use super::faults::{self, AT_START};
use super::{Case, Fault, Red, StartState};
use crate::guest::pci_config;
use crate::matrix::Cell;
use crate::testbed::Testbed;
use anyhow::ensure;

/// QEMU's devices, each as it is on i440FX and Q35 alike, or as on one and the other. Seen on 7.2, 10.0 and 11.1, whose
/// devices of this kind do not differ.
static FUNCTIONS: [(&str, &[&str]); 12] = [
    (
        "rtl8139",
        &[
            "10ec:8139, revision 20, class 020000, subsystem 1af4:1100; ports of 256 bytes, memory of 256 bytes; no capabilities",
        ],
    ),
    (
        "e1000",
        &[
            "8086:100e, revision 03, class 020000, subsystem 1af4:1100; memory of 128 KiB, ports of 64 bytes; no capabilities",
        ],
    ),
    (
        "e1000e",
        &[
            "8086:10d3, revision 00, class 020000, subsystem 8086:0000; memory of 128 KiB, memory of 128 KiB, ports of 32 bytes, memory of 16 KiB; power, MSI, PCIe, MSI-X of 5",
        ],
    ),
    (
        "igb",
        &[
            "8086:10c9, revision 01, class 020000, subsystem 1af4:1100; memory of 128 KiB, memory of 128 KiB, ports of 32 bytes, memory of 16 KiB (64 bits); power, MSI, MSI-X of 10, PCIe",
        ],
    ),
    (
        "virtio-net-pci",
        &[
            "1af4:1000, revision 00, class 020000, subsystem 1af4:0001; ports of 32 bytes, memory of 4 KiB, memory of 16 KiB (64 bits) (prefetchable); MSI-X of 4, vendor's, vendor's, vendor's, vendor's, vendor's",
        ],
    ),
    (
        "vmxnet3",
        &[
            "15ad:07b0, revision 01, class 020000, subsystem 15ad:07b0; memory of 4 KiB, memory of 4 KiB, memory of 8 KiB; MSI-X of 25, MSI",
            "15ad:07b0, revision 01, class 020000, subsystem 15ad:07b0; memory of 4 KiB, memory of 4 KiB, memory of 8 KiB; PCIe, MSI-X of 25, MSI",
        ],
    ),
    (
        "pcnet",
        &[
            "1022:2000, revision 10, class 020000, subsystem 0000:0000; ports of 32 bytes, memory of 32 bytes; no capabilities",
        ],
    ),
    (
        "ne2k_pci",
        &[
            "10ec:8029, revision 00, class 020000, subsystem 1af4:1100; ports of 256 bytes; no capabilities",
        ],
    ),
    (
        "tulip",
        &[
            "1011:0019, revision 00, class 020000, subsystem 103c:104f; ports of 128 bytes, memory of 128 bytes; no capabilities",
        ],
    ),
    (
        "i82550",
        &[
            "8086:1209, revision 0e, class 020000, subsystem 1af4:1100; memory of 4 KiB (prefetchable), ports of 64 bytes, memory of 128 KiB; power",
        ],
    ),
    (
        "i82557b",
        &[
            "8086:1229, revision 02, class 020000, subsystem 1af4:1100; memory of 4 KiB (prefetchable), ports of 64 bytes, memory of 128 KiB; no capabilities",
        ],
    ),
    (
        "i82559er",
        &[
            "8086:1209, revision 09, class 020000, subsystem 1af4:1100; memory of 4 KiB (prefetchable), ports of 64 bytes, memory of 128 KiB; power",
        ],
    ),
];

/// What the cell's device is, where it is as QEMU makes it.
fn known(cell: &Cell) -> Option<&'static [&'static str]> {
    let of = |(device, known): &(&str, _)| (*device == cell.nic.device).then_some(*known);
    FUNCTIONS
        .iter()
        .find_map(of)
        .filter(|_| !cell.nic.is_variant())
}

/// Beyond the plan.
pub static PCI_CONFIG: Case = Case {
    name: "pci_config",
    passes: "the guest finds at the NIC's PCI function what this model has had since QEMU 7.2: ids, revision, class, subsystem, regions and their sizes, capabilities, count of MSI-X vectors",
    applies: |cell| known(cell).is_some(),
    start_state: StartState::ColdDriver,
    faults: &[
        Fault {
            name: "several",
            breaks: "the NIC says that its slot has several functions (multifunction=on)",
            vm: |spec, _| spec.nics[0].properties.push("multifunction=on".into()),
            red: Red::Says("one of several functions"),
            ..AT_START
        },
        Fault {
            name: "fewer_vectors",
            breaks: "the NIC has two MSI-X vectors",
            applies: faults::virtio,
            vm: |spec, _| spec.nics[0].properties.push("vectors=2".into()),
            red: Red::Says("MSI-X of 2"),
            ..AT_START
        },
        Fault {
            name: "other_subsystem",
            breaks: "the NIC has another subsystem (subsys=1)",
            applies: |cell| cell.nic.device == "e1000e",
            vm: |spec, _| spec.nics[0].properties.push("subsys=1".into()),
            red: Red::Says("subsystem 8086:0001"),
            ..AT_START
        },
    ],
    run: pci_config,
    ..Case::PLAIN
};

fn pci_config(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.link()?;
    let found = pci_config::describe(&bed.agent, &link.pci)?;
    let known = known(&bed.cell).unwrap_or_default();
    ensure!(
        known.contains(&found.as_str()),
        "the guest finds {found} at {}; QEMU's {} has been {}",
        link.pci,
        bed.cell.nic.device,
        known.join(", or "),
    );
    bed.notes.push(found);
    Ok(())
}
