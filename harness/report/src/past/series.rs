//! A trial's verdicts, night after night, the oldest first. Nights on which it was not judged say nothing.

use super::{Verdict, date};
use crate::text::counted;

/// After so many passes in a row, what fails only now and then counts as fixed.
pub const SETTLED: usize = 30;

/// So many flips make a trial one that flips: a regression and its repair are two.
pub const FLIPPING: usize = 3;

/// How often a trial changed between pass and failure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flips {
    /// Changes from one judged night to the next. A night on which it was flaky differs from both beside it.
    pub flips: usize,
    /// Judged nights.
    pub nights: usize,
}

impl Flips {
    /// Of the trial with these verdicts.
    pub fn of(verdicts: impl IntoIterator<Item = Verdict>) -> Flips {
        let mut counted = Flips::default();
        let mut before: Option<Verdict> = None;
        for verdict in verdicts.into_iter().filter(|verdict| verdict.is_judged()) {
            counted.nights += 1;
            counted.flips += usize::from(before.is_some_and(|before| differ(before, verdict)));
            before = Some(verdict);
        }
        counted
    }

    /// Flips for each pair of judged nights, one after the other: 0 to 1.
    pub fn rate(self) -> f64 {
        match self.nights {
            0 | 1 => 0.0,
            nights => self.flips as f64 / (nights - 1) as f64,
        }
    }

    /// "known to flip, 3 changes in 5 nights"
    pub fn words(self) -> String {
        let (flips, nights) = (counted(self.flips, "change"), counted(self.nights, "night"));
        format!("known to flip, {flips} in {nights}")
    }

    /// Whether it is the trial that flips, rather than one that broke and was mended.
    pub fn is_flipping(self) -> bool {
        self.flips >= FLIPPING
    }
}

/// The nights at the end on which the trial was judged alike: green, red, or red as the matrix file expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streak {
    /// The verdict of the last of them.
    pub verdict: Verdict,
    /// How many.
    pub nights: usize,
    /// The index of the first of them.
    pub first: usize,
    /// The index of the judged night before.
    pub before: Option<usize>,
}

/// What nights with such a verdict are called: "red".
pub fn colour(judged: Verdict) -> &'static str {
    match judged {
        Verdict::Flaky => "flaky",
        Verdict::Known => "known",
        verdict if verdict.is_green() => "green",
        _ => "red",
    }
}

impl Streak {
    /// "red since 2026-11-24, 3 nights": of so many `nights` that are `word`, the first of them at that time,
    /// seconds since the epoch.
    pub fn words(word: &str, first: f64, nights: usize) -> String {
        format!(
            "{word} since {}, {}",
            date::day(first),
            counted(nights, "night")
        )
    }

    /// None where no night was judged.
    pub fn of(verdicts: &[Verdict]) -> Option<Streak> {
        let mut judged = (verdicts.iter().enumerate().rev()).filter(|(_, v)| v.is_judged());
        let (last, &verdict) = judged.next()?;
        let mut streak = Streak {
            verdict,
            nights: 1,
            first: last,
            before: None,
        };
        for (index, &earlier) in judged {
            if differ(earlier, verdict) || colour(earlier) != colour(verdict) {
                streak.before = Some(index);
                break;
            }
            streak.nights += 1;
            streak.first = index;
        }
        Some(streak)
    }
}

/// Whether a failure that comes only now and then is gone: [`SETTLED`] passes in a row.
pub fn is_settled(verdicts: &[Verdict]) -> bool {
    Streak::of(verdicts).is_some_and(|streak| streak.verdict.is_green() && streak.nights >= SETTLED)
}

/// Whether two judged verdicts are a flip.
fn differ(one: Verdict, other: Verdict) -> bool {
    let mixed = one == Verdict::Flaky || other == Verdict::Flaky;
    mixed || one.is_green() != other.is_green()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{Broken, Failed, Flaky, Known, Passed, Skipped};

    #[test]
    fn flips_are_counted_and_not_failures() {
        for (verdicts, flips, nights) in [
            (&[][..], 0, 0),
            (&[Failed, Failed, Known, Failed], 0, 4),
            (&[Passed, Failed, Passed, Failed], 3, 4),
            (&[Passed, Broken, Skipped, Passed, Failed], 1, 3),
            (&[Passed, Flaky, Passed], 2, 3),
            (&[Flaky, Flaky], 1, 2),
        ] {
            let counted = Flips::of(verdicts.iter().copied());
            assert_eq!(counted, Flips { flips, nights }, "{verdicts:?}");
        }
        assert_eq!(Flips::of([Passed, Failed, Passed]).rate(), 1.0);
        assert_eq!(Flips::of([Passed]).rate(), 0.0);
        assert!(!Flips::of([Passed, Failed, Failed, Passed]).is_flipping());
        assert!(Flips::of([Passed, Failed, Passed, Failed]).is_flipping());
    }

    #[test]
    fn a_streak_ends_at_the_last_judged_night() {
        let streak = Streak::of(&[Passed, Skipped, Failed, Broken, Failed, Skipped]).unwrap();
        assert_eq!(colour(streak.verdict), "red");
        assert_eq!(
            (streak.nights, streak.first, streak.before),
            (2, 2, Some(0))
        );
        // What is known is no failure yet.
        for (verdicts, word) in [([Known, Failed], "red"), ([Failed, Known], "known")] {
            let streak = Streak::of(&verdicts).unwrap();
            assert_eq!((streak.nights, streak.before), (1, Some(0)));
            assert_eq!(colour(streak.verdict), word);
        }
        assert_eq!(Streak::of(&[Skipped, Broken]), None);
        assert_eq!(Streak::of(&[Passed, Passed]).unwrap().before, None);
    }

    #[test]
    fn what_fails_now_and_then_is_settled_after_thirty_passes() {
        let mut verdicts = vec![Known];
        verdicts.extend([Passed; SETTLED - 1]);
        assert!(!is_settled(&verdicts));
        verdicts.push(Skipped);
        assert!(!is_settled(&verdicts));
        verdicts.push(Passed);
        assert!(is_settled(&verdicts));
        verdicts.push(Known);
        assert!(!is_settled(&verdicts));
    }
}
