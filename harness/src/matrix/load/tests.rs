mod qemus;

use super::*;
use crate::matrix::known::Scope;

const CASES: &[&str] = &["driver", "ping_sweep"];

const GOOD: &str = r#"
[axes]
nic = ["e1000", "virtio"]
guest = ["rhel6"]
vhost = ["off", "on"]
zcopy = ["off", "on"]

[nics.e1000]
device = "e1000"
driver = "e1000"
max_mtu = 16110
offloads = ["tx", "sg"]

[nics.virtio]
device = "virtio-net-pci"
driver = "virtio_net"
max_mtu = 65535
offloads = []

[guests.rhel6]
dialect = "rhel6"
machine = "pc"
memory = 256

[guests.rhel6.nics.e1000]
driver = "e1000_old"
max_mtu = 9000

[profiles.smoke]
ping_count = 2
flood_count = 50
hotplug_cycles = 2
promisc_seconds = 3
migrations = 2
transfer_mib = 1
cases = ["driver"]

[[exclude]]
nic = "virtio"
backend = "vhost"
reason = "bug 1"

[[expect]]
qemu = ">=8,<9.2"
kernel = "<6.12"
nic = ["e1000", "virtio"]
case = "driver"
variant = ["boot", "reload"]
message = "no driver"
reason = "bug 2"
link = "https://example.org/2"
until = 2027-03-31
sometimes = true
"#;

fn parsed(text: &str) -> Result<Matrix, MatrixError> {
    parse(text, Path::new("m.toml"), CASES)
}

/// What is said of the good text with one thing replaced.
fn complaint(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    match parsed(&GOOD.replacen(from, to, 1)) {
        Ok(matrix) => panic!("{to} was taken: {matrix:?}"),
        Err(e) => e.to_string(),
    }
}

fn complaints(changes: &[(&str, &str)]) -> String {
    changes
        .iter()
        .map(|(from, to)| complaint(from, to) + "\n")
        .collect()
}

