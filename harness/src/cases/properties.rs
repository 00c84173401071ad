//! Beyond the plan: a NIC with properties is one with what they ask for, by QEMU's word and the guest's.

use super::faults::{AT_START, TAP_UNPLUGGED};
use super::{Case, Fault, Moment, Red, StartState};
use crate::base::error::find;
use crate::base::words;
use crate::guest::dialect::Op;
use crate::guest::link::Link;
use crate::matrix::schema::Property;
use crate::net::bridge;
use crate::testbed::Testbed;
use crate::vm::cmdline::IOMMU;
use crate::vm::wire::Refused;
use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

/// The PCI device ids of a virtio NIC with its legacy interface and without (virtio 1.2, 4.1.2).
const TRANSITIONAL: &str = "0x1000";
const MODERN: &str = "0x1041";

/// What every failure of a property says.
const NO_EFFECT: Red = Red::Says("has not taken effect");

/// A feature bit of virtio (virtio 1.2, 5.1.3 and 6), and the Linux, major and minor, whose driver is the
/// first to know it, where guests may be older.
type Bit = (usize, Option<(u32, u32)>);

/// Properties of QEMU's virtio NIC that are switches of one feature bit each.
const BITS: [(&str, Bit); 17] = [
    ("csum", (0, None)),
    ("guest_csum", (1, None)),
    ("guest_tso4", (7, None)),
    ("guest_tso6", (8, None)),
    ("host_tso4", (11, None)),
    ("host_tso6", (12, None)),
    ("mrg_rxbuf", (15, None)),
    ("status", (16, None)),
    ("ctrl_vq", (17, None)),
    ("ctrl_rx", (18, None)),
    ("mq", (22, None)),
    ("indirect_desc", (28, None)),
    ("event_idx", (29, None)),
    ("iommu_platform", (33, None)),
    ("packed", (34, Some((5, 0)))),
    ("hash", (57, Some((5, 18)))),
    ("rss", (60, Some((5, 18)))),
];
/// VIRTIO_NET_F_MTU, by which the device tells the MTU, and the first Linux to ask.
const MTU_BIT: Bit = (3, Some((4, 10)));
/// VIRTIO_F_VERSION_1, which a device without the modern interface cannot have.
const VERSION_1: usize = 32;

/// Beyond the plan.
pub static PROPERTIES: Case = Case {
    name: "properties",
    passes: "what matrix.toml gives the NIC has taken effect: QEMU's `qom-get` reads each property back; the guest shows what follows from it (virtio's feature bits, PCI device id, MSI-X vectors, the MTU and that no larger one is taken, `ethtool -x` for rss, an IOMMU group with translation) or the host of its tap, and traffic flows",
    applies: |cell| cell.nic.is_variant(),
    start_state: StartState::ColdDriver,
    ops: &[Op::Address, Op::Mtu],
    faults: &[
        Fault {
            name: "ignored",
            breaks: "QEMU is not given the NIC's properties",
            applies: |cell| !cell.nic.variant.properties.is_empty(),
            vm: |spec, _| spec.nics[0].properties.clear(),
            red: NO_EFFECT,
            ..AT_START
        },
        Fault {
            name: "machine_ignored",
            breaks: "QEMU is not given the machine's properties",
            applies: |cell| !cell.nic.variant.machine_properties.is_empty(),
            vm: |spec, _| spec.machine_properties.clear(),
            red: NO_EFFECT,
            ..AT_START
        },
        Fault {
            name: "no_iommu",
            breaks: "the machine has no IOMMU",
            applies: |cell| cell.nic.variant.iommu,
            vm: |spec, _| spec.iommu = false,
            red: NO_EFFECT,
            ..AT_START
        },
        Fault {
            name: "passed_by",
            breaks: "the guest's kernel is told to leave the IOMMU off",
            applies: |cell| cell.nic.variant.iommu,
            // The last one counts.
            vm: |spec, _| spec.kernel_parameter("intel_iommu=off"),
            red: NO_EFFECT,
            ..AT_START
        },
        Fault {
            name: "header_left",
            breaks: "QEMU has a virtio-net header before the tap's frames",
            applies: |cell| cell.nic.variant.bare_tap,
            vm: |spec, _| spec.nics[0].bare_tap = false,
            red: NO_EFFECT,
            ..AT_START
        },
        Fault {
            name: "transitional",
            breaks: "QEMU is given the device with the legacy interface",
            applies: |cell| cell.nic.is_modern_by_name(),
            vm: |spec, _| spec.nics[0].device = "virtio-net-pci-transitional".into(),
            red: NO_EFFECT,
            ..AT_START
        },
        Fault {
            moment: Moment::Start,
            ..TAP_UNPLUGGED
        },
    ],
    run: properties,
    ..Case::PLAIN
};

