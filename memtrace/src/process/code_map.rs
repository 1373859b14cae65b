//! The code that a process has or had mapped: a stack may be older than the newest look at its mappings.
//!
//! In: looks, each with its moment: how often the process had told of changes of its code by then. Out: the mapping that was at an
//! address at such a moment. Where several images came and went at an address, only a look at the same moment knows which of them
//! was there.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::RangeInclusive,
};

use super::maps::Mapping;

/// The most ranges that stay known once they are gone. (Half of those that the kernel side can hold.)
const MOST_GONE: usize = 2048;
/// The most observations of ranges whose place another has taken.
const MOST_REPLACED: usize = 512;
/// The most ranges of addresses that several images have had; where there are more, the nearest are taken for one.
const MOST_CONTESTED: usize = 1024;
/// To take the place of another, an image needs four changes: two for the other to go, and two to come. A look may see the other
/// after the first of these was told, and before it happened: then the image runs after three more.
const BEFORE_ANOTHER: u64 = 2;

/// The code that was mapped at an address.
#[derive(Debug, PartialEq, Eq)]
pub enum Code<'a> {
    /// Nothing that is known.
    Unmapped,
    /// One of several, and it is not known which.
    Unsure,
    /// This.
    In(&'a Mapping),
}

/// A range of code.
#[derive(Clone, Debug)]
struct Known {
    mapping: Mapping,
    /// The first and last moment of looks that saw it, of which none can have missed another in its place.
    seen: Option<(u64, u64)>,
    /// The number of the look that missed it first; nothing while it is there.
    gone: Option<u64>,
    /// Whether it was ever missed: then another may have been in its place that no look saw.
    is_fleeting: bool,
}

impl Known {
    fn holds(&self, address: u64) -> bool {
        self.mapping.start <= address && address < self.mapping.end
    }

    /// Whether it was there all the time `during` these moments, if it stayed so much `later` than it was seen.
    fn was_there(&self, during: &RangeInclusive<u64>, later: u64) -> bool {
        self.seen.is_some_and(|(from, to)| from <= *during.start() && *during.end() <= to.saturating_add(later))
    }

    /// Whether it was seen at one of these moments.
    fn reaches_into(&self, during: &RangeInclusive<u64>) -> bool {
        self.seen.is_some_and(|(from, to)| from <= *during.end() && *during.start() <= to)
    }
}

/// The older ranges that newer ones have put out of their place.
#[derive(Default)]
struct Displaced {
    /// The addresses at which there is another image than before.
    contested: Vec<(u64, u64)>,
    /// Those that were seen until then.
    runs: Vec<Known>,
}

/// The executable mappings that a process has or had.
#[derive(Clone, Debug, Default)]
pub struct CodeMap {
    /// Apart from each other, in order of addresses.
    known: Vec<Known>,
    mappings: Vec<Mapping>,
    /// Whose place others have taken, oldest first.
    replaced: VecDeque<Known>,
    /// The addresses at which there was more than one image: start and end.
    contested: BTreeMap<u64, u64>,
    /// How often `contested` has changed.
    contests: u64,
    looks: u64,
    /// How many ranges that were gone had to be forgotten since that was last asked.
    forgotten: u64,
}

impl CodeMap {
    /// Takes in a look at `moment`; nothing where changes were told while it was made. Ranges that are gone stay known until
    /// something else takes their place, or there are too many of them.
    pub fn update(&mut self, newer: Vec<Mapping>, moment: Option<u64>) {
        let Displaced { contested, runs } = self.merge(newer, moment);
        contested.into_iter().for_each(|(start, end)| self.contest(start, end));
        let runs = runs
            .into_iter()
            .filter(|known| known.is_fleeting || self.is_any_contested(known.mapping.start, known.mapping.end));
        let runs: Vec<Known> = runs.collect();
        self.replaced.extend(runs);
        let excess = self.replaced.len().saturating_sub(MOST_REPLACED);
        self.replaced.drain(..excess);
    }

    /// Takes in what a process has told that could not be looked at: the last of several at an address. All else stays as it was.
    pub fn learn(&mut self, told: Vec<Mapping>) {
        let before: Vec<Known> = self.known.clone();
        self.merge(told, None);
        let is_before = |known: &Known| before.binary_search_by_key(&known.mapping.start, |old| old.mapping.start).ok();
        for known in &mut self.known {
            if let Some(old) = is_before(known).map(|index| &before[index]).filter(|old| old.mapping == known.mapping) {
                (known.gone, known.is_fleeting) = (old.gone, old.is_fleeting);
            }
        }
    }

