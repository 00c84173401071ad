//! A failed trial that ran again, at once and alone (`--confirm`): whether its failure is solid.

use serde::{Deserialize, Serialize};

/// How the repeats of a failed trial ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Repeats {
    /// Failed, as expected by the matrix file or not.
    pub failed: u32,
    /// Passed.
    pub passed: u32,
    /// Came to no verdict on the NIC.
    pub undecided: u32,
}

impl Repeats {
    /// "failed 2 of 6 times", the failure that was repeated among them.
    pub fn rate(self) -> String {
        let judged = 1 + self.failed + self.passed;
        format!("failed {} of {judged} times", 1 + self.failed)
    }

    /// "solid: failed 6 of 6 times"
    pub fn words(self) -> String {
        let undecided = match self.undecided {
            0 => String::new(),
            1 => "; 1 repeat came to no verdict".into(),
            n => format!("; {n} repeats came to no verdict"),
        };
        let kind = match (self.failed, self.passed) {
            (0, 0) => "not confirmed",
            (_, 0) => "solid",
            _ => "flaky",
        };
        format!("{kind}: {}{undecided}", self.rate())
    }
}

#[cfg(test)]
mod tests {
    use super::Repeats;
    use crate::events::{Event, Outcome, TrialEnded};
    use crate::{Results, junit, markdown, terminal};
    use std::path::Path;

    #[test]
    fn solid_is_what_failed_each_time() {
        let words = |failed, passed, undecided| {
            let repeats = Repeats {
                failed,
                passed,
                undecided,
            };
            repeats.words()
        };
        assert_eq!(words(5, 0, 0), "solid: failed 6 of 6 times");
        assert_eq!(words(1, 4, 0), "flaky: failed 2 of 6 times");
        assert_eq!(
            words(0, 3, 2),
            "flaky: failed 1 of 4 times; 2 repeats came to no verdict"
        );
        assert_eq!(
            words(0, 0, 1),
            "not confirmed: failed 1 of 1 times; 1 repeat came to no verdict"
        );
    }

    #[test]
    fn every_report_says_whether_a_failure_is_solid() {
        let ended = |trial: &str, outcome, passed| {
            let repeats = Repeats {
                failed: 3 - passed,
                passed,
                undecided: 0,
            };
            Event::TrialEnded(TrialEnded {
                repeats: Some(repeats),
                attempts: 1,
                ..TrialEnded::unmeasured(trial.into(), outcome)
            })
        };
        let failed = Outcome::Failed {
            message: "1 of 2 replies".into(),
        };
        let flaky = Outcome::Flaky {
            failures: vec!["1 of 2 replies".into(), "0 of 2 replies".into()],
        };
        let events = [
            ended("driver::e1000::rhel6::tap", failed, 0),
            ended("pxe::e1000::rhel6::tap", flaky, 2),
        ];
        let results = Results::from_events(&events);
        let shown = terminal::render(&results, false, 100);
        insta::assert_snapshot!(shown.split("\ntap").next().unwrap(), @r"
        FAIL    driver::e1000::rhel6::tap
                1 of 2 replies
                repeated   solid: failed 4 of 4 times

        flaky   pxe::e1000::rhel6::tap
                failed 2 of 4 times: 1 of 2 replies
                repeated   flaky: failed 2 of 4 times
        ");
        let xml = junit::render(&results, Path::new("/")).unwrap();
        for text in [&xml, &markdown::render(&results)] {
            assert!(
                text.contains("Repeated: solid: failed 4 of 4 times"),
                "{text}"
            );
            assert!(
                text.contains("Repeated: flaky: failed 2 of 4 times"),
                "{text}"
            );
        }
        let is_failure = r#"<failure type="flaky" message="failed 2 of 4 times: 1 of 2 replies""#;
        assert!(xml.contains(is_failure), "{xml}");
    }
}
