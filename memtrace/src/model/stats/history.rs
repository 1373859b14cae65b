//! Values over time, and how fast a figure grows.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::rank::{self, Point};

/// A value over time: at most `MAX` points. When it is full every second one goes, so that it always spans the whole
/// run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct History<V = u64, const MAX: usize = 64> {
    points: Vec<(Duration, V)>,
    /// How many offered points stand for one that is kept.
    stride: u32,
    skipped: u32,
}

/// A figure of one of very many sites: three quarters of a kibibyte.
pub type SiteHistory = History<u64, 32>;

impl<V: Copy, const MAX: usize> History<V, MAX> {
    /// Offers the value at a time after the start. Times must not go back.
    pub fn push(&mut self, at: Duration, value: V) {
        if self.skipped > 0 {
            self.skipped -= 1;
            return;
        }
        // Before there is one more: it would take the room of twice as many.
        if self.points.len() == MAX {
            let mut index = 0;
            self.points.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.stride = self.stride * 2 + 1;
        }
        self.points.push((at, value));
        self.skipped = self.stride;
    }

    /// The value at first.
    #[must_use]
    pub fn first(&self) -> Option<V> {
        self.points.first().map(|(_, value)| *value)
    }

    /// The values that are kept, oldest first, with the times after the start.
    #[must_use]
    pub fn points(&self) -> &[(Duration, V)] {
        &self.points
    }

    /// The points of the time up to `end`.
    #[must_use]
    pub fn until(&self, end: Duration) -> &[(Duration, V)] {
        until(&self.points, end)
    }
}

impl<V: Figure, const MAX: usize> History<V, MAX> {
    /// The slope in units a second ([`rank::sen_slope`]), which a few wild points do not move. 0 with fewer than
    /// two points.
    #[must_use]
    pub fn slope_per_s(&self) -> f64 {
        slope_per_s(&self.points)
    }

    /// The slope of the time up to `end`.
    #[must_use]
    pub fn slope_per_s_until(&self, end: Duration) -> f64 {
        slope_per_s(self.until(end))
    }
}

fn slope_per_s<V: Figure>(points: &[(Duration, V)]) -> f64 {
    let point = |(at, value): &(Duration, V)| Point { at: at.as_secs_f64(), value: value.as_f64() };
    rank::sen_slope(&points.iter().map(point).collect::<Vec<_>>())
}

/// The points of the time up to `end`.
#[must_use]
pub fn until<V>(points: &[(Duration, V)], end: Duration) -> &[(Duration, V)] {
    &points[..points.partition_point(|(at, _)| *at <= end)]
}

/// A value that has a slope.
pub trait Figure: Copy {
    /// The nearest there is.
    fn as_f64(self) -> f64;
}

impl Figure for u64 {
    fn as_f64(self) -> f64 {
        self as f64
    }
}

impl Figure for i64 {
    fn as_f64(self) -> f64 {
        self as f64
    }
}

/// The sum of several series at each of their times. Between its readings, each is what it was.
#[must_use]
pub fn sum(series: &[&[(Duration, u64)]]) -> Vec<(Duration, u64)> {
    if let [one] = series {
        return one.to_vec();
    }
    let mut times: Vec<Duration> = series.iter().flat_map(|points| points.iter().map(|(at, _)| *at)).collect();
    times.sort_unstable();
    times.dedup();
    let value = |points: &[(Duration, u64)], at: Duration| {
        let until = points.partition_point(|(time, _)| *time <= at);
        until.checked_sub(1).map_or(0, |last| points[last].1)
    };
    times.into_iter().map(|at| (at, series.iter().map(|points| value(points, at)).sum())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(values: impl IntoIterator<Item = u64>) -> History {
        let mut history = History::default();
        for (second, value) in values.into_iter().enumerate() {
            history.push(Duration::from_secs(second as u64), value);
        }
        history
    }

    #[test]
    fn a_straight_line_has_its_own_slope() {
        assert!((history((0..20).map(|s| 100 + 7 * s)).slope_per_s() - 7.0).abs() < 1e-9);
        assert!((history((0..20).map(|s| 1000 - 7 * s)).slope_per_s() + 7.0).abs() < 1e-9);
    }

    #[test]
    fn what_falls_below_nothing_goes_on_falling() {
        let mut history: History<i64> = History::default();
        (0..20).for_each(|second| history.push(Duration::from_secs(second), 30 - 7 * second.cast_signed()));
        assert!((history.slope_per_s() + 7.0).abs() < 1e-9);
    }

    #[test]
    fn sums_hold_what_was_read_last_of_each() {
        let at = Duration::from_secs;
        let (one, other) = ([(at(0), 1), (at(2), 5)], [(at(1), 10), (at(2), 20)]);
        assert_eq!(sum(&[&one]), one);
        assert_eq!(sum(&[&one, &other]), [(at(0), 1), (at(1), 11), (at(2), 25)]);
        assert_eq!(sum(&[]), []);
    }

    #[test]
    fn a_series_can_be_looked_at_up_to_a_moment() {
        let mut fallen = history((0..20).map(|s| 7 * s));
        (20..40).for_each(|second| fallen.push(Duration::from_secs(second), 0));
        assert!((fallen.slope_per_s_until(Duration::from_secs(19)) - 7.0).abs() < 1e-9);
        assert_eq!(fallen.until(Duration::from_millis(2500)).len(), 3);
        assert_eq!(fallen.until(Duration::MAX), fallen.points());
    }

    #[test]
    fn one_wild_point_does_not_move_the_slope() {
        let mut values: Vec<u64> = (0..21).map(|s| 1000 + 10 * s).collect();
        values[10] = 1_000_000;
        assert!((history(values).slope_per_s() - 10.0).abs() < 1.0);
    }

    #[test]
    fn a_long_history_keeps_its_span_in_bounded_room() {
        let history = history(0..10_000);
        assert!(history.points().len() <= 64);
        assert!(history.points().last().unwrap().1 > 9_000);
        assert!((history.slope_per_s() - 1.0).abs() < 1e-9);
    }
}
