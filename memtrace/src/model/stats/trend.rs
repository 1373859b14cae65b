//! Which way a process's memory goes, and how sure that is.
//!
//! In: its resident memory over time. Out: increasing, stable or decreasing, with the slope and a confidence.
//!
//! A leak must be told within a minute from what only looks like one at times: caches that fill, programs that warm up, jobs
//! that take memory again and again, tables that double. That a series rises as a whole does not tell them apart, however
//! significant it is. So memory is increasing where all of this holds of a stretch of time:
//!
//! 1. *It rises*: the Mann-Kendall test says so ([`rank`]).
//! 2. *It still does*: the same test says so of the last third alone.
//! 3. *It rises out of its swing*: the slope makes three times as much of the stretch as what it swings by around the slope.
//!    That is what a sawtooth does not do, however often it is looked at, and a leak does, if only one waits.
//! 4. *It rises steadily*: it passes the eighths of its growth one after the other, without a long pause at the beginning, between
//!    them or at the end. A step passes them all at once, a cache stops passing them.
//! 5. *It goes where it has not been*: past all that was seen before the stretch, by half of what it has grown in it.
//!
//! Stretches are the whole run, the last minute, and that without its first quarter or half: so a leak that begins after a
//! warm-up, or after days, is seen as well. Decreasing is the same upside down.

use std::time::Duration;

use super::rank::{Point, confidence_above, median, residuals, sen_slope};

/// Fewer points than this tell nothing.
pub const MIN_POINTS: usize = 8;
/// Points of the last third, at least.
const MIN_RECENT_POINTS: usize = 6;
/// The demands on resident memory.
const OF_RESIDENT: Demands = Demands {
    points: MIN_POINTS,
    // Less is no growth worth a word: 16 pages.
    growth: 65536.0,
    sure: 0.999,
    sure_of_recent: 0.99,
    swings: 3.0,
    longest_pause: 0.3,
    longest_pause_at_the_end: 0.25,
};
/// A series that changes by no more than this part of itself in a second is stable: a hundredth in a minute.
const STABLE_PER_S: f64 = 0.01 / 60.0;

/// The demands on a stretch that rises.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demands {
    /// How many points it has at least.
    pub(crate) points: usize,
    /// The least that it grows by.
    pub(crate) growth: f64,
    /// How sure it must be that it rises, from 0 to 1.
    pub(crate) sure: f64,
    /// The same of its last third.
    pub(crate) sure_of_recent: f64,
    /// How many times its swing it grows by.
    pub(crate) swings: f64,
    /// The part of it in which the rise may pause.
    pub(crate) longest_pause: f64,
    /// The part of it that may have gone by since the rise went on last.
    pub(crate) longest_pause_at_the_end: f64,
}

/// Which way a figure goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trend {
    /// It grows, and goes on growing.
    Increasing,
    /// Neither.
    #[default]
    Stable,
    /// It shrinks, and goes on shrinking.
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

/// The judgement on a series; by default, none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Judgement {
    /// Which way it goes.
    pub trend: Trend,
    /// How sure that is, from 0 to 1. Of a stable one: that it changes by less than a hundredth of itself in a minute. 0 where
    /// there is too little to tell.
    pub confidence: f64,
    /// How fast it changes at present, in units a second: over the stretch that tells the trend; of a stable one, what the
    /// last minute and its last third agree on.
    pub slope_per_s: f64,
}

/// Judges a figure: `run` is all of it, with as few points as one likes, `recent` its last minute.
#[must_use]
pub fn judge(run: &[(Duration, u64)], recent: &[(Duration, u64)]) -> Judgement {
    let points = |of: &[(Duration, u64)]| of.iter().map(|(at, value)| Point::new(*at, *value)).collect::<Vec<_>>();
    let (run, recent) = (points(run), points(recent));
    for stretch in [&run[..], &recent, &recent[recent.len() / 4..], &recent[recent.len() / 2..]] {
        let start = stretch.first().map_or(0.0, |point| point.at);
        let before: Vec<Point> = run.iter().chain(&recent).filter(|point| point.at < start).copied().collect();
        for (trend, sign) in [(Trend::Increasing, 1.0), (Trend::Decreasing, -1.0)] {
            let turned =
                |points: &[Point]| points.iter().map(|p| Point { value: p.value * sign, ..*p }).collect::<Vec<_>>();
            if let Some((confidence, slope)) = rise(&turned(stretch), &turned(&before), &OF_RESIDENT) {
                return Judgement { trend, confidence, slope_per_s: slope * sign };
            }
        }
    }
    stable(&recent)
}