    /// The same in a process that was just forked: it has what the newest look has seen, and moments of its own.
    #[must_use]
    pub fn forked(&self) -> Self {
        let known = self.known.iter().map(|known| Known {
            seen: known.gone.is_none().then_some((0, 0)),
            is_fleeting: false,
            ..known.clone()
        });
        Self { known: known.collect(), mappings: self.mappings.clone(), looks: self.looks, ..Self::default() }
    }

    /// The code at `address` all the time `during` these moments. An image that came and went, but of which no look has seen
    /// that it took turns with another, was there if it was at their beginning.
    #[must_use]
    pub fn at(&self, address: u64, during: &RangeInclusive<u64>) -> Code<'_> {
        let known = self.find(address);
        let during = match (self.is_contested(address), known) {
            (true, _) => during.clone(),
            (false, None) => return Code::Unmapped,
            (false, Some(known)) if !known.is_fleeting => return Code::In(&known.mapping),
            (false, Some(_)) => *during.start()..=*during.start(),
        };
        let replaced = self.replaced.iter().filter(|known| known.holds(address));
        let candidates = || known.into_iter().chain(replaced.clone());
        let covers = |later: u64| candidates().find(|known| known.was_there(&during, later));
        match covers(0).or_else(|| covers(BEFORE_ANOTHER)) {
            Some(found)
                if candidates()
                    .filter(|known| known.reaches_into(&during))
                    .all(|other| is_same(&found.mapping, &other.mapping)) =>
            {
                Code::In(&found.mapping)
            }
            _ => Code::Unsure,
        }
    }

    /// Whether several images were at an address.
    #[must_use]
    pub fn is_contested(&self, address: u64) -> bool {
        self.is_any_contested(address, address.saturating_add(1))
    }

    fn is_any_contested(&self, start: u64, end: u64) -> bool {
        self.contested.range(..end).next_back().is_some_and(|(_, its_end)| start < *its_end)
    }

    /// How often addresses were found at which there was another image before.
    #[must_use]
    pub fn contests(&self) -> u64 {
        self.contests
    }

    /// Every range, in order of addresses.
    #[must_use]
    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    /// How many ranges were forgotten since this was last asked.
    pub fn take_forgotten(&mut self) -> u64 {
        std::mem::take(&mut self.forgotten)
    }

    fn find(&self, address: u64) -> Option<&Known> {
        let after = self.known.partition_point(|known| known.mapping.start <= address);
        self.known[..after].last().filter(|known| address < known.mapping.end)
    }

    /// Puts newer ranges in the place of older ones.
    fn merge(&mut self, newer: Vec<Mapping>, moment: Option<u64>) -> Displaced {
        self.looks += 1;
        let executable = newer.into_iter().filter(|mapping| mapping.executable);
        let seen = moment.map(|moment| (moment, moment));
        let mut all: Vec<Known> =
            executable.map(|mapping| Known { mapping, seen, gone: None, is_fleeting: false }).collect();
        all.sort_by_key(|known| known.mapping.start);
        let newer = all.len();
        let mut displaced = Displaced::default();
        for old in self.known.drain(..) {
            let (start, end) = (old.mapping.start, old.mapping.end);
            // Newer ranges are apart: those that reach into the old one are the last that begin below its end.
            let below = all[..newer].partition_point(|new| new.mapping.start < end);
            let reaching = all[..below].iter_mut().rev().take_while(|new| start < new.mapping.end);
            let (mut is_there, mut goes_on) = (false, false);
            for new in reaching {
                is_there = true;
                if is_same(&old.mapping, &new.mapping) {
                    new.seen = seen_again(old.seen, moment);
                    new.is_fleeting |= old.is_fleeting;
                    goes_on |= new.seen.map(|(from, _)| from) == old.seen.map(|(from, _)| from);
                } else {
                    displaced.contested.push((start.max(new.mapping.start), end.min(new.mapping.end)));
                }
            }
            match (is_there, goes_on) {
                (false, _) => all.push(Known {
                    gone: old.gone.or(Some(self.looks)),
                    is_fleeting: old.mapping.file.is_some(),
                    ..old
                }),
                (true, false) => displaced.runs.push(old),
                (true, true) => {}
            }
        }
        all.sort_by_key(|known| known.mapping.start);
        self.known = all;
        self.forget();
        self.mappings = self.known.iter().map(|known| known.mapping.clone()).collect();
        displaced
    }

    /// Keeps no more than there may be of what is gone.
    fn forget(&mut self) {
        let mut gone: Vec<(u64, u64)> =
            self.known.iter().filter_map(|known| Some((known.gone?, known.mapping.start))).collect();
        let Some(excess) = gone.len().checked_sub(MOST_GONE).filter(|excess| *excess > 0) else { return };
        let (_, first_kept, _) = gone.select_nth_unstable(excess);
        let first_kept = *first_kept;
        self.known.retain(|known| known.gone.is_none_or(|gone| (gone, known.mapping.start) >= first_kept));
        self.forgotten += excess as u64;
    }

    fn contest(&mut self, start: u64, end: u64) {
        let (mut start, mut end) = (start, end);
        while let Some((other, its_end)) =
            self.contested.range(..=end).next_back().filter(|(_, its_end)| **its_end >= start)
        {
            let (other, its_end) = (*other, *its_end);
            if other <= start && its_end >= end {
                return;
            }
            self.contested.remove(&other);
            (start, end) = (start.min(other), end.max(its_end));
        }
        self.contested.insert(start, end);
        self.contests += 1;
        if self.contested.len() > MOST_CONTESTED {
            let gaps = self.contested.iter().zip(self.contested.keys().skip(1));
            let nearest = gaps.min_by_key(|((_, end), next)| *next - *end).map(|((_, end), next)| (*end, *next));
            if let Some((end, next)) = nearest {
                self.contest(end, next);
            }
        }
    }
}

