//! What earlier nights tell of a run's trials and figures, as far as the page shows it.

use crate::events::{Figure, Line};
use crate::figures::against::Quantity;
use crate::figures::nights::{self, FEWEST_NIGHTS, Judged};
use crate::history::{History, file};
use crate::html::shown::Shown;
use crate::past::series::{Flips, Streak};
use crate::past::{PastRun, Verdict, date};
use crate::text::{clean, counted, of_them, one_line};
use anyhow::Result;
use maud::{Markup, html};
use std::collections::HashMap;
use std::path::Path;

/// What earlier nights tell; empty where there is no history.
#[derive(Debug, Clone, Default)]
pub struct Earlier {
    /// By the trial's full name.
    pub past: HashMap<String, Past>,
    /// By [`figure_key`].
    pub bands: HashMap<String, Band>,
    /// By [`figure_key`]: of how many nights a figure is known, where these are too few for a band.
    pub learning: HashMap<String, usize>,
}

/// A trial's earlier nights.
#[derive(Debug, Clone, Default)]
pub struct Past {
    /// The oldest first.
    pub nights: Vec<PastNight>,
}

/// How a trial ended in an earlier night.
#[derive(Debug, Clone)]
pub struct PastNight {
    /// When the night's run began, seconds since the epoch.
    pub unix_time: u64,
    /// How it ended.
    pub verdict: Verdict,
}

/// The values of a figure that are usual after those of earlier nights; all in the figure's unit.
#[derive(Debug, Clone, Copy)]
pub struct Band {
    /// Below it a value is unusual.
    pub low: f64,
    /// The value of the night before.
    pub middle: f64,
    /// Above it a value is unusual.
    pub high: f64,
    /// How many nights it is made of.
    pub nights: usize,
}

impl Earlier {
    /// What the history in that file tells of the run with these events; nothing where there is no such file.
    ///
    /// # Errors
    /// A history that cannot be read.
    pub fn read(history: &Path, lines: &[Line]) -> Result<Earlier> {
        if !history.exists() {
            return Ok(Earlier::default());
        }
        let run = PastRun::from_lines("", lines);
        let history = file::read(history)?;
        Ok(run.map_or_else(Earlier::default, |run| Earlier::of(&history, &run)))
    }

    /// What the nights of `history` from before `run`, of its mode, tell of it.
    pub fn of(history: &History, run: &PastRun) -> Earlier {
        let before = |other: &PastRun| other.time < run.time && other.is_like(run);
        let mut runs = history.runs(LOOKED_AT, before);
        runs.reverse();
        let mut earlier = Earlier::default();
        for night in &runs {
            let ended = (night.trials.iter()).filter(|(name, trial)| {
                trial.verdict != Verdict::NotRun && run.trials.contains_key(*name)
            });
            for (name, trial) in ended {
                let past = earlier.past.entry(name.clone()).or_default();
                past.nights.push(PastNight {
                    unix_time: night.time as u64,
                    verdict: trial.verdict,
                });
            }
        }
        let nights: Vec<&PastRun> = runs.iter().collect();
        for figure in nights::judge(run, &nights) {
            earlier.take(&figure);
        }
        earlier
    }

    fn take(&mut self, figure: &Judged) {
        if figure.quantity != Quantity::Throughput {
            return;
        }
        let key = format!("{} {}", figure.trial, figure.what);
        match figure.usual {
            None => {
                self.learning.insert(key, figure.nights);
            }
            Some(usual) => {
                let band = Band {
                    low: figure.before * (1.0 - usual),
                    middle: figure.before,
                    high: figure.before * (1.0 + usual),
                    nights: figure.nights,
                };
                self.bands.insert(key, band);
            }
        }
    }

    /// "learning, 3 of 10 nights", of a figure without a band.
    pub(super) fn learning(&self, key: &str) -> String {
        let nights = self.learning.get(key);
        nights.map_or_else(String::new, |nights| {
            format!("learning, {nights} of {FEWEST_NIGHTS} nights")
        })
    }
}

/// By what a trial's figure is known from night to night: all of it but what was measured.
pub fn figure_key(trial: &str, figure: &Figure) -> String {
    format!("{trial} {}", one_line(&clean(&figure.what())))
}

/// How many nights a strip shows, the last ones.
const NIGHTS: usize = 30;

/// So many of the newest nights of a history are looked at: what is usual of a figure is known from 31.
const LOOKED_AT: usize = 40;

/// A letter for a verdict.
fn letter(verdict: Verdict) -> char {
    match verdict {
        Verdict::Passed | Verdict::Fixed => '·',
        Verdict::Failed => 'F',
        Verdict::Broken => 'B',
        Verdict::Flaky => 'f',
        Verdict::Known => 'k',
        Verdict::Skipped => 's',
        Verdict::Cut | Verdict::NotRun => 'c',
    }
}

/// What [`letter`]'s letters mean.
pub(super) const LEGEND: &str = "A letter a night, the last night on the right: · passed, F failed, f flaky, \
                                 B broken, k known, s skipped, c cut off.";

impl Past {
    fn shown(&self) -> &[PastNight] {
        &self.nights[self.nights.len().saturating_sub(NIGHTS)..]
    }

    /// A letter a night.
    pub(super) fn letters(&self) -> String {
        self.shown().iter().map(|n| letter(n.verdict)).collect()
    }

    /// The strip with colours, a day for each letter, and a sentence.
    pub(super) fn strip(&self) -> Markup {
        let shown = self.shown();
        let red = shown
            .iter()
            .filter(|n| n.verdict == Verdict::Failed)
            .count();
        let nights = counted(shown.len(), "earlier night");
        html! {
            p.past {
                span.strip {
                    @for night in shown {
                        @let letter = letter(night.verdict).to_string();
                        span class=(class(night.verdict))
                            title=(format!("{}: {}", super::run::date(night.unix_time), night.verdict.word())) {
                            (Shown(&letter))
                        }
                    }
                }
                " " (nights) ", failed in " (red)
            }
        }
    }
}

