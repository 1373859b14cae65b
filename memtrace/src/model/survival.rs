//! What has become of a site's blocks, by when they were allocated.

/// How many generations are told apart.
pub const GENERATIONS: usize = 8;

/// How long the births of one go on, in seconds.
pub const GENERATION_S: f64 = 4.096;

/// Blocks, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

    /// What is left without `other`; nothing where that is more, as readings in the moment may have it.
    #[must_use]
    pub fn less(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_sub(other.bytes), objects: self.objects.saturating_sub(other.objects) }
    }
}

/// The blocks of one generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cohort {
    /// What was allocated.
    pub born: Amount,
    /// What of it lives.
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survival {
    /// Those of the last half a minute, youngest first: the first generation's births go on.
    pub generations: [Cohort; GENERATIONS],
    /// What of older ones lives.
    pub older_live: Amount,
    /// What of those that had become older was freed.
    pub older_freed: Amount,
}

impl Survival {
    /// Those that are at least `from` generations old, and of those that are told apart.
    #[must_use]
    pub fn since(&self, from: usize) -> Cohort {
        self.generations.iter().skip(from).fold(Cohort::default(), |sum, one| sum.plus(*one))
    }

    /// What lives of those that were allocated `from` or more generations ago.
    #[must_use]
    pub fn live_since(&self, from: usize) -> Amount {
        self.since(from).live.plus(self.older_live)
    }

    /// Of the blocks that have become older than what is told apart, the part that was freed then, from 0 to 1; nothing where
    /// there were none.
    #[must_use]
    pub fn late_deaths(&self) -> Option<f64> {
        let all = self.older_live.objects.saturating_add(self.older_freed.objects);
        (all > 0).then(|| self.older_freed.objects as f64 / all as f64)
    }

    /// Of two sites, together.
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
