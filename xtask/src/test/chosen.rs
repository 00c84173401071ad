//! Which trials are run at each change, of those that nightly are all run.

use super::agreement::cover;
use crate::build::Harness;
use crate::settings::hand_over;
use crate::{Workspace, child};
use anyhow::{Result, ensure};
use report::flags::Flags;
use report::name::TrialName;
use report::outln;
use std::collections::BTreeMap;
use std::process::Command;

/// The case that tells the two settings of vhost's zero copy apart.
const ABOUT_ZERO_COPY: &str = "zcopy";

/// Has `flags` name, of all trials that they select, [those with vhost once](with_vhost_once), and of these those in
/// which [guests take turns](guests_in_turn).
pub fn smoke(workspace: &Workspace, harness: &Harness, flags: &mut Flags) -> Result<()> {
    let all = listed(workspace, harness, flags)?;
    let part = guests_in_turn(with_vhost_once(&all));
    outln!(
        "{} of {} trials: each case on each NIC and on each guest, and with vhost at one setting of its zero copy; \
         nightly on each guest with each NIC, and at both settings",
        part.len(),
        all.len()
    );
    name(flags, &part);
    Ok(())
}

/// Has `flags` name, of all faults that they select, [a part](part).
pub fn faults(workspace: &Workspace, harness: &Harness, flags: &mut Flags) -> Result<()> {
    let all = listed(workspace, harness, flags)?;
    let mut plain = flags.clone();
    plain.selection.faults = false;
    let plain = listed(workspace, harness, &plain)?;
    let part = part(&all, &plain);
    outln!(
        "{} of {} faults: each on one NIC, and one of each case that the profile has on one NIC; nightly all on all",
        part.len(),
        all.len()
    );
    name(flags, &part);
    Ok(())
}

fn name(flags: &mut Flags, part: &[&TrialName]) {
    flags.only.exact = true;
    flags.only.filter = part.iter().map(ToString::to_string).collect();
}

/// `all` without what differs from another trial in the setting of vhost's zero copy alone, which most cases never meet.
/// Which setting a case is left with is by its name.
fn with_vhost_once(all: &[TrialName]) -> Vec<&TrialName> {
    let stays = |name: &&TrialName| {
        let (other, is_due) = match name.backend.as_str() {
            "vhost" => ("vhost_zcopy", sum(&name.row()).is_multiple_of(2)),
            "vhost_zcopy" => ("vhost", !sum(&name.row()).is_multiple_of(2)),
            _ => return true,
        };
        let twin = TrialName {
            backend: other.into(),
            ..(*name).clone()
        };
        is_due || name.case == ABOUT_ZERO_COPY || !all.contains(&twin)
    };
    all.iter().filter(stays).collect()
}

/// Of `all` a part in which each case is on each of its NICs and backends, and on each of its guests, of each QEMU. A
/// case's NICs take its guests in turn, beginning with one by its name, so that each NIC meets each guest in some case;
/// what comes or goes of another case moves none.
fn guests_in_turn(all: Vec<&TrialName>) -> Vec<&TrialName> {
    let nics = of_cases(all.iter().copied(), |name| &name.nic);
    let guests = of_cases(all.iter().copied(), |name| &name.guest);
    let is_in_turn = |name: &&TrialName| {
        let (nics, guests) = (&nics[&*name.case], &guests[&*name.case]);
        let nic = nics.iter().position(|nic| *nic == name.nic);
        let turn = sum(&name.row()) + nic.unwrap_or_default();
        guests[turn % guests.len()] == name.guest
    };
    let in_turn = all.iter().copied().filter(is_in_turn);
    let shows = |name: &&TrialName| {
        let (row, qemu) = (name.row(), name.qemu());
        [
            format!("{row} on {} by {} of {qemu}", name.nic, name.backend),
            format!("{row} on {} of {qemu}", name.guest),
        ]
    };
    let part = cover(in_turn.chain(all.iter().copied()).collect(), shows);
    all.into_iter().filter(|name| part.contains(name)).collect()
}

/// By what a name decides which of several is shown: another name that comes or goes moves none.
fn sum(name: &str) -> usize {
    name.bytes().map(usize::from).sum()
}

