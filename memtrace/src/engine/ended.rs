//! The targets of a run that have ended, as far as they are kept: those that allocated most, and one for each leak suspect. Of
//! the others only sums are.

use std::{collections::HashSet, sync::Arc};

use crate::{
    analysis::{sites::suspects, view::View},
    model::{figures::FigureKind, run::Unlisted},
    profile::subject::SubjectProfile,
};

/// How many are kept with their sites.
const MAX_ENDED: usize = 256;
/// How many sites they may have together: a compiler has tens of thousands, a kilobyte each.
const MAX_ENDED_SITES: usize = 1 << 16;
/// How many are kept besides for a leak suspect that no other has.
const MAX_FOR_SUSPECTS: usize = MAX_ENDED / 4;

/// All that is left of one that has ended.
pub(super) struct EndedTarget {
    pub(super) profile: Arc<SubjectProfile>,
    /// Whether it was to be looked at when it ended, and was not.
    pub(super) is_unchecked: bool,
}

/// Those that have ended.
#[derive(Default)]
pub(super) struct Ended {
    pub(super) kept: Vec<EndedTarget>,
    pub(super) unlisted: Unlisted,
}

impl Ended {
    /// Whether there is no room for all that are kept.
    pub(super) fn is_overfull(&self) -> bool {
        let sites: usize = self.kept.iter().map(|ended| ended.profile.site_count()).sum();
        self.kept.len() > MAX_ENDED || sites > MAX_ENDED_SITES
    }

    /// Lets go of those that there is no room for; `view` is as reports have it at the moment.
    pub(super) fn let_go(&mut self, view: &View<'_>) {
        let figures = FigureKind::of(view.categories);
        let allocated = |ended: &EndedTarget| ended.profile.totals(figures).alloc_bytes;
        self.kept.sort_by_cached_key(|ended| std::cmp::Reverse(allocated(ended)));
        let of_each: Vec<Vec<u64>> = self.kept.iter().map(|ended| suspects(&ended.profile, view)).collect();
        let largest = how_many_are_kept(self.kept.iter().map(|ended| ended.profile.site_count()));
        let (is_kept, lost) = keep(&of_each, largest);
        self.unlisted.suspects += lost;
        for (ended, is_kept) in std::mem::take(&mut self.kept).into_iter().zip(is_kept) {
            if is_kept {
                self.kept.push(ended);
            } else {
                self.unlisted.processes += 1;
                self.unlisted.unchecked += u64::from(ended.is_unchecked);
                self.unlisted.totals = self.unlisted.totals.plus(&ended.profile.totals(figures));
            }
        }
    }
}

/// Which of those are kept whose suspects these are: so many of the first, and of the others those with a suspect that is in none
/// before. That one stands for all that have it: whatever lets it pass goes by its stack alone. Returns also how many suspects
/// find no place.
fn keep(suspects: &[Vec<u64>], largest: usize) -> (Vec<bool>, usize) {
    let mut seen = HashSet::new();
    let (mut kept, mut lost) = (0, 0);
    let is_kept = suspects.iter().enumerate().map(|(index, own)| {
        let new = own.iter().filter(|id| seen.insert(**id)).count();
        if index < largest {
            return true;
        }
        let is_kept = new > 0 && kept < MAX_FOR_SUSPECTS;
        kept += usize::from(is_kept);
        lost += if is_kept { 0 } else { new };
        is_kept
    });
    (is_kept.collect(), lost)
}

/// How many of those that have ended, which have so many sites each, stay. Half of what there is room for goes with the
/// rest, so that not every end makes work. The first always stays: it may be all that was asked for.
fn how_many_are_kept(sites: impl Iterator<Item = usize>) -> usize {
    let sums = sites.scan(0usize, |sum, sites| {
        *sum = sum.saturating_add(sites);
        Some(*sum)
    });
    sums.take(MAX_ENDED / 2).take_while(|sum| *sum <= MAX_ENDED_SITES / 2).count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_those_that_have_ended_so_many_stay_as_there_is_room_for_with_their_sites() {
        assert_eq!(how_many_are_kept([10; 1000].into_iter()), MAX_ENDED / 2);
        assert_eq!(how_many_are_kept([MAX_ENDED_SITES / 4; 10].into_iter()), 2);
        assert_eq!(how_many_are_kept([2 * MAX_ENDED_SITES, 1].into_iter()), 1);
    }

    #[test]
    fn no_suspect_goes_with_those_that_are_let_go() {
        let suspects = [vec![1], vec![], vec![1], vec![2, 1], vec![2], vec![]];
        assert_eq!(keep(&suspects, 2), (vec![true, true, false, true, false, false], 0));
        let different: Vec<Vec<u64>> = (0..100).map(|id| vec![id]).collect();
        let (is_kept, lost) = keep(&different, 1);
        assert_eq!(is_kept.iter().filter(|is_kept| **is_kept).count(), 1 + MAX_FOR_SUSPECTS);
        assert_eq!(lost, 99 - MAX_FOR_SUSPECTS);
    }
}
