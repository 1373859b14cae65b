//! Sampling allocations by their bytes: which are sampled, and what each of those stands for.
//!
//! Samples are taken at the points of a Poisson process on the bytes that a thread allocates. An allocation of `s` bytes
//! is sampled with the probability `p = 1 - exp(-s/m)`, `m` being the mean gap, whatever was sampled before; each
//! sampled one stands for `s/p` bytes and `1/p` objects, so that sums over samples have the true sums as their
//! expectation, and `(1-p)/p^2` of its squares adds up to an unbiased variance (Horvitz and Thompson, "A
//! Generalization of Sampling Without Replacement From a Finite Universe", JASA 47, 1952).
//!
//! Small allocations are sampled as if they had [`least_exposed`] bytes, and `s/p` is made with that `p`: otherwise the few small
//! ones that are seen would stand for thousands of objects each.
//!
//! The mean gap may change while samples are taken ([`MeanGap`]). Each block remembers the gap under which it was sampled, so its
//! weight is the same at its birth and at its end. A countdown that began under another gap is drawn anew: the exponential
//! distribution has no memory, so that is a Poisson process of the new rate from there on.
//!
//! BPF has no floating point: logarithms and `x/(1-exp(-x))` come from tables that user space fills, and are
//! interpolated. One of a million is wrong by that.

use crate::wire::site::Weight;

/// Objects of a sampled site are counted in this part of one.
pub const OBJECT: u64 = 1 << 10;

/// Variances of bytes are counted in so many squared bytes: fine enough for the least gap, and without overflow for four
/// petabytes under the greatest.
pub const BYTES_VARIANCE: u64 = 1 << 12;

/// Variances of objects are counted in this part of one.
pub const OBJECTS_VARIANCE: u64 = 1 << 8;

/// The greatest mean gap, in bytes: what is above would overflow.
pub const MAX_MEAN_BYTES: u64 = 1 << 24;

/// The least, in bytes: below, every allocation may as well be counted.
pub const MIN_MEAN_BYTES: u64 = 1 << 10;

/// The mean gap under which a sample is taken: [`MeanGap::OF_RUN`], or a power of two.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MeanGap(u32);

impl MeanGap {
    /// The one that a run was given at its start.
    pub const OF_RUN: Self = Self(0);

    /// The bits that tell one.
    pub const BITS: u32 = 5;

    /// A mean gap of so many bytes; the run's, where that is no power of two within the bounds.
    #[must_use]
    pub const fn of(bytes: u64) -> Self {
        let is_known = bytes.is_power_of_two() && MIN_MEAN_BYTES <= bytes && bytes <= MAX_MEAN_BYTES;
        if is_known { Self(bytes.ilog2()) } else { Self::OF_RUN }
    }

    /// The mean gap in bytes, where the run's is `of_run`.
    #[inline(always)]
    #[must_use]
    pub const fn bytes(self, of_run: u64) -> u64 {
        if self.0 == Self::OF_RUN.0 { of_run } else { 1u64.wrapping_shl(self.0) }
    }

    /// As a number of [`Self::BITS`] bits.
    #[inline(always)]
    #[must_use]
    pub const fn code(self) -> u32 {
        self.0
    }

    /// From such a number.
    #[inline(always)]
    #[must_use]
    pub const fn of_code(code: u32) -> Self {
        Self(code & ((1 << Self::BITS) - 1))
    }
}

const _: () = assert!(MAX_MEAN_BYTES.ilog2() < 1 << MeanGap::BITS);

/// The bits behind the point in tables.
const FRACTION: u32 = 24;

/// How fine the table of weights is: steps in one mean gap.
const STEPS: u32 = 256;

/// Sizes of so many gaps are sampled for certain (but for one in nine millions).
const CERTAIN: u32 = 16;

/// Entries of the table of weights.
pub const WEIGHTS: u32 = CERTAIN * STEPS + 2;

/// Entries of the table of logarithms.
pub const LOGARITHMS: u32 = 258;

/// As how many bytes an allocation counts at least when samples are drawn: one step of the table of weights, so that none
/// stands for more than 257 objects.
#[inline(always)]
#[must_use]
pub const fn least_exposed(mean: u64) -> u64 {
    mean / STEPS as u64
}

