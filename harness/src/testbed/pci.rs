//! Where QEMU has a device on its PCI buses.

use super::Testbed;
use anyhow::Context as _;
use qapi::qmp::{PciDeviceInfo, query_pci};

impl Testbed {
    /// The device with that id, as `query-pci` has it.
    ///
    /// # Errors
    /// When QEMU has no such device on a PCI bus.
    pub fn pci_device(&self, id: &str) -> anyhow::Result<PciDeviceInfo> {
        let buses = self.vm.call(&query_pci {})?;
        let found = buses.iter().find_map(|bus| with_id(&bus.devices, id));
        found
            .cloned()
            .with_context(|| format!("QEMU's query-pci has no device {id}"))
    }
}

/// The device with that id, on these slots or behind a bridge there.
fn with_id<'a>(devices: &'a [PciDeviceInfo], id: &str) -> Option<&'a PciDeviceInfo> {
    devices.iter().find_map(|device| {
        if device.qdev_id == id {
            return Some(device);
        }
        let behind = device.pci_bridge.as_ref()?.devices.as_ref()?;
        with_id(behind, id)
    })
}
