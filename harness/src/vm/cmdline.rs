//! From a VM's description to QEMU's command line. Pure.

use crate::matrix::schema::Machine;
use crate::net::addr::{HOST, Mac};
use crate::vm::accel::Accel;
use std::ffi::OsString;
use std::path::PathBuf;

/// File descriptor of the QMP socket in QEMU.
pub const QMP_FD: i32 = 3;
/// File descriptor of the serial console in QEMU.
pub const SERIAL_FD: i32 = 4;
/// File descriptor of the guest agent's port in QEMU.
pub const AGENT_FD: i32 = 5;
/// File descriptor of the port on which the guest says that a command has ended.
pub const ENDED_FD: i32 = 7;
/// That port's name: a file in the guest's `/dev/virtio-ports`.
pub const ENDED_PORT: &str = "nicmatrix.ended";
/// File descriptor in QEMU of the stream that a restored VM is read from.
pub const INCOMING_FD: i32 = 6;
/// The agent's port, in QEMU's events: whether the guest has it open.
pub const AGENT_ID: &str = "agent0";
/// The root port of a Q35 machine that takes hot-plugged NICs.
pub const HOTPLUG_PORT: &str = "hotplug0";
/// See [`VmSpec::bridge`].
pub const BRIDGE: &str = "bridge0";
/// The windows that the firmware leaves for what is plugged there. SeaBIOS's own, 2 MiB of memory and 4 KiB of I/O
/// ports, are too small for eight NICs: one has up to 0.5 MiB of registers and ROM, and of the ports Linux gives
/// out a quarter, as ISA devices may answer to the others too.
const PORT_WINDOWS: &str = "mem-reserve=8M,io-reserve=8K";

/// The id of the IOMMU, where a VM has one.
pub const IOMMU: &str = "iommu0";
/// What has Linux use an Intel IOMMU: most builds of it leave that off.
pub const IOMMU_PARAMETER: &str = "intel_iommu=on";

/// The controller that USB NICs are on.
pub const USB_CONTROLLER: &str = "xhci";

/// What the VM boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// A kernel with an initramfs, directly.
    Kernel {
        /// ELF with a PVH entry, or bzImage.
        kernel: PathBuf,
        /// Initramfs.
        initrd: PathBuf,
        /// Kernel parameters.
        parameters: Vec<String>,
    },
    /// A disk image through the firmware, changes thrown away.
    Disk(PathBuf),
    /// Whatever the boot ROM of its first NIC fetches; there is no kernel and no disk.
    Network(Firmware),
}

/// What finds the boot ROM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS.
    Bios,
    /// OVMF.
    Uefi,
}

/// Where the guest's memory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ram {
    /// In QEMU alone.
    Anonymous,
    /// In this file, written as the guest writes: a checkpoint that is being made.
    Shared(PathBuf),
    /// Begins as this file has it; what the guest writes is QEMU's own.
    Private(PathBuf),
}

/// A VM, before it is a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmSpec {
    /// QEMU's machine type.
    pub machine: Machine,
    /// The version of that machine type (`pc-q35-7.2`), for a guest that moves to a QEMU whose newest
    /// one is another; the newest of this QEMU without it.
    pub machine_version: Option<String>,
    /// How guest code runs.
    pub accel: Accel,
    /// MiB.
    pub memory_mib: u32,
    /// Virtual CPUs.
    pub cpus: u32,
    /// What boots.
    pub boot: Boot,
    /// The NICs; the first is the one under test.
    pub nics: Vec<NicSpec>,
    /// Whether it has a USB controller, for NICs that are on that bus.
    pub usb: bool,
    /// Whether an i440FX machine has a PCI bridge, [`BRIDGE`], behind which NICs can be plugged.
    pub bridge: bool,
    /// Further `-machine` properties, `key=value`.
    pub machine_properties: Vec<String>,
    /// Whether an IOMMU stands between its devices and its memory.
    pub iommu: bool,
    /// `-global` properties.
    pub globals: Vec<String>,
    /// OVMF, for a VM that boots through it.
    pub uefi: PathBuf,
    /// Whether it has a VM generation id, by which a guest knows that it was restored.
    pub generation_id: bool,
    /// Where the guest's memory is.
    pub ram: Ram,
    /// Whether it waits for a saved state in place of booting.
    pub restored: bool,
    /// The port of its SPICE server, on the host's address.
    pub spice: Option<u16>,
    /// Whether it is to move to another QEMU: refuses a device that cannot.
    pub migratable: bool,
}

