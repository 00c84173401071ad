//! Which planned trials are chosen: by the values of their axes, and by their names. Pure.

use super::{PlannedTrial, nothing_matches};
use crate::base::words::unknown;
use crate::matrix::Backend;
use crate::matrix::schema::Matrix;
use anyhow::ensure;
use report::flags::{Only, named};

/// Fails on a value that no axis of `matrix` has, or that is not the name of one of `cases`.
///
/// # Errors
/// The first such value, with those that there are and the nearest.
pub fn check(only: &Only, matrix: &Matrix, cases: &[&str]) -> anyhow::Result<()> {
    let backends = Backend::ALL.map(Backend::name);
    let nics: Vec<&str> = matrix.axes.nic.iter().map(String::as_str).collect();
    let guests: Vec<&str> = matrix.axes.guest.iter().map(String::as_str).collect();
    for (flag, kind, given, there) in [
        ("nic", "NIC", &only.nic, &nics[..]),
        ("guest", "guest", &only.guest, &guests[..]),
        ("backend", "backend", &only.backend, &backends[..]),
        ("case", "case", &only.case, cases),
    ] {
        for value in given {
            ensure!(
                there.contains(&value.as_str()),
                "{}: {}",
                named(flag),
                unknown(kind, value, there.iter().copied())
            );
        }
    }
    Ok(())
}

/// Keeps the trials that a filter selects and that are not left out. `names` are those of the plan.
///
/// # Errors
/// A filter that selects none of `names`, with what it probably meant.
pub fn keep(only: &Only, names: &[String], trials: &mut Vec<PlannedTrial>) -> anyhow::Result<()> {
    each_filter_selects(only, names)?;
    trials.retain(|trial| only.takes_name(&trial.name));
    Ok(())
}

/// Fails on a filter that selects none of `names`: it is misspelt, whatever the others select.
///
/// # Errors
/// The first such filter, with what it probably meant.
fn each_filter_selects(only: &Only, names: &[String]) -> anyhow::Result<()> {
    let selects_none = |filter: &&String| !names.iter().any(|name| only.selects(filter, name));
    match only.filter.iter().find(selects_none) {
        Some(filter) => Err(nothing_matches(names, filter, only.exact)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::planned;
    use super::*;

    fn only(change: impl FnOnce(&mut Only)) -> Only {
        let mut only = Only::default();
        change(&mut only);
        only
    }

    #[test]
    fn a_trial_must_have_a_value_of_each_axis_that_is_asked_for() {
        let trial = planned("driver::e1000::rhel9::tap");
        let takes = |only: Only| only.takes_axes(&trial.parts);
        assert!(takes(Only::default()));
        assert!(takes(only(
            |o| o.nic = vec!["virtio".into(), "e1000".into()]
        )));
        assert!(!takes(only(|o| o.nic = vec!["virtio".into()])));
        assert!(!takes(only(|o| {
            o.nic = vec!["e1000".into()];
            o.guest = vec!["rhel6".into()];
        })));
        assert!(takes(only(|o| o.case = vec!["driver".into()])));
        assert!(!takes(only(|o| o.backend = vec!["vhost".into()])));
    }

    #[test]
    fn any_of_the_filters_selects_and_each_must() {
        let names = ["pxe::virtio::rhel9::tap", "driver::e1000::rhel9::tap"].map(String::from);
        let two = only(|o| o.filter = vec!["pxe::virtio".into(), "driver::".into()]);
        assert!(names.iter().all(|name| two.takes_name(name)));
        assert!(!two.takes_name("mtu_max::e1000::rhel9::tap"));
        each_filter_selects(&two, &names).unwrap();
        let misspelt = only(|o| o.filter = vec!["pxe".into(), "drivr::e1000".into()]);
        let error = each_filter_selects(&misspelt, &names)
            .unwrap_err()
            .to_string();
        assert!(error.contains("driver::e1000"), "{error}");
        let exact = only(|o| {
            o.filter = vec![names[0].clone()];
            o.exact = true;
        });
        assert!(exact.takes_name(&names[0]) && !exact.takes_name(&names[1]));
        let skip = only(|o| {
            o.filter = vec!["rhel9".into()];
            o.skip = vec!["nothing".into(), "pxe".into()];
        });
        assert!(!skip.takes_name(&names[0]) && skip.takes_name(&names[1]));
    }

    #[test]
    fn a_value_that_is_not_there_is_named_with_the_nearest() {
        let matrix = super::super::tests::matrix("");
        let cases = ["driver", "features"];
        let complaint = |only: Only| check(&only, &matrix, &cases).unwrap_err().to_string();
        check(&only(|o| o.nic = vec!["virtio".into()]), &matrix, &cases).unwrap();
        let all = [
            complaint(only(|o| o.nic = vec!["virtoi".into()])),
            complaint(only(|o| o.guest = vec!["rhel99".into()])),
            complaint(only(|o| o.backend = vec!["vhots".into()])),
            complaint(only(|o| o.case = vec!["drive".into()])),
        ];
        insta::assert_snapshot!(all.join("\n"), @r"
        --nic (NICMATRIX_NIC): unknown NIC `virtoi`, did you mean `virtio`? (allowed: virtio, e1000)
        --guest (NICMATRIX_GUEST): unknown guest `rhel99`, did you mean `rhel9`? (allowed: rhel9, rhel6)
        --backend (NICMATRIX_BACKEND): unknown backend `vhots`, did you mean `vhost`? (allowed: tap, vhost, vhost_zcopy)
        --case (NICMATRIX_CASE): unknown case `drive`, did you mean `driver`? (allowed: driver, features)
        ");
    }
}
