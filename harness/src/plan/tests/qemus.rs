//! A plan for several QEMUs.

use super::*;
use crate::host::tests::tested;
use crate::matrix::schema::Machine;

#[test]
fn a_case_that_goes_elsewhere_has_a_trial_for_each_other_qemu_and_none_without() {
    static ACROSS: &[&Case] = &[&Case {
        name: "driver",
        across: true,
        vm: |spec| spec.migratable = true,
        ..PLAIN
    }];
    let facts = capable(|host| {
        host.qemus.default.facts.machines.push("pc-q35-7.2".into());
        let mut trixie = tested("10.0.13");
        trixie.facts.machines = ["pc", "pc-q35-7.2", "pc-q35-7.1"]
            .map(String::from)
            .to_vec();
        let mut bare = trixie.clone();
        bare.facts.devices.retain(|device| device != "e1000");
        let gone = "the QEMU of Debian woody cannot be fetched: 404";
        host.qemus.others = [
            ("trixie".to_owned(), Ok(trixie)),
            ("bare".to_owned(), Ok(bare)),
            ("gone".to_owned(), Err(gone.to_owned())),
        ]
        .into();
    });
    let tables = ["trixie", "bare", "gone"].map(|name| format!("[qemu.{name}]\nsuite = \"sid\"\n"));
    let mut matrix = matrix(&tables.concat());
    let alone = matrix.clone();
    matrix.axes.qemu = ["default", "trixie", "bare", "gone"]
        .map(String::from)
        .to_vec();
    let profile = matrix.profile("both").unwrap();
    let trials = |matrix: &Matrix, faults| {
        let trials = plan(matrix, ACROSS, profile, &facts, faults);
        trials
            .into_iter()
            .filter(|trial| trial.cell.backend == Backend::Tap)
    };
    assert_eq!(trials(&alone, false).count(), 0);
    let of_default = |trial: &PlannedTrial| trial.cell.qemu == "default";
    let said: Vec<String> = trials(&matrix, false)
        .filter(of_default)
        .map(|trial| match &trial.action {
            Action::Run => format!("{} {:?}", trial.name, trial.machine_version.as_deref()),
            Action::Skip(reason) => format!("{} {reason}", trial.name),
        })
        .collect();
    insta::assert_snapshot!(said.join("\n"), @r#"
    driver@to_trixie::virtio::rhel9::tap Some("pc-q35-7.2")
    driver@to_bare::virtio::rhel9::tap Some("pc-q35-7.2")
    driver@to_gone::virtio::rhel9::tap the QEMU of Debian woody cannot be fetched: 404
    driver@to_trixie::virtio::rhel6::tap QEMU 10.0.13 (trixie) has no version of machine type pc that this QEMU has
    driver@to_bare::virtio::rhel6::tap QEMU 10.0.13 (bare) has no version of machine type pc that this QEMU has
    driver@to_gone::virtio::rhel6::tap the QEMU of Debian woody cannot be fetched: 404
    driver@to_trixie::e1000::rhel9::tap Some("pc-q35-7.2")
    driver@to_bare::e1000::rhel9::tap QEMU 10.0.13 (bare) has no device model e1000
    driver@to_gone::e1000::rhel9::tap the QEMU of Debian woody cannot be fetched: 404
    driver@to_trixie::e1000::rhel6::tap QEMU 10.0.13 (trixie) has no version of machine type pc that this QEMU has
    driver@to_bare::e1000::rhel6::tap QEMU 10.0.13 (bare) has no device model e1000
    driver@to_gone::e1000::rhel6::tap the QEMU of Debian woody cannot be fetched: 404
    "#);
    let back = "driver@to_default::virtio::rhel9::tap::trixie";
    assert!(trials(&matrix, false).any(|trial| trial.name == back));
    let faulty: Vec<String> = trials(&matrix, true)
        .filter(of_default)
        .map(|trial| trial.name)
        .collect();
    insta::assert_snapshot!(faulty.join("\n"), @"
    driver@to_trixie!unplugged::virtio::rhel9::tap
    driver@to_trixie!unplugged::e1000::rhel6::tap
    ");
    let kit = crate::testbed::stock::kit(
        None,
        crate::vm::accel::Accel::Tcg,
        &facts.qemus.default.facts,
    );
    let runs = trials(&matrix, false)
        .find(|trial| trial.action == Action::Run)
        .unwrap();
    let order = runs.order(profile, kit);
    assert_eq!(order.spec.machine_type(), "pc-q35-7.2");
    assert_eq!(order.plain, order.spec);
    assert_eq!(order.other.unwrap().name, "trixie");
}

#[test]
fn on_each_qemu_the_same_runs_under_the_default_ones_names() {
    let tables = "[qemu.next]\nsuite = \"sid\"\n[qemu.gone]\nsuite = \"woody\"\n";
    let mut one = matrix(&format!(
        "{tables}[profiles.turns]\n{PROFILE}on_one_guest = [\"driver\"]\n"
    ));
    let facts = capable(|host| {
        let mut next = tested("11.1.3");
        next.facts.devices = vec!["e1000".into()];
        let refused = "QEMU 11.1.3 refuses `x=y`: Property 'e1000.x' not found";
        let refused = ("e1000".into(), Machine::Pc, refused.into());
        next.refuses.push(refused);
        host.qemus.others.insert("next".into(), Ok(next));
        let why = "the QEMU of Debian woody cannot be fetched: 404";
        host.qemus.others.insert("gone".into(), Err(why.into()));
    });
    let plain = names(&on(&facts, &one, "turns", false));
    let faults = names(&on(&facts, &one, "turns", true));
    one.axes.qemu = ["default", "next", "gone"].map(String::from).to_vec();
    for (faulty, expected) in [(false, plain), (true, faults)] {
        let all = on(&facts, &one, "turns", faulty);
        let of = |qemu: &str| -> Vec<String> {
            let its = all.iter().filter(|trial| trial.cell.qemu == qemu);
            its.map(|trial| trial.name.clone()).collect()
        };
        assert_eq!(of("default"), expected);
        let with = |suffix: &str| -> Vec<String> {
            expected
                .iter()
                .map(|name| format!("{name}::{suffix}"))
                .collect()
        };
        assert_eq!(of("next"), with("next"));
        assert_eq!(of("gone"), with("gone"));
        for trial in &all {
            assert_eq!(TrialName::parse(&trial.name), Some(trial.parts.clone()));
        }
    }
    let all = on(&facts, &one, "smoke", false);
    let reason = |name: &str| match &all.iter().find(|t| t.name == name).unwrap().action {
        Action::Run => "runs".to_owned(),
        Action::Skip(reason) => reason.clone(),
    };
    assert_eq!(reason("driver::e1000::rhel9::tap::next"), "runs");
    assert!(reason("driver::e1000::rhel6::tap::next").ends_with("'e1000.x' not found"));
    let lacks = "QEMU 11.1.3 has no device model virtio-net-pci";
    assert_eq!(reason("driver::virtio::rhel9::tap::next"), lacks);
    assert_eq!(
        reason("driver::e1000::rhel9::tap::gone"),
        "the QEMU of Debian woody cannot be fetched: 404"
    );
}
