//! The items of the manual test plan, and which cases carry each.

use crate::cases::Case;
use crate::plan::{Action, PlannedTrial};
use std::fmt::Write;

/// An item of the plan: its number as cases name it, and its heading. Two items are called 2, and two
/// 18: the second of each has a word with it.
pub const ITEMS: [(&str, &str); 24] = [
    ("1", "hot-plug and unplug, with vhost"),
    ("2", "link status with the status parameter"),
    ("2. ping", "ping the guest"),
    ("3", "PXE booting"),
    ("4", "change the MAC address"),
    ("5", "the driver of each NIC"),
    ("6", "switch promiscuous mode"),
    ("7", "802.1q VLAN"),
    ("8", "driver information"),
    ("9", "the largest MTU of each NIC"),
    ("10", "flood all NICs at once"),
    ("11", "query offloads"),
    ("12", "switch offloads"),
    ("13", "switch promiscuous mode"),
    ("14", "set the MTU"),
    ("15", "a big file over UDP"),
    ("16", "packet sizes in tcpdump"),
    ("17", "migration with spice"),
    ("18", "zero copy on and off"),
    ("18. mac_change", "change the MAC address"),
    ("19", "indirect_desc and event_idx"),
    ("20", "link status with the status parameter"),
    ("21", "netperf"),
    ("22", "multiqueue"),
];

/// The items that `case` carries, without the steps that follow an item, such as `1) and 2)`.
fn items(case: &Case) -> impl Iterator<Item = &'static str> {
    case.plan_item
        .split(", ")
        .filter(|part| !part.is_empty() && !part.ends_with(')'))
}

/// The last row, of cases that carry no item.
const BEYOND: (&str, &str) = ("beyond the plan", "");

/// An item, and what carries it.
struct Row {
    item: &'static str,
    title: &'static str,
    cases: Vec<&'static str>,
    run: usize,
    skip: usize,
}

fn rows(cases: &[&'static Case], trials: &[PlannedTrial]) -> Vec<Row> {
    let row = |(item, title), carries: &dyn Fn(&Case) -> bool| {
        let carrying = cases.iter().filter(|case| carries(case));
        let cases: Vec<&str> = carrying.map(|case| case.name).collect();
        let (run, skip): (Vec<&PlannedTrial>, Vec<&PlannedTrial>) = trials
            .iter()
            .filter(|trial| cases.contains(&trial.case.name))
            .partition(|trial| trial.action == Action::Run);
        Row {
            item,
            title,
            cases,
            run: run.len(),
            skip: skip.len(),
        }
    };
    let of_item = |item| row(item, &|case: &Case| items(case).any(|i| i == item.0));
    let mut rows: Vec<Row> = ITEMS.into_iter().map(of_item).collect();
    let beyond = row(BEYOND, &|case: &Case| case.plan_item.is_empty());
    if !beyond.cases.is_empty() {
        rows.push(beyond);
    }
    rows
}

/// Each item with how many of `trials` carry it and those of `cases` that do, a line each; then the
/// cases beyond the plan, where there are any.
pub fn table(cases: &[&'static Case], trials: &[PlannedTrial]) -> String {
    let mut out = format!(
        "{:<15} {:<38} {:>6} {:>7}  cases\n",
        "item", "", "run", "skip"
    );
    for row in rows(cases, trials) {
        let cases = match row.cases.is_empty() {
            true => "none".to_owned(),
            false => row.cases.join(", "),
        };
        // A String cannot fail to be written to.
        let _ = writeln!(
            out,
            "{:<15} {:<38} {:>6} {:>7}  {cases}",
            row.item, row.title, row.run, row.skip
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::{planned, shipped, skipped_and_faulty};

    #[test]
    fn every_item_has_trials() {
        for profile in ["smoke", "full", "soak"] {
            let rows = rows(crate::cases::all(), &shipped(profile));
            // A case beyond the plan may be for NICs that a profile has not.
            let items = rows.iter().filter(|row| row.item != BEYOND.0);
            let none = items.filter(|row| row.run == 0);
            let none: Vec<&str> = none.map(|row| row.item).collect();
            assert_eq!(none, Vec::<&str>::new(), "{profile}");
        }
    }

    #[test]
    fn cases_name_items_that_there_are() {
        for case in crate::cases::all() {
            for item in items(case) {
                let known = ITEMS.iter().any(|(name, _)| *name == item);
                assert!(known, "{} carries {item:?}", case.name);
            }
        }
    }

    #[test]
    fn cases_without_an_item_are_shown_beyond_the_plan() {
        static NOVEL: Case = Case {
            name: "novel",
            ..Case::PLAIN
        };
        let planned = planned("driver::e1000::rhel9::tap");
        let novel = PlannedTrial {
            case: &NOVEL,
            ..planned.clone()
        };
        let (driver, trials) = (planned.case, [planned, novel]);
        let last = |cases: &[&'static Case]| {
            let table = table(cases, &trials);
            table.lines().last().unwrap().to_owned()
        };
        let expected = format!(
            "{:<15} {:<38} {:>6} {:>7}  novel",
            "beyond the plan", "", 1, 0
        );
        assert_eq!(last(&[driver, &NOVEL]), expected);
        assert!(last(&[driver]).starts_with("22 "));
    }

    #[test]
    fn an_item_has_a_line_with_its_trials_and_cases() {
        let trials = [
            planned("driver::e1000::rhel9::tap"),
            planned("driver::virtio::rhel9::tap"),
            planned("flood::virtio::rhel6::tap"),
            skipped_and_faulty(),
        ];
        let cases = [trials[0].case, trials[2].case];
        let table = table(&cases, &trials);
        let first: Vec<&str> = table.lines().take(7).collect();
        insta::assert_snapshot!(first.join("\n"), @r"
            item                                                      run    skip  cases
            1               hot-plug and unplug, with vhost             0       0  none
            2               link status with the status parameter       0       0  none
            2. ping         ping the guest                              1       1  flood
            3               PXE booting                                 0       0  none
            4               change the MAC address                      0       0  none
            5               the driver of each NIC                      2       0  driver
        ");
    }
}
