//! The fate of a site's blocks, by when they were allocated.

use serde::{Deserialize, Serialize};

/// How many generations are told apart.
pub const GENERATIONS: usize = 8;

/// How long the births of one go on, in seconds.
pub const GENERATION_S: f64 = 4.096;

/// Blocks, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Their bytes.
    pub bytes: u64,
    /// How many.
    pub objects: u64,
}

impl Amount {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_add(other.bytes), objects: self.objects.saturating_add(other.objects) }
    }

    /// The difference to `other`; nothing where that is more, as readings in the moment may have it.
    #[must_use]
    pub fn less(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_sub(other.bytes), objects: self.objects.saturating_sub(other.objects) }
    }
}

/// The blocks of one generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cohort {
    /// The allocated memory.
    pub born: Amount,
    /// The living part of it.
    pub live: Amount,
}

impl Cohort {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { born: self.born.plus(other.born), live: self.live.plus(other.live) }
    }
}

/// The blocks of a site, by age.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survival {
    /// The generations of the last half a minute, youngest first: the first generation's births go on.
    pub generations: [Cohort; GENERATIONS],
    /// The living part of older ones.
    pub older_live: Amount,
    /// The freed part of those that had become older.
    pub older_freed: Amount,
}

impl Survival {
    /// The survival of the blocks of several sites; nothing where that of any of them is not known.
    pub fn sum_of_all(survivals: impl Iterator<Item = Option<Self>>) -> Option<Self> {
        survivals.collect::<Option<Vec<_>>>()?.into_iter().reduce(|sum, more| sum.plus(&more))
    }

    /// The blocks of all generations that are told apart and at least `from` generations old.
    #[must_use]
    pub fn since(&self, from: usize) -> Cohort {
        self.generations.iter().skip(from).fold(Cohort::default(), |sum, one| sum.plus(*one))
    }

    /// The living part of those that were allocated `from` or more generations ago.
    #[must_use]
    pub fn live_since(&self, from: usize) -> Amount {
        self.since(from).live.plus(self.older_live)
    }

    /// The freed part of the blocks that have become older than the generations told apart, from 0 to 1; nothing where
    /// there were none.
    #[must_use]
    pub fn late_deaths(&self) -> Option<f64> {
        let all = self.older_live.objects.saturating_add(self.older_freed.objects);
        (all > 0).then(|| self.older_freed.objects as f64 / all as f64)
    }

    /// The survival of two sites' blocks together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let mut sum = *self;
        for (generation, more) in sum.generations.iter_mut().zip(other.generations) {
            *generation = generation.plus(more);
        }
        sum.older_live = sum.older_live.plus(other.older_live);
        sum.older_freed = sum.older_freed.plus(other.older_freed);
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lives_is_told_by_age() {
        let amount = |objects| Amount { bytes: objects * 10, objects };
        let mut survival = Survival { older_live: amount(5), older_freed: amount(15), ..Survival::default() };
        survival.generations[0] = Cohort { born: amount(9), live: amount(9) };
        survival.generations[7] = Cohort { born: amount(9), live: amount(1) };
        assert_eq!(survival.live_since(0), amount(15));
        assert_eq!(survival.live_since(1), amount(6));
        assert_eq!(survival.since(4), Cohort { born: amount(9), live: amount(1) });
        assert_eq!(survival.late_deaths(), Some(0.75));
        assert_eq!(Survival::default().late_deaths(), None);
        assert_eq!(survival.plus(&survival).live_since(0), amount(30));
    }
}
