//! Counting the checks of `cargo xtask test`.

use anyhow::{Context, Result};
use report::Results;
use std::fmt;
use std::ops::AddAssign;

/// Checks that were made.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
}

impl Tally {
    pub const PASSED: Tally = Tally {
        passed: 1,
        failed: 0,
        skipped: 0,
    };
    pub const SKIPPED: Tally = Tally {
        passed: 0,
        failed: 0,
        skipped: 1,
    };

    /// The trials of a run. A flaky one counts as failed: these runs have no retries. One that fails as the
    /// matrix file expects, or no longer does, is as good as passed.
    pub fn of(run: &Results) -> Self {
        let counts = run.counts();
        Tally {
            passed: counts.passed + counts.known + counts.fixed,
            failed: counts.failed + counts.broken + counts.flaky + counts.interrupted,
            skipped: counts.skipped,
        }
    }

    /// A step whose exit code says failure counts at least one failed check.
    pub fn judged(mut self, success: bool) -> Self {
        if !success {
            self.failed = self.failed.max(1);
        }
        self
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// Adds up libtest's `test result: ok. 5 passed; 0 failed; 1 ignored; …`.
pub fn of_libtest(output: &str) -> Tally {
    let mut tally = Tally::default();
    for line in output
        .lines()
        .filter(|line| line.starts_with("test result:"))
    {
        let words: Vec<&str> = line.split([' ', ';']).filter(|w| !w.is_empty()).collect();
        for pair in words.windows(2) {
            let count = pair[0].parse().unwrap_or(0);
            match pair[1] {
                "passed" => tally.passed += count,
                "failed" => tally.failed += count,
                "ignored" => tally.skipped += count,
                _ => {}
            }
        }
    }
    tally
}

/// The counts at the head of nextest's JUnit file, which has no ignored tests.
pub fn of_junit(xml: &str) -> Result<Tally> {
    let head = xml
        .split_once("<testsuites")
        .and_then(|(_, rest)| rest.split_once('>'))
        .map(|(head, _)| head)
        .context("nextest's JUnit file has no <testsuites>")?;
    let count = |name: &str| -> Result<usize> {
        head.split_once(&format!(" {name}=\""))
            .and_then(|(_, rest)| rest.split_once('"'))
            .and_then(|(digits, _)| digits.parse().ok())
            .with_context(|| format!("nextest's JUnit file does not count its {name}"))
    };
    let failed = count("failures")? + count("errors")?;
    Ok(Tally {
        passed: count("tests")? - failed,
        failed,
        skipped: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_counts_where_no_trial_failed() {
        assert_eq!(Tally::PASSED.judged(false).failed, 1);
        assert_eq!(Tally::PASSED.judged(true), Tally::PASSED);
    }

    #[test]
    fn libtest_results_add_up() {
        let output = "running 6 tests\n\
            test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\
            test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n";
        let expected = Tally {
            passed: 6,
            failed: 2,
            skipped: 1,
        };
        assert_eq!(of_libtest(output), expected);
    }

    #[test]
    fn nextest_counts_are_read() {
        let xml = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="nextest-run" tests="12" failures="2" errors="1" uuid="x" time="0.1">
    <testsuite name="harness" tests="99" disabled="0" errors="0" failures="0">"#;
        let expected = Tally {
            passed: 9,
            failed: 3,
            skipped: 0,
        };
        assert_eq!(of_junit(xml).unwrap(), expected);
        assert!(of_junit("<testsuites tests=\"1\">").is_err());
    }
}