/// Has QEMU read back each property of NIC and machine, then looks in the guest for what follows from
/// them. The NIC must then carry traffic, and take no MTU beyond the one that it tells.
fn properties(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.link()?;
    let nic = bed.cell.nic.clone();
    let variant = &nic.variant;
    let peripheral = format!("/machine/peripheral/{}", bed.nic().id);
    for property in &variant.properties {
        in_qemu(bed, &peripheral, property)?;
    }
    for property in &variant.machine_properties {
        in_qemu(bed, "/machine", property)?;
    }
    let guest = Guest::ask(bed, link)?;
    if nic.is_virtio() {
        for property in &variant.properties {
            guest.shows(bed, property)?;
        }
    }
    if nic.is_modern_by_name() {
        guest.has_device_id(MODERN, &nic.device)?;
    }
    if variant.iommu {
        behind_iommu(bed, &guest.link)?;
    }
    if variant.bare_tap {
        let tap = &bed.nic().tap;
        ensure!(
            !bridge::has_vnet_header(tap)?,
            "vnet_hdr=off has not taken effect: by `ip -details link` {tap} has a virtio-net header before its frames"
        );
    }
    bed.up()?;
    bed.expect_replies(10, 1440)?;
    if let Some(told) = variant.host_mtu().filter(|_| guest.has(MTU_BIT.0)) {
        let more = bed.command(Op::Mtu, &guest.link, &(told + 1).to_string());
        let output = bed.agent.run(&more)?;
        ensure!(
            output.code != 0,
            "host_mtu={told} has not taken effect: the guest took a larger MTU, by `{more}`"
        );
    }
    bed.expect_quiet_kernel()
}

