//! Estimates: how far from the truth a figure made of samples may be.

use serde::{Deserialize, Serialize};

use crate::model::totals::Totals;

/// The 97.5 % point of the normal distribution: 95 % lie within it on both sides.
pub(crate) const Z: f64 = 1.959_964;

/// A figure in bytes, and the same in objects.
pub type Pair = [f64; 2];

/// The windows that must have met something for its figures to be known from above: the fewer they are, the likelier that most of
/// it came at moments that none has met.
pub const MET_ENOUGH: f64 = 20.0;

/// How widely estimates scatter, as variances: in squared bytes, and in squared objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Variances {
    /// The variance of live memory.
    pub live: Pair,
    /// The variance of allocated memory.
    pub alloc: Pair,
    /// The variance of freed memory.
    pub freed: Pair,
}

impl Variances {
    /// The variances of live and freed samples. These are different samples, so their variances subtract as figures do.
    #[must_use]
    pub fn of_samples(alloc: Pair, freed: Pair) -> Self {
        Self { live: [0, 1].map(|what| (alloc[what] - freed[what]).max(0.0)), alloc, freed }
    }

    fn plus(&self, other: &Self) -> Self {
        Self {
            live: sum(self.live, other.live),
            alloc: sum(self.alloc, other.alloc),
            freed: sum(self.freed, other.freed),
        }
    }
}

/// Both together.
pub(crate) fn sum(a: Pair, b: Pair) -> Pair {
    [a[0] + b[0], a[1] + b[1]]
}

/// How sure the figures are of which there are samples only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Uncertainty {
    /// How widely the samples scatter.
    pub variances: Variances,
    /// Whether what was allocated is counted all the same.
    pub alloc_is_exact: bool,
    /// The amount that one sample more would add, where the variances do not tell.
    pub one_more: Option<Pair>,
    /// How much of what is live may have been freed unseen.
    pub fewer: Pair,
    /// How much more may be live than is thought to be, because nobody saw it freed.
    pub more: Pair,
    /// The number of windows that have met its allocations; nothing where it was not measured by windows. Windows that have met
    /// little beside others count for little: it is the effective number of Kish, "Survey Sampling", 1965.
    pub met: Option<Pair>,
}

impl Uncertainty {
    /// The uncertainty of two sums of different samples, taken together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let greater = |a: Pair, b: Pair| [a[0].max(b[0]), a[1].max(b[1])];
        Self {
            variances: self.variances.plus(&other.variances),
            alloc_is_exact: self.alloc_is_exact && other.alloc_is_exact,
            one_more: match (self.one_more, other.one_more) {
                (Some(one), Some(another)) => Some(greater(one, another)),
                (one, another) => one.or(another),
            },
            fewer: sum(self.fewer, other.fewer),
            more: sum(self.more, other.more),
            met: match (self.met, other.met) {
                (Some(one), Some(another)) => Some(greater(one, another)),
                (one, another) => one.or(another),
            },
        }
    }

    /// Whether so few windows have met it that its figures are known from below only.
    #[must_use]
    pub fn is_hardly_met(&self) -> bool {
        self.met.is_some_and(|met| met.iter().any(|met| *met < MET_ENOUGH))
    }
}

/// Where the truth lies, 95 times of a hundred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// The lower end.
    pub low: u64,
    /// The upper end; nothing where that is not known.
    pub high: Option<u64>,
}

impl Interval {
    /// Whether the truth may be so much.
    #[must_use]
    pub fn holds(&self, figure: u64) -> bool {
        self.low <= figure && self.high.is_none_or(|high| figure <= high)
    }

    const fn exactly(figure: u64) -> Self {
        Self { low: figure, high: Some(figure) }
    }
}

/// The intervals of all figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intervals {
    /// The interval of live bytes.
    pub live_bytes: Interval,
    /// The interval of live objects.
    pub live_objects: Interval,
    /// The interval of bytes ever allocated.
    pub alloc_bytes: Interval,
    /// The interval of objects ever allocated.
    pub alloc_objects: Interval,
    /// The interval of bytes ever freed.
    pub freed_bytes: Interval,
    /// The interval of objects ever freed.
    pub freed_objects: Interval,
}

impl Intervals {
    /// The intervals of estimates.
    #[must_use]
    pub fn of(totals: &Totals, uncertainty: &Uncertainty) -> Self {
        let bytes = three(
            [totals.live_bytes(), totals.alloc_bytes, totals.freed_bytes],
            uncertainty,
            0,
            // Every sample stands for about the same number of bytes.
            1.0,
        );
        let objects = three(
            [totals.live_objects(), totals.alloc_objects, totals.freed_objects],
            uncertainty,
            1,
            // Of objects, small ones for many and large ones for few.
            2.0,
        );
        Self {
            live_bytes: bytes[0],
            live_objects: objects[0],
            alloc_bytes: bytes[1],
            alloc_objects: objects[1],
            freed_bytes: bytes[2],
            freed_objects: objects[2],
        }
    }
}

