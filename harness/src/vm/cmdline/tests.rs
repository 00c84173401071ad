use super::*;
use crate::base::words::command_line;

pub(crate) fn nic(device: &str) -> NicSpec {
    NicSpec {
        place: 0,
        id: "nic0".into(),
        device: device.into(),
        mac: Mac([0x52, 0x54, 0, 1, 2, 3]),
        tap: "tap0".into(),
        vhost: false,
        bare_tap: false,
        queues: 1,
        properties: Vec::new(),
        hotplug: false,
    }
}

pub(crate) fn spec(nics: Vec<NicSpec>) -> VmSpec {
    VmSpec {
        machine: Machine::Q35,
        machine_version: None,
        accel: Accel::Tcg,
        memory_mib: 256,
        cpus: 1,
        boot: Boot::Kernel {
            kernel: "images/vmlinux".into(),
            initrd: "images/initrd".into(),
            parameters: vec!["console=ttyS0".into()],
        },
        nics,
        usb: false,
        bridge: false,
        machine_properties: Vec::new(),
        iommu: false,
        globals: Vec::new(),
        uefi: "OVMF.fd".into(),
        generation_id: false,
        ram: Ram::Anonymous,
        restored: false,
        spice: None,
        migratable: false,
    }
}

fn line(spec: &VmSpec) -> String {
    command_line("qemu-system-x86_64".as_ref(), &spec.arguments())
}

#[test]
fn a_standard_vm() {
    let mut spec = spec(vec![nic("e1000")]);
    spec.kernel_parameter("module_blacklist=e1000");
    insta::assert_snapshot!(line(&spec));
}

#[test]
fn a_machine_type_may_be_of_an_older_version() {
    let mut spec = spec(vec![]);
    spec.machine_version = Some("pc-q35-7.2".into());
    spec.ram = Ram::Private("ram".into());
    let line = line(&spec);
    let expected = "-machine pc-q35-7.2,memory-backend=ram ";
    assert!(line.contains(expected), "{line}");
}

#[test]
fn vhost_with_four_queues_under_kvm() {
    let mut virtio = nic("virtio-net-pci");
    virtio.vhost = true;
    virtio.queues = 4;
    virtio.properties = vec!["mq=on".into(), "vectors=9".into()];
    let mut spec = spec(vec![virtio]);
    spec.accel = Accel::Kvm;
    spec.cpus = 4;
    let line = line(&spec);
    assert!(
        line.contains("tap,id=net-nic0,ifname=tap0,script=no,downscript=no,vhost=on,queues=4"),
        "{line}"
    );
    assert!(
        line.contains(
            "virtio-net-pci,netdev=net-nic0,id=nic0,mac=52:54:00:01:02:03,mq=on,vectors=9"
        ),
        "{line}"
    );
    assert!(
        line.contains("-accel kvm") && line.contains("-cpu host") && line.contains("-smp 4"),
        "{line}"
    );
}

#[test]
fn properties_of_nic_and_machine_and_an_iommu_before_all_devices() {
    let mut virtio = nic("virtio-net-pci");
    virtio.properties = vec!["iommu_platform=on".into(), "disable-legacy=on".into()];
    let mut spec = spec(vec![virtio.clone()]);
    spec.machine_properties = vec!["smm=off".into(), "hpet=off".into()];
    spec.iommu = true;
    let tcg = line(&spec);
    assert!(tcg.contains("-machine q35,smm=off,hpet=off \\"), "{tcg}");
    assert!(
        tcg.contains("mac=52:54:00:01:02:03,iommu_platform=on,disable-legacy=on"),
        "{tcg}"
    );
    let first = tcg.lines().find(|line| line.contains("-device"));
    assert_eq!(first, Some("  -device intel-iommu,id=iommu0 \\"));
    spec.accel = Accel::Kvm;
    spec.ram = Ram::Private("ram".into());
    let kvm = line(&spec);
    let machine = "-machine q35,kernel-irqchip=split,smm=off,hpet=off,memory-backend=ram";
    assert!(kvm.contains(machine), "{kvm}");
    // As HMP's `device_add` takes it.
    virtio.hotplug = true;
    assert!(
        virtio
            .device(Machine::Q35)
            .ends_with(",bus=hotplug0,iommu_platform=on,disable-legacy=on")
    );
}

