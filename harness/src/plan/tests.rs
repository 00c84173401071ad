mod qemus;

use super::*;
use crate::cases::{Load, Red, faults};
use crate::guest::dialect::Op;
use crate::host::tests::capable;
use crate::matrix::Backend;
use crate::matrix::load::{load, parse};
use crate::matrix::schema::BootMode;
use crate::vm::cmdline::{Boot, Firmware};
use crate::vm::start_state::StartState;
use report::flags::HostChoice;
use std::collections::BTreeMap;
use std::path::Path;

const NO_FAULT: Fault = Fault {
    name: "unplugged",
    breaks: "the tap is taken off the bridge",
    red: Red::Says("no reply"),
    ..faults::AT_START
};

const PLAIN: Case = Case {
    name: "driver",
    plan_item: "5",
    passes: "the driver bound is the one expected",
    load: Load::Alone,
    faults: &[NO_FAULT],
    ..Case::PLAIN
};

pub(super) static CASES: &[&Case] = &[
    &PLAIN,
    &Case {
        name: "flood",
        plan_item: "2. ping",
        passes: "no trace after the flood",
        ops: &[Op::Mtu, Op::Up],
        faults: &[
            NO_FAULT,
            Fault {
                name: "no_vhost",
                breaks: "vhost is switched off",
                applies: |cell| cell.backend != Backend::Tap,
                ..NO_FAULT
            },
        ],
        ..PLAIN
    },
    &Case {
        name: "features",
        plan_item: "19",
        start_state: StartState::Boot,
        rearm: Some(|_| Ok(())),
        applies: |cell| cell.nic.is_virtio(),
        faults: &[],
        ..PLAIN
    },
];

const PROFILE: &str = "\
    ping_count = 1\nflood_count = 1\nhotplug_cycles = 1\npromisc_seconds = 1\ntransfer_mib = 1\n\
    migrations = 1\n";

pub(crate) fn matrix(extra: &str) -> Matrix {
    let text = format!(
        r#"
        {extra}
        [axes]
        nic = ["virtio", "e1000"]
        guest = ["rhel9", "rhel6"]
        vhost = ["off", "on"]
        zcopy = ["off", "on"]
        [nics.virtio]
        device = "virtio-net-pci"
        driver = "virtio_net"
        max_mtu = 65535
        offloads = ["tx"]
        [nics.e1000]
        device = "e1000"
        driver = "e1000"
        max_mtu = 16110
        offloads = []
        [guests.rhel6]
        dialect = "rhel6"
        machine = "pc"
        memory = 256
        [guests.rhel9]
        dialect = "rhel9"
        machine = "q35"
        memory = 256
        [profiles.smoke]
        {PROFILE}
        [profiles.some]
        {PROFILE}
        cases = ["features", "driver"]
        [profiles.both]
        {PROFILE}
        cases = ["features", "driver"]
        starts = ["checkpoint", "boot"]
        after = ["again", "reboot"]
        "#
    );
    let mut matrix = parse(&text, Path::new("m.toml"), &["driver", "flood", "features"]).unwrap();
    matrix.host = HostChoice::Direct;
    matrix
}

/// A profile with these figures.
pub(crate) fn profile(figures: &str) -> Profile {
    let matrix = matrix(&format!("[profiles.own]\n{figures}"));
    matrix.profile("own").unwrap().clone()
}

pub(super) fn facts() -> Capabilities {
    capable(|_| ())
}

pub(super) fn on(
    facts: &Capabilities,
    matrix: &Matrix,
    profile: &str,
    faults: bool,
) -> Vec<PlannedTrial> {
    plan(
        matrix,
        CASES,
        matrix.profile(profile).unwrap(),
        facts,
        faults,
    )
}

pub(super) fn find(trials: Vec<PlannedTrial>, name: &str) -> PlannedTrial {
    trials.into_iter().find(|t| t.name == name).unwrap()
}

/// A trial that runs.
pub(crate) fn planned(name: &str) -> PlannedTrial {
    find(on(&facts(), &matrix(""), "smoke", false), name)
}

/// A trial with an entry of `[[kind]]` in the matrix file.
pub(crate) fn with(kind: &str, entry: &str, name: &str) -> PlannedTrial {
    let matrix = matrix(&format!("{kind} = [{entry}]"));
    find(on(&facts(), &matrix, "smoke", false), name)
}