/// Looks an entry of a table up.
pub trait Table {
    /// The entry at `index`.
    fn get(&self, index: u32) -> Option<u64>;
}

/// The weight of a sampled allocation of `size` bytes, where the mean gap is `mean` bytes.
#[inline(always)]
#[must_use]
pub fn weight(size: u64, mean: u64, weights: &impl Table) -> Option<Weight> {
    let least = least_exposed(mean);
    let exposed = if size < least { least } else { size };
    if exposed >= CERTAIN as u64 * mean {
        return Some(Weight { bytes: size, objects: OBJECT, bytes_variance: 0, objects_variance: 0 });
    }
    // In gaps, with 16 bits behind the point; then the step of the table, and the way to the next, in 256ths.
    // (Checked: a division that could panic is refused by the verifier.)
    let gaps = (exposed << 16).checked_div(mean)?;
    let (step, way) = ((gaps >> 8 & 0xffff_ffff) as u32, gaps & 255);
    let (here, there) = (weights.get(step)?, weights.get(step + 1)?);
    let factor = here + (((there - here) * way) >> 8);
    // Both in mean gaps, with FRACTION bits behind the point: what it stands for, and how much of that is not itself.
    let (mut stands_for, mut beyond) = (factor, factor.saturating_sub(gaps << 8));
    let objects = (((mean * factor) >> FRACTION) * OBJECT).checked_div(exposed)?;
    if size < least {
        (stands_for, beyond) = ((stands_for * size).checked_div(least)?, (beyond * size).checked_div(least)?);
    }
    // The latter in sixteenths of bytes: it may be few.
    let (bytes, beyond_bytes) = ((mean * stands_for) >> FRACTION, (mean * beyond) >> (FRACTION - 4));
    Some(Weight {
        bytes,
        objects,
        bytes_variance: (bytes * beyond_bytes + 8 * BYTES_VARIANCE) >> (BYTES_VARIANCE.ilog2() + 4),
        objects_variance: (objects * objects.saturating_sub(OBJECT) + (1 << 11)) >> 12,
    })
}

/// The bytes until the next sample: exponentially distributed, made from 32 random bits.
#[inline(always)]
#[must_use]
pub fn gap(random: u32, mean: u64, logarithms: &impl Table) -> Option<u64> {
    // -log2 of a number in (0, 1], with FRACTION bits behind the point.
    let number = random as u64 + 1;
    let power = u64::BITS - 1 - number.leading_zeros();
    // Of the bits below the highest, eight choose the entry and sixteen lead to the next.
    let following = number << (32 - power) & 0xffff_ffff;
    let (entry, way) = ((following >> 24) as u32, following >> 8 & 0xffff);
    let (here, there) = (logarithms.get(entry)?, logarithms.get(entry + 1)?);
    let log2 = ((power as u64) << FRACTION) + here + (((there - here) * way) >> 16);
    let minus_log2 = (32u64 << FRACTION).saturating_sub(log2);
    // Natural ones: times ln 2, in 2^-24.
    let minus_ln = (minus_log2 * LN_2) >> FRACTION;
    Some((mean * minus_ln) >> FRACTION)
}

/// ln 2, with FRACTION bits behind the point.
const LN_2: u64 = 11_629_080;

/// The entries of the table of weights: `x / (1 - exp(-x))`.
#[cfg(any(feature = "user", test))]
#[must_use]
pub fn weights() -> Vec<u64> {
    let entry = |step: u32| {
        let x = f64::from(step) / f64::from(STEPS);
        if x == 0.0 { 1.0 } else { x / -(-x).exp_m1() }
    };
    (0..WEIGHTS).map(|step| fixed(entry(step))).collect()
}

/// The entries of the table of logarithms: `log2(1 + i/256)`.
#[cfg(any(feature = "user", test))]
#[must_use]
pub fn logarithms() -> Vec<u64> {
    (0..LOGARITHMS).map(|entry| fixed((1.0 + f64::from(entry) / 256.0).log2())).collect()
}