/// Whether two ranges are of one image, at the same place. Memory without a file is not told apart.
fn is_same(one: &Mapping, other: &Mapping) -> bool {
    let place = |mapping: &Mapping| mapping.start.wrapping_sub(mapping.file_offset);
    one.file == other.file && if one.file.is_some() { place(one) == place(other) } else { one.path == other.path }
}

/// The moments of looks that saw a range, which was seen again.
fn seen_again(seen: Option<(u64, u64)>, moment: Option<u64>) -> Option<(u64, u64)> {
    match (seen, moment) {
        (Some((from, to)), Some(moment)) if moment.saturating_sub(to) <= BEFORE_ANOTHER => Some((from, moment)),
        (_, Some(moment)) => Some((moment, moment)),
        (seen, None) => seen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::maps::{FileId, read};

    fn range(start: u64, end: u64, inode: u64) -> Mapping {
        Mapping {
            start,
            end,
            readable: true,
            writable: false,
            executable: true,
            shared: false,
            file_offset: 0,
            file: (inode != 0).then_some(FileId { device: (0, 1), inode }),
            path: format!("{inode}").into(),
            deleted: false,
        }
    }

    fn at(code: &CodeMap, address: u64, during: RangeInclusive<u64>) -> Result<u64, &'static str> {
        match code.at(address, &during) {
            Code::Unmapped => Err("unmapped"),
            Code::Unsure => Err("unsure"),
            Code::In(mapping) => Ok(mapping.file.map_or(0, |file| file.inode)),
        }
    }

    #[test]
    fn ranges_that_are_gone_stay_known_until_they_are_replaced() {
        let mut code = CodeMap::default();
        code.update(vec![range(0x1000, 0x2000, 1), range(0x3000, 0x4000, 2)], Some(0));
        code.update(vec![range(0x1800, 0x2800, 3)], Some(2));
        assert_eq!(at(&code, 0x3000, 2..=2), Ok(2));
        assert_eq!(at(&code, 0x1900, 2..=2), Ok(3));
        assert_eq!(at(&code, 0x1000, 2..=2), Err("unmapped"));
        assert_eq!(at(&code, 0x2800, 2..=2), Err("unmapped"));
    }

    #[test]
    fn an_address_is_of_the_image_that_was_there_at_the_moment() {
        let mut code = CodeMap::default();
        let libc = range(0x9000, 0xa000, 9);
        code.update(vec![range(0x1000, 0x2000, 1), libc.clone()], Some(2));
        code.update(vec![libc.clone()], Some(4));
        code.update(vec![range(0x1000, 0x2000, 2), libc.clone()], Some(6));
        assert_eq!((at(&code, 0x1100, 2..=2), at(&code, 0x1100, 6..=6)), (Ok(1), Ok(2)));
        assert_eq!(at(&code, 0x1100, 2..=6), Err("unsure"), "both were there");
        // Looks were put off: either may have been there.
        code.update(vec![range(0x1000, 0x2000, 2), libc.clone()], Some(100));
        assert_eq!(at(&code, 0x1100, 50..=50), Err("unsure"));
        assert_eq!((at(&code, 0x1100, 6..=6), at(&code, 0x1100, 100..=100)), (Ok(2), Ok(2)));
        // It was changing while it was looked at.
        code.update(vec![range(0x1000, 0x2000, 1), libc], None);
        assert_eq!(at(&code, 0x1100, 110..=110), Err("unsure"));
        assert_eq!(at(&code, 0x9100, 50..=50), Ok(9), "nothing else was ever there");
        // Nobody has told of a change.
        code.update(vec![range(0x1000, 0x2000, 2)], Some(120));
        code.update(vec![range(0x1000, 0x2000, 1)], Some(120));
        assert_eq!(at(&code, 0x1100, 120..=120), Err("unsure"));
    }

    #[test]
    fn an_image_that_came_and_went_is_told_where_it_was_seen() {
        let mut code = CodeMap::default();
        let plugin = || vec![range(0x1000, 0x2000, 1)];
        code.update(plugin(), Some(2));
        assert_eq!(at(&code, 0x1100, 40..=40), Ok(1), "it never was not there");
        code.update(vec![], Some(4));
        assert_eq!((at(&code, 0x1100, 2..=90), at(&code, 0x1100, 40..=40)), (Ok(1), Err("unsure")));
        code.update(plugin(), Some(90));
        assert_eq!((at(&code, 0x1100, 2..=2), at(&code, 0x1100, 90..=90)), (Ok(1), Ok(1)));
        assert_eq!((at(&code, 0x1100, 40..=40), code.contests()), (Err("unsure"), 0));
    }

    #[test]
    fn an_image_that_was_seen_while_it_went_is_not_told_once_another_runs() {
        let mut code = CodeMap::default();
        code.update(vec![range(0x1000, 0x2000, 1)], Some(2));
        code.update(vec![range(0x1000, 0x2000, 2)], Some(6));
        // Its linker has told that it goes, and it is there still.
        code.update(vec![range(0x1000, 0x2000, 1)], Some(11));
        let seen = [11..=11, 12..=12, 13..=13, 14..=14].map(|during| at(&code, 0x1100, during));
        assert_eq!(seen, [Ok(1), Ok(1), Ok(1), Err("unsure")]);
    }

    #[test]
    fn what_was_told_or_inherited_makes_nothing_unsure() {
        let mut code = CodeMap::default();
        code.update(vec![range(0x1000, 0x2000, 1), range(0x5000, 0x6000, 5)], Some(2));
        code.learn(vec![range(0x3000, 0x4000, 3)]);
        assert_eq!([0x1100, 0x3100, 0x5100].map(|address| at(&code, address, 50..=50)), [Ok(1), Ok(3), Ok(5)]);
        code.update(vec![range(0x1000, 0x2000, 2), range(0x5000, 0x6000, 5)], Some(60));
        let child = code.forked();
        assert_eq!([0x1100, 0x3100, 0x5100].map(|address| at(&child, address, 7..=7)), [Ok(2), Ok(3), Ok(5)]);
    }

    #[test]
    fn only_addresses_that_had_several_images_are_unsure() {
        let mut code = CodeMap::default();
        code.update(vec![range(0x1000, 0x3000, 1)], Some(2));
        code.update(vec![range(0x2000, 0x4000, 2)], Some(50));
        assert!(!code.is_contested(0x1fff) && code.is_contested(0x2000));
        assert!(code.is_contested(0x2fff) && !code.is_contested(0x3000));
        let contests = code.contests();
        // Memory of a compiler's that grows is no other image, nor is the same one loaded again.
        code.update(vec![range(0x2000, 0x4000, 2), range(0x8000, 0x9000, 0)], Some(52));
        code.update(vec![range(0x7000, 0x9000, 0)], Some(54));
        code.update(vec![range(0x2000, 0x4000, 2)], Some(58));
        assert_eq!(code.contests(), contests);
    }

    #[test]
    fn ranges_that_are_gone_take_no_more_than_their_room() {
        let mut code = CodeMap::default();
        for round in 0..100_u64 {
            let ranges = (0..100).map(|index| range((round * 100 + index) << 13, ((round * 100 + index) << 13) + 1, 0));
            code.update(ranges.collect(), Some(round));
        }
        assert_eq!(code.mappings().len(), 100 + MOST_GONE);
        assert_eq!(code.take_forgotten(), 9_900 - MOST_GONE as u64);
        assert_eq!((at(&code, 9_800 << 13, 99..=99), at(&code, 0, 99..=99)), (Ok(0), Err("unmapped")));
        for round in 0..10_000_u64 {
            let start = (round * 7919 % 5000) << 13;
            code.update(vec![range(start, start + 4096, 1 + round % 2)], Some(100 + 2 * round));
        }
        assert!(code.replaced.len() <= MOST_REPLACED && code.contested.len() <= MOST_CONTESTED);
    }

    #[test]
    fn our_own_code_is_found_in_our_own_mappings() {
        let mut code = CodeMap::default();
        code.update(read(std::process::id()).unwrap(), Some(0));
        let here = our_own_code_is_found_in_our_own_mappings as fn() as usize as u64;
        assert!(matches!(code.at(here, &(0..=0)), Code::In(mapping) if mapping.file.is_some()));
    }
}
