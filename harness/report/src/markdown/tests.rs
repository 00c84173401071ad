use super::*;
use crate::Results;
use crate::events::{Event, TrialEnded};
use crate::tests::{end, failed, planned, sample, skipped};

/// 10,000 trials on 25 cells, `outcome` says how each ends.
fn large(outcome: impl Fn(usize) -> Outcome) -> Results {
    let mut events = Vec::new();
    for i in 0..10_000 {
        let (case, cell) = (i / 25, i % 25);
        let trial = format!("a_case_with_a_longer_name_{case}::nic{cell}::rhel9::tap");
        events.push(planned(&trial));
        events.push(Event::TrialEnded(TrialEnded {
            serial_tail: "[ 1.0] <oops>\n".repeat(20),
            ..end(&trial, outcome(i))
        }));
    }
    Results::from_events(&events)
}

fn left_out(summary: &str) -> &str {
    assert!(summary.len() <= LIMIT, "{} bytes", summary.len());
    let mut lines = summary.lines();
    lines.find(|l| l.starts_with("Left out")).unwrap_or("")
}

#[test]
fn what_fits_is_whole() {
    assert_eq!(left_out(&render(&sample(true))), "");
    let all = render(&large(|_| Outcome::Passed));
    assert_eq!(left_out(&all), "");
    assert!(all.contains("a_case_with_a_longer_name_399 |"));
}

#[test]
fn of_ten_thousand_failures_details_go_first() {
    let all = render(&large(|_| failed("lost 3 of 100\nfacts")));
    let said = left_out(&all);
    assert!(
        said.contains("the details of") && said.contains("further trials to look at"),
        "{said}"
    );
    assert!(!said.contains("tables"), "{said}");
    assert!(
        all.contains("a_case_with_a_longer_name_399 |"),
        "the grid is whole"
    );
}

#[test]
fn of_ten_thousand_skips_names_go_before_the_tables() {
    let skips = large(|i| match i % 25 {
        0 => Outcome::Passed,
        _ => skipped(&format!("reason {}", i % 7)),
    });
    let all = within(&skips, 300_000);
    assert!(all.len() <= 300_000);
    let said = left_out(&all);
    assert!(
        said.contains("the names of more than 10 trials of a reason"),
        "{said}"
    );
    assert!(!said.contains("tables"), "{said}");
    assert!(all.contains("and 13") && all.contains("a_case_with_a_longer_name_399 |"));
}

#[test]
fn rows_without_a_failure_go_next_and_then_all_tables() {
    let words = |n: usize| skipped(&format!("{n}{}", "w".repeat(n)));
    let some = large(|i| match i {
        30 => failed("lost"),
        _ => Outcome::Passed,
    });
    let all = within(&some, 40_000);
    assert!(
        left_out(&all).contains("rows of the tables without a failure"),
        "{}",
        left_out(&all)
    );
    assert!(all.contains("name_1 |") && !all.contains("name_2 |"));
    let each_its_own = large(|i| match i {
        30 => failed("lost"),
        i => words(2000 + i % 1000),
    });
    let all = render(&each_its_own);
    assert!(
        left_out(&all).contains("; the tables"),
        "{}",
        left_out(&all)
    );
    assert!(
        all.contains("### ❌ **FAIL** <code>a_case"),
        "the failure stays"
    );
}

#[test]
fn a_summary_that_is_there_leaves_less_room() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("summary.md");
    for _ in 0..4 {
        append(&large(|_| failed("lost 3 of 100")), &path).unwrap();
    }
    let all = std::fs::read_to_string(&path).unwrap();
    assert!(all.len() <= LIMIT && all.starts_with("\n## nicmatrix: "));
    let huge = large(|i| failed(&"m".repeat(i)));
    assert!(render(&huge).len() <= LIMIT);
}

#[test]
fn a_guests_words_are_no_command_in_a_log_either() {
    let escaped = escape("::error::x\n  ::group::y\na::b ##[error]");
    assert_eq!(
        escaped,
        "&#58;:error::x\n  &#58;:group::y\na::b #<!-- -->#<!-- -->&#91;error&#93;"
    );
}

#[test]
fn a_guests_words_notify_nobody_and_link_to_nothing() {
    let escaped = escape("@name, a@b.c: #12, GH-12, high-1; https://x.y www.x.y & <p>");
    insta::assert_snapshot!(escaped, @"@<!-- -->name, a@<!-- -->b.c: #<!-- -->12, GH<!-- -->-12, high<!-- -->-1; https:<!-- -->//x.y www<!-- -->.x.y &#38; &#60;p&#62;");
    // There GitHub makes no links.
    assert_eq!(code("case@again #12"), "<code>case@again #12</code>");
}
