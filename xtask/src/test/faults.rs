//! Which faults are shown at each change: not each on each NIC.

use super::agreement::cover;
use crate::build::Harness;
use crate::settings::hand_over;
use crate::{Workspace, child};
use anyhow::{Result, ensure};
use report::flags::Flags;
use report::name::TrialName;
use report::outln;
use std::process::Command;

/// Has `flags` name, of all faults that they select, [a part](part).
pub fn choose(workspace: &Workspace, harness: &Harness, flags: &mut Flags) -> Result<()> {
    let mut list = Command::new(&harness.nicmatrix);
    list.arg("list");
    hand_over(&mut list, workspace, flags)?;
    let (status, text) = child::output(list, false)?;
    ensure!(
        status.success(),
        "`nicmatrix list` ended with {status}: {text}"
    );
    let all: Vec<TrialName> = text
        .lines()
        .filter_map(|line| TrialName::parse(line.split_whitespace().next()?))
        .collect();
    let part = part(&all);
    outln!(
        "{} of {} faults: each on one NIC, nightly on all of them",
        part.len(),
        all.len()
    );
    flags.only.exact = true;
    flags.only.filter = part.iter().map(ToString::to_string).collect();
    Ok(())
}

/// Of `all` a part in which each case has each of its faults once, and each NIC and backend has one. Which NIC shows a
/// fault is by the fault's name alone: another fault that comes or goes moves none.
fn part(all: &[TrialName]) -> Vec<&TrialName> {
    let mut rows: Vec<(String, Vec<&TrialName>)> = Vec::new();
    for name in all {
        let row = name.row();
        match rows.iter_mut().find(|(of, _)| *of == row) {
            Some((_, names)) => names.push(name),
            None => rows.push((row, vec![name])),
        }
    }
    let by_name = rows.iter().map(|(row, names)| {
        let sum: usize = row.bytes().map(usize::from).sum();
        names[sum % names.len()]
    });
    let shows = |name: &&TrialName| [name.row(), format!("{} by {}", name.nic, name.backend)];
    cover(by_name.chain(all).collect(), shows)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            part(all).iter().map(ToString::to_string).collect()
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
}