#[test]
fn a_good_file() {
    let matrix = parsed(GOOD).unwrap();
    insta::assert_debug_snapshot!(matrix.excludes, @r#"
    [
        Exclude {
            scope: Scope {
                qemu: None,
                to: None,
                kernel: None,
                nics: [
                    "virtio",
                ],
                drivers: [],
                guests: [],
                backends: [
                    Vhost,
                ],
                cases: [],
                variants: [],
                line: 38,
            },
            reason: "bug 1",
            link: None,
        },
    ]
    "#);
    let one = &matrix.expectations[0];
    assert_eq!(
        one.to_string(),
        "\"no driver\": bug 2 (https://example.org/2)"
    );
    assert_eq!(one.until.unwrap().to_string(), "2027-03-31");
    assert!(one.sometimes);
    let scope = &one.scope;
    assert!(scope.has_qemu("9.1.50", None) && !scope.has_qemu("10.0.13", None));
    assert!(scope.has_kernel(Some("6.1.0-56-amd64")) && !scope.has_kernel(None));
    let of = |scope: &Scope| -> Vec<String> {
        let cells = matrix.cells().filter(|cell| scope.has_cell(cell));
        cells
            .map(|cell| format!("{} {}", cell.nic.name, cell.backend.name()))
            .collect()
    };
    assert_eq!(
        of(scope),
        [
            "e1000 tap",
            "virtio tap",
            "virtio vhost",
            "virtio vhost_zcopy"
        ]
    );
    let by_driver = |driver: &str| Scope {
        drivers: vec![driver.into()],
        ..Scope::default()
    };
    // A guest's own driver counts there.
    assert_eq!(of(&by_driver("e1000_old")), ["e1000 tap"]);
    assert!(of(&by_driver("e1000")).is_empty());
    assert!(scope.has_case("driver", Some("boot")) && !scope.has_case("driver", None));
    insta::assert_debug_snapshot!(matrix.profiles, @r#"
    {
        "smoke": Profile {
            ping_count: 2,
            flood_count: 50,
            hotplug_cycles: 2,
            promisc_seconds: 3,
            migrations: 2,
            transfer_mib: 1,
            netperf_seconds: None,
            on_one_guest: [],
            on_one_nic: [],
            nics_on_one_guest: [],
            with_vhost: None,
            cases: Some(
                [
                    "driver",
                ],
            ),
            boot_modes: [
                Checkpoint,
            ],
            disruptions: [],
            qemus: None,
            nics: None,
            guests: None,
        },
    }
    "#);
    let cells: Vec<String> = matrix
        .cells()
        .map(|c| {
            format!(
                "{} {} {}: {}, {}, {:?}",
                c.nic.name, c.guest.name, c.backend, c.nic.driver, c.nic.max_mtu, c.nic.offloads
            )
        })
        .collect();
    insta::assert_snapshot!(cells.join("\n"), @r#"
        e1000 rhel6 tap: e1000_old, 9000, ["tx", "sg"]
        virtio rhel6 tap: virtio_net, 65535, []
        virtio rhel6 vhost: virtio_net, 65535, []
        virtio rhel6 vhost_zcopy: virtio_net, 65535, []
    "#);
}

#[test]
fn what_makes_a_variant() {
    let virtio = "device = \"virtio-net-pci\"\n";
    let with = |lines: &str| parsed(&GOOD.replacen(virtio, &format!("{virtio}{lines}\n"), 1));
    let matrix = with("properties = [\"mrg_rxbuf=off\",\n\"host_mtu=1400\"]").unwrap();
    let nic = &matrix.nics["virtio"];
    assert_eq!((nic.default_mtu(), nic.takes_vhost()), (1400, true));
    let lines: Vec<String> = (nic.variant.properties.iter())
        .map(|property| format!("{}: {property}", property.line))
        .collect();
    assert_eq!(lines, ["16: mrg_rxbuf=off", "17: host_mtu=1400"]);

    // vhost has no packed rings, and so these have no cell with it.
    let packed = "properties = [\"packed=on\"]";
    let matrix = with(packed).unwrap();
    let cells = matrix.cells().filter(|cell| cell.nic.name == "virtio");
    assert_eq!(cells.count(), 1);

    let iommu = "properties = [\"iommu_platform=on\"]\niommu = \"yes\"";
    let matrix = with(iommu).unwrap();
    assert!(
        matrix.cells().all(|cell| cell.nic.name != "virtio"),
        "i440FX has no IOMMU"
    );

    let e1000 = "device = \"e1000\"\n";
    let bare = GOOD.replacen(e1000, &format!("{e1000}vnet_hdr = \"no\"\n"), 1);
    let nic = &parsed(&bare).unwrap().nics["e1000"];
    assert!(nic.variant.bare_tap && nic.is_variant());

    let mistakes = [
        "propertise = [\"a=b\"]",
        "properties = \"a=b\"",
        "properties = [\"packed\", \"=on\", \"a b=c\", \"x=\", \"mq=on,vectors=9\"]",
        "properties = [\"mac=52:54:00:00:00:01\", \"mq=on\", \"mq=off\"]",
        "machine_properties = [\"accel=kvm\"]",
        "iommu = true",
        "iommu = \"yes\"",
        "vnet_hdr = \"no\"",
    ];
    let said: Vec<String> = mistakes
        .map(|lines| with(lines).unwrap_err().to_string())
        .into();
    insta::assert_snapshot!(said.join("\n"), @r#"
    m.toml:16: [nics.virtio]: unknown key `propertise`, did you mean `properties`? (allowed: device, driver, max_mtu, offloads, shows_mac, takes_mac, interrupts, boot_rom, properties, machine_properties, iommu, vnet_hdr)
    m.toml:16: [nics.virtio]: `properties` is of type string, expected a list, each item a string
    m.toml:16: [nics.virtio]: `properties`: `packed` is no property, expected `key=value`
    m.toml:16: [nics.virtio]: `properties`: `=on` is no property, expected `key=value`
    m.toml:16: [nics.virtio]: `properties`: `a b=c` is no property, expected `key=value`
    m.toml:16: [nics.virtio]: `properties`: `x=` is no property, expected `key=value`
    m.toml:16: [nics.virtio]: `properties`: `mq=on,vectors=9` has a comma: each property is an item of the list
    m.toml:16: [nics.virtio]: `properties`: `mac` is decided by the harness
    m.toml:16: [nics.virtio]: `properties` gives `mq` twice
    m.toml:16: [nics.virtio]: `machine_properties`: `accel` is decided by `--accel`
    m.toml:16: [nics.virtio]: `iommu` is of type boolean, expected "yes" or "no"
    m.toml:14: [nics.virtio]: with `iommu` a virtio NIC needs `iommu_platform=on` in `properties` (and, as QEMU has it for no other, `disable-legacy=on`): else it reaches the guest's memory past the IOMMU
    m.toml:14: [nics.virtio]: with `vnet_hdr = "no"` QEMU withdraws the offloads of a virtio NIC, which the cases ask for
    "#);
}

#[test]
fn unknown_keys() {
    insta::assert_snapshot!(
        complaints(&[
            ("[profiles.smoke]", "[profile.smoke]"),
            ("vhost = [", "vhsot = ["),
            ("driver = \"e1000\"", "drivr = \"e1000\""),
            ("memory", "memroy"),
            ("driver = \"e1000_old\"", "device = \"e1000\""),
            ("flood_count", "flod_count"),
            ("reason", "reson"),
            ("[[exclude]]", "[[excludes]]"),
        ]),
        @"
    m.toml:29: the file: unknown key `profile`, did you mean `profiles`? (allowed: host, lab, axes, qemu, nics, guests, profiles, exclude, expect)
    m.toml:2: [axes]: the key `vhost` is missing
    m.toml:5: [axes]: unknown key `vhsot`, did you mean `vhost`? (allowed: qemu, nic, guest, vhost, zcopy)
    m.toml:8: [nics.e1000]: the key `driver` is missing
    m.toml:10: [nics.e1000]: unknown key `drivr`, did you mean `driver`? (allowed: device, driver, max_mtu, offloads, shows_mac, takes_mac, interrupts, boot_rom, properties, machine_properties, iommu, vnet_hdr)
    m.toml:20: [guests.rhel6]: the key `memory` is missing
    m.toml:23: [guests.rhel6]: unknown key `memroy`, did you mean `memory`? (allowed: dialect, machine, memory, suite, kernel, initrd, image, nics)
    m.toml:26: [guests.rhel6.nics.e1000]: unknown key `device` (allowed: driver, max_mtu, offloads, interrupts)
    m.toml:29: [profiles.smoke]: the key `flood_count` is missing
    m.toml:31: [profiles.smoke]: unknown key `flod_count`, did you mean `flood_count`? (allowed: like, ping_count, flood_count, hotplug_cycles, promisc_seconds, migrations, transfer_mib, netperf_seconds, on_one_guest, on_one_nic, nics_on_one_guest, with_vhost, cases, starts, after, qemus, nics, guests)
    m.toml:38: [[exclude]]: the key `reason` is missing
    m.toml:41: [[exclude]]: unknown key `reson`, did you mean `reason`? (allowed: qemu, to, kernel, nic, driver, guest, backend, case, variant, reason, link)
    m.toml:38: the file: unknown key `excludes`, did you mean `exclude`? (allowed: host, lab, axes, qemu, nics, guests, profiles, exclude, expect)
    "
    );
}

#[test]
fn unknown_names() {
    insta::assert_snapshot!(
        complaints(&[
            ("nic = [\"e1000\", ", "nic = [\"e100\", "),
            ("cases = [\"driver\"]", "nics = [\"virtoi\"]\nguests = [\"rhel7\"]"),
            ("guest = [\"rhel6\"]", "guest = [\"rhel7\"]"),
            ("[guests.rhel6.nics.e1000]", "[guests.rhel6.nics.e1001]"),
            ("cases = [\"driver\"]", "cases = [\"drivers\"]"),
            ("backend = \"vhost\"", "case = \"ping_swep\""),
            ("backend = \"vhost\"", "guest = \"rhel66\""),
            ("backend = \"vhost\"", "backend = \"vhost_zc\""),
            ("nic = \"virtio\"", "nic = \"virtoi\""),
            ("dialect = \"rhel6\"", "dialect = \"rhel66\""),
            ("machine = \"pc\"", "machine = \"q53\""),
            ("offloads = [\"tx\"", "offloads = [\"xt\""),
            ("vhost = [\"off\"", "vhost = [\"of\""),
            ("max_mtu = 16110", "max_mtu = 16110\nshows_mac = \"on\""),
            ("[nics.e1000]", "[nics.\"e1000::x\"]"),
        ]),
        @r"
            m.toml:3: [axes]: unknown nic `e100`, did you mean `e1000`? (allowed: e1000, virtio): there is no [nics.e100] table
            m.toml:36: [profiles.smoke]: unknown nic `virtoi`, did you mean `virtio`? (allowed: e1000, virtio): there is no [nics.virtoi] table
            m.toml:37: [profiles.smoke]: unknown guest `rhel7`, did you mean `rhel6`? (allowed: rhel6): there is no [guests.rhel7] table
            m.toml:4: [axes]: unknown guest `rhel7`, did you mean `rhel6`? (allowed: rhel6): there is no [guests.rhel7] table
            m.toml:25: [guests.rhel6.nics.e1001]: unknown nic `e1001`, did you mean `e1000`? (allowed: e1000, virtio)
            m.toml:36: [profiles.smoke]: unknown case `drivers`, did you mean `driver`? (allowed: driver, ping_sweep)
            m.toml:40: [[exclude]]: unknown case `ping_swep`, did you mean `ping_sweep`? (allowed: driver, ping_sweep)
            m.toml:40: [[exclude]]: unknown guest `rhel66`, did you mean `rhel6`? (allowed: rhel6)
            m.toml:40: [[exclude]]: unknown backend `vhost_zc`, did you mean `vhost_zcopy`? (allowed: tap, vhost, vhost_zcopy)
            m.toml:39: [[exclude]]: unknown nic `virtoi`, did you mean `virtio`? (allowed: e1000, virtio)
            m.toml:21: [guests.rhel6]: unknown dialect `rhel66`, did you mean `rhel6`? (allowed: rhel4, rhel5, rhel6, rhel7, rhel8, rhel9, rhel10)
            m.toml:22: [guests.rhel6]: unknown machine `q53`, did you mean `q35`? (allowed: pc, q35)
            m.toml:12: [nics.e1000]: unknown offload `xt`, did you mean `tx`? (allowed: rx, tx, sg, tso, ufo, gso, gro, lro)
            m.toml:5: [axes]: unknown vhost `of`, did you mean `off`? (allowed: off, on)
            m.toml:12: [nics.e1000]: unknown shows_mac `on`, did you mean `no`? (allowed: yes, no)
            m.toml:3: [axes]: unknown nic `e1000`, did you mean `e1000::x`? (allowed: e1000::x, virtio): there is no [nics.e1000] table
            m.toml:8: [nics.e1000::x]: the name becomes part of a trial's name; allowed are letters, digits, `_` and `-`
            m.toml:25: [guests.rhel6.nics.e1000]: unknown nic `e1000`, did you mean `e1000::x`? (allowed: e1000::x, virtio)
            m.toml:46: [[expect]]: unknown nic `e1000`, did you mean `e1000::x`? (allowed: e1000::x, virtio)
        "
    );
}

#[test]
fn wrong_types() {
    insta::assert_snapshot!(
        complaints(&[
            ("memory = 256", "memory = \"256\""),
            ("max_mtu = 9000", "max_mtu = 9000.5"),
            ("device = \"e1000\"", "device = 1000"),
            ("device = \"e1000\"", "device = \"\""),
            ("guest = [\"rhel6\"]", "guest = \"rhel6\""),
            ("guest = [\"rhel6\"]", "guest = [6]"),
            ("vhost = [\"off\", \"on\"]", "vhost = [false, true]"),
            ("[[exclude]]", "[exclude]"),
            ("[nics.e1000]", "[nics]\nrtl8139 = 1\n[nics.e1000]"),
            ("[axes]", "[[axes]]"),
        ]),
        @r#"
            m.toml:23: [guests.rhel6]: `memory` is of type string, expected a whole number from 32 to 1048576
            m.toml:27: [guests.rhel6.nics.e1000]: `max_mtu` is of type float, expected a whole number from 68 to 65535
            m.toml:9: [nics.e1000]: `device` is of type integer, expected a string
            m.toml:9: [nics.e1000]: `device` is empty, expected a string
            m.toml:4: [axes]: `guest` is of type string, expected a list, each item a string
            m.toml:4: [axes]: `guest` is of type integer, expected a string
            m.toml:5: [axes]: `vhost` is of type boolean, expected "off" or "on"
            m.toml:5: [axes]: `vhost` is of type boolean, expected "off" or "on"
            m.toml:38: the file: `exclude` is of type table, expected an array of tables, [[...]]
            m.toml:9: [nics.rtl8139] is of type integer, expected a table
            m.toml:2: [axes] is of type array, expected a table
        "#
    );
}

#[test]
fn impossible_values() {
    insta::assert_snapshot!(
        complaints(&[
            ("memory = 256", "memory = 0"),
            ("max_mtu = 16110", "max_mtu = 65536"),
            ("max_mtu = 16110", "max_mtu = 67"),
            ("max_mtu = 9000", "max_mtu = -1"),
            ("ping_count = 2", "ping_count = 0"),
            ("ping_count = 2", "ping_count = 99999999999999999999"),
            ("promisc_seconds = 3", "promisc_seconds = -3"),
            ("memory = 256", "memory = 256\nimage = \"nowhere.qcow2\""),
            ("memory = 256", "memory = 256\ninitrd = \"/etc/passwd\""),
            ("memory = 256", "memory = 256\nsuite = \"../sid\""),
            ("memory = 256", "suite = \"sid\"\nmemory = 256\nkernel = \"/etc/passwd\""),
        ]),
        @r"
            m.toml:23: [guests.rhel6]: `memory` is 0, allowed are 32 to 1048576
            m.toml:11: [nics.e1000]: `max_mtu` is 65536, allowed are 68 to 65535
            m.toml:11: [nics.e1000]: `max_mtu` is 67, allowed are 68 to 65535
            m.toml:27: [guests.rhel6.nics.e1000]: `max_mtu` is -1, allowed are 68 to 65535
            m.toml:30: [profiles.smoke]: `ping_count` is 0, allowed are 1 to 1000000
            m.toml:30: [profiles.smoke]: `ping_count` is 99999999999999999999, allowed are 1 to 1000000
            m.toml:33: [profiles.smoke]: `promisc_seconds` is -3, allowed are 1 to 1000000
            m.toml:24: [guests.rhel6]: `image`: there is no file nowhere.qcow2
            m.toml:20: [guests.rhel6]: `initrd` needs `kernel`
            m.toml:24: [guests.rhel6]: `suite` is the name of a suite of Debian, such as bullseye: letters, digits, `-` and `.`
            m.toml:23: [guests.rhel6]: `suite` cannot be combined with `kernel` or `image`
        "
    );
}

#[test]
fn nothing_or_twice() {
    insta::assert_snapshot!(
        complaints(&[
            ("nic = [\"e1000\", \"virtio\"]", "nic = [\"e1000\", \"e1000\"]"),
            ("offloads = [\"tx\", \"sg\"]", "offloads = [\"tx\", \"tx\"]"),
            ("guest = [\"rhel6\"]", "guest = []"),
            ("cases = [\"driver\"]", "cases = []"),
            ("cases = [\"driver\"]", "nics = []"),
            ("nic = \"virtio\"\nbackend = \"vhost\"", ""),
            ("[[exclude]]", "[[exclude]]\nreason = \"x\"\n[[exclude]]"),
            ("memory = 256", ""),
            ("offloads = []", ""),
            ("zcopy = [\"off\", \"on\"]", ""),
            ("reason = \"bug 1\"", ""),
        ]),
        @r"
            m.toml:3: [axes]: `nic` has `e1000` twice
            m.toml:12: [nics.e1000]: `offloads` has `tx` twice
            m.toml:4: [axes]: `guest` is empty, so nothing would run
            m.toml:36: [profiles.smoke]: `cases` is empty, so nothing would run
            m.toml:36: [profiles.smoke]: `nics` is empty, so nothing would run
            m.toml:38: [[exclude]]: it would exclude every trial; give at least one of qemu, to, kernel, nic, driver, guest, backend, case, variant
            m.toml:38: [[exclude]]: it would exclude every trial; give at least one of qemu, to, kernel, nic, driver, guest, backend, case, variant
            m.toml:20: [guests.rhel6]: the key `memory` is missing
            m.toml:14: [nics.virtio]: the key `offloads` is missing
            m.toml:2: [axes]: the key `zcopy` is missing
            m.toml:38: [[exclude]]: the key `reason` is missing
        "
    );
    insta::assert_snapshot!(parsed("").unwrap_err(), @"m.toml:1: the file: there is no [axes] table");
    // With the exclude of virtio's vhost still there: a narrowed axis is no mistake of it.
    let no_cell = GOOD
        .replace("nic = [\"e1000\", \"virtio\"]", "nic = [\"e1000\"]")
        .replace("vhost = [\"off\", \"on\"]", "vhost = [\"on\"]");
    insta::assert_snapshot!(parsed(&no_cell).unwrap_err(), @"m.toml:2: [axes]: these axes have no cell: `on` in vhost is for virtio NICs only, and `on` in zcopy for vhost only; tap needs `off` in both");
}

#[test]
fn an_expectation_that_is_not_understood() {
    // The axes have the like.
    let named = "nic = [\"e1000\", \"virtio\"]\ncase";
    insta::assert_snapshot!(
        complaints(&[
            ("[[expect]]", "[[expct]]"),
            ("sometimes", "somtimes"),
            ("message = \"no driver\"", ""),
            ("message = \"no driver\"", "message = \"\""),
            ("message = \"no driver\"", "message = \" \""),
            ("reason = \"bug 2\"", ""),
            ("qemu = \">=8,<9.2\"", "qemu = \"9.2\""),
            ("qemu = \">=8,<9.2\"", "qemu = \">=9.2,<8\""),
            ("qemu = \">=8,<9.2\"", "qemu = 9"),
            ("kernel = \"<6.12\"", "kernel = \"<6.x\""),
            (named, "nic = [\"e1000\", \"virtoi\"]\ncase"),
            (named, "nic = []\ncase"),
            (named, "nic = 1\ncase"),
            (named, "driver = \"virtio-net\"\ncase"),
            ("variant = [\"boot\"", "variant = [\"boto\""),
            ("link = \"https:", "link = \"ftp:"),
            ("until = 2027-03-31", "until = \"2027-03-31\""),
            ("until = 2027-03-31", "until = 2027-02-30"),
            ("until = 2027-03-31", "until = 2027-03-31T12:00:00"),
            ("sometimes = true", "sometimes = \"yes\""),
        ]),
        @r#"
        m.toml:43: the file: unknown key `expct`, did you mean `expect`? (allowed: host, lab, axes, qemu, nics, guests, profiles, exclude, expect)
        m.toml:53: [[expect]]: unknown key `somtimes`, did you mean `sometimes`? (allowed: qemu, to, kernel, nic, driver, guest, backend, case, variant, message, reason, link, until, sometimes)
        m.toml:43: [[expect]]: the key `message` is missing
        m.toml:49: [[expect]]: `message` is empty, expected a string
        m.toml:49: [[expect]]: `message` is blank, and every failure contains that
        m.toml:43: [[expect]]: the key `reason` is missing
        m.toml:44: [[expect]]: `qemu`: `9.2` begins with none of <= >= < > =; expected a bound such as "<10" or ">=8,<9.2"
        m.toml:44: [[expect]]: `qemu`: no version satisfies all parts of it
        m.toml:44: [[expect]]: `qemu` is of type integer, expected a string
        m.toml:45: [[expect]]: `kernel`: `6.x` is no version; expected numbers with dots between them, in a bound such as "<10" or ">=8,<9.2"
        m.toml:46: [[expect]]: unknown nic `virtoi`, did you mean `virtio`? (allowed: e1000, virtio)
        m.toml:46: [[expect]]: `nic` is empty, so the entry matches nothing
        m.toml:46: [[expect]]: `nic` is of type integer, expected a string or a list of strings
        m.toml:46: [[expect]]: unknown driver `virtio-net`, did you mean `virtio_net`? (allowed: e1000, e1000_old, virtio_net)
        m.toml:48: [[expect]]: unknown variant `boto`, did you mean `boot`? (allowed: boot, again, stop_cont, reboot, system_reset, reload)
        m.toml:51: [[expect]]: `link` is `ftp://example.org/2`, expected an address that begins with https:// or http://
        m.toml:52: [[expect]]: `until` is of type string, expected a date without quotes, such as 2027-03-31
        m.toml:52: invalid date, expected day between 01 and 28
        m.toml:52: [[expect]]: `until` is of type datetime, expected a date without quotes, such as 2027-03-31
        m.toml:53: [[expect]]: `sometimes` is of type string, expected true or false
        "#);
}

#[test]
fn a_profile_may_have_axes_of_its_own() {
    let mut matrix = parsed(&GOOD.replace("cases = [\"driver\"]", "nics = [\"virtio\"]")).unwrap();
    let profile = matrix.profile("smoke").unwrap().clone();
    matrix.use_axes(&profile);
    let axis = |matrix: &Matrix| (matrix.axes.nic.concat(), matrix.axes.guest.concat());
    assert_eq!(axis(&matrix), ("virtio".into(), "rhel6".into()));
}

#[test]
fn a_suite_is_for_stand_ins_only() {
    let mut matrix =
        parsed(&GOOD.replace("memory = 256", "memory = 256\nsuite = \"sid\"")).unwrap();
    let suite = |matrix: &Matrix| matrix.guests["rhel6"].kernel_suite().map(str::to_owned);
    assert_eq!(suite(&matrix).as_deref(), Some("sid"));
    let get = |_: &str| Some("/etc/passwd".to_string());
    matrix.use_images(Path::new("/"), get).unwrap();
    assert_eq!(suite(&matrix), None);
}

#[test]
fn broken_toml() {
    insta::assert_snapshot!(
        complaints(&[
            ("memory = 256", "memory = "),
            ("[axes]", "[axes"),
            ("machine = \"pc\"", "machine = \"pc\"\nmachine = \"pc\""),
            ("[nics.virtio]", "[nics.e1000]"),
        ]),
        @r"
            m.toml:23: string values must be quoted, expected literal string
            m.toml:2: unclosed table, expected `]`
            m.toml:23: duplicate key
            m.toml:14: duplicate key
        "
    );
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = GOOD
        .replace("memory = 256", "memory = 0")
        .replace("ping_count = 2", "ping_cuont = 2")
        .replace("zcopy = [\"off\"", "zcopy = [\"no\"");
    insta::assert_snapshot!(parsed(&text).unwrap_err(), @"
    m.toml:6: [axes]: unknown zcopy `no`, did you mean `on`? (allowed: off, on)
    m.toml:23: [guests.rhel6]: `memory` is 0, allowed are 32 to 1048576
    m.toml:29: [profiles.smoke]: the key `ping_count` is missing
    m.toml:30: [profiles.smoke]: unknown key `ping_cuont`, did you mean `ping_count`? (allowed: like, ping_count, flood_count, hotplug_cycles, promisc_seconds, migrations, transfer_mib, netperf_seconds, on_one_guest, on_one_nic, nics_on_one_guest, with_vhost, cases, starts, after, qemus, nics, guests)
    ");
}

#[test]
fn files_and_profiles_that_are_not_there() {
    let missing = load(Path::new("/nowhere/matrix.toml"), CASES).unwrap_err();
    insta::assert_snapshot!(missing, @"cannot read the matrix file /nowhere/matrix.toml: No such file or directory (os error 2)");
    let matrix = parsed(GOOD).unwrap();
    assert_eq!(matrix.profile("smoke").unwrap().promisc_seconds, 3);
    insta::assert_snapshot!(matrix.profile("smok").unwrap_err(), @"m.toml: unknown profile `smok`, did you mean `smoke`? (allowed: smoke)");
    insta::assert_snapshot!(matrix.profile("full").unwrap_err(), @"m.toml: unknown profile `full` (allowed: smoke)");
}

#[test]
fn real_images() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("rhel6.qcow2");
    std::fs::write(&image, "").unwrap();
    let file = directory.path().join("m.toml");

    let text = GOOD.replace("memory = 256", "memory = 256\nimage = \"rhel6.qcow2\"");
    let matrix = parse(&text, &file, CASES).unwrap();
    assert_eq!(matrix.guests["rhel6"].image.as_ref(), Some(&image));
    assert!(!matrix.guests["rhel6"].is_stand_in());

    let mut matrix = parsed(GOOD).unwrap();
    let get = |name: &str| (name == "NICMATRIX_IMAGE_RHEL6").then(|| "rhel6.qcow2".to_string());
    matrix.use_images(directory.path(), get).unwrap();
    assert_eq!(matrix.guests["rhel6"].image.as_ref(), Some(&image));

    let missing = matrix.use_images(Path::new("/nowhere"), get).unwrap_err();
    insta::assert_snapshot!(missing, @"NICMATRIX_IMAGE_RHEL6: there is no file /nowhere/rhel6.qcow2");
}