/// A trial under a fault that cannot run.
pub(crate) fn skipped_and_faulty() -> PlannedTrial {
    find(
        on(&facts(), &matrix(""), "smoke", true),
        "flood!no_vhost::virtio::rhel6::vhost_zcopy",
    )
}

#[test]
fn what_a_profile_times_runs_alone_and_nothing_under_a_fault_does() {
    let load = |profile_line: &str, faults, name: &str| {
        let text = format!("[profiles.timed]\n{PROFILE}{profile_line}");
        find(on(&facts(), &matrix(&text), "timed", faults), name).load
    };
    let plain = "driver::virtio::rhel9::tap";
    assert_eq!(load("netperf_seconds = 10", false, plain), Load::Alone);
    assert_eq!(load("", false, plain), Load::Busy);
    let faulty = on(&facts(), &matrix(""), "smoke", true);
    assert!(faulty.iter().all(|trial| trial.load == Load::Busy));
}

/// More than 10,000 trials: 3 cases on 50 NICs, 25 guests and 3 backends.
pub(crate) fn many() -> Vec<PlannedTrial> {
    let nic = "device = 'virtio-net-pci'\ndriver = 'virtio_net'\nmax_mtu = 1500\noffloads = []";
    let guest = "dialect = 'rhel9'\nmachine = 'q35'\nmemory = 256";
    let counts = "ping_count = 1\nflood_count = 1\nhotplug_cycles = 1\npromisc_seconds = 1\ntransfer_mib = 1\nmigrations = 1";
    let names = |kind: &str, count: usize| -> Vec<String> {
        (0..count).map(|n| format!("{kind}{n}")).collect()
    };
    let (nics, guests) = (names("nic", 50), names("guest", 25));
    let mut text = format!(
        "[axes]\nnic = {nics:?}\nguest = {guests:?}\nvhost = ['off', 'on']\nzcopy = ['off', 'on']\n\
         [profiles.smoke]\n{counts}\n"
    );
    text.extend(nics.iter().map(|name| format!("[nics.{name}]\n{nic}\n")));
    text.extend(
        guests
            .iter()
            .map(|name| format!("[guests.{name}]\n{guest}\n")),
    );
    let matrix = parse(&text, Path::new("m.toml"), &[]).unwrap();
    on(&facts(), &matrix, "smoke", false)
}

/// What the shipped matrix comes to in `profile`, on a host that can do everything.
pub(crate) fn shipped(profile: &str) -> Vec<PlannedTrial> {
    all_shipped(profile, false, |_| ())
}

/// As [`shipped`], all from a boot.
pub(crate) fn shipped_from_boots(profile: &str) -> Vec<PlannedTrial> {
    all_shipped(profile, false, |profile| {
        profile.boot_modes = vec![BootMode::Boot];
    })
}

/// As [`shipped`], each case under each of its faults.
pub(crate) fn shipped_under_faults(profile: &str) -> Vec<PlannedTrial> {
    all_shipped(profile, true, |_| ())
}

fn all_shipped(
    profile: &str,
    faults: bool,
    change: impl FnOnce(&mut Profile),
) -> Vec<PlannedTrial> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../matrix.toml");
    let cases = crate::cases::all();
    let names: Vec<&str> = cases.iter().map(|case| case.name).collect();
    let mut matrix = load(&path, &names).unwrap();
    let mut profile = matrix.profile(profile).unwrap().clone();
    change(&mut profile);
    matrix.use_axes(&profile);
    let facts = capable(|host| {
        host.qemus.default.facts.devices =
            matrix.nics.values().map(|nic| nic.device.clone()).collect();
    });
    plan(&matrix, cases, &profile, &facts, faults)
}