#[cfg(any(feature = "user", test))]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small positive numbers")]
fn fixed(number: f64) -> u64 {
    (number * f64::from(1u32 << FRACTION)).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::block::Recorded;

    struct Filled(Vec<u64>);

    impl Table for Filled {
        fn get(&self, index: u32) -> Option<u64> {
            self.0.get(index as usize).copied()
        }
    }

    /// Bytes, objects and both variances, as floating point has them.
    fn expected(size: f64, mean: f64) -> [f64; 4] {
        let p = -(-size.max(mean / 256.0) / mean).exp_m1();
        [size / p, 1.0 / p, size * size * (1.0 - p) / (p * p), (1.0 - p) / (p * p)]
    }

    fn found(size: u64, mean: u64) -> [f64; 4] {
        let weight = weight(size, mean, &Filled(weights())).unwrap();
        [
            weight.bytes as f64,
            weight.objects as f64 / OBJECT as f64,
            weight.bytes_variance as f64 * BYTES_VARIANCE as f64,
            weight.objects_variance as f64 / OBJECTS_VARIANCE as f64,
        ]
    }

    #[test]
    fn weights_are_those_of_floating_point() {
        for mean in [MIN_MEAN_BYTES, 512 << 10, MAX_MEAN_BYTES] {
            for size in [1, 7, 100, 4096, 100_000, mean / 2, mean, 3 * mean, 7 * mean + 13, 15 * mean] {
                let (found, expected) = (found(size, mean), expected(size as f64, mean as f64));
                for (index, tolerance) in [(0, 2e-3), (1, 2e-3), (2, 4e-3), (3, 4e-3)] {
                    // Bytes are whole, and tiny variances of what is nearly certain need not be close.
                    // Variances of bytes are rounded to their unit.
                    let scale =
                        [256.0, 1.0, ((mean * mean) as f64 * 0.03).max(BYTES_VARIANCE as f64 * 256.0), 1.0][index];
                    let error = (found[index] - expected[index]).abs() / expected[index].max(scale);
                    assert!(error < tolerance, "{index} of {size} in {mean}: {} for {}", found[index], expected[index]);
                }
            }
        }
    }

    #[test]
    fn what_is_large_counts_once_and_what_is_empty_has_no_bytes() {
        assert_eq!(found(1 << 40, 512 << 10), [(1u64 << 40) as f64, 1.0, 0.0, 0.0]);
        let [bytes, objects, bytes_variance, _] = found(0, 1024);
        assert_eq!((bytes, bytes_variance), (0.0, 0.0));
        assert!((objects - 256.5).abs() < 0.2);
    }

    #[test]
    fn gaps_are_exponential() {
        let (mean, table) = (512u64 << 10, Filled(logarithms()));
        for random in [0, 1, 77, 0x1234_5678, 0x7fff_ffff, 0xc000_0000, u32::MAX - 1, u32::MAX] {
            let exact = -((f64::from(random) + 1.0) / 4_294_967_296.0).ln() * mean as f64;
            let found = gap(random, mean, &table).unwrap() as f64;
            assert!((found - exact).abs() < exact * 1e-4 + 2.0, "{random:#x}: {found} for {exact}");
        }
    }

    /// A reproducible generator (xorshift64*, Vigna 2016).
    fn generator() -> impl FnMut() -> u32 {
        let mut state = 0x2545_f491_4f6c_dd1du64;
        move || {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
        }
    }

    /// The sums of errors of estimates, of their squares, and of the variances that were claimed.
    #[derive(Default)]
    struct Errors {
        sum: f64,
        squares: f64,
        claimed: f64,
    }

    impl Errors {
        fn add(&mut self, estimate: u64, truth: u64, claimed: u64, unit: f64) {
            let error = (estimate as f64 - truth as f64) * unit;
            self.sum += error;
            self.squares += error * error;
            self.claimed += claimed as f64;
        }

        /// Within four standard errors of none, and with the variance that was claimed, to a tenth.
        fn are_those_claimed(&self, rounds: u32, claimed_unit: f64) {
            let rounds = f64::from(rounds);
            let (bias, variance) = (self.sum / rounds, self.squares / rounds);
            let claimed = self.claimed * claimed_unit / rounds;
            assert!(bias.abs() < 4.0 * (variance / rounds).sqrt(), "{bias}, with a variance of {variance}");
            assert!((claimed / variance - 1.0).abs() < 0.1, "{claimed} for {variance}");
        }
    }

    #[test]
    fn estimates_across_changes_of_the_gap_are_unbiased_and_their_variances_are_theirs() {
        let (mut random, weights, logarithms) = (generator(), Filled(weights()), Filled(logarithms()));
        // The gap in force for each hundred calls. A third of all blocks is freed at the end, under the last one.
        let gaps = [1 << 10, 1 << 13, 1 << 11, 1 << 16].map(MeanGap::of);
        let sizes: Vec<u64> = (0..400).map(|index| (index * index * 7) % 5000).collect();
        let is_freed = |index: usize| index.is_multiple_of(3);
        let live = |index: &usize| !is_freed(*index);
        let truth: u64 = (0..sizes.len()).filter(live).map(|index| sizes[index]).sum();
        let objects = (0..sizes.len()).filter(live).count() as u64;
        let (mut bytes, mut of_objects, rounds) = (Errors::default(), Errors::default(), 4000);
        for _ in 0..rounds {
            let (mut until, mut drawn_by) = (0, MeanGap::OF_RUN);
            let (mut sums, mut freed, mut table) = (Weight::default(), Weight::default(), Vec::new());
            let weight_of =
                |size, recorded: Recorded| weight(size, recorded.mean_gap().unwrap().bytes(0), &weights).unwrap();
            let add = |sum: &mut Weight, one: Weight| {
                sum.bytes += one.bytes;
                sum.objects += one.objects;
                sum.bytes_variance += one.bytes_variance;
                sum.objects_variance += one.objects_variance;
            };
            for (index, size) in sizes.iter().enumerate() {
                let gap = gaps[index / 100];
                let mut draw = || super::gap(random(), gap.bytes(0), &logarithms).unwrap() + 1;
                if drawn_by != gap {
                    (until, drawn_by) = (draw(), gap);
                }
                let exposed = least_exposed(gap.bytes(0)).max(*size);
                if until > exposed {
                    until -= exposed;
                    continue;
                }
                until = draw();
                let recorded = Recorded::as_sample(gap);
                add(&mut sums, weight_of(*size, recorded));
                table.push((index, *size, recorded));
            }
            for (_, size, recorded) in table.iter().filter(|(index, ..)| is_freed(*index)) {
                add(&mut freed, weight_of(*size, *recorded));
            }
            bytes.add(sums.bytes - freed.bytes, truth, sums.bytes_variance - freed.bytes_variance, 1.0);
            let variance = sums.objects_variance - freed.objects_variance;
            of_objects.add(sums.objects - freed.objects, objects * OBJECT, variance, 1.0 / OBJECT as f64);
        }
        bytes.are_those_claimed(rounds, BYTES_VARIANCE as f64);
        of_objects.are_those_claimed(rounds, 1.0 / OBJECTS_VARIANCE as f64);
    }

    #[test]
    fn a_gap_is_told_by_its_power_or_is_the_runs() {
        for gap in [MIN_MEAN_BYTES, 512 << 10, MAX_MEAN_BYTES] {
            assert_eq!(MeanGap::of_code(MeanGap::of(gap).code()).bytes(7), gap);
        }
        assert_eq!([3000, 0, 1 << 9, 1 << 25].map(|gap| MeanGap::of(gap).bytes(3000)), [3000; 4]);
    }

    #[test]
    fn estimates_are_unbiased_and_their_variance_is_theirs() {
        let mut random = generator();
        let (mean, weights, logarithms) = (4096u64, Filled(weights()), Filled(logarithms()));
        let sizes: Vec<u64> = (0..400).map(|index| index * index % 9000).collect();
        let truth: u64 = sizes.iter().sum();
        let (mut errors, rounds) = (Errors::default(), 4000);
        for _ in 0..rounds {
            let mut until = gap(random(), mean, &logarithms).unwrap();
            let (mut estimate, mut variance) = (0u64, 0u64);
            for size in &sizes {
                let exposed = least_exposed(mean).max(*size);
                if until >= exposed {
                    until -= exposed;
                    continue;
                }
                until = gap(random(), mean, &logarithms).unwrap();
                let weight = weight(*size, mean, &weights).unwrap();
                estimate += weight.bytes;
                variance += weight.bytes_variance;
            }
            errors.add(estimate, truth, variance, 1.0);
        }
        errors.are_those_claimed(rounds, BYTES_VARIANCE as f64);
    }
}
