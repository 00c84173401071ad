use super::*;
use crate::matrix::load;

/// The QEMU of this machine; `cargo xtask test` has installed one.
const QEMU: &str = "/usr/bin/qemu-system-x86_64";

/// A matrix whose one NIC has these further lines.
fn matrix(lines: &str) -> Matrix {
    let text = format!(
        r#"
[axes]
nic = ["virtio"]
guest = ["rhel9"]
vhost = ["off"]
zcopy = ["off"]
[guests.rhel9]
dialect = "rhel9"
machine = "q35"
memory = 256
[nics.virtio]
device = "virtio-net-pci"
driver = "virtio_net"
max_mtu = 65535
offloads = []
{lines}
"#
    );
    load::parse(&text, Path::new("m.toml"), &[]).unwrap()
}

fn qemu() -> (Qemu, QemuFacts) {
    let qemu = Qemu::at(QEMU.into());
    let facts = QemuFacts {
        ipxe: None,
        version: "7.2.0".into(),
        devices: vec!["virtio-net-pci".into()],
        machines: vec!["q35".into()],
        spice: false,
        sandbox: false,
        build: None,
        uefi: None,
    };
    (qemu, facts)
}

fn mistakes(lines: &str, cache: &Path) -> String {
    let (qemu, facts) = qemu();
    let matrix = matrix(lines);
    let refusals = refusals(&qemu, &facts, &matrix, cache).unwrap();
    let lines = refusals
        .iter()
        .map(|refusal| refusal.mistake(&matrix.path, &qemu, &facts));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn qemu_says_itself_what_is_wrong_with_a_property() {
    let cache = tempfile::tempdir().unwrap();
    let mistakes = |lines: &str| mistakes(lines, cache.path());
    let good = "properties = [\"packed=on\", \"disable-legacy=on\", \"iommu_platform=on\"]\n\
                machine_properties = [\"smm=off\"]\niommu = \"yes\"";
    assert_eq!(mistakes(good), "");
    let unknown = mistakes("properties = [\"mq=off\",\n\"paked=on\"]");
    for words in [
        "m.toml:17: [nics.virtio]: `properties`: QEMU 7.2.0 (/usr/bin/qemu-system-x86_64) refuses `paked=on` on q35: ",
        "Property 'virtio-net-pci.paked' not found (did you mean `packed`?)",
    ] {
        assert!(unknown.contains(words), "{unknown}");
    }
    let value = mistakes("properties = [\"vectors=many\"]");
    assert!(value.contains("refuses `vectors=many`"), "{value}");
    let machine = mistakes("machine_properties = [\"smn=off\"]");
    for words in ["m.toml:16:", "refuses `smn=off`", "mean `smm`?"] {
        assert!(machine.contains(words), "{machine}");
    }
    let both = mistakes("properties = [\"disable-legacy=on\", \"disable-modern=on\"]");
    assert!(both.contains("neither modern nor legacy"), "{both}");
}

#[test]
fn an_answer_is_remembered_until_qemu_changes() {
    let cache = tempfile::tempdir().unwrap();
    let lines = "properties = [\"paked=on\"]";
    let truth = mistakes(lines, cache.path());
    let file = std::fs::read_dir(cache.path()).unwrap().next().unwrap();
    let file = file.unwrap().path();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("not found", "NOT FOUND")).unwrap();
    assert!(mistakes(lines, cache.path()).contains("NOT FOUND"));
    std::fs::write(&file, text.replace("\"key\": \"", "\"key\": \"older ")).unwrap();
    assert_eq!(mistakes(lines, cache.path()), truth);
}

#[test]
fn a_device_that_a_qemu_lacks_is_not_asked_about() {
    let (qemu, mut facts) = qemu();
    facts.devices.clear();
    let matrix = matrix("properties = [\"paked=on\"]");
    let cache = tempfile::tempdir().unwrap();
    let refusals = refusals(&qemu, &facts, &matrix, cache.path()).unwrap();
    assert_eq!(refusals, []);
}

#[test]
fn what_qemu_says_is_shown_without_our_own_words() {
    let said = "qemu-system-x86_64: warning: TCG is slow\n\
                qemu-system-x86_64: -device virtio-net-pci,netdev=net-nic0,x=y: Property 'a.x' not found\n\
                Set either to off\n";
    assert_eq!(plain(said), "Property 'a.x' not found; Set either to off");
    assert_eq!(plain(""), "");
}

#[test]
fn a_word_is_named_as_a_whole() {
    assert!(names("Property 'virtio-net-pci.mq' not found", "mq"));
    assert!(!names("mqx and x-mq", "mq"));
}