/// A NIC with its netdev.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NicSpec {
    /// Its place among the trial's NICs, of all its guests, from 0: decides address, MAC and tap.
    pub place: u8,
    /// The device's id; the netdev's is `net-` with it.
    pub id: String,
    /// `-device` model.
    pub device: String,
    /// Hardware address.
    pub mac: Mac,
    /// The tap that QEMU is to create.
    pub tap: String,
    /// Whether vhost-net serves it.
    pub vhost: bool,
    /// Whether the tap has no virtio-net header before its frames.
    pub bare_tap: bool,
    /// Queue pairs of the tap.
    pub queues: u32,
    /// Further device properties, `key=value`.
    pub properties: Vec<String>,
    /// Plugged by the case, not on the command line.
    pub hotplug: bool,
}

impl NicSpec {
    /// The netdev's id.
    pub fn netdev_id(&self) -> String {
        format!("net-{}", self.id)
    }

    /// `-netdev`'s argument, also that of HMP's `netdev_add`.
    pub fn netdev(&self) -> String {
        let mut text = format!(
            "tap,id={},ifname={},script=no,downscript=no",
            self.netdev_id(),
            self.tap
        );
        if self.vhost {
            text += ",vhost=on";
        }
        if self.bare_tap {
            text += ",vnet_hdr=off";
        }
        if self.queues > 1 {
            text += &format!(",queues={}", self.queues);
        }
        text
    }

    /// `-device`'s argument, also that of HMP's `device_add`.
    pub fn device(&self, machine: Machine) -> String {
        let mut text = format!(
            "{},netdev={},id={},mac={}",
            self.device,
            self.netdev_id(),
            self.id,
            self.mac
        );
        if self.hotplug && machine == Machine::Q35 && !is_usb(&self.device) {
            text += &format!(",bus={HOTPLUG_PORT}");
        }
        for property in &self.properties {
            text += ",";
            text += property;
        }
        text
    }
}

impl VmSpec {
    /// Adds a kernel parameter; a disk image keeps its own.
    pub fn kernel_parameter(&mut self, parameter: &str) {
        if let Boot::Kernel { parameters, .. } = &mut self.boot {
            parameters.push(parameter.to_owned());
        }
    }

    /// The name of the machine type, as QEMU takes it.
    pub fn machine_type(&self) -> &str {
        let version = self.machine_version.as_deref();
        version.unwrap_or(self.machine.name())
    }