#[test]
fn a_usb_nic_is_on_the_usb_controller_also_when_it_is_plugged_later() {
    let mut later = nic("usb-net");
    later.hotplug = true;
    assert!(
        later
            .device(Machine::Q35)
            .ends_with("mac=52:54:00:01:02:03")
    );
    let mut spec = spec(vec![later]);
    assert!(!line(&spec).contains("xhci"));
    spec.usb = true;
    let line = line(&spec);
    assert!(line.contains("-device qemu-xhci,id=xhci"), "{line}");
}

#[test]
fn a_nic_plugged_later_is_absent_and_has_a_port_where_the_machine_needs_one() {
    let mut later = nic("e1000");
    later.hotplug = true;
    let mut spec = spec(vec![later.clone()]);
    let on_q35 = line(&spec);
    assert!(
        !on_q35.contains("e1000") && !on_q35.contains("tap0"),
        "{on_q35}"
    );
    assert!(on_q35.contains("pcie-root-port,id=hotplug0"), "{on_q35}");
    assert!(later.device(Machine::Q35).ends_with(",bus=hotplug0"));
    spec.machine = Machine::Pc;
    assert!(!line(&spec).contains("pcie-root-port"));
    assert!(!later.device(Machine::Pc).contains("bus="));
}

#[test]
fn a_disk_image_boots_through_the_firmware_and_is_not_written() {
    let mut spec = spec(vec![]);
    spec.boot = Boot::Disk("images/rhel,9.qcow2".into());
    spec.kernel_parameter("ignored");
    let line = line(&spec);
    assert!(
        line.contains("-drive if=virtio,snapshot=on,file=images/rhel,,9.qcow2"),
        "{line}"
    );
    assert!(
        !line.contains("-kernel") && !line.contains("ignored"),
        "{line}"
    );
    assert!(line.contains("-cpu max"), "{line}");
}

#[test]
fn a_vm_that_boots_from_its_nic_has_nothing_else_to_boot() {
    let mut virtio = nic("virtio-net-pci");
    virtio.properties = vec!["bootindex=1".into()];
    let mut spec = spec(vec![virtio]);
    spec.boot = Boot::Network(Firmware::Bios);
    let bios = line(&spec);
    assert!(bios.contains("-machine q35,graphics=off"), "{bios}");
    assert!(bios.contains("-boot strict=on"), "{bios}");
    assert!(bios.contains("mac=52:54:00:01:02:03,bootindex=1"), "{bios}");
    for absent in ["-kernel", "-drive", "-bios"] {
        assert!(!bios.contains(absent), "{bios}");
    }
    spec.boot = Boot::Network(Firmware::Uefi);
    let uefi = line(&spec);
    assert!(uefi.contains("-bios OVMF.fd"), "{uefi}");
}

#[test]
fn memory_is_shared_with_the_file_while_it_is_saved_and_private_when_restored() {
    let mut spec = spec(vec![]);
    spec.ram = Ram::Shared("a,b/ram".into());
    let saving = line(&spec);
    let expected = "-machine q35,memory-backend=ram \\\n  -object \
                    memory-backend-file,id=ram,size=256M,share=on,mem-path=a,,b/ram \\\n";
    assert!(saving.contains(expected), "{saving}");
    assert!(!saving.contains("-incoming"), "{saving}");
    spec.ram = Ram::Private("ram".into());
    spec.restored = true;
    spec.migratable = true;
    spec.spice = Some(5930);
    spec.generation_id = true;
    let restored = line(&spec);
    assert!(restored.contains("share=off,mem-path=ram"), "{restored}");
    assert!(restored.contains("-incoming defer"), "{restored}");
    assert!(restored.contains("-only-migratable"), "{restored}");
    let spice = "-spice addr=198.18.0.1,port=5930,disable-ticketing=on";
    assert!(restored.contains(spice), "{restored}");
    assert!(restored.contains("-device vmgenid,guid=auto"), "{restored}");
}
