//! `--list`: the planned trials as text or JSON.

use crate::matrix::bound::Bound;
use crate::matrix::known::{Day, Expectation};
use crate::matrix::schema::Property;
use crate::plan::{Action, PlannedTrial};
use serde::Serialize;

/// Names, one a line.
pub fn text(trials: &[PlannedTrial]) -> String {
    trials.iter().fold(String::new(), |mut text, trial| {
        text += &trial.name;
        text.push('\n');
        text
    })
}

#[derive(Serialize)]
struct Entry<'a> {
    name: &'a str,
    case: &'a str,
    fault: Option<&'a str>,
    nic: &'a str,
    guest: &'a str,
    backend: &'static str,
    qemu: &'a str,
    properties: Vec<String>,
    machine_properties: Vec<String>,
    iommu: bool,
    bare_tap: bool,
    plan_item: &'a str,
    action: &'static str,
    reason: Option<&'a str>,
    stand_in: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    expected: Vec<Expected<'a>>,
}

/// A failure that is expected; where it has a bound on the kernel, on such kernels alone.
#[derive(Serialize)]
struct Expected<'a> {
    message: &'a str,
    reason: &'a str,
    link: Option<&'a str>,
    kernel: Option<String>,
    until: Option<String>,
    sometimes: bool,
}

impl<'a> Expected<'a> {
    fn of(expectation: &'a Expectation) -> Self {
        Expected {
            message: &expectation.message,
            reason: &expectation.reason,
            link: expectation.link.as_deref(),
            kernel: expectation.scope.kernel.as_ref().map(Bound::to_string),
            until: expectation.until.as_ref().map(Day::to_string),
            sometimes: expectation.sometimes,
        }
    }
}

/// A JSON array, a trial a line.
pub fn json(trials: &[PlannedTrial]) -> serde_json::Result<String> {
    let mut lines = Vec::with_capacity(trials.len());
    for trial in trials {
        let (action, reason) = match &trial.action {
            Action::Run => ("run", None),
            Action::Skip(reason) => ("skip", Some(reason.as_str())),
        };
        let variant = &trial.cell.nic.variant;
        lines.push(serde_json::to_string(&Entry {
            name: &trial.name,
            case: trial.case.name,
            fault: trial.fault.map(|f| f.name),
            nic: &trial.cell.nic.name,
            guest: &trial.cell.guest.name,
            backend: trial.cell.backend.name(),
            qemu: &trial.cell.qemu,
            properties: variant.properties.iter().map(Property::to_string).collect(),
            machine_properties: variant
                .machine_properties
                .iter()
                .map(Property::to_string)
                .collect(),
            iommu: variant.iommu,
            bare_tap: variant.bare_tap,
            plan_item: trial.case.plan_item,
            action,
            reason,
            stand_in: trial.cell.guest.is_stand_in(),
            expected: (trial.known.expectations.iter())
                .map(|expectation| Expected::of(expectation))
                .collect(),
        })?);
    }
    Ok(format!("[\n{}\n]\n", lines.join(",\n")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::{planned, skipped_and_faulty, with};
    use std::collections::BTreeSet;

    #[test]
    fn both_forms() {
        let trials = [planned("driver::e1000::rhel9::tap"), skipped_and_faulty()];
        insta::assert_snapshot!(text(&trials), @r"
            driver::e1000::rhel9::tap
            flood!no_vhost::virtio::rhel6::vhost_zcopy
        ");
        let json = json(&trials).unwrap();
        insta::assert_snapshot!(json, @r#"
            [
            {"name":"driver::e1000::rhel9::tap","case":"driver","fault":null,"nic":"e1000","guest":"rhel9","backend":"tap","qemu":"default","properties":[],"machine_properties":[],"iommu":false,"bare_tap":false,"plan_item":"5","action":"run","reason":null,"stand_in":true},
            {"name":"flood!no_vhost::virtio::rhel6::vhost_zcopy","case":"flood","fault":"no_vhost","nic":"virtio","guest":"rhel6","backend":"vhost_zcopy","qemu":"default","properties":[],"machine_properties":[],"iommu":false,"bare_tap":false,"plan_item":"2. ping","action":"skip","reason":"vhost_net is loaded with experimental_zcopytx=0, this cell needs 1; with --allow-module-reload it is reloaded","stand_in":true}
            ]
        "#);
        let parsed: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
        assert_eq!(parsed.len(), 2);
    }

    #[test]
    fn what_is_expected_of_a_trial() {
        let entry = "{ case = 'driver', kernel = '<6.12', message = 'lost', reason = 'bug', until = 2027-03-31 }";
        let trial = with("expect", entry, "driver::e1000::rhel9::tap");
        let json = json(&[trial]).unwrap();
        let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
        insta::assert_snapshot!(parsed[0]["expected"], @r#"[{"message":"lost","reason":"bug","link":null,"kernel":"<6.12","until":"2027-03-31","sometimes":false}]"#);
    }

    #[test]
    fn ten_thousand_trials() {
        let trials = crate::plan::tests::many();
        assert!(trials.len() >= 10_000);
        let text = text(&trials);
        let j = json(&trials).unwrap();
        let names: BTreeSet<&str> = text.lines().collect();
        assert_eq!(names.len(), trials.len());
        assert_eq!(j.lines().count(), trials.len() + 2);
    }

    #[test]
    fn nothing_is_an_empty_array() {
        let parsed: Vec<serde_json::Value> = serde_json::from_str(&json(&[]).unwrap()).unwrap();
        assert!(parsed.is_empty());
    }
}
