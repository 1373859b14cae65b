//! Rank statistics of a series: how steeply it goes, and how sure that is. They ask nothing of the noise but that it is
//! the same throughout, and a few wild points do not move them.
//!
//! - The slope is the median of the slopes between all pairs of points: Theil, "A rank-invariant method of linear and polynomial
//!   regression analysis", Proceedings KNAW 53, 1950; Sen, "Estimates of the regression coefficient based on Kendall's tau",
//!   JASA 63, 1968.
//! - How sure a rise is, is told by how many pairs rise and how many fall: Mann, "Nonparametric tests against trend",
//!   Econometrica 13, 1945; Kendall, "Rank Correlation Methods", 4th edition 1975, with his correction for ties.
//! - Values that hang together with those before them tell less than as many independent ones: the variance is made greater as
//!   in Hamed and Rao, "A modified Mann-Kendall trend test for autocorrelated data", Journal of Hydrology 204, 1998.

use std::time::Duration;

/// A point of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// In seconds.
    pub at: f64,
    /// In any unit.
    pub value: f64,
}

impl Point {
    /// A figure at a time after the start.
    #[must_use]
    pub fn new(at: Duration, value: u64) -> Self {
        Self { at: at.as_secs_f64(), value: value as f64 }
    }
}

/// The slope in units a second: the median over all pairs of points. 0 with fewer than two.
#[must_use]
pub fn sen_slope(points: &[Point]) -> f64 {
    let mut slopes: Vec<f64> = Vec::with_capacity(points.len() * points.len() / 2);
    for (index, later) in points.iter().enumerate() {
        for earlier in &points[..index] {
            let seconds = later.at - earlier.at;
            if seconds > 0.0 {
                slopes.push((later.value - earlier.value) / seconds);
            }
        }
    }
    median(&mut slopes).unwrap_or(0.0)
}

/// The middle value; the mean of both middle ones where their number is even. Reorders the values.
#[must_use]
pub fn median(values: &mut [f64]) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    let middle = values.len() / 2;
    let (_, upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    let upper = *upper;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = values[..middle].iter().copied().max_by(f64::total_cmp)?;
    Some(f64::midpoint(lower, upper))
}

/// The remainder of the points' values without a slope.
#[must_use]
pub fn residuals(points: &[Point], slope: f64) -> Vec<f64> {
    let start = points.first().map_or(0.0, |point| point.at);
    points.iter().map(|point| point.value - slope * (point.at - start)).collect()
}

/// How sure it is that a series rises by more than `slope` units a second: from 0 to 1, 0.5 where nothing speaks for it or
/// against it.
#[must_use]
pub fn confidence_above(points: &[Point], slope: f64) -> f64 {
    let values = residuals(points, slope);
    let score = score(&values);
    let variance = variance(&values) * inflation(points);
    if variance <= 0.0 {
        return 0.5;
    }
    // The score goes in steps of two: Kendall's correction for continuity.
    let z = (score - sign(score)) / variance.sqrt();
    libm::erfc(-z / std::f64::consts::SQRT_2) / 2.0
}

/// Pairs that rise, less pairs that fall: Kendall's S.
fn score(values: &[f64]) -> f64 {
    let of = |index: usize| values[..index].iter().map(|earlier| sign(values[index] - earlier)).sum::<f64>();
    (0..values.len()).map(of).sum()
}

/// -1, 0 or 1; a float's own sign has no 0.
fn sign(value: f64) -> f64 {
    if value == 0.0 { 0.0 } else { value.signum() }
}

/// The variance of the score, where there is no trend and values are independent.
fn variance(values: &[f64]) -> f64 {
    let term = |count: usize| {
        let n = count as f64;
        n * (n - 1.0) * (2.0 * n + 5.0)
    };
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let ties: f64 = sorted.chunk_by(|a, b| a == b).map(|group| term(group.len())).sum();
    (term(values.len()) - ties) / 18.0
}

