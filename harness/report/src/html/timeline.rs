//! When each trial ran, beside which others.

use crate::html::grid::class;
use crate::html::run::{Run, date};
use crate::html::shown::plain;
use crate::{Trial, text};
use maud::{Markup, html};

/// A trial's bar, seconds from the run's begin.
struct Bar<'r> {
    place: usize,
    trial: &'r Trial,
    begin: f64,
    end: f64,
    lane: usize,
}

const WIDTH: f64 = 1000.0;
const LANE: f64 = 18.0;
const AXIS: f64 = 18.0;

/// Trials that are named without a script: the longest ones.
const NAMED: usize = 200;

/// The drawing; none where the log has no times, or nothing ran.
pub fn render(run: &Run) -> Option<Markup> {
    let (first, last) = run.times?;
    let (bars, lanes) = packed(run, last);
    let begin = bars.iter().map(|bar| bar.begin).reduce(f64::min)?;
    // What went before the first trial: looking at the host, building images.
    let before = begin - first;
    let whole = (last - first).max(0.001);
    let x = |time: f64| (time - first) / whole * WIDTH;
    let height = AXIS + lanes as f64 * LANE;
    let mut lengths: Vec<f64> = bars.iter().map(|bar| bar.end - bar.begin).collect();
    lengths.sort_by(|a, b| b.total_cmp(a));
    let named = lengths.get(NAMED).copied().unwrap_or(0.0);
    let busy = lengths.iter().sum::<f64>() / (lanes as f64 * whole) * 100.0;
    let faults = run.results.faults;
    Some(html! {
        p {
            (text::counted(bars.len(), "trial")) " in " (text::duration(whole)) ", at most " (lanes)
            " at a time; the slots were busy for " (format!("{busy:.0} %")) " of it. The first trial began "
            (text::duration(before)) " after the run, at " (date(begin as u64)) "."
        }
        div.scroll tabindex="0" role="region" aria-label="Timeline" {
            svg.timeline viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-label="A bar a trial, a line a slot" {
                @for (at, label) in ticks(whole) {
                    @let at = format!("{:.1}", at / whole * WIDTH);
                    line x1=(at) x2=(at) y1=(AXIS) y2=(height) {}
                    text x=(at) y="12" { (label) }
                }
                @for bar in &bars {
                    rect class=(class(bar.trial)) data-t=(bar.place) x=(format!("{:.2}", x(bar.begin)))
                        y=(AXIS + bar.lane as f64 * LANE + 1.0) height=(LANE - 2.0)
                        width=(format!("{:.2}", (x(bar.end) - x(bar.begin)).max(0.5))) {
                        @if bar.end - bar.begin >= named {
                            title {
                                (plain(bar.trial.name())) ": " (bar.trial.word(faults)) ", "
                                (text::duration(bar.end - bar.begin))
                            }
                        }
                    }
                }
            }
        }
    })
}

/// The bars in the first lane that is free for each, and how many lanes that takes. A trial that was cut off
/// ends with the log.
fn packed(run: &Run, last: f64) -> (Vec<Bar<'_>>, usize) {
    let mut bars: Vec<Bar> = Vec::new();
    for (place, trial) in run.results.trials.iter().enumerate() {
        let span = run.span(trial).filter(|_| !trial.is_skipped());
        bars.extend(span.map(|span| Bar {
            place,
            trial,
            begin: span.begin,
            end: span.end.unwrap_or(last).max(span.begin),
            lane: 0,
        }));
    }
    bars.sort_by(|a, b| a.begin.total_cmp(&b.begin));
    let mut free: Vec<f64> = Vec::new();
    for bar in &mut bars {
        bar.lane = match free.iter().position(|end| *end <= bar.begin) {
            Some(lane) => lane,
            None => {
                free.push(0.0);
                free.len() - 1
            }
        };
        free[bar.lane] = bar.end;
    }
    (bars, free.len())
}

/// Round times on the axis, seconds, with their labels.
fn ticks(whole: f64) -> Vec<(f64, String)> {
    const STEPS: [f64; 12] = [
        1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0,
    ];
    let step = STEPS.into_iter().find(|step| whole / step <= 10.0);
    let step = step.unwrap_or((whole / 36_000.0).ceil() * 3600.0);
    let label = |at: f64| match at {
        at if at < 60.0 => format!("{at:.0} s"),
        at if at < 3600.0 => format!("{:.0}:{:02.0} min", (at / 60.0).floor(), at % 60.0),
        at => format!("{:.0}:{:02.0} h", (at / 3600.0).floor(), at % 3600.0 / 60.0),
    };
    let count = (whole / step) as usize;
    (0..=count)
        .map(|n| n as f64 * step)
        .map(|at| (at, label(at)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Event, Line, Outcome};
    use crate::name::TrialName;
    use crate::tests::end;

    #[test]
    fn trials_at_the_same_time_are_in_lanes_of_their_own() {
        let started = |trial: &str, time| Line {
            event: Event::TrialStarted {
                trial: trial.into(),
                name: TrialName::parse_or_case(trial),
            },
            time: Some(time),
        };
        let ended = |trial: &str, time| Line {
            event: Event::TrialEnded(end(trial, Outcome::Passed)),
            time: Some(time),
        };
        let run = Run::new(
            &[
                started("a", 10.0),
                started("b", 10.5),
                ended("a", 12.0),
                started("c", 12.0),
                ended("c", 13.0),
            ],
            "".into(),
        );
        let (bars, lanes) = packed(&run, 13.0);
        let bars: Vec<_> = bars
            .iter()
            .map(|b| (b.trial.name(), b.begin, b.end, b.lane))
            .collect();
        assert_eq!(
            bars,
            [
                ("a", 10.0, 12.0, 0),
                ("b", 10.5, 13.0, 1),
                ("c", 12.0, 13.0, 0)
            ]
        );
        assert_eq!(lanes, 2);
    }

    #[test]
    fn ticks_are_few_and_round() {
        let labels =
            |whole| -> Vec<String> { ticks(whole).into_iter().map(|(_, label)| label).collect() };
        assert_eq!(labels(4.5), ["0 s", "1 s", "2 s", "3 s", "4 s"]);
        assert_eq!(
            labels(250.0),
            [
                "0 s", "30 s", "1:00 min", "1:30 min", "2:00 min", "2:30 min", "3:00 min",
                "3:30 min", "4:00 min"
            ]
        );
        assert_eq!(labels(100_000.0).len(), 10);
    }
}