/// Has QEMU read back a property of the object at `path`.
fn in_qemu(bed: &mut Testbed, path: &str, property: &Property) -> anyhow::Result<()> {
    let question = json!({ "path": path, "property": property.key });
    let value = match bed.vm.call_raw("qom-get", question) {
        Ok(value) => value,
        // Some of a machine's can only be set.
        Err(error) if find::<Refused>(&error).is_some() => {
            bed.notes
                .push(format!("QEMU does not read {} back: {error}", property.key));
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    ensure!(
        is(&value, &property.value),
        "{property} has not taken effect: QEMU's `qom-get` reads {value} back"
    );
    Ok(())
}

/// Whether a value of QOM is what `written` is on QEMU's command line.
fn is(value: &Value, written: &str) -> bool {
    match value {
        Value::Bool(on) => words::switch(written) == Some(*on),
        Value::Number(number) => words::number(written) == number.as_i64(),
        Value::String(text) => text == written,
        _ => false,
    }
}

/// What the guest shows of a virtio NIC.
struct Guest {
    link: Link,
    /// Of its kernel.
    version: (u32, u32),
    /// What device and driver have agreed on: a digit a bit, the lowest first.
    features: String,
    /// Of the PCI function.
    device_id: String,
    /// How many MSI-X vectors it uses.
    vectors: u32,
}

impl Guest {
    fn ask(bed: &Testbed, link: Link) -> anyhow::Result<Guest> {
        let (pci, device) = (&link.pci, Testbed::device_directory(&link));
        let text = bed.agent.sh(&format!(
            "uname -r; cat {device}/features 2>/dev/null || echo none; cd /sys/bus/pci/devices/{pci}; \
             cat device; ls msi_irqs 2>/dev/null | wc -l"
        ))?;
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let [release, features, device_id, vectors] = lines[..] else {
            bail!("the guest shows the NIC at {pci} as {text:?}");
        };
        Ok(Guest {
            version: version(release)
                .with_context(|| format!("the guest's kernel is {release:?}"))?,
            features: features.to_owned(),
            device_id: device_id.to_owned(),
            vectors: vectors
                .parse()
                .with_context(|| format!("msi_irqs has {vectors:?} entries"))?,
            link,
        })
    }

    fn has(&self, bit: usize) -> bool {
        self.features.as_bytes().get(bit) == Some(&b'1')
    }

    /// Looks for what follows from `property`.
    fn shows(&self, bed: &mut Testbed, property: &Property) -> anyhow::Result<()> {
        let Property { key, value, .. } = property;
        let switch = words::switch(value);
        if let Some((_, bit)) = BITS.iter().find(|(name, _)| name == key) {
            let agreed = self.bit_is(bed, property, *bit, switch == Some(true))?;
            if agreed && key == "rss" && switch == Some(true) {
                return self.spreads(bed, property);
            }
            return Ok(());
        }
        match (key.as_str(), switch) {
            ("host_mtu", _) => {
                if self.bit_is(bed, property, MTU_BIT, true)? {
                    ensure!(
                        words::number(value) == Some(self.link.mtu.into()),
                        "{property} has not taken effect: the guest begins with an MTU of {}",
                        self.link.mtu
                    );
                }
                Ok(())
            }
            ("vectors", _) => {
                let most = words::number(value).unwrap_or_default();
                let uses = i64::from(self.vectors);
                ensure!(
                    uses <= most && (uses > 0 || most == 0),
                    "{property} has not taken effect: the guest uses {uses} MSI-X vectors"
                );
                Ok(())
            }
            ("disable-modern", Some(true)) => {
                self.bit_is(bed, property, (VERSION_1, None), false)?;
                self.has_device_id(TRANSITIONAL, &property.to_string())
            }
            ("disable-legacy", Some(true)) => {
                self.bit_is(bed, property, (VERSION_1, None), true)?;
                self.has_device_id(MODERN, &property.to_string())
            }
            _ => {
                bed.notes.push(format!(
                    "{property}: QEMU alone was asked, no guest shows it"
                ));
                Ok(())
            }
        }
    }

    /// Demands a feature bit; whether it is agreed on. A guest whose driver is older than the feature
    /// cannot have it.
    fn bit_is(
        &self,
        bed: &mut Testbed,
        property: &Property,
        (bit, since): Bit,
        expected: bool,
    ) -> anyhow::Result<bool> {
        let has = self.has(bit);
        if let (true, false, Some((major, minor))) = (expected, has, since)
            && self.version < (major, minor)
        {
            bed.notes.push(format!(
                "{property}: the driver knows feature bit {bit} from Linux {major}.{minor} on, the guest has {}.{}",
                self.version.0, self.version.1
            ));
            return Ok(false);
        }
        ensure!(
            has == expected,
            "{property} has not taken effect: virtio's feature bit {bit} is {}, expected {}; the guest's sysfs has {}",
            u8::from(has),
            u8::from(expected),
            self.features
        );
        Ok(has)
    }

    fn has_device_id(&self, expected: &str, why: &str) -> anyhow::Result<()> {
        ensure!(
            self.device_id == expected,
            "{why} has not taken effect: the guest shows the PCI device id {}, expected {expected}",
            self.device_id
        );
        Ok(())
    }

    /// Demands that the driver offers to spread flows by a key.
    fn spreads(&self, bed: &Testbed, property: &Property) -> anyhow::Result<()> {
        let command = format!("ethtool -x {}", self.link.name);
        let output = bed.agent.run(&command)?;
        ensure!(
            output.code == 0 && output.stdout.contains("RSS hash key"),
            "{property} has not taken effect: `{command}` shows no hash key: {}",
            crate::guest::agent::said(&output)
        );
        Ok(())
    }
}

/// Major and minor of a release such as `6.1.0-18-amd64`.
pub(super) fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Demands that QEMU has an IOMMU and that the guest has put the NIC behind it, with addresses translated.
fn behind_iommu(bed: &Testbed, link: &Link) -> anyhow::Result<()> {
    let question = json!({ "path": format!("/machine/peripheral/{IOMMU}"), "property": "type" });
    if let Err(error) = bed.vm.call_raw("qom-get", question) {
        return Err(error.context("the IOMMU has not taken effect: QEMU has none"));
    }
    let group = format!("/sys/bus/pci/devices/{}/iommu_group", link.pci);
    let output = bed
        .agent
        .run(&format!("cat {group}/type; ls /sys/class/iommu"))?;
    let mut lines = output.stdout.lines();
    let kind = lines.next().unwrap_or_default().trim();
    // DMA-FQ is DMA with invalidations that are gathered.
    ensure!(
        kind.starts_with("DMA") && lines.any(|name| name.starts_with("dmar")),
        "the IOMMU has not taken effect: the guest has {} of type {kind:?}, and says: {}",
        group,
        crate::guest::agent::said(&output)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_qom_is_compared_with_what_was_written() {
        for (value, written) in [
            (json!(true), "on"),
            (json!(false), "no"),
            (json!(1400), "0x578"),
            (json!("off"), "off"),
        ] {
            assert!(is(&value, written), "{value} {written}");
        }
        for (value, written) in [
            (json!(true), "off"),
            (json!(true), "1"),
            (json!(0), "x"),
            (json!("on"), "off"),
            (json!(null), "on"),
        ] {
            assert!(!is(&value, written), "{value} {written}");
        }
    }

    #[test]
    fn a_release_begins_with_its_version() {
        assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(version("5.14.0-427.el9.x86_64"), Some((5, 14)));
        assert_eq!(version("next"), None);
    }
}
