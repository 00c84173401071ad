//! Whether two small samples differ, without an assumption on how they are distributed.

/// The middle of `values`, the mean of the two middle ones where their number is even; none of none.
pub fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// The `q`-quantile of `values` (0 to 1), with linear interpolation between neighbours (Hyndman and Fan's
/// type 7); none of none.
pub fn quantile(values: &[f64], q: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    let at = q * last as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    Some(below + (above - below) * at.fract())
}

/// The two-sided p-value of the Mann–Whitney U test, exact, ties included: of all ways to share the values
/// out over two samples of these sizes, the part whose rank sums differ from the expected one by as much
/// or more. 1 where a sample is empty.
pub fn mann_whitney(a: &[f64], b: &[f64]) -> f64 {
    let ranks = doubled_midranks(a, b);
    let ways = ways_to_rank_sums(&ranks, a.len());
    let all: f64 = ways.iter().sum();
    // The sum of the doubled ranks of a sample of this size, as expected.
    let expected = a.len() * (ranks.len() + 1);
    let seen: usize = ranks[..a.len()].iter().sum();
    let far = seen.abs_diff(expected);
    let as_far: f64 = (ways.iter().enumerate())
        .filter(|(sum, _)| sum.abs_diff(expected) >= far)
        .map(|(_, ways)| ways)
        .sum();
    as_far / all
}

/// The smallest p-value that two samples of these sizes can have.
pub fn smallest_p(a: usize, b: usize) -> f64 {
    let low: Vec<f64> = (0..a).map(|n| n as f64).collect();
    let high: Vec<f64> = (a..a + b).map(|n| n as f64).collect();
    mann_whitney(&low, &high)
}

/// Twice the rank of each of `a` and then of `b` among all, from 2; equal ones share their mean rank, which
/// doubled is a whole number.
fn doubled_midranks(a: &[f64], b: &[f64]) -> Vec<usize> {
    let all = [a, b].concat();
    let rank = |value: &f64| {
        let below = all.iter().filter(|other| *other < value).count();
        let same = all.iter().filter(|other| *other == value).count();
        2 * below + same + 1
    };
    all.iter().map(rank).collect()
}

/// In how many ways `size` of `ranks` add up to each sum.
fn ways_to_rank_sums(ranks: &[usize], size: usize) -> Vec<f64> {
    let most: usize = ranks.iter().sum();
    let mut ways = vec![vec![0.0; most + 1]; size + 1];
    ways[0][0] = 1.0;
    for &rank in ranks {
        for taken in (1..=size).rev() {
            for sum in (rank..=most).rev() {
                ways[taken][sum] += ways[taken - 1][sum - rank];
            }
        }
    }
    ways.swap_remove(size)
}

/// The p-values of one comparison, adjusted so that of those below a bound at most that part is expected to
/// be false (Benjamini and Hochberg 1995).
pub fn benjamini_hochberg(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[b].total_cmp(&p_values[a]));
    let mut adjusted = vec![1.0; p_values.len()];
    let mut least = 1.0_f64;
    for (larger, &index) in order.iter().enumerate() {
        let rank = p_values.len() - larger;
        least = least.min(p_values[index] * p_values.len() as f64 / rank as f64);
        adjusted[index] = least;
    }
    adjusted
}

/// By how much one sample lies above another, as a factor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shift {
    /// The Hodges–Lehmann estimate: the median of all quotients.
    pub factor: f64,
    /// Its interval, of a confidence of 95 % or a little more; none where the samples are too small for
    /// one (fewer than 4 each).
    pub interval: Option<(f64, f64)>,
}

/// By what factor `b` lies above `a`; none where a value is not positive, or there is none.
pub fn shift(a: &[f64], b: &[f64]) -> Option<Shift> {
    let mut quotients: Vec<f64> = (a.iter())
        .flat_map(|a| b.iter().map(move |b| b / a))
        .collect();
    if [a, b].concat().iter().any(|value| *value <= 0.0) {
        return None;
    }
    quotients.sort_by(f64::total_cmp);
    let interval = outermost(a.len(), b.len())
        .map(|cut| (quotients[cut], quotients[quotients.len() - 1 - cut]));
    Some(Shift {
        factor: median(&quotients)?,
        interval,
    })
}