/// The trials that `flags` select.
fn listed(workspace: &Workspace, harness: &Harness, flags: &Flags) -> Result<Vec<TrialName>> {
    let mut list = Command::new(&harness.nicmatrix);
    list.arg("list");
    hand_over(&mut list, workspace, flags)?;
    let (status, text) = child::output(list, false)?;
    ensure!(
        status.success(),
        "`nicmatrix list` ended with {status}: {text}"
    );
    let names = text
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    Ok(names.filter_map(TrialName::parse).collect())
}

/// Of `all` faults a part in which each case has each of its faults once, and each NIC and backend has one. A case
/// whose `plain` trials are on fewer NICs than it could be, as it is long, has one fault. Which one, and which NIC shows
/// a fault, is by its name alone: another fault that comes or goes moves none of another case.
fn part<'a>(all: &'a [TrialName], plain: &[TrialName]) -> Vec<&'a TrialName> {
    let could_be = of_cases(all, |name| &name.nic);
    let are = of_cases(plain, |name| &name.nic);
    let is_long = |case: &str| are.get(case).map_or(0, Vec::len) < could_be[case].len();
    let shown_as = |name: &TrialName| match is_long(&name.case) {
        true => name.case.clone(),
        false => name.row(),
    };
    let mut rows: Vec<(String, Vec<&TrialName>)> = Vec::new();
    for name in all {
        let row = shown_as(name);
        match rows.iter_mut().find(|(of, _)| *of == row) {
            Some((_, names)) => names.push(name),
            None => rows.push((row, vec![name])),
        }
    }
    let by_name = rows
        .iter()
        .map(|(row, names)| names[sum(row) % names.len()]);
    let shows = |name: &&TrialName| [shown_as(name), format!("{} by {}", name.nic, name.backend)];
    cover(by_name.chain(all).collect(), shows)
}