/// How sure it is that a stretch rises, and how fast it does; nothing where it does not. `before` is what was seen earlier.
pub(crate) fn rise(stretch: &[Point], before: &[Point], demands: &Demands) -> Option<(f64, f64)> {
    let (first, last) = (stretch.first()?, stretch.last()?);
    let most = stretch.iter().map(|point| point.value).fold(f64::NEG_INFINITY, f64::max);
    // Nearly every process of a host is through here.
    if stretch.len() < demands.points || most - first.value < demands.growth {
        return None;
    }
    let slope = sen_slope(stretch);
    let growth = slope * (last.at - first.at);
    let holds = growth >= demands.growth
        && growth >= demands.swings * swing(stretch, slope)
        && is_steady(stretch, demands)
        && goes_beyond(stretch, before, growth);
    let (of_all, of_recent) =
        if holds { (confidence_above(stretch, 0.0), confidence_above(last_third(stretch), 0.0)) } else { (0.0, 0.0) };
    (of_all >= demands.sure && of_recent >= demands.sure_of_recent).then(|| (of_all.min(of_recent), slope))
}

/// The judgement on a series that is neither increasing nor decreasing.
fn stable(recent: &[Point]) -> Judgement {
    let latest = last_third(recent);
    let tolerated = latest.last().map_or(0.0, |point| point.value) * STABLE_PER_S;
    let confidence = if recent.len() < MIN_POINTS {
        0.0
    } else if latest.iter().all(|point| point.value == latest[0].value) {
        1.0
    } else {
        (confidence_above(latest, -tolerated) - confidence_above(latest, tolerated)).max(0.0)
    };
    // A cache that has filled has risen in the minute, a sawtooth may in its last third.
    let (of_minute, of_latest) = (sen_slope(recent), sen_slope(latest));
    let slope_per_s =
        if of_minute * of_latest <= 0.0 { 0.0 } else { of_minute.abs().min(of_latest.abs()).copysign(of_latest) };
    Judgement { trend: Trend::Stable, confidence, slope_per_s }
}

pub(crate) fn last_third(points: &[Point]) -> &[Point] {
    let count = points.len().div_ceil(3).max(MIN_RECENT_POINTS).min(points.len());
    &points[points.len() - count..]
}

/// How far a series swings around its slope: without the twentieth that is furthest out at either side, which may be a peak that
/// has nothing to do with the rest.
fn swing(points: &[Point], slope: f64) -> f64 {
    let mut residuals = residuals(points, slope);
    residuals.sort_by(f64::total_cmp);
    let cut = residuals.len() / 20;
    residuals[residuals.len() - 1 - cut] - residuals[cut]
}

/// Whether a series passes the eighths of its growth without a long pause. Between two readings it is taken to go straight: that
/// nobody looked is no pause.
fn is_steady(points: &[Point], demands: &Demands) -> bool {
    let smooth = smoothed(points);
    let (Some(first), Some(last)) = (smooth.first(), smooth.last()) else { return false };
    let (span, growth) = (last.at - first.at, last.value - first.value);
    let mut passed = first.at;
    for eighths in 1..8 {
        let Some(here) = reaches(&smooth, first.value + growth * f64::from(eighths) / 8.0) else { return false };
        if here - passed > demands.longest_pause * span {
            return false;
        }
        passed = passed.max(here);
    }
    last.at - passed <= demands.longest_pause_at_the_end * span
}

/// When a series reaches a level for the first time.
fn reaches(points: &[Point], level: f64) -> Option<f64> {
    let index = points.iter().position(|point| point.value >= level)?;
    let here = points[index];
    let Some(before) = index.checked_sub(1).map(|before| points[before]) else { return Some(here.at) };
    // It is below the level, and so below the point that is not.
    Some(before.at + (here.at - before.at) * (level - before.value) / (here.value - before.value))
}

/// Each point with the median of those around it: a tenth of the series, at least three.
fn smoothed(points: &[Point]) -> Vec<Point> {
    let reach = (points.len() / 20).max(1);
    let around = |index: usize| {
        // As many on either side, so that a slope is not bent at the ends.
        let reach = reach.min(index).min(points.len() - 1 - index);
        let mut values: Vec<f64> = points[index - reach..=index + reach].iter().map(|point| point.value).collect();
        Point { at: points[index].at, value: median(&mut values).unwrap_or(points[index].value) }
    };
    (0..points.len()).map(around).collect()
}

/// Whether a stretch ends beyond what was seen `before` it, by half of its `growth`.
fn goes_beyond(stretch: &[Point], before: &[Point], growth: f64) -> bool {
    let most = before.iter().map(|point| point.value).fold(f64::NEG_INFINITY, f64::max);
    let mut end: Vec<f64> = stretch[stretch.len() - 3..].iter().map(|point| point.value).collect();
    median(&mut end).is_some_and(|end| end >= most + growth / 2.0)
}

#[cfg(test)]
mod tests;
