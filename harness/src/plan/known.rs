//! What the matrix file knows of a trial beforehand: whether it must not run, and how it fails. Pure.

use crate::cases::{Case, Fault, Red};
use crate::matrix::Cell;
use crate::matrix::known::{BOOT, Exclude, Expectation, Scope};
use crate::matrix::schema::{Axes, Matrix, MatrixError};
use crate::vm::start_state::StartState;
use report::name::DEFAULT_QEMU;
use std::sync::Arc;

/// The entries that speak of a trial on its QEMU. Their bounds on the guest's kernel are still open: its
/// release is known when the image is built, of a disk image when the guest is up.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Of `[[exclude]]`.
    pub excludes: Vec<Arc<Exclude>>,
    /// Of `[[expect]]`.
    pub expectations: Vec<Arc<Expectation>>,
}

impl Known {
    /// Those of `self`, which are about a cell, that are about a case and variant there, on a QEMU of that
    /// version, from which the guest moves `to` another.
    pub(super) fn of(
        &self,
        case: &str,
        variant: Option<&str>,
        qemu: &str,
        to: Option<&str>,
    ) -> Known {
        let speaks = |scope: &Scope| scope.has_case(case, variant) && scope.has_qemu(qemu, to);
        let excludes = self.excludes.iter().filter(|e| speaks(&e.scope));
        let expectations = self.expectations.iter().filter(|e| speaks(&e.scope));
        Known {
            excludes: excludes.cloned().collect(),
            expectations: expectations.cloned().collect(),
        }
    }

    /// The entries of `matrix` about a cell, whatever the QEMU.
    pub(super) fn of_cell(cell: &Cell, matrix: &Matrix) -> Known {
        let speaks = |scope: &Scope| scope.has_cell(cell);
        let excludes = matrix.excludes.iter().filter(|e| speaks(&e.scope));
        let expectations = (matrix.expectations.iter()).filter(|e| speaks(&e.scope));
        Known {
            excludes: excludes.cloned().collect(),
            expectations: expectations.cloned().collect(),
        }
    }

    /// Whether it takes the release of the guest's kernel to tell.
    pub fn asks_kernel(&self) -> bool {
        let excludes = self.excludes.iter().map(|e| &e.scope);
        let mut scopes = excludes.chain(self.expectations.iter().map(|e| &e.scope));
        scopes.any(|scope| scope.kernel.is_some())
    }

    /// Why the trial must not run, on a kernel of that release or while it is not known. Under a `fault`, a
    /// case that could fail just so without it shows nothing.
    pub fn skip_reason(&self, release: Option<&str>, fault: Option<&Fault>) -> Option<String> {
        let excluded = self.excludes.iter().find(|e| e.scope.has_kernel(release));
        let excluded = excluded.map(|exclude| exclude.skip_reason());
        excluded.or_else(|| {
            let fault = fault?;
            let mut expected = self.expected(release);
            let expected = expected.find(|expected| hides(&expected.message, fault))?;
            let how = if expected.sometimes {
                "fails now and then"
            } else {
                "fails"
            };
            Some(format!(
                "a fault cannot be shown where the case {how} without it: {}",
                expected.reason
            ))
        })
    }

    /// The expectations that hold on a kernel of that release, or while it is not known.
    pub fn expected<'k>(
        &'k self,
        release: Option<&'k str>,
    ) -> impl Iterator<Item = &'k Expectation> {
        let all = self.expectations.iter().map(Arc::as_ref);
        all.filter(move |expectation| expectation.scope.has_kernel(release))
    }
}

/// Whether a failure that says `message` may be taken for what `fault` brings about.
pub(super) fn hides(message: &str, fault: &Fault) -> bool {
    match fault.red {
        Red::Says(words) => message.contains(words) || words.contains(message),
        Red::Missed(_) => true,
    }
}

/// Fails on an entry that speaks of no trial that the matrix and `cases` could have, on any axes, QEMU and
/// kernel: it is misspelt, or is about what is gone.
///
/// # Errors
/// Each such entry, with its line.
pub fn check(matrix: &Matrix, cases: &[&Case]) -> Result<(), MatrixError> {
    let mut whole = matrix.clone();
    whole.axes = Axes {
        qemu: vec![DEFAULT_QEMU.to_owned()],
        nic: matrix.nics.keys().cloned().collect(),
        guest: matrix.guests.keys().cloned().collect(),
        vhost: vec![false, true],
        zcopy: vec![false, true],
    };
    let cells: Vec<Cell> = whole.cells().collect();
    let excludes = matrix.excludes.iter().map(|e| ("exclude", &e.scope));
    let expectations = matrix.expectations.iter().map(|e| ("expect", &e.scope));
    let mistakes: Vec<String> = (excludes.chain(expectations))
        .filter_map(|(kind, scope)| {
            let why = vain(scope, &cells, cases)?;
            let file = matrix.path.display();
            let line = scope.line;
            Some(format!(
                "{file}:{line}: [[{kind}]]: it matches no trial: {why}"
            ))
        })
        .collect();
    match mistakes.is_empty() {
        true => Ok(()),
        false => Err(MatrixError(mistakes)),
    }
}

