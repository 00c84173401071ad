//! The keys of `[nics.NAME]` that make a NIC a variant of its device.

use super::read::{Placed, Section, YES_NO};
use super::schema::{Property, Variant};

/// Properties of a device that a VM's description decides, with what decides each.
const DEVICE_TAKEN: &[(&str, &str)] = &[
    ("driver", "`device`"),
    ("id", "the harness"),
    ("netdev", "the harness"),
    ("mac", "the harness"),
    ("bus", "the harness"),
    ("bootindex", "the case"),
];

/// Those of a machine.
const MACHINE_TAKEN: &[(&str, &str)] = &[
    ("type", "the guest's `machine`"),
    ("accel", "`--accel`"),
    ("memory-backend", "the harness"),
    ("graphics", "the case"),
];

/// Reads them; each may be absent.
pub(super) fn variant(section: &Section, device: &str) -> Variant {
    let properties = list(section, "properties", DEVICE_TAKEN);
    let machine_properties = list(section, "machine_properties", MACHINE_TAKEN);
    let iommu = section.optional_choice("iommu", YES_NO).unwrap_or(false);
    let vnet_hdr = section.optional_choice("vnet_hdr", YES_NO).unwrap_or(true);
    let variant = Variant {
        properties,
        machine_properties,
        iommu,
        bare_tap: !vnet_hdr,
    };
    if variant.bare_tap && device.starts_with("virtio") {
        section.mistake(
            "with `vnet_hdr = \"no\"` QEMU withdraws the offloads of a virtio NIC, which the cases ask for",
        );
    }
    if iommu && device.starts_with("virtio") && variant.property("iommu_platform") != Some("on") {
        section.mistake(
            "with `iommu` a virtio NIC needs `iommu_platform=on` in `properties` (and, as QEMU has it \
             for no other, `disable-legacy=on`): else it reaches the guest's memory past the IOMMU",
        );
    }
    variant
}

/// Distinct `key=value`s, none of them `taken`.
fn list(section: &Section, key: &str, taken: &[(&str, &str)]) -> Vec<Property> {
    let mut properties: Vec<Property> = Vec::new();
    for text in section.optional_strings(key).unwrap_or_default() {
        match property(section, &text) {
            Err(what) => section.mistake_at(&text, format!("`{key}`: {what}")),
            Ok(found) => {
                let decided = taken.iter().find(|(name, _)| *name == found.key);
                let twice = properties.iter().any(|earlier| earlier.key == found.key);
                if let Some((name, by)) = decided {
                    let what = format!("`{key}`: `{name}` is decided by {by}");
                    section.mistake_at(&text, what);
                } else if twice {
                    let what = format!("`{key}` gives `{}` twice", found.key);
                    section.mistake_at(&text, what);
                } else {
                    properties.push(found);
                }
            }
        }
    }
    properties
}

/// One `key=value`. Whether QEMU knows it, QEMU is asked later.
fn property(section: &Section, text: &Placed<String>) -> Result<Property, String> {
    let written = text.get_ref();
    let expected = format!("`{written}` is no property, expected `key=value`");
    let (key, value) = written.split_once('=').ok_or(&expected)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if key.is_empty() || !key.chars().all(plain) || value.is_empty() {
        return Err(expected);
    }
    // QEMU would take what follows it for another property.
    if value.contains(',') {
        return Err(format!(
            "`{written}` has a comma: each property is an item of the list"
        ));
    }
    Ok(Property {
        key: key.to_owned(),
        value: value.to_owned(),
        line: section.reader.line(&text.span()),
    })
}