/// The style's class of a verdict.
fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed | Verdict::Fixed => "passed",
        Verdict::Failed => "failed",
        Verdict::Broken => "broken",
        Verdict::Flaky => "flaky",
        Verdict::Known => "known",
        Verdict::Skipped => "skipped",
        Verdict::Cut | Verdict::NotRun => "interrupted",
    }
}

/// What earlier nights tell of trials that failed in this run in the same words.
pub(super) struct Since {
    /// How many were not red when they were judged last; those that are new in the plan as well.
    pub new: usize,
    /// The sentence; empty where nothing is known of any of them.
    pub words: String,
}

impl Earlier {
    /// Of the trials of a finding, by name.
    pub(super) fn since<'t>(&self, trials: impl IntoIterator<Item = &'t str>) -> Since {
        let (mut all, mut new, mut known) = (0, 0, 0);
        let mut green: Option<u64> = None;
        let mut longest: Option<(usize, u64)> = None;
        let mut most = Flips::default();
        for trial in trials {
            all += 1;
            let nights = self.past.get(trial).map_or(&[][..], |past| &past.nights);
            known += usize::from(!nights.is_empty());
            let mut verdicts: Vec<Verdict> = nights.iter().map(|night| night.verdict).collect();
            let flips = Flips::of(verdicts.iter().copied());
            if flips.flips > most.flips {
                most = flips;
            }
            verdicts.push(Verdict::Failed);
            let Some(streak) = Streak::of(&verdicts) else {
                continue;
            };
            match streak.nights {
                1 => {
                    new += 1;
                    let last = streak.before.map(|before| nights[before].unix_time);
                    green = green.max(last);
                }
                count => {
                    let since = (count, nights[streak.first].unix_time);
                    longest = longest.max(Some(since));
                }
            }
        }
        let mut parts = Vec::new();
        let day = |time: u64| date::day(time as f64);
        if new > 0 {
            let before = green.map_or_else(
                || "not judged before".to_owned(),
                |time| format!("not red on {}", day(time)),
            );
            parts.push(format!("{}new: {before}", of_them(new, all)));
        }
        if let Some((count, since)) = longest {
            parts.push(Streak::words("red", since as f64, count));
        }
        if most.is_flipping() {
            parts.push(most.words());
        }
        Since {
            new,
            words: if known > 0 {
                parts.join("; ")
            } else {
                String::new()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::past::sample::Sample;
    use crate::tests::failed;

    const CELL: &str = "netperf::virtio::rhel9::vhost";

    fn night(number: u32) -> Sample {
        let value = [1000.0, 1010.0, 990.0, 1000.0][number as usize % 4];
        let night = Sample::night(number).measured(CELL, 16384, value);
        match number {
            11.. => night.set("driver::e1000::rhel6", "", failed("lost 3")),
            _ => night,
        }
    }

    fn earlier(nights: u32) -> Earlier {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history.jsonl");
        let mut runs: Vec<PastRun> = (1..=nights).map(|number| night(number).run()).collect();
        let mut smoke = night(nights);
        smoke.properties.insert("profile".into(), "smoke".into());
        smoke.time += 60.0;
        runs.push(smoke.run());
        // The run itself, and one of after it.
        runs.extend([night(13).run(), night(14).run()]);
        file::add(&path, &runs).unwrap();
        let lines = night(13).lines();
        let nothing = Earlier::read(&directory.path().join("none"), &lines).unwrap();
        assert!(nothing.past.is_empty());
        let whole = Earlier::read(&path, &lines).unwrap();
        assert!(whole.past.len() > 30, "{}", whole.past.len());
        Earlier::of(&file::read(&path).unwrap(), &night(13).run())
    }

    #[test]
    fn the_nights_before_of_the_same_kind_are_shown() {
        let earlier = earlier(12);
        let past = &earlier.past["driver::e1000::rhel6::tap"];
        assert_eq!(past.letters(), "··········FF");
        assert_eq!(
            earlier.past["driver::e1000::rhel9::tap"].letters(),
            "············"
        );
        let key = format!("{CELL} UDP_STREAM, 16384 bytes, host to guest");
        let band = earlier.bands[&key];
        assert_eq!((band.nights, band.middle), (12, 1000.0));
        assert!(band.low < 960.0 && band.low > 900.0, "{band:?}");
        assert!(earlier.learning.is_empty());
    }

    #[test]
    fn under_ten_nights_a_figure_has_no_band_yet() {
        let earlier = earlier(9);
        assert!(earlier.bands.is_empty());
        let key = format!("{CELL} UDP_STREAM, 16384 bytes, host to guest");
        assert_eq!(earlier.learning(&key), "learning, 9 of 10 nights");
        assert_eq!(earlier.learning("another"), "");
    }

    #[test]
    fn a_failure_is_new_or_red_since_a_day() {
        let earlier = earlier(12);
        let since = |trials: &[&str]| {
            let since = earlier.since(trials.iter().copied());
            (since.new, since.words)
        };
        let (old, new) = ("driver::e1000::rhel6::tap", "driver::e1000::rhel9::tap");
        let red = "red since 2026-12-06, 3 nights";
        assert_eq!(since(&[old]), (0, red.into()));
        assert_eq!(since(&[new]), (1, "new: not red on 2026-12-07".into()));
        let both = format!("1 of them new: not red on 2026-12-07; {red}");
        assert_eq!(since(&[old, new]), (1, both));
        assert_eq!(since(&["not::of::the::history"]), (1, String::new()));
    }
}