    /// QEMU's arguments, without the program.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut a = Arguments::default();
        a.pair("-name", "nicmatrix");
        a.push("-nodefaults");
        a.push("-no-user-config");
        a.pair("-display", "none");
        // Paused, until its taps are on the bridge.
        a.push("-S");
        // A panic ends the VM (the kernel's panic=-1), so nothing waits for a dead guest.
        a.push("-no-reboot");
        let mut machine = match self.boot {
            // Firmware and boot ROM then write to the serial console.
            Boot::Network(_) => format!("{},graphics=off", self.machine_type()),
            _ => self.machine_type().to_owned(),
        };
        // Only then can an IOMMU remap interrupts under KVM.
        if self.iommu && self.accel == Accel::Kvm {
            machine += ",kernel-irqchip=split";
        }
        for property in &self.machine_properties {
            machine += ",";
            machine += property;
        }
        let ram = match &self.ram {
            Ram::Anonymous => None,
            Ram::Shared(file) => Some((file, "on")),
            Ram::Private(file) => Some((file, "off")),
        };
        match ram {
            None => a.pair("-machine", &machine),
            Some((file, share)) => {
                a.pair("-machine", &format!("{machine},memory-backend=ram"));
                a.pair(
                    "-object",
                    &format!(
                        "memory-backend-file,id=ram,size={}M,share={share},mem-path={}",
                        self.memory_mib,
                        doubled(file)
                    ),
                );
            }
        }
        if self.restored {
            a.pair("-incoming", "defer");
        }
        if let Some(port) = self.spice {
            let server = format!("addr={HOST},port={port},disable-ticketing=on");
            a.pair("-spice", &server);
        }
        if self.migratable {
            a.push("-only-migratable");
        }
        let words = match self.boot {
            Boot::Disk(_) => self.accel.qemu_args_for_release(),
            Boot::Kernel { .. } | Boot::Network(_) => self.accel.qemu_args(),
        };
        for word in words {
            a.push(word);
        }
        a.pair("-m", &format!("{}M", self.memory_mib));
        a.pair("-smp", &self.cpus.to_string());
        a.pair("-rtc", "base=utc,clock=host");
        match &self.boot {
            Boot::Kernel {
                kernel,
                initrd,
                parameters,
            } => {
                a.push("-kernel");
                a.0.push(kernel.into());
                a.push("-initrd");
                a.0.push(initrd.into());
                a.pair("-append", &parameters.join(" "));
            }
            Boot::Disk(image) => {
                a.push("-drive");
                a.push(&format!("if=virtio,snapshot=on,file={}", doubled(image)));
            }
            Boot::Network(firmware) => {
                if *firmware == Firmware::Uefi {
                    a.push("-bios");
                    a.0.push((&self.uefi).into());
                }
                // Devices with a bootindex, and nothing else.
                a.pair("-boot", "strict=on");
            }
        }
        for global in &self.globals {
            a.pair("-global", global);
        }
        // Before all devices: those that come before it are not behind it.
        if self.iommu {
            a.pair("-device", &iommu_device());
        }
        a.pair("-chardev", &format!("socket,id=qmp,fd={QMP_FD}"));
        // QEMU 11.1 warns of `-mon`, and QEMU before that has no monitor objects; all take this.
        a.pair("-qmp", "chardev:qmp");
        a.pair("-chardev", &format!("socket,id=serial,fd={SERIAL_FD}"));
        a.pair("-serial", "chardev:serial");
        a.pair("-device", "virtio-serial-pci,id=vser0");
        // Before the agent's, so that it is there when the agent answers.
        a.pair("-chardev", &format!("socket,id=ended,fd={ENDED_FD}"));
        a.pair(
            "-device",
            &format!("virtserialport,bus=vser0.0,chardev=ended,name={ENDED_PORT}"),
        );
        a.pair("-chardev", &format!("socket,id=agent,fd={AGENT_FD}"));
        a.pair(
            "-device",
            &format!(
                "virtserialport,id={AGENT_ID},bus=vser0.0,chardev=agent,name=org.qemu.guest_agent.0"
            ),
        );
        if self.generation_id {
            a.pair("-device", "vmgenid,guid=auto");
        }
        // Always, so that one checkpoint serves trials that hot-plug and those that do not.
        if self.machine == Machine::Q35 {
            a.pair(
                "-device",
                &format!("pcie-root-port,id={HOTPLUG_PORT},chassis=1,slot=1,{PORT_WINDOWS}"),
            );
        }
        if self.bridge && self.machine == Machine::Pc {
            a.pair("-device", &format!("pci-bridge,id={BRIDGE},chassis_nr=1"));
        }
        if self.usb {
            a.pair("-device", &format!("qemu-xhci,id={USB_CONTROLLER}"));
        }
        for nic in self.nics.iter().filter(|nic| !nic.hotplug) {
            a.pair("-netdev", &nic.netdev());
            a.pair("-device", &nic.device(self.machine));
        }
        a.0
    }
}

/// The IOMMU, as `-device` takes it.
pub fn iommu_device() -> String {
    format!("intel-iommu,id={IOMMU}")
}

/// Whether QEMU's `device` is on the USB bus.
pub fn is_usb(device: &str) -> bool {
    device.starts_with("usb-")
}

/// A path in QEMU's option syntax, which doubles a comma that is not a separator.
fn doubled(path: &std::path::Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn push(&mut self, word: &str) {
        self.0.push(word.into());
    }
    fn pair(&mut self, option: &str, value: &str) {
        self.push(option);
        self.push(value);
    }
}

#[cfg(test)]
pub(crate) mod tests;
