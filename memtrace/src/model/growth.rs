//! How fast a figure grows, from its history.

use std::time::Duration;

/// How many points a history keeps. When it is full every second one goes, so that it always spans the
/// whole run.
const MAX_POINTS: usize = 64;

/// A figure over time.
#[derive(Clone, Debug, Default)]
pub struct History {
    points: Vec<(Duration, u64)>,
    /// How many offered points stand for one that is kept.
    stride: u32,
    skipped: u32,
}

/// Which way a figure goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trend {
    /// It grows.
    Increasing,
    /// It neither grows nor shrinks by more than a fiftieth of itself over what was seen.
    Stable,
    /// It shrinks.
    Decreasing,
}

impl Trend {
    /// The word used in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Increasing => "increasing",
            Self::Stable => "stable",
            Self::Decreasing => "decreasing",
        }
    }
}

impl History {
    /// Offers the figure at a time after the start. Times must not go back.
    pub fn push(&mut self, at: Duration, value: u64) {
        if self.skipped > 0 {
            self.skipped -= 1;
            return;
        }
        self.points.push((at, value));
        if self.points.len() > MAX_POINTS {
            let mut index = 0;
            self.points.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.stride = self.stride * 2 + 1;
        }
        self.skipped = self.stride;
    }

    /// The figure at first.
    #[must_use]
    pub fn first(&self) -> Option<u64> {
        self.points.first().map(|(_, value)| *value)
    }

    /// The slope in units a second: the median of the slopes between all pairs of points, which a few
    /// wild points do not move (Theil 1950, Sen 1968). 0 with fewer than two points.
    #[must_use]
    pub fn slope_per_s(&self) -> f64 {
        let mut slopes: Vec<f64> = Vec::with_capacity(self.points.len() * self.points.len() / 2);
        for (index, (later, y2)) in self.points.iter().enumerate() {
            for (earlier, y1) in &self.points[..index] {
                let seconds = later.saturating_sub(*earlier).as_secs_f64();
                if seconds > 0.0 {
                    slopes.push((*y2 as f64 - *y1 as f64) / seconds);
                }
            }
        }
        median(&mut slopes).unwrap_or(0.0)
    }

    /// Which way the figure goes over the whole history.
    #[must_use]
    pub fn trend(&self) -> Trend {
        let (Some((first, _)), Some((last, value))) = (self.points.first(), self.points.last()) else {
            return Trend::Stable;
        };
        let change = self.slope_per_s() * last.saturating_sub(*first).as_secs_f64();
        let noise = *value as f64 / 50.0;
        if change > noise {
            Trend::Increasing
        } else if change < -noise {
            Trend::Decreasing
        } else {
            Trend::Stable
        }
    }
}

fn median(values: &mut [f64]) -> Option<f64> {
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
    fn one_wild_point_does_not_move_the_slope() {
        let mut values: Vec<u64> = (0..21).map(|s| 1000 + 10 * s).collect();
        values[10] = 1_000_000;
        assert!((history(values).slope_per_s() - 10.0).abs() < 1.0);
    }

    #[test]
    fn a_long_history_keeps_its_span_in_bounded_room() {
        let history = history(0..10_000);
        assert!(history.points.len() <= MAX_POINTS);
        assert!(history.points.last().unwrap().1 > 9_000);
        assert!((history.slope_per_s() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn trends_have_a_dead_band() {
        assert_eq!(history((0..20).map(|s| 1000 + s % 3)).trend(), Trend::Stable);
        assert_eq!(history((0..20).map(|s| 1000 + 50 * s)).trend(), Trend::Increasing);
        assert_eq!(history((0..20).map(|s| 9000 - 50 * s)).trend(), Trend::Decreasing);
        assert_eq!(history([]).trend(), Trend::Stable);
    }
}
