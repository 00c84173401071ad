//! What netperf measured: for each thing measured, its cells side by side, held against the band of earlier nights.

use crate::events::Figure;
use crate::html::earlier::{Band, Earlier, figure_key};
use crate::html::findings::link;
use crate::html::shown::Shown;
use crate::{Results, text};
use maud::{Markup, html};

/// A figure of a trial.
struct Row<'r> {
    place: usize,
    figure: &'r Figure,
    band: Option<Band>,
    /// What there is to say without a band.
    learning: String,
}

impl Row<'_> {
    /// What earlier nights make of it.
    fn judgement(&self) -> String {
        let value = self.figure.value;
        match self.band {
            _ if !self.figure.alone => "beside other trials: not to be compared".into(),
            None => self.learning.clone(),
            Some(Band { nights, .. }) => {
                let of = format!("of {}", text::counted(nights, "night"));
                match self.outside() {
                    true if value < self.middle() => format!("below the band {of}"),
                    true => format!("above the band {of}"),
                    false => format!("in the band {of}"),
                }
            }
        }
    }

    fn middle(&self) -> f64 {
        self.band.map_or(self.figure.value, |band| band.middle)
    }

    fn outside(&self) -> bool {
        let outside = |band: Band| self.figure.value < band.low || self.figure.value > band.high;
        self.figure.alone && self.band.is_some_and(outside)
    }
}

/// Everything measured; none where nothing was.
pub fn render(results: &Results, earlier: &Earlier) -> Option<Markup> {
    let mut groups: Vec<(String, Vec<Row>)> = Vec::new();
    for (place, trial) in results.trials.iter().enumerate() {
        for figure in &trial.end.figures {
            let key = figure_key(trial.name(), figure);
            let row = Row {
                place,
                figure,
                band: earlier.bands.get(&key).copied(),
                learning: earlier.learning(&key),
            };
            let what = format!("{}, {}", figure.what(), figure.unit);
            match groups.iter_mut().find(|(other, _)| *other == what) {
                Some((_, rows)) => rows.push(row),
                None => groups.push((what, vec![row])),
            }
        }
    }
    let outside = |rows: &[Row]| rows.iter().filter(|row| row.outside()).count();
    let all: usize = groups.iter().map(|(_, rows)| outside(rows)).sum();
    (!groups.is_empty()).then(|| {
        html! {
            @if earlier.bands.is_empty() && !earlier.learning.is_empty() {
                p.quiet { "There are too few earlier nights to say what is usual." }
            } @else if earlier.bands.is_empty() { p.quiet { "No earlier nights are given to hold these against." } }
            @else if all == 0 { p { "No figure is outside of the band of the earlier nights." } }
            @else { p { strong { (text::counted(all, "figure")) " outside of the band of the earlier nights." } } }
            @for (n, (what, rows)) in groups.iter().enumerate() {
                @let marked = outside(rows);
                details.log open[marked > 0 || (all == 0 && n == 0)] {
                    summary {
                        (Shown(what))
                        span.quiet { " " (text::counted(rows.len(), "cell")) }
                        @if marked > 0 { " " strong { (marked) " outside of the band" } }
                    }
                    (group(results, rows))
                }
            }
        }
    })
}

fn group(results: &Results, rows: &[Row]) -> Markup {
    let top = rows
        .iter()
        .flat_map(|row| [row.figure.value, row.band.map_or(0.0, |band| band.high)]);
    let top = top
        .filter(|value| value.is_finite())
        .fold(0.0, f64::max)
        .max(f64::MIN_POSITIVE)
        * 1.03;
    html! {
        div.scroll tabindex="0" role="region" aria-label="Figures" {
            table.figures {
                @for row in rows {
                    tr data-t=(row.place) {
                        td { (link(&results.trials[row.place])) }
                        td.number { (format!("{:.2}", row.figure.value)) }
                        td { (plot(row, top)) }
                        td class=(if row.outside() { "flaky" } else { "quiet" }) { (row.judgement()) }
                    }
                }
            }
        }
    }
}

/// A bar from 0, the band around where it is expected to end, and the value of the night before.
fn plot(row: &Row, top: f64) -> Markup {
    const WIDTH: f64 = 200.0;
    let x = |value: f64| format!("{:.1}", (value / top * WIDTH).clamp(0.0, WIDTH));
    html! {
        svg.plot viewBox="0 0 200 16" aria-hidden="true" {
            rect.bar x="0" y="4" height="8" width=(x(row.figure.value)) {}
            @if let Some(band) = row.band {
                rect.band x=(x(band.low)) y="1" height="14" width=(x(band.high - band.low)) {}
                line x1=(x(band.middle)) x2=(x(band.middle)) y1="0" y2="16" {}
            }
        }
    }
}