/// Why `scope` speaks of no trial, where it does not.
fn vain(scope: &Scope, cells: &[Cell], cases: &[&Case]) -> Option<String> {
    let is_its_cell = |cell: &&Cell| scope.has_cell(cell);
    let cells: Vec<&Cell> = cells.iter().filter(is_its_cell).collect();
    if cells.is_empty() {
        return Some("none of its NICs has one of its drivers, or one of its backends: vhost and vhost_zcopy are for virtio NICs only, and for those whose properties vhost has".into());
    }
    let named = || match scope.cases.is_empty() {
        true => "no case".to_owned(),
        false => format!("not {}", scope.cases.join(", ")),
    };
    let is_its_case =
        |case: &&&Case| scope.cases.is_empty() || scope.cases.iter().any(|c| c == case.name);
    let applies = |case: &&&Case| cells.iter().any(|cell| (case.applies)(cell));
    let mut there = cases.iter().filter(is_its_case).filter(applies).peekable();
    if there.peek().is_none() {
        return Some(format!(
            "on such a NIC, guest and backend there is {}",
            named()
        ));
    }
    let has_variant = |case: &Case| {
        scope.variants.is_empty()
            || scope.variants.iter().any(|variant| match variant.as_str() {
                BOOT => case.start_state != StartState::Boot,
                _ => case.rearm.is_some(),
            })
    };
    if !there.any(|case| has_variant(case)) {
        let variants = scope.variants.join(", ");
        return Some(format!(
            "a case runs as `@{BOOT}` where it does not always boot, and as another variant where it can \
             be run a second time; there is {} as {variants}",
            named()
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::tests::{CASES, facts, find, matrix, on};
    use super::super::{Action, PlannedTrial};
    use super::*;
    use crate::host::tests::capable;

    const FAILS: &str = "message = 'no reply: lost', reason = 'bug 1'";

    fn planned(entry: &str, name: &str) -> PlannedTrial {
        find(
            on(
                &facts(),
                &matrix(&format!("expect = [{{ {entry}, {FAILS} }}]")),
                "both",
                false,
            ),
            name,
        )
    }

    #[test]
    fn an_expectation_speaks_of_what_matches_all_its_keys() {
        for (entry, name, speaks) in [
            ("nic = 'virtio'", "driver::virtio::rhel9::tap", true),
            (
                "nic = ['e1000', 'virtio']",
                "driver::virtio::rhel9::tap",
                true,
            ),
            ("nic = 'e1000'", "driver::virtio::rhel9::tap", false),
            ("guest = ['rhel6']", "driver::virtio::rhel9::tap", false),
            (
                "nic = 'virtio', backend = 'vhost'",
                "driver::virtio::rhel9::tap",
                false,
            ),
            (
                "case = ['features', 'driver']",
                "driver@boot::virtio::rhel9::tap",
                true,
            ),
            ("case = 'features'", "driver::virtio::rhel9::tap", false),
            ("variant = 'boot'", "driver@boot::virtio::rhel9::tap", true),
            ("variant = 'boot'", "driver::virtio::rhel9::tap", false),
            (
                "variant = ['again', 'reboot']",
                "features@reboot::virtio::rhel9::tap",
                true,
            ),
            (
                "variant = 'again'",
                "features@reboot::virtio::rhel9::tap",
                false,
            ),
            ("qemu = '<8'", "driver::virtio::rhel9::tap", true),
            ("qemu = '>=8'", "driver::virtio::rhel9::tap", false),
            // The kernel is not known yet.
            ("kernel = '<5'", "driver::virtio::rhel9::tap", true),
        ] {
            let trial = planned(entry, name);
            assert_eq!(
                trial.known.expectations.len(),
                usize::from(speaks),
                "{entry} of {name}"
            );
            assert_eq!(trial.action, Action::Run);
        }
        let known = planned("kernel = '<6.12'", "driver::virtio::rhel9::tap").known;
        let holds = |release| known.expected(release).count() == 1;
        assert!(known.asks_kernel() && !holds(None));
        assert!(holds(Some("6.1.0-56-amd64")) && !holds(Some("6.12.118+deb13-amd64")));
    }

    #[test]
    fn what_is_excluded_by_its_kernel_is_skipped_when_that_is_known() {
        let matrix = matrix(
            "exclude = [{ kernel = '>=6', qemu = '<8', reason = 'it hangs', link = 'https://e.org/1' }]",
        );
        let trial = find(
            on(&facts(), &matrix, "smoke", false),
            "driver::virtio::rhel9::tap",
        );
        assert_eq!(trial.action, Action::Run);
        let why = |release| trial.known.skip_reason(Some(release), None);
        assert_eq!(why("5.10.0"), None);
        insta::assert_snapshot!(why("6.1.0").unwrap(), @"excluded in the matrix file: it hangs (https://e.org/1)");
        let newer = capable(|host| host.qemus.default.facts.version = "8.0.0".into());
        let trial = find(
            on(&newer, &matrix, "smoke", false),
            "driver::virtio::rhel9::tap",
        );
        assert_eq!(trial.known.skip_reason(Some("6.1.0"), None), None);
    }

    #[test]
    fn a_fault_is_shown_where_the_case_holds_without_it() {
        let faulty = |entry: &str| {
            let matrix = matrix(&format!("expect = [{{ {entry}, {FAILS} }}]"));
            let mut all = on(&facts(), &matrix, "smoke", true).into_iter();
            all.find(|t| t.name.starts_with("driver!unplugged::virtio"))
                .unwrap()
        };
        let elsewhere = faulty("case = 'driver', guest = 'rhel9'");
        assert_eq!(elsewhere.name, "driver!unplugged::virtio::rhel6::tap");
        assert_eq!(elsewhere.action, Action::Run);
        // A name does not depend on the QEMU.
        let elsewhere = faulty("case = 'driver', guest = 'rhel9', qemu = '>=8'");
        assert_eq!(elsewhere.name, "driver!unplugged::virtio::rhel6::tap");
        let nowhere = faulty("case = 'driver'");
        let Action::Skip(why) = &nowhere.action else {
            panic!("it runs")
        };
        insta::assert_snapshot!(why, @"a fault cannot be shown where the case fails without it: bug 1");
        assert_eq!(faulty("case = 'driver', qemu = '>=8'").action, Action::Run);
        let by_kernel = faulty("case = 'driver', kernel = '<6'");
        assert_eq!(by_kernel.action, Action::Run);
        assert!(
            by_kernel
                .known
                .skip_reason(Some("5.10"), by_kernel.fault)
                .is_some()
        );
        // It cannot be taken for what the fault brings about.
        let other = "expect = [{ case = 'driver', message = 'a stall', reason = 'bug 2' }]";
        let mut all = on(&facts(), &matrix(other), "smoke", true).into_iter();
        assert!(all.all(|trial| trial.action != nowhere.action));
        // A second run of the case is not what a fault is shown in.
        let variant = faulty("case = 'driver', variant = 'reboot'");
        assert_eq!(variant.action, Action::Run);
    }

    #[test]
    fn an_entry_may_be_about_where_a_guest_moves_to() {
        let entry = "expect = [{ to = '>=11', message = 'refused', reason = 'bug 3' }]";
        let matrix = matrix(entry);
        let cell = matrix.cells().next().unwrap();
        let of_cell = Known::of_cell(&cell, &matrix);
        let count = |to| of_cell.of("driver", None, "10.0.13", to).expectations.len();
        let counts = [count(None), count(Some("10.0.13")), count(Some("11.1.3"))];
        assert_eq!(counts, [0, 0, 1]);
    }

    #[test]
    fn an_entry_that_can_match_nothing_is_an_error_with_its_line() {
        let said = |entry: &str| {
            let matrix = matrix(&format!("\n expect = [{{ {entry}, {FAILS} }}]"));
            check(&matrix, CASES).map_err(|e| e.to_string())
        };
        let all: Vec<String> = [
            "nic = 'e1000', backend = ['vhost', 'vhost_zcopy']",
            "nic = 'e1000', case = 'features'",
            "case = 'features', variant = 'boot'",
            "case = ['driver', 'flood'], variant = ['reboot', 'again']",
        ]
        .map(|entry| said(entry).unwrap_err())
        .into();
        insta::assert_snapshot!(all.join("\n"), @"
        m.toml:3: [[expect]]: it matches no trial: none of its NICs has one of its drivers, or one of its backends: vhost and vhost_zcopy are for virtio NICs only, and for those whose properties vhost has
        m.toml:3: [[expect]]: it matches no trial: on such a NIC, guest and backend there is not features
        m.toml:3: [[expect]]: it matches no trial: a case runs as `@boot` where it does not always boot, and as another variant where it can be run a second time; there is not features as boot
        m.toml:3: [[expect]]: it matches no trial: a case runs as `@boot` where it does not always boot, and as another variant where it can be run a second time; there is not driver, flood as reboot, again
        ");
        for entry in [
            "qemu = '<2'",
            "case = ['features', 'driver'], variant = 'again'",
        ] {
            said(entry).unwrap();
        }
        let excluded = matrix("exclude = [{ nic = 'e1000', case = 'features', reason = 'x' }]");
        assert!(
            check(&excluded, CASES)
                .unwrap_err()
                .to_string()
                .contains("[[exclude]]")
        );
    }

    #[test]
    fn each_entry_of_the_shipped_file_can_match() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../matrix.toml");
        let names: Vec<&str> = crate::cases::all().iter().map(|case| case.name).collect();
        let matrix = crate::matrix::load::load(path.as_ref(), &names).unwrap();
        check(&matrix, crate::cases::all()).unwrap();
    }
}