/// How many quotients lie outside of a 95 % interval at either end; none where all must be within.
fn outermost(a: usize, b: usize) -> Option<usize> {
    let ranks: Vec<usize> = (1..=a + b).collect();
    let ways = ways_to_rank_sums(&ranks, a);
    let all: f64 = ways.iter().sum();
    let least = a * (a + 1) / 2;
    let mut below = 0.0;
    // With U at most `cut` in fewer than 2.5 %, the quotient after the first `cut` bounds the interval.
    let cut = (0..).take_while(|u| {
        below += ways.get(least + u).copied().unwrap_or(all);
        below / all <= 0.025
    });
    cut.last()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_near(is: f64, expected: f64) {
        assert!((is - expected).abs() < 0.0006, "{is}, expected {expected}");
    }

    /// Two samples without ties whose U is `u`.
    fn with_u(u: usize, a: usize, b: usize) -> (Vec<f64>, Vec<f64>) {
        let b_values: Vec<f64> = (0..b).map(|n| n as f64).collect();
        // Each of `a` lies above as many of `b` as its share of `u`.
        let mut left = u;
        let a_values = (0..a).map(|n| {
            let above = left.min(b);
            left -= above;
            above as f64 - 0.5 - 0.001 * n as f64
        });
        (a_values.collect(), b_values)
    }

    #[test]
    fn p_is_that_of_mann_and_whitneys_tables() {
        // H. B. Mann and D. R. Whitney, Annals of Mathematical Statistics 18 (1947), table I: P(U <= u).
        for (a, b, u, p) in [
            (3, 3, 0, 0.050),
            (3, 3, 1, 0.100),
            (4, 3, 0, 0.028),
            (4, 3, 2, 0.114),
            (4, 4, 0, 0.014),
            (4, 4, 3, 0.100),
            (5, 5, 0, 0.004),
            (5, 5, 2, 0.016),
            (5, 5, 4, 0.048),
            (6, 5, 3, 0.015),
            (6, 6, 5, 0.021),
            (7, 7, 8, 0.019),
            (8, 8, 13, 0.025),
        ] {
            let (a, b) = with_u(u, a, b);
            assert_near(mann_whitney(&a, &b) / 2.0, p);
            assert_near(mann_whitney(&b, &a) / 2.0, p);
        }
    }

    #[test]
    fn critical_values_are_those_of_the_tables() {
        // The largest U that is significant at 5 %, two-sided (e.g. Siegel 1956, table K).
        for (a, b, critical) in [
            (4, 4, 0),
            (5, 5, 2),
            (6, 6, 5),
            (7, 7, 8),
            (8, 8, 13),
            (9, 9, 17),
            (10, 10, 23),
            (12, 12, 37),
            (20, 20, 127),
            (5, 10, 8),
        ] {
            let p = |u| {
                let (a, b) = with_u(u, a, b);
                mann_whitney(&a, &b)
            };
            assert!(p(critical) <= 0.05, "{a} {b} {critical}: {}", p(critical));
            assert!(p(critical + 1) > 0.05, "{a} {b} {critical}");
        }
        let three = [1.0, 2.0, 3.0];
        assert!(mann_whitney(&three, &[4.0, 5.0, 6.0]) > 0.05);
    }

    #[test]
    fn ties_share_their_rank() {
        let same = [2.0; 5];
        assert_eq!(mann_whitney(&same, &same), 1.0);
        // Of the 6 ways to choose 2 of {1, 1, 1, 2}, 3 have the 2, all equally far from the middle.
        assert_eq!(mann_whitney(&[1.0, 1.0], &[1.0, 2.0]), 1.0);
        // Of the 10 ways to choose 2 of {1, 1, 2, 2, 2}, one has both 1; as far is none.
        assert_near(mann_whitney(&[1.0, 1.0], &[2.0, 2.0, 2.0]), 0.1);
        assert_eq!(mann_whitney(&[], &[1.0]), 1.0);
        assert_near(smallest_p(5, 5), 0.0079);
    }

    #[test]
    fn adjusted_p_values_are_those_of_benjamini_and_hochbergs_example() {
        // Journal of the Royal Statistical Society B 57 (1995), section 3.2: at 5 % four are rejected.
        let p = [
            0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262,
            0.5719, 0.6528, 0.7590, 1.0,
        ];
        let adjusted = benjamini_hochberg(&p);
        assert_eq!(adjusted.iter().filter(|p| **p <= 0.05).count(), 4);
        assert_near(adjusted[3], 0.0356);
        assert_near(adjusted[4], 0.0603);
        // As R's p.adjust(c(0.01, 0.04, 0.03, 0.005), "BH").
        let adjusted = benjamini_hochberg(&[0.01, 0.04, 0.03, 0.005]);
        for (is, expected) in adjusted.into_iter().zip([0.02, 0.04, 0.04, 0.02]) {
            assert_near(is, expected);
        }
        assert!(benjamini_hochberg(&[]).is_empty());
    }

    #[test]
    fn a_shift_is_a_factor_with_an_interval() {
        let a = [100.0, 101.0, 102.0, 103.0, 104.0];
        let b = a.map(|value| value * 0.8);
        let found = shift(&a, &b).unwrap();
        assert_near(found.factor, 0.8);
        let (low, high) = found.interval.unwrap();
        assert!(0.77 < low && low < 0.8 && 0.8 < high && high < 0.83);
        // Two of 25 at either end: R's wilcox.test(conf.int = TRUE) takes the same.
        assert_eq!(outermost(5, 5), Some(2));
        assert_eq!(outermost(4, 4), Some(0));
        assert_eq!(outermost(3, 3), None);
        assert_eq!(shift(&a, &[0.0, 1.0]), None);
        assert_eq!(shift(&a, &[]), None);
    }

    #[test]
    fn quantiles_are_between_neighbours() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0], 0.75), Some(3.25));
        assert_eq!(median(&[]), None);
    }
}
