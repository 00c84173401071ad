//! What is known not to work: the entries of `[[exclude]]` and `[[expect]]`.

use super::bound::Bound;
use super::disruption::Disruption;
use super::{Backend, Cell};
use std::fmt;

/// The variant of a trial whose guest boots.
pub const BOOT: &str = "boot";

/// The words of all variants, as in trials' names.
pub fn variants() -> impl Iterator<Item = &'static str> {
    [BOOT]
        .into_iter()
        .chain(Disruption::WORDS.map(|(word, _)| word))
}

/// The trials that an entry speaks of: those that match every key given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// A bound on QEMU's version.
    pub qemu: Option<Bound>,
    /// A bound on the version of the QEMU that the guest moves to and comes back from.
    pub to: Option<Bound>,
    /// A bound on the release of the guest's kernel.
    pub kernel: Option<Bound>,
    /// NIC models; all when empty, as with the lists below.
    pub nics: Vec<String>,
    /// Drivers that serve the NICs.
    pub drivers: Vec<String>,
    /// Guests.
    pub guests: Vec<String>,
    /// Backends.
    pub backends: Vec<Backend>,
    /// Cases.
    pub cases: Vec<String>,
    /// Variants of cases; when empty, the plain case too.
    pub variants: Vec<String>,
    /// The entry's line in the matrix file.
    pub line: usize,
}

fn takes<T: PartialEq<U>, U: ?Sized>(given: &[T], value: &U) -> bool {
    given.is_empty() || given.iter().any(|one| one == value)
}

impl Scope {
    /// Whether it speaks of this cell, for some case, QEMU and kernel.
    pub fn has_cell(&self, cell: &Cell) -> bool {
        takes(&self.nics, &cell.nic.name)
            && takes(&self.drivers, &cell.nic.driver)
            && takes(&self.guests, &cell.guest.name)
            && takes(&self.backends, &cell.backend)
    }

    /// Whether it speaks of this case and variant, on some cell.
    pub fn has_case(&self, case: &str, variant: Option<&str>) -> bool {
        takes(&self.cases, case)
            && (self.variants.is_empty() || variant.is_some_and(|v| takes(&self.variants, v)))
    }

    /// Whether it speaks of this QEMU, and of the one that its guest moves `to`, if it moves.
    pub fn has_qemu(&self, version: &str, to: Option<&str>) -> bool {
        let moves = |bound: &Bound| to.is_some_and(|version| bound.holds(version));
        self.qemu.as_ref().is_none_or(|bound| bound.holds(version))
            && self.to.as_ref().is_none_or(moves)
    }

    /// Whether it speaks of this kernel. A bound does not hold for a release that is not known.
    pub fn has_kernel(&self, release: Option<&str>) -> bool {
        let holds = |bound: &Bound| release.is_some_and(|release| bound.holds(release));
        self.kernel.as_ref().is_none_or(holds)
    }
}

/// `[[exclude]]`: trials that must not be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exclude {
    /// Which.
    pub scope: Scope,
    /// Why, for the reports.
    pub reason: String,
    /// Where there is more about it.
    pub link: Option<String>,
}

impl Exclude {
    /// Why a trial that it speaks of is skipped.
    pub fn skip_reason(&self) -> String {
        let link = self.link.as_ref().map(|link| format!(" ({link})"));
        let (reason, link) = (&self.reason, link.unwrap_or_default());
        format!("excluded in the matrix file: {reason}{link}")
    }
}

/// `[[expect]]`: trials that run, and are known to fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectation {
    /// Which.
    pub scope: Scope,
    /// Words that the failure contains.
    pub message: String,
    /// Why it fails, for the reports.
    pub reason: String,
    /// Where there is more about it.
    pub link: Option<String>,
    /// From when on it is due for another look.
    pub until: Option<Day>,
    /// Whether it fails only now and then.
    pub sometimes: bool,
}

impl fmt::Display for Expectation {
    /// `"WORDS": REASON`, with what more there is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.message, self.reason)?;
        if let Some(link) = &self.link {
            write!(f, " ({link})")?;
        }
        Ok(())
    }
}

/// A day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Day {
    /// Of our calendar.
    pub year: u16,
    /// From 1.
    pub month: u8,
    /// From 1.
    pub day: u8,
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Day { year, month, day } = self;
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}
