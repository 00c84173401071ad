//! The standard VM of a cell: what its guest and its NIC say. Pure.

use super::cmdline::{Boot, IOMMU_PARAMETER, NicSpec, Ram, VmSpec, is_usb};
use crate::matrix::schema::Property;
use crate::matrix::{Backend, Cell};
use crate::net::addr;
use crate::vm::accel::Accel;
use std::path::PathBuf;

/// What a VM needs that the matrix does not say.
#[derive(Debug, Clone)]
pub struct Kit {
    /// How guest code runs.
    pub accel: Accel,
    /// The built image's kernel.
    pub kernel: PathBuf,
    /// The built image's initramfs.
    pub initrd: PathBuf,
    /// Kernel parameters, separated by blanks.
    pub parameters: String,
    /// OVMF.
    pub uefi: PathBuf,
    /// Whether this QEMU has `vmgenid`.
    pub generation_id: bool,
}

/// The VM of a cell, with one NIC in that place; nothing that a case asks for.
pub fn bare(cell: &Cell, kit: &Kit, place: u8) -> VmSpec {
    let guest = &cell.guest;
    let boot = match &guest.image {
        Some(image) => Boot::Disk(image.clone()),
        None => Boot::Kernel {
            kernel: guest.kernel.clone().unwrap_or_else(|| kit.kernel.clone()),
            initrd: guest.initrd.clone().unwrap_or_else(|| kit.initrd.clone()),
            parameters: kit
                .parameters
                .split_whitespace()
                .chain(parameter_of(cell))
                .map(str::to_owned)
                .collect(),
        },
    };
    VmSpec {
        machine: guest.machine,
        machine_version: None,
        accel: kit.accel,
        memory_mib: guest.memory_mib,
        cpus: 1,
        boot,
        nics: vec![nic(cell, place)],
        usb: is_usb(&cell.nic.device),
        bridge: false,
        machine_properties: words(&cell.nic.variant.machine_properties),
        iommu: cell.nic.variant.iommu,
        globals: Vec::new(),
        uefi: kit.uefi.clone(),
        generation_id: kit.generation_id,
        ram: Ram::Anonymous,
        restored: false,
        spice: None,
        migratable: false,
    }
}

/// The NIC under test, in that place of the trial.
pub fn nic(cell: &Cell, place: u8) -> NicSpec {
    NicSpec {
        place,
        id: format!("nic{place}"),
        device: cell.nic.device.clone(),
        mac: addr::mac(&format!("{}::{}", cell.nic.name, cell.guest.name), place),
        tap: format!("tap{place}"),
        vhost: cell.backend != Backend::Tap,
        bare_tap: cell.nic.variant.bare_tap,
        queues: 1,
        properties: words(&cell.nic.variant.properties),
        hotplug: false,
    }
}

/// The kernel parameter that a guest of the cell needs beside its image's.
pub fn parameter_of(cell: &Cell) -> Option<&'static str> {
    cell.nic.variant.iommu.then_some(IOMMU_PARAMETER)
}

/// Properties as QEMU takes them, `key=value` each.
pub fn words(properties: &[Property]) -> Vec<String> {
    properties.iter().map(Property::to_string).collect()
}

/// The host side of `spec`, drawn.
pub fn topology(spec: &VmSpec) -> String {
    let tftp = match spec.boot {
        Boot::Network(_) => " and TFTP",
        _ => "",
    };
    let mut text = format!(
        "an anonymous network namespace, no route out\nbr0 {}/{} (host), dnsmasq as DHCP{tftp} server\n",
        addr::HOST,
        addr::PREFIX_LEN
    );
    for nic in &spec.nics {
        let plugged = if nic.hotplug {
            ", plugged by the case"
        } else {
            ""
        };
        text += &format!(
            " └─ {} ── {} {} {} in the guest{plugged}\n",
            nic.tap,
            nic.device,
            nic.mac,
            addr::guest(nic.place)
        );
    }
    text
}
