//! The fate of a site's generations: differences between readings of the kernel side's sums, which generations take
//! over from one another.

use serde::{Deserialize, Serialize};

use memtrace_common::{
    steps::sampling::OBJECT,
    wire::site::{Count, GENERATIONS, Generation, Site as KernelSite},
};

use crate::model::survival::{Amount, Cohort, Survival};

/// One site.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct AgeCohorts {
    /// The sums when each of the present generations took its place.
    taken_over: [Generation; GENERATIONS],
}

/// The count of one object in the kernel side's sums: 1, or [`OBJECT`] where they are estimates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ObjectUnit(u64);

impl ObjectUnit {
    /// The unit of a run in which samples are taken, or not.
    pub(crate) fn of(is_sampled: bool) -> Self {
        Self(if is_sampled { OBJECT } else { 1 })
    }

    fn amount(self, count: Count) -> Amount {
        Amount { bytes: count.bytes, objects: (count.objects + self.0 / 2) / self.0 }
    }
}

impl AgeCohorts {
    /// `next` is the generation of what is allocated from now on, `last` of what was until now.
    pub(crate) fn turn(&mut self, site: &KernelSite, last: u32, next: u32) {
        for generation in (last + 1..=next).rev().take(GENERATIONS) {
            let place = Generation::place(generation);
            self.taken_over[place] = site.generations[place];
        }
    }

    /// The fate of the blocks, `generation` being that of blocks that are allocated now.
    pub(crate) fn survival(&self, site: &KernelSite, generation: u32, unit: ObjectUnit) -> Survival {
        let total =
            |of: fn(&Generation) -> Count| site.generations.iter().fold(Count::default(), |sum, one| sum.plus(of(one)));
        let older_freed = unit.amount(site.freed_older);
        let mut survival = Survival { older_freed, ..Survival::default() };
        let mut live = unit.amount(total(|one| one.alloc).since(total(|one| one.freed))).less(older_freed);
        for (age, cohort) in (0..=generation).rev().zip(&mut survival.generations) {
            let place = Generation::place(age);
            let (now, then) = (site.generations[place], self.taken_over[place]);
            let (born, freed) = (now.alloc.since(then.alloc), now.freed.since(then.freed));
            *cohort = Cohort { born: unit.amount(born), live: unit.amount(born.since(freed)) };
            live = live.less(cohort.live);
        }
        survival.older_live = live;
        survival
    }

    /// The blocks of the present `generation` that have been freed already.
    pub(crate) fn short_lived(&self, site: &KernelSite, generation: u32, unit: ObjectUnit) -> Amount {
        let place = Generation::place(generation);
        unit.amount(site.generations[place].freed.since(self.taken_over[place].freed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXACT: ObjectUnit = ObjectUnit(1);

    /// The kernel side's part, imitated.
    struct Site(KernelSite);

    impl Site {
        fn allocate(&mut self, generation: u32, objects: u64) {
            let sum = &mut self.0.generations[Generation::place(generation)].alloc;
            *sum = sum.plus(Count { bytes: objects * 10, objects });
        }

        fn free(&mut self, born: u32, now: u32, objects: u64) {
            let is_told_apart = ((now - born) as usize) < GENERATIONS;
            let place = Generation::place(born);
            let sum = if is_told_apart { &mut self.0.generations[place].freed } else { &mut self.0.freed_older };
            *sum = sum.plus(Count { bytes: objects * 10, objects });
        }
    }

    #[test]
    fn what_lives_is_told_by_generation_however_often_places_were_taken_over() {
        let (mut site, mut cohorts) = (Site(KernelSite::default()), AgeCohorts::default());
        for generation in 0..40 {
            site.allocate(generation, 10);
            // Four die in the next generation, two when they are ten generations old; four stay.
            if let Some(born) = generation.checked_sub(1) {
                site.free(born, generation, 4);
            }
            if let Some(born) = generation.checked_sub(10) {
                site.free(born, generation, 2);
            }
            if generation < 39 {
                cohorts.turn(&site.0, generation, generation + 1);
            }
        }
        let survival = cohorts.survival(&site.0, 39, EXACT);
        let live: Vec<u64> = survival.generations.iter().map(|cohort| cohort.live.objects).collect();
        assert_eq!(live, [10, 6, 6, 6, 6, 6, 6, 6]);
        assert!(survival.generations.iter().all(|cohort| cohort.born.objects == 10));
        assert_eq!((survival.older_live.objects, survival.older_freed.objects), (2 * 6 + 30 * 4, 60));
        assert_eq!(survival.live_since(0).bytes, (400 - 39 * 4 - 30 * 2) * 10);
    }

    #[test]
    fn generations_in_which_nobody_looked_are_empty() {
        let (mut site, mut cohorts) = (Site(KernelSite::default()), AgeCohorts::default());
        site.allocate(0, 7);
        cohorts.turn(&site.0, 0, 20);
        site.allocate(20, 3);
        let survival = cohorts.survival(&site.0, 20, EXACT);
        assert_eq!(survival.generations[0].born.objects, 3);
        assert_eq!((survival.since(1).born.objects, survival.older_live.objects), (0, 7));
    }

    #[test]
    fn what_dies_in_the_generation_it_was_born_in_is_short_lived() {
        let (mut site, cohorts) = (Site(KernelSite::default()), AgeCohorts::default());
        site.allocate(3, 7);
        site.free(3, 3, 5);
        assert_eq!(cohorts.short_lived(&site.0, 3, EXACT).objects, 5);
    }
}
