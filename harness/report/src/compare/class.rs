//! What became of a trial.

use crate::past::{PastTrial, Verdict};
use crate::signature;
use crate::text::counted;
use serde::Serialize;

/// What became of a trial, in the order in which a reader wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// It fails, and did not.
    NewFailure,
    /// It fails with other words than before.
    OtherWords,
    /// It fails and passes in one run, and neither failed nor was flaky before.
    NewlyFlaky,
    /// It is skipped, and ran.
    NewlySkipped,
    /// It is of the plan no more.
    Vanished,
    /// It was planned, and has no verdict, as the run was cut off or a shard of it is missing.
    NotRun,
    /// The harness failed; says nothing of the NIC.
    Broken,
    /// It failed, and passes.
    Fixed,
    /// It passes, and the matrix file expects a failure.
    ExpectationFixed,
    /// It fails as the matrix file expects, and did not fail so.
    NewlyKnown,
    /// It fails with the words it failed with.
    StillFailing,
    /// It is flaky, and failed or was flaky before.
    StillFlaky,
    /// It is skipped for another reason than before.
    OtherReason,
    /// It is of the plan, and was not.
    New,
    /// It has a verdict again.
    RunsAgain,
    /// It fails as the matrix file expects, as before.
    Known,
    /// It is skipped for the same reason.
    StillSkipped,
    /// It passed and passes.
    StillPassing,
}

impl Class {
    /// Of a trial with these records.
    pub(super) fn of(base: Option<&PastTrial>, head: Option<&PastTrial>) -> Class {
        let Some(head) = head else {
            return Class::Vanished;
        };
        let before = base.map(|base| base.verdict);
        let was = |test: fn(Verdict) -> bool| before.is_some_and(test);
        let same_words =
            || base.is_some_and(|base| signature::of(&base.cause) == signature::of(&head.cause));
        match head.verdict {
            Verdict::Broken => Class::Broken,
            Verdict::Cut | Verdict::NotRun => Class::NotRun,
            Verdict::Failed if !was(Verdict::is_red) => Class::NewFailure,
            Verdict::Failed if same_words() => Class::StillFailing,
            Verdict::Failed => Class::OtherWords,
            Verdict::Known if before == Some(Verdict::Known) => Class::Known,
            // It comes now and then: that it came is no news.
            Verdict::Known if head.sometimes && base.is_some_and(|base| base.sometimes) => {
                Class::Known
            }
            Verdict::Known => Class::NewlyKnown,
            Verdict::Flaky if !was(|before| before.is_red() || before == Verdict::Flaky) => {
                Class::NewlyFlaky
            }
            Verdict::Flaky => Class::StillFlaky,
            Verdict::Skipped => match before {
                None => Class::New,
                Some(Verdict::Skipped) if same_words() => Class::StillSkipped,
                Some(Verdict::Skipped | Verdict::NotRun) => Class::OtherReason,
                Some(_) => Class::NewlySkipped,
            },
            Verdict::Fixed => Class::ExpectationFixed,
            Verdict::Passed => match before {
                None => Class::New,
                // Where the failure comes now and then, one night without it is no repair.
                Some(Verdict::Known) if head.sometimes => Class::StillPassing,
                Some(Verdict::Failed | Verdict::Known) => Class::Fixed,
                Some(Verdict::Passed | Verdict::Fixed | Verdict::Flaky) => Class::StillPassing,
                Some(Verdict::Broken | Verdict::Skipped | Verdict::Cut | Verdict::NotRun) => {
                    Class::RunsAgain
                }
            },
        }
    }

    /// Whether it is a regression.
    pub fn is_worse(self) -> bool {
        self <= Class::Vanished
    }

    /// Whether its trials are counted only.
    pub fn is_only_counted(self) -> bool {
        self >= Class::Known
    }

    /// Whether each of its trials is worth its name on a terminal.
    pub(super) fn names_trials(self) -> bool {
        self.is_failure() || matches!(self, Class::Broken | Class::ExpectationFixed)
    }

    /// Whether its trials failed in the head, so that it matters whether those beside them are green.
    pub(super) fn is_failure(self) -> bool {
        matches!(
            self,
            Class::NewFailure
                | Class::OtherWords
                | Class::NewlyFlaky
                | Class::NewlyKnown
                | Class::StillFailing
                | Class::StillFlaky
        )
    }

    /// The title over its trials. Under faults, a failure is a case that saw nothing.
    pub fn title(self, faults: bool) -> &'static str {
        match self {
            Class::NewFailure if faults => "Newly blind",
            Class::NewFailure => "New failures",
            Class::OtherWords => "Still failing, with other words",
            Class::NewlyFlaky => "Newly flaky",
            Class::NewlySkipped => "Newly skipped: these ran before",
            Class::Vanished => "Vanished: of the plan no more",
            Class::NotRun => "Not run: the run was cut off, or a shard is missing",
            Class::Broken => "Broken: the harness failed, which says nothing of the NIC",
            Class::Fixed if faults => "Not blind any more",
            Class::Fixed => "Fixed",
            Class::ExpectationFixed => "Pass, though the matrix file expects a failure",
            Class::NewlyKnown => "Newly known: fail as the matrix file expects",
            Class::StillFailing if faults => "Still blind",
            Class::StillFailing => "Still failing, with the same words",
            Class::StillFlaky => "Flaky; failed or was flaky before",
            Class::OtherReason => "Skipped for another reason",
            Class::New => "New in the plan",
            Class::RunsAgain => "Judged again: had no verdict before",
            Class::Known => "Known",
            Class::StillSkipped => "Still skipped",
            Class::StillPassing => "Still passing",
        }
    }

    /// `n` trials of it, in a sentence.
    pub fn counted(self, n: usize, faults: bool) -> String {
        let what = match self {
            Class::NewFailure if faults => "newly blind",
            Class::NewFailure => return counted(n, "new failure"),
            Class::OtherWords => "failing with other words",
            Class::NewlyFlaky => "newly flaky",
            Class::NewlySkipped => "newly skipped",
            Class::Vanished => "vanished",
            Class::NotRun => "not run",
            Class::Broken => "broken",
            Class::Fixed => "fixed",
            Class::ExpectationFixed => "passing though expected to fail",
            Class::NewlyKnown => "newly known",
            Class::StillFailing if faults => "still blind",
            Class::StillFailing => "still failing",
            Class::StillFlaky => "still flaky",
            Class::OtherReason => "skipped for another reason",
            Class::New => "new",
            Class::RunsAgain => "judged again",
            Class::Known => "known",
            Class::StillSkipped => "still skipped",
            Class::StillPassing => "still passing",
        };
        format!("{n} {what}")
    }
}
