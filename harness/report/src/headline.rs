//! What a run comes to, a sentence each: the same on a terminal and in Markdown.

use crate::{Results, STAND_INS, text};

impl Results {
    /// `112 passed, 0 failed, 96 skipped in 6 min 12 s`
    pub(crate) fn total(&self) -> String {
        let counts = self.counts();
        let (passed, failed) = match self.faults {
            true => ("red as expected", "BLIND"),
            false => ("passed", "failed"),
        };
        let mut total = format!("{} {passed}", counts.passed);
        for (n, what, always) in [
            (counts.flaky, "flaky", false),
            (counts.failed, failed, true),
            (counts.known, "known", false),
            (counts.fixed, "fixed", false),
            (counts.broken, "broken", false),
            (counts.interrupted, "interrupted", false),
            (counts.skipped, "skipped", true),
        ] {
            if n > 0 || always {
                total += &format!(", {n} {what}");
            }
        }
        total += &match self.seconds.map(text::duration) {
            Some(time) if self.interrupted => format!("; interrupted after {time}"),
            Some(time) => format!(" in {time}"),
            None => "; the run was killed before its end".into(),
        };
        total
    }

    /// A sentence on the words for what the matrix file expects, where one of them occurs.
    pub(crate) fn legend(&self) -> Option<String> {
        let counts = self.counts();
        let words = [
            (counts.known, "known: failed as the matrix file expects"),
            (counts.fixed, "fixed: passed, though a failure was expected"),
        ];
        let words: Vec<&str> = (words.iter().filter(|(n, _)| *n > 0))
            .map(|(_, word)| *word)
            .collect();
        (!words.is_empty()).then(|| words.join("; "))
    }

    /// A sentence that names the stand-in guests, where there are any.
    pub(crate) fn stand_ins(&self) -> Option<String> {
        let guests = text::one_line(self.properties.get(STAND_INS)?);
        (!guests.is_empty()).then(|| {
            format!(
                "Stand-in guests: {guests}. The built image spoke their dialects; no real release was tested."
            )
        })
    }
}
