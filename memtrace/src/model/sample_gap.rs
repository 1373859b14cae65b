//! Mean gaps between samples.

use memtrace_common::steps::sampling::{MAX_MEAN_BYTES, MIN_MEAN_BYTES, least_exposed};

/// The mean gap between samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleGap {
    /// The finest that the budget allows. It may change while samples are taken.
    Chosen,
    /// So many bytes.
    Bytes(u64),
}

impl SampleGap {
    /// The coarsest gap that there is, in bytes.
    pub const COARSEST: u64 = MAX_MEAN_BYTES;

    /// The gap with which a run begins, in bytes. The finest, where there is a choice: blocks of a program's start may live as
    /// long as it does, and dear samples are soon made fewer.
    #[must_use]
    pub const fn first_bytes(self) -> u64 {
        match self {
            Self::Chosen => MIN_MEAN_BYTES,
            Self::Bytes(bytes) => bytes,
        }
    }

    /// The gaps that there are to choose from, in bytes, finest first.
    pub fn choices() -> impl Iterator<Item = u64> {
        (MIN_MEAN_BYTES.ilog2()..=MAX_MEAN_BYTES.ilog2()).map(|power| 1 << power)
    }
}

/// The part of the allocations of `size_bytes` that is sampled under a mean gap of `gap` bytes: `1-exp(-s/g)`, as
/// [`memtrace_common::steps::sampling`] has it.
#[must_use]
pub fn sampled_part(size_bytes: f64, gap: u64) -> f64 {
    let exposed = size_bytes.max(least_exposed(gap) as f64);
    -(-exposed / gap as f64).exp_m1()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_chosen_from_all_that_are_allowed() {
        let choices: Vec<u64> = SampleGap::choices().collect();
        let fixed = |text: &str| SampleGap::Bytes(text.parse::<bytesize::ByteSize>().unwrap().0);
        let ends = [choices[0], choices[choices.len() - 1]].map(SampleGap::Bytes);
        assert_eq!((ends, choices.len()), ([fixed("1KiB"), fixed("16MiB")], 15));
        assert_eq!(SampleGap::Chosen.first_bytes(), choices[0]);
    }

    #[test]
    fn small_allocations_are_sampled_as_if_they_were_larger() {
        assert!((sampled_part(16.0, 1 << 20) * 256.5 - 1.0).abs() < 1e-3);
        assert!((sampled_part(f64::from(1 << 20), 1 << 20) - (1.0 - (-1.0f64).exp())).abs() < 1e-12);
    }
}