/// The intervals of live, allocated and freed memory, in bytes or in objects. Where nothing else is said, the heaviest sample weighs
/// `heaviest` times as much as the mean one.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded outwards, and not negative")]
fn three([live, alloc, freed]: [u64; 3], uncertainty: &Uncertainty, what: usize, heaviest: f64) -> [Interval; 3] {
    let Uncertainty { variances, alloc_is_exact, one_more, fewer, more, met } = uncertainty;
    // The weight of one sample, where there is none to tell.
    let unit = if alloc == 0 { 0.0 } else { variances.alloc[what] / alloc as f64 };
    let is_met = met.is_none_or(|met| met[what] >= MET_ENOUGH);
    let interval = |figure: u64, variance: f64| {
        let weight = if figure == 0 { unit } else { variance / figure as f64 };
        let interval = around(figure, variance, one_more.map_or(heaviest * weight, |pair| pair[what]));
        Interval { high: interval.high.filter(|_| is_met), ..interval }
    };
    let (fewer, more) = (fewer[what].ceil() as u64, more[what].ceil() as u64);
    let widened = |interval: Interval, fewer: u64, more: u64| Interval {
        low: interval.low.saturating_sub(fewer),
        high: interval.high.map(|high| high.saturating_add(more)),
    };
    let of_live = widened(interval(live, variances.live[what]), fewer, more);
    if !alloc_is_exact {
        let of_freed = widened(interval(freed, variances.freed[what]), more, fewer);
        return [of_live, interval(alloc, variances.alloc[what]), of_freed];
    }
    let (low, high) = (of_live.low.min(alloc), of_live.high.map_or(alloc, |high| high.min(alloc)));
    let [of_live, of_freed] =
        [(low, high), (alloc - high, alloc - low)].map(|(low, high)| Interval { low, high: Some(high) });
    [of_live, Interval::exactly(alloc), of_freed]
}

/// The interval of a sum of weighted Poisson counts, by the gamma distribution of the same mean and variance; at its upper
/// end, as if one more of the `heaviest` had been seen. Unlike the estimate plus and minus two standard errors, it holds
/// for a few samples as well, and for none (Fay and Feuer, "Confidence Intervals for Directly Standardized Rates",
/// Statistics in Medicine 16, 1997).
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded outwards, and not negative")]
fn around(estimate: u64, variance: f64, heaviest: f64) -> Interval {
    let figure = estimate as f64;
    let low = gamma_quantile(figure, variance, -Z);
    let high = gamma_quantile(figure + heaviest, variance + heaviest * heaviest, Z);
    Interval { low: (low.floor() as u64).min(estimate), high: Some((high.ceil() as u64).max(estimate)) }
}

/// Where a gamma distribution of this mean and variance has the normal distribution's point `z` (Wilson and Hilferty, "The
/// Distribution of Chi-Square", PNAS 17, 1931).
fn gamma_quantile(mean: f64, variance: f64, z: f64) -> f64 {
    if mean <= 0.0 || variance <= 0.0 {
        return mean;
    }
    let ninth = variance / (9.0 * mean * mean);
    mean * (1.0 - ninth + z * ninth.sqrt()).max(0.0).powi(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_scatter_is_exact() {
        let totals = Totals::new(1000, 10, 400, 4);
        let intervals = Intervals::of(&totals, &Uncertainty::default());
        assert_eq!(intervals.live_bytes, Interval::exactly(600));
        assert_eq!(intervals.freed_objects, Interval::exactly(4));
    }

    #[test]
    fn intervals_cover_small_poisson_counts_as_often_as_they_say() {
        // Each of ten expected counts stands for 512 bytes; probabilities by the Poisson distribution itself.
        for expected in [5.0f64, 10.0, 30.0, 200.0] {
            let mut covered = 0.0;
            let mut probability = (-expected).exp();
            for count in 0..2000u32 {
                let estimate = u64::from(count) * 512;
                let interval = around(estimate, f64::from(count) * 512.0 * 512.0, 512.0);
                let truth = expected * 512.0;
                if interval.low as f64 <= truth && interval.high.is_some_and(|high| truth <= high as f64) {
                    covered += probability;
                }
                probability *= expected / f64::from(count + 1);
            }
            assert!((0.945..0.985).contains(&covered), "{covered} of {expected}");
        }
    }

    #[test]
    fn nothing_seen_is_not_nothing_there() {
        // The exact upper limit of no Poisson events is 3.69.
        let interval = around(0, 0.0, 512.0);
        assert_eq!((interval.low, interval.high), (0, Some(1879)));
    }

    #[test]
    fn where_allocations_are_counted_only_the_rest_is_unsure() {
        let variances = Variances::of_samples([90_000.0, 0.0], [40_000.0, 0.0]);
        let uncertainty = Uncertainty { variances, alloc_is_exact: true, ..Uncertainty::default() };
        let intervals = Intervals::of(&Totals::new(10_000, 10, 4000, 4), &uncertainty);
        assert_eq!(intervals.alloc_bytes, Interval::exactly(10_000));
        assert!(intervals.live_bytes.low < 6000 && intervals.live_bytes.high > Some(6000));
        assert_eq!(intervals.live_bytes.high, Some(10_000 - intervals.freed_bytes.low));
    }
}