/// By how much greater the variance is, because values hang together with those before them. Only correlations that are
/// positive and more than chance (1.96 standard deviations) count, up to a lag of a quarter of the series: negative ones
/// would make a test surer than the bare one, and further ones rest on too few pairs.
fn inflation(points: &[Point]) -> f64 {
    let count = points.len();
    let n = count as f64;
    let ranks = ranks(&residuals(points, sen_slope(points)));
    let mean = (n + 1.0) / 2.0;
    let covariance = |lag: usize| -> f64 {
        ranks.iter().zip(&ranks[lag..]).map(|(earlier, later)| (earlier - mean) * (later - mean)).sum()
    };
    let variance = covariance(0);
    if count < 4 || variance <= 0.0 {
        return 1.0;
    }
    let significant = 1.96 / n.sqrt();
    let part = |lag: usize| {
        let correlation = covariance(lag) / variance;
        let left = n - lag as f64;
        if correlation > significant { left * (left - 1.0) * (left - 2.0) * correlation } else { 0.0 }
    };
    1.0 + 2.0 / (n * (n - 1.0) * (n - 2.0)) * (1..=count / 4).map(part).sum::<f64>()
}

/// The rank of each value, from 1; of those that are the same, their mean.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0;
    for group in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let mean = before as f64 + (group.len() as f64 + 1.0) / 2.0;
        group.iter().for_each(|index| ranks[*index] = mean);
        before += group.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(values: impl IntoIterator<Item = f64>) -> Vec<Point> {
        values.into_iter().enumerate().map(|(at, value)| Point { at: at as f64, value }).collect()
    }

    #[test]
    fn scores_and_variances_are_those_of_the_books() {
        // Kendall 1975: n(n-1)(2n+5)/18, less the same of each group of ties.
        let rising: Vec<f64> = (0..10).map(f64::from).collect();
        assert!((score(&rising) - 45.0).abs() < 1e-9 && (variance(&rising) - 125.0).abs() < 1e-9);
        // Gilbert, "Statistical Methods for Environmental Pollution Monitoring", 1987, chapter 16.4: ties make it less.
        let tied = [10.0, 22.0, 21.0, 30.0, 22.0, 30.0, 40.0, 40.0];
        let without = 8.0 * 7.0 * 21.0 / 18.0;
        assert!((variance(&tied) - (without - 3.0 * 2.0 * 9.0 / 18.0)).abs() < 1e-9);
    }

    #[test]
    fn ties_share_their_ranks() {
        assert_eq!(ranks(&[5.0, 1.0, 5.0, 9.0]), [2.5, 1.0, 2.5, 4.0]);
    }

    #[test]
    fn a_rise_is_sure_a_fall_is_sure_not_to_be_one_and_nothing_is_neither() {
        assert!(confidence_above(&points((0..20).map(f64::from)), 0.0) > 0.999_999);
        assert!(confidence_above(&points((0..20).map(|s| f64::from(-s))), 0.0) < 1e-6);
        assert!((confidence_above(&points([3.0; 20]), 0.0) - 0.5).abs() < 1e-9);
        assert!(confidence_above(&points((0..20).map(f64::from)), 1.5) < 1e-6);
        assert!((confidence_above(&[], 0.0) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn independent_noise_is_called_a_rise_as_often_as_the_level_says() {
        let mut random = fastrand::Rng::with_seed(1);
        let runs = 2000;
        let rises = (0..runs).filter(|_| confidence_above(&points((0..40).map(|_| random.f64())), 0.0) > 0.95).count();
        let rate = rises as f64 / f64::from(runs);
        assert!((0.035..0.06).contains(&rate), "{rate}");
    }

    #[test]
    fn values_that_hang_together_tell_less() {
        // An autoregressive series of first order: the bare test calls it a rise nearly four times as often as its level says. The
        // correlation that shows in sixty values is less than the true one, so twice as often remain.
        let mut random = fastrand::Rng::with_seed(2);
        let runs = 1000;
        let mut series = || {
            let mut level = 0.0;
            points((0..60).map(|_| {
                level = 0.6 * level + random.f64() - 0.5;
                level
            }))
        };
        let bare = |points: &[Point]| score(&residuals(points, 0.0)) / variance(&residuals(points, 0.0)).sqrt() > 1.645;
        let (mut of_bare, mut of_ours) = (0, 0);
        for _ in 0..runs {
            let points = series();
            of_bare += u32::from(bare(&points));
            of_ours += u32::from(confidence_above(&points, 0.0) > 0.95);
        }
        assert!(2 * of_bare > 3 * of_ours && of_ours < 110, "{of_bare} {of_ours} of {runs}");
    }
}