/// What each case has of `part` in `names`, each once, in their order.
fn of_cases<'a>(
    names: impl IntoIterator<Item = &'a TrialName>,
    part: impl Fn(&'a TrialName) -> &'a str,
) -> BTreeMap<&'a str, Vec<&'a str>> {
    let mut of_cases: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for name in names {
        let parts = of_cases.entry(&name.case).or_default();
        if !parts.contains(&part(name)) {
            parts.push(part(name));
        }
    }
    of_cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_case_has_one_setting_of_vhost_but_the_one_about_them() {
        let all: Vec<TrialName> = [
            "vlan::virtio::rhel9::tap",
            "vlan::virtio::rhel9::vhost",
            "vlan::virtio::rhel9::vhost_zcopy",
            "vlan_host::virtio::rhel9::vhost",
            "vlan_host::virtio::rhel9::vhost_zcopy",
            "multiqueue::virtio::rhel9::vhost",
            "multiqueue::virtio::rhel10::vhost_zcopy",
            "zcopy::virtio::rhel9::vhost",
            "zcopy::virtio::rhel9::vhost_zcopy",
        ]
        .map(|name| TrialName::parse(name).unwrap())
        .into();
        let left = |all: &[TrialName]| -> Vec<String> {
            let left = with_vhost_once(all);
            left.iter().map(ToString::to_string).collect()
        };
        let some = [
            "vlan::virtio::rhel9::tap",
            "vlan::virtio::rhel9::vhost_zcopy",
            "vlan_host::virtio::rhel9::vhost",
            "multiqueue::virtio::rhel9::vhost",
            "multiqueue::virtio::rhel10::vhost_zcopy",
            "zcopy::virtio::rhel9::vhost",
            "zcopy::virtio::rhel9::vhost_zcopy",
        ];
        assert_eq!(left(&all), some);
        // Another case that goes moves none.
        assert_eq!(left(&all[3..])[..], some[2..]);
    }

    #[test]
    fn nics_take_guests_in_turn_and_each_case_has_all_of_both() {
        let product = |case: &str, nics: &[&str], guests: &[&str]| -> Vec<TrialName> {
            let on = |nic: &&str| {
                let name = |guest| TrialName::parse(&format!("{case}::{nic}::{guest}::tap"));
                guests.iter().map(name).collect::<Vec<_>>()
            };
            let names = nics.iter().flat_map(on);
            names.collect::<Option<_>>().unwrap()
        };
        let left = |all: &[TrialName]| -> Vec<String> {
            let left = guests_in_turn(all.iter().collect());
            left.iter().map(ToString::to_string).collect()
        };
        let guests = ["rhel6", "rhel9", "rhel10"];
        let driver = product("driver", &["rtl8139", "e1000", "e1000e", "virtio"], &guests);
        let of_driver = [
            "driver::rtl8139::rhel9::tap",
            "driver::e1000::rhel10::tap",
            "driver::e1000e::rhel6::tap",
            "driver::virtio::rhel9::tap",
        ];
        assert_eq!(left(&driver), of_driver);
        // A case on one NIC keeps all its guests, and with vhost besides.
        let mut all = product("features", &["virtio"], &guests);
        all.extend(TrialName::parse("features::virtio::rhel9::vhost"));
        assert_eq!(left(&all).len(), 4);
        // Another case moves none.
        all.extend(driver);
        assert_eq!(left(&all)[4..], of_driver);
        // Another QEMU has as many.
        let other = |name: &TrialName| TrialName {
            qemu: Some("trixie".into()),
            ..name.clone()
        };
        let elsewhere: Vec<TrialName> = all.iter().map(other).collect();
        assert_eq!(left(&[&all[..], &elsewhere].concat()).len(), 2 * 8);
        // Each case begins with its own guest.
        let promisc = product("promisc", &["rtl8139", "e1000"], &guests);
        assert_eq!(left(&promisc)[0], "promisc::rtl8139::rhel6::tap");
    }

    #[test]
    fn each_fault_is_shown_once_and_each_nic_and_backend_has_one() {
        let names = |names: &[&str]| -> Vec<TrialName> {
            names
                .iter()
                .map(|name| TrialName::parse(name).unwrap())
                .collect()
        };
        let all = names(&[
            "vlan!retagged::e1000::rhel6::tap",
            "vlan!retagged::virtio::rhel6::tap",
            "vlan!retagged::virtio::rhel6::vhost",
            "vlan!dropped::e1000::rhel9::tap",
            "vlan!dropped::virtio::rhel9::tap",
            "vlan!unfiltered::virtio::rhel10::tap",
            "mtu_max!small::e1000::rhel6::tap",
            "mtu_max!small::virtio::rhel6::tap",
        ]);
        let part = |all: &[TrialName]| -> Vec<String> {
            part(all, all).iter().map(ToString::to_string).collect()
        };
        let shown = [
            "vlan!retagged::virtio::rhel6::vhost",
            "vlan!dropped::e1000::rhel9::tap",
            "vlan!unfiltered::virtio::rhel10::tap",
            "mtu_max!small::virtio::rhel6::tap",
        ];
        assert_eq!(part(&all), shown);
        // What comes before them moves none of them.
        let another = names(&["ping_sweep!lost::e1000::rhel9::tap"]);
        let with_another = [&another[..], &all].concat();
        assert_eq!(part(&with_another)[1..], shown);
        // A backend that the names leave out has one besides.
        let by_vhost = names(&["vlan!dropped::virtio::rhel9::vhost"]);
        let with_vhost = part(&[&all[3..], &by_vhost].concat());
        assert_eq!(
            with_vhost.last().unwrap(),
            "vlan!dropped::virtio::rhel9::vhost"
        );
    }

    #[test]
    fn a_case_that_the_profile_has_on_one_nic_shows_one_of_its_faults() {
        let parsed = |names: &[&str]| -> Vec<TrialName> {
            let names = names.iter().map(|name| TrialName::parse(name));
            names.collect::<Option<_>>().unwrap()
        };
        let all = parsed(&[
            "kexec!mac_left::e1000::rhel6::tap",
            "kexec!mtu_left::e1000::rhel6::tap",
            "kexec!mac_left::virtio::rhel9::tap",
            "kexec!mtu_left::virtio::rhel9::tap",
            "rss!one_queue::virtio::rhel9::tap",
            "rss!other_key::virtio::rhel9::tap",
        ]);
        let plain = parsed(&["kexec::e1000::rhel6::tap", "rss::virtio::rhel6::tap"]);
        let shown: Vec<&str> = part(&all, &plain)
            .iter()
            .map(|name| name.case.as_str())
            .collect();
        assert_eq!(shown, ["kexec", "rss", "rss"]);
    }
}