#[test]
fn the_order_is_cases_then_axes() {
    let names = names(&on(&facts(), &matrix(""), "smoke", false)).join("\n");
    insta::assert_snapshot!(names, @r"
        driver::virtio::rhel9::tap
        driver::virtio::rhel9::vhost
        driver::virtio::rhel9::vhost_zcopy
        driver::virtio::rhel6::tap
        driver::virtio::rhel6::vhost
        driver::virtio::rhel6::vhost_zcopy
        driver::e1000::rhel9::tap
        driver::e1000::rhel6::tap
        flood::virtio::rhel9::tap
        flood::virtio::rhel9::vhost
        flood::virtio::rhel9::vhost_zcopy
        flood::virtio::rhel6::tap
        flood::virtio::rhel6::vhost
        flood::virtio::rhel6::vhost_zcopy
        flood::e1000::rhel9::tap
        flood::e1000::rhel6::tap
        features::virtio::rhel9::tap
        features::virtio::rhel9::vhost
        features::virtio::rhel9::vhost_zcopy
        features::virtio::rhel6::tap
        features::virtio::rhel6::vhost
        features::virtio::rhel6::vhost_zcopy
    ");
}

#[test]
fn faults_mode_shows_each_fault_once_a_nic_and_backend_on_guests_in_turn_with_vhost_on_one() {
    let names = names(&on(&facts(), &matrix(""), "smoke", true)).join("\n");
    insta::assert_snapshot!(names, @"
    driver!unplugged::virtio::rhel9::tap
    driver!unplugged::e1000::rhel6::tap
    flood!unplugged::virtio::rhel9::tap
    flood!no_vhost::virtio::rhel6::vhost
    flood!no_vhost::virtio::rhel6::vhost_zcopy
    flood!unplugged::e1000::rhel6::tap
    ");
}

#[test]
fn a_case_may_run_on_one_guest_only_and_the_guests_take_turns() {
    let mut matrix = matrix("");
    let smoke = matrix.profiles.get_mut("smoke").unwrap();
    smoke.on_one_guest = vec!["flood".into(), "driver".into()];
    let trials = on(&facts(), &matrix, "smoke", false);
    let of = |case: &str| -> Vec<&str> {
        let names = trials.iter().map(|trial| trial.name.as_str());
        names.filter(|name| name.starts_with(case)).collect()
    };
    assert_eq!(
        of("flood::"),
        [
            "flood::virtio::rhel9::tap",
            "flood::virtio::rhel9::vhost_zcopy",
            "flood::virtio::rhel6::vhost",
            "flood::e1000::rhel6::tap",
        ]
    );
    assert!(of("driver::").contains(&"driver::virtio::rhel6::tap"));
    assert_eq!(of("features::").len(), 6);
}

#[test]
fn a_case_may_run_on_one_nic_only_and_the_nics_take_turns() {
    let mut matrix = matrix("");
    let smoke = matrix.profiles.get_mut("smoke").unwrap();
    smoke.on_one_nic = vec!["flood".into(), "driver".into()];
    let trials = on(&facts(), &matrix, "smoke", false);
    let names = trials.iter().map(|trial| trial.name.as_str());
    let of_these: Vec<&str> = names.filter(|name| !name.starts_with("features")).collect();
    assert_eq!(
        of_these,
        [
            "driver::virtio::rhel9::vhost",
            "driver::virtio::rhel6::vhost_zcopy",
            "driver::e1000::rhel6::tap",
            "flood::virtio::rhel9::tap",
            "flood::virtio::rhel9::vhost_zcopy",
            "flood::virtio::rhel6::vhost",
        ]
    );
}

#[test]
fn a_nic_may_run_on_one_guest_only() {
    let one = matrix(&format!(
        "[profiles.one]\n{PROFILE}nics_on_one_guest = [\"e1000\"]\n"
    ));
    let all = on(&facts(), &one, "one", false);
    let guests = |case: &str, nic: &str| -> Vec<String> {
        let its = all.iter().filter(|trial| {
            trial.case.name == case
                && trial.cell.nic.name == nic
                && trial.cell.backend == Backend::Tap
        });
        its.map(|trial| trial.cell.guest.name.clone()).collect()
    };
    assert_eq!(guests("driver", "virtio").len(), 2);
    for case in ["driver", "flood"] {
        assert_eq!(guests(case, "e1000").len(), 1, "{case}");
    }
}

#[test]
fn with_vhost_only_some_cases_may_run_and_they_do_so_on_one_guest() {
    let mut matrix = matrix("");
    let smoke = matrix.profiles.get_mut("smoke").unwrap();
    smoke.with_vhost = Some(vec!["flood".into(), "driver".into()]);
    let names = names(&on(&facts(), &matrix, "smoke", false));
    let with_vhost = names.iter().filter(|name| !name.ends_with("::tap"));
    assert_eq!(
        with_vhost.collect::<Vec<_>>(),
        [
            "driver::virtio::rhel6::vhost",
            "driver::virtio::rhel6::vhost_zcopy",
            "flood::virtio::rhel6::vhost",
            "flood::virtio::rhel6::vhost_zcopy"
        ]
    );
    assert!(names.contains(&"features::virtio::rhel6::tap".to_owned()));
}

#[test]
fn a_trial_runs_here_where_it_can_and_else_in_a_lab() {
    let hosts = |host, facts: &Capabilities| -> String {
        let mut matrix = matrix("");
        matrix.host = host;
        on(facts, &matrix, "smoke", false)
            .iter()
            .filter(|trial| trial.name.starts_with("driver::virtio::rhel9"))
            .map(|trial| match &trial.action {
                Action::Run => format!("{}: {:?}\n", trial.name, trial.host),
                Action::Skip(why) => format!("{}: {why}\n", trial.name),
            })
            .collect()
    };
    let with_lab = capable(|host| {
        host.lab_obstacle = None;
    });
    insta::assert_snapshot!(hosts(HostChoice::Auto, &with_lab), @"
    driver::virtio::rhel9::tap: Direct
    driver::virtio::rhel9::vhost: Direct
    driver::virtio::rhel9::vhost_zcopy: Lab
    ");
    insta::assert_snapshot!(hosts(HostChoice::Auto, &facts()), @"
    driver::virtio::rhel9::tap: Direct
    driver::virtio::rhel9::vhost: Direct
    driver::virtio::rhel9::vhost_zcopy: vhost_net is loaded with experimental_zcopytx=0, this cell needs 1, and there can be no lab: none is wanted
    ");
    insta::assert_snapshot!(hosts(HostChoice::Lab, &with_lab), @"
    driver::virtio::rhel9::tap: Lab
    driver::virtio::rhel9::vhost: Lab
    driver::virtio::rhel9::vhost_zcopy: Lab
    ");
    insta::assert_snapshot!(hosts(HostChoice::Lab, &facts()), @"
    driver::virtio::rhel9::tap: there can be no lab: none is wanted
    driver::virtio::rhel9::vhost: there can be no lab: none is wanted
    driver::virtio::rhel9::vhost_zcopy: there can be no lab: none is wanted
    ");
}

#[test]
fn a_plans_digest_is_of_its_names_alone() {
    let here = on(&facts(), &matrix(""), "smoke", false);
    let bare = capable(|host| host.qemus.default.facts.devices = Vec::new());
    let elsewhere = on(&bare, &matrix(""), "smoke", false);
    assert_ne!(here[0].action, elsewhere[0].action);
    assert_eq!(digest(&here), digest(&elsewhere));
    assert_ne!(digest(&here), digest(&here[1..]));
}

#[test]
fn names_are_unique() {
    for faults in [false, true] {
        let names = names(&on(&facts(), &matrix(""), "smoke", faults));
        let distinct: BTreeSet<&String> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
        for name in &names {
            assert_eq!(TrialName::parse(name).unwrap().to_string(), *name);
        }
    }
}

#[test]
fn a_profile_may_choose_cases_but_not_their_order() {
    let trials = on(&facts(), &matrix(""), "some", false);
    let mut cases: Vec<&str> = trials.iter().map(|t| t.case.name).collect();
    cases.dedup();
    assert_eq!(cases, ["driver", "features"]);
}

fn verdicts(facts: &Capabilities, extra: &str) -> String {
    on(facts, &matrix(extra), "smoke", false)
        .iter()
        .filter(|t| t.case.name == "driver")
        .map(|t| match &t.action {
            Action::Run => format!("{}: run\n", t.name),
            Action::Skip(reason) => format!("{}: {reason}\n", t.name),
        })
        .collect()
}

#[test]
fn without_vhost_net() {
    let facts = capable(|host| {
        host.kernel.vhost_obstacle =
            Some("this kernel has no vhost_net (no /dev/vhost-net)".into());
        host.kernel.zcopytx = None;
    });
    insta::assert_snapshot!(verdicts(&facts, ""), @r"
        driver::virtio::rhel9::tap: run
        driver::virtio::rhel9::vhost: this kernel has no vhost_net (no /dev/vhost-net)
        driver::virtio::rhel9::vhost_zcopy: this kernel has no vhost_net (no /dev/vhost-net)
        driver::virtio::rhel6::tap: run
        driver::virtio::rhel6::vhost: this kernel has no vhost_net (no /dev/vhost-net)
        driver::virtio::rhel6::vhost_zcopy: this kernel has no vhost_net (no /dev/vhost-net)
        driver::e1000::rhel9::tap: run
        driver::e1000::rhel6::tap: run
    ");
}

#[test]
fn a_kernel_that_cannot_be_had() {
    let mut matrix = matrix("");
    if let Some(guest) = matrix.guests.get_mut("rhel6") {
        guest.suite = Some("sid".into());
    }
    let why = "the kernel of Debian sid cannot be fetched: no route".to_owned();
    let facts = capable(|host| {
        host.missing_suites = BTreeMap::from([("sid".to_owned(), why.clone())]);
    });
    for trial in on(&facts, &matrix, "smoke", false) {
        let skipped = trial.action == Action::Skip(why.clone());
        let zcopy = trial.cell.backend == Backend::VhostZcopy;
        assert_eq!(skipped, trial.cell.guest.name == "rhel6", "{}", trial.name);
        assert!(
            skipped || zcopy || trial.action == Action::Run,
            "{}",
            trial.name
        );
    }
}

#[test]
fn vhost_net_has_one_zcopy_setting_at_a_time() {
    insta::assert_snapshot!(verdicts(&facts(), ""), @r"
        driver::virtio::rhel9::tap: run
        driver::virtio::rhel9::vhost: run
        driver::virtio::rhel9::vhost_zcopy: vhost_net is loaded with experimental_zcopytx=0, this cell needs 1; with --allow-module-reload it is reloaded
        driver::virtio::rhel6::tap: run
        driver::virtio::rhel6::vhost: run
        driver::virtio::rhel6::vhost_zcopy: vhost_net is loaded with experimental_zcopytx=0, this cell needs 1; with --allow-module-reload it is reloaded
        driver::e1000::rhel9::tap: run
        driver::e1000::rhel6::tap: run
    ");
    let on = capable(|host| {
        host.kernel.zcopytx = Some(true);
    });
    assert!(verdicts(&on, "").contains(
        "driver::virtio::rhel9::vhost: \
         vhost_net is loaded with experimental_zcopytx=1, this cell needs 0; with --allow-module-reload it is reloaded\n\
         driver::virtio::rhel9::vhost_zcopy: run\n"
    ));
    let unknown = capable(|host| {
        host.kernel.zcopytx = None;
    });
    assert!(
        verdicts(&unknown, "").contains(
            "driver::virtio::rhel9::vhost: vhost_net does not say its experimental_zcopytx"
        )
    );
}

#[test]
fn a_qemu_that_lacks_something() {
    let facts = capable(|host| {
        host.qemus.default.facts.devices = vec!["virtio-net-pci".into()];
        host.qemus.default.facts.machines = vec!["q35".into()];
    });
    insta::assert_snapshot!(verdicts(&facts, ""), @r"
        driver::virtio::rhel9::tap: run
        driver::virtio::rhel9::vhost: run
        driver::virtio::rhel9::vhost_zcopy: vhost_net is loaded with experimental_zcopytx=0, this cell needs 1; with --allow-module-reload it is reloaded
        driver::virtio::rhel6::tap: QEMU 7.2.0 has no machine type pc
        driver::virtio::rhel6::vhost: QEMU 7.2.0 has no machine type pc
        driver::virtio::rhel6::vhost_zcopy: QEMU 7.2.0 has no machine type pc
        driver::e1000::rhel9::tap: QEMU 7.2.0 has no device model e1000
        driver::e1000::rhel6::tap: QEMU 7.2.0 has no device model e1000
    ");
}

#[test]
fn a_vm_that_needs_what_is_not_here_is_skipped() {
    static PXE: Case = Case {
        name: "driver",
        vm: |spec| spec.boot = Boot::Network(Firmware::Uefi),
        ..PLAIN
    };
    static SPICE: Case = Case {
        name: "flood",
        vm: |spec| spec.spice = Some(5930),
        ..PLAIN
    };
    static BOTH: &[&Case] = &[&PXE, &SPICE];
    let verdict = |facts: &Capabilities, case: &str| {
        let matrix = matrix("");
        let smoke = matrix.profile("smoke").unwrap();
        let trials = plan(&matrix, BOTH, smoke, facts, false);
        find(trials, &format!("{case}::virtio::rhel9::tap")).action
    };
    let without = capable(|host| {
        host.qemus.default.facts.uefi = None;
        host.qemus.default.facts.spice = false;
    });
    for case in ["driver", "flood"] {
        assert_eq!(verdict(&facts(), case), Action::Run);
    }
    let why = "OVMF is not installed here (Debian's package ovmf)";
    assert_eq!(verdict(&without, "driver"), Action::Skip(why.into()));
    let why = "QEMU 7.2.0 has no SPICE here (Debian from 13 on: qemu-system-modules-spice)";
    assert_eq!(verdict(&without, "flood"), Action::Skip(why.into()));
}

#[test]
fn excludes_skip_with_their_reason() {
    let extra = r#"
        exclude = [
            { nic = "virtio", backend = "tap", case = "driver", reason = "bug 1" },
            { guest = "rhel6", reason = "bug 2" },
        ]
    "#;
    insta::assert_snapshot!(verdicts(&facts(), extra), @r"
        driver::virtio::rhel9::tap: excluded in the matrix file: bug 1
        driver::virtio::rhel9::vhost: run
        driver::virtio::rhel9::vhost_zcopy: vhost_net is loaded with experimental_zcopytx=0, this cell needs 1; with --allow-module-reload it is reloaded
        driver::virtio::rhel6::tap: excluded in the matrix file: bug 1
        driver::virtio::rhel6::vhost: excluded in the matrix file: bug 2
        driver::virtio::rhel6::vhost_zcopy: excluded in the matrix file: bug 2
        driver::e1000::rhel9::tap: run
        driver::e1000::rhel6::tap: excluded in the matrix file: bug 2
    ");
    // Other cases on that cell are not meant.
    let trials = on(&facts(), &matrix(extra), "smoke", false);
    assert_eq!(
        find(trials, "flood::virtio::rhel9::tap").action,
        Action::Run
    );
}

#[test]
fn near_filters_are_suggested() {
    let names = names(&on(&facts(), &matrix(""), "smoke", false));
    assert_eq!(nearest(&names, "drivr", false), ["driver"]);
    assert_eq!(
        nearest(&names, "e100::rhel", false),
        ["e1000::rhel6", "e1000::rhel9"]
    );
    assert_eq!(
        nearest(&names, "driver::e1000::rhel7::tap", true),
        ["driver::e1000::rhel6::tap", "driver::e1000::rhel9::tap"]
    );
    // Every suggestion selects something, as a filter does.
    for suggestion in nearest(&names, "virtoi", false) {
        assert!(names.iter().any(|n| n.contains(&suggestion)));
    }
    assert!(nearest(&names, "qqqqqqqq", false).is_empty());
    assert!(nearest(&[], "driver", false).is_empty());
}

#[test]
fn every_case_also_boots_where_the_profile_says_so_and_none_boots_twice() {
    let trials = on(&facts(), &matrix(""), "both", false);
    let of = |name: &str| -> Vec<(String, StartState)> {
        let ours = trials.iter().filter(|t| t.name.starts_with(name));
        ours.filter(|t| t.name.ends_with("virtio::rhel9::tap"))
            .map(|t| (t.name.clone(), t.start_state))
            .collect()
    };
    // It changes nothing, and so goes through nothing.
    let driver = [
        ("driver::virtio::rhel9::tap".into(), StartState::WarmNic),
        ("driver@boot::virtio::rhel9::tap".into(), StartState::Boot),
    ];
    assert_eq!(of("driver"), driver);
    let features = ["features", "features@again", "features@reboot"];
    let features = features.map(|case| (format!("{case}::virtio::rhel9::tap"), StartState::Boot));
    assert_eq!(of("features"), features);
    // What it measures takes minutes, with the machine to itself.
    let timed =
        format!("[profiles.timed]\n{PROFILE}starts = ['checkpoint', 'boot']\nnetperf_seconds = 10");
    let timed = on(&facts(), &matrix(&timed), "timed", false);
    assert!(timed.iter().all(|t| !t.name.contains("@boot")));
    // Under its faults a case is on trial, not a start.
    let faulty = on(&facts(), &matrix(""), "both", true);
    assert!(faulty.iter().all(|t| !t.name.contains('@')));
}

#[test]
fn the_shipped_file() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../matrix.toml");
    let cases: Vec<&str> = crate::cases::all().iter().map(|c| c.name).collect();
    let matrix = crate::matrix::load::load(&path, &cases).unwrap();
    // 3 models and 3 guests by tap, virtio and 3 guests by 3 backends
    assert_eq!(matrix.cells().count(), 3 * 3 + 3 * 3);
    assert!(
        matrix
            .guests
            .values()
            .all(crate::matrix::schema::Guest::is_stand_in)
    );
    for profile in ["smoke", "full", "soak"] {
        matrix.profile(profile).unwrap();
    }
}
