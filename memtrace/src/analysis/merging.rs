//! Which sites of a profile are one in reports.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
};

use memtrace_common::ids::SiteIndex;

use super::identity::folded;
use crate::{
    model::{category::Category, code_place::CodePlace, truncation::Truncation},
    profile::{stack::PlacedStack, subject::SubjectProfile, tracked_site::TrackedSite},
};

/// Sites that are one in reports.
pub(crate) type Parts<'a> = Vec<(SiteIndex, &'a TrackedSite)>;

/// A site of a report, as far as that is known before it is judged.
pub(super) struct MergedSite<'a> {
    /// Each round of recursion once.
    pub(super) places: Cow<'a, [CodePlace]>,
    /// Why outer frames are missing; nothing where none is.
    pub(super) truncation: Option<Truncation>,
    pub(super) category: Category,
    pub(super) parts: Parts<'a>,
    /// Their distinct stacks: more than one where they differ in the depth of a recursion.
    pub(super) stacks: HashSet<&'a [CodePlace]>,
}

/// The places of stacks, each round of recursion once, and whether all frames are there.
type Key<'a> = (Cow<'a, [CodePlace]>, bool, Category);

/// The sites of a key.
#[derive(Default)]
struct Sites<'a> {
    truncation: Option<Truncation>,
    parts: Parts<'a>,
    stacks: HashSet<&'a [CodePlace]>,
}

/// The sites, those of the same places taken together, however deep they recurse, of these categories.
pub(super) fn merged<'a>(profile: &'a SubjectProfile, categories: &[Category]) -> Vec<MergedSite<'a>> {
    let mut merged: HashMap<Key<'_>, Sites<'_>> = HashMap::new();
    for (index, tracked) in profile.sites.iter().filter(|(_, site)| categories.contains(&site.category)) {
        let (places, truncation) = match profile.stacks.get(&tracked.stack) {
            Some(PlacedStack { places, truncation, .. }) => (&places[..], *truncation),
            None => (&[][..], Some(Truncation::NotKept)),
        };
        let key = (folded(places), truncation.is_none(), tracked.category);
        let sites = merged.entry(key).or_insert_with(|| Sites { truncation, ..Sites::default() });
        sites.truncation = sites.truncation.min(truncation);
        sites.parts.push((*index, tracked));
        sites.stacks.insert(places);
    }
    join_cut_in_jit(&mut merged);
    let site = |((places, _, category), Sites { truncation, parts, stacks })| MergedSite {
        places,
        truncation,
        category,
        parts,
        stacks,
    };
    merged.into_iter().map(site).collect()
}

/// Joins stacks that were cut in code made at run time with the one stack that goes on from there.
///
/// Such code is walked by frame pointers, and keeps them at times: HotSpot's interpreter does, its compilers use the register for
/// anything. So a site would be two as soon as its callers are compiled. Where all whole stacks through this code agree on its
/// callers, these are the callers of the others as well; where several go on from there, nobody knows.
fn join_cut_in_jit<'a>(merged: &mut HashMap<Key<'a>, Sites<'a>>) {
    let is_cut_there = |(places, is_whole, _): &Key<'_>, truncation: Option<Truncation>| {
        !is_whole && places.last() == Some(&CodePlace::Jit) && truncation != Some(Truncation::TooDeep)
    };
    // The longest first: those that others may be joined with.
    let mut by_length: BTreeMap<usize, Vec<(Key<'a>, bool)>> = BTreeMap::new();
    for (key, sites) in merged.iter() {
        let is_cut = is_cut_there(key, sites.truncation);
        let length = if is_cut { key.0.len() } else { usize::MAX };
        by_length.entry(length).or_default().push((key.clone(), is_cut));
    }
    let keys: Vec<(Key<'a>, bool)> = by_length.into_values().rev().flatten().collect();
    let mut beyond: HashMap<(&[CodePlace], Category), Beyond<'_, 'a>> = HashMap::new();
    for (key, is_cut) in &keys {
        let (places, _, category) = key;
        if *is_cut && let Some(Beyond::One(other)) = beyond.get(&(&places[..], *category)).copied() {
            let joined = merged.remove(key).map(|sites| sites.parts).unwrap_or_default();
            if let Some(sites) = merged.get_mut(other) {
                sites.parts.extend(joined);
            }
            continue;
        }
        let inner = places.len().saturating_sub(1);
        for end in (0..inner).filter(|index| places[*index] == CodePlace::Jit) {
            let known = beyond.entry((&places[..=end], *category)).or_insert(Beyond::One(key));
            if !matches!(known, Beyond::One(other) if *other == key) {
                *known = Beyond::Several;
            }
        }
    }
}

/// The stacks that go on beyond some code.
#[derive(Clone, Copy)]
enum Beyond<'k, 'a> {
    One(&'k Key<'a>),
    Several,
}

#[cfg(test)]
mod tests {
    use super::*;
    use memtrace_common::ids::StackId;

    const JIT: CodePlace = CodePlace::Jit;

    fn at(file_offset: u64) -> CodePlace {
        CodePlace::File { image: 0, file_offset }
    }

    /// The stacks of reports, with why they are cut and of how many sites they are made.
    fn merged_of(stacks: &[(&[CodePlace], Option<Truncation>)]) -> Vec<(Vec<CodePlace>, Option<Truncation>, usize)> {
        let mut profile = SubjectProfile::default();
        for (number, (places, truncation)) in (1u32..).zip(stacks) {
            let id = StackId(number.into());
            let stack = PlacedStack { places: places.to_vec(), truncation: *truncation, ..PlacedStack::default() };
            profile.stacks.insert(id, stack);
            profile.sites.insert(SiteIndex(number), TrackedSite::new(id, Category::Heap));
        }
        let mut sites: Vec<_> = merged(&profile, &[Category::Heap])
            .into_iter()
            .map(|site| (site.places.to_vec(), site.truncation, site.parts.len()))
            .collect();
        sites.sort_by_key(|(places, truncation, _)| (places.len(), *truncation));
        sites
    }

    const NO_RULE: Option<Truncation> = Some(Truncation::NoRule);

    #[test]
    fn sites_of_the_same_places_are_one_whole_and_cut_apart() {
        let places = [at(1), at(2)];
        let merged = merged_of(&[
            (&places, None),
            (&places, None),
            (&places, NO_RULE),
            (&places, Some(Truncation::StackSwitch)),
        ]);
        let whole = (places.to_vec(), None, 2);
        assert_eq!(merged, [whole, (places.to_vec(), Some(Truncation::StackSwitch), 2)]);
    }

    #[test]
    fn a_stack_that_was_cut_in_jit_code_is_joined_with_the_one_that_goes_on() {
        let whole = [at(1), JIT, at(2), JIT, at(3)];
        let merged = merged_of(&[
            (&whole, None),
            (&whole[..2], NO_RULE),
            (&whole[..4], Some(Truncation::NoCode)),
            (&whole, None),
        ]);
        assert_eq!(merged, [(whole.to_vec(), None, 4)]);
        // Also where the longest is cut itself.
        let merged = merged_of(&[(&whole[..2], NO_RULE), (&whole[..4], NO_RULE)]);
        assert_eq!(merged, [(whole[..4].to_vec(), NO_RULE, 2)]);
    }

    #[test]
    fn where_several_go_on_nobody_knows() {
        let cut = [at(1), JIT];
        let merged = merged_of(&[(&[at(1), JIT, at(2)], None), (&[at(1), JIT, at(3)], None), (&cut, NO_RULE)]);
        assert_eq!(merged[0], (cut.to_vec(), NO_RULE, 1));
        assert_eq!(merged.len(), 3);
    }

    #[test]
    fn stacks_that_were_cut_elsewhere_stay_as_they_are() {
        let whole = [at(1), JIT, at(2), at(3)];
        for (cut, why) in [(&whole[..3], NO_RULE), (&whole[..1], NO_RULE), (&whole[..2], Some(Truncation::TooDeep))] {
            assert_eq!(merged_of(&[(&whole, None), (cut, why)]).len(), 2, "{cut:?}");
        }
        // Whole as it is: the thread has begun in such code.
        assert_eq!(merged_of(&[(&whole, None), (&whole[..2], None)]).len(), 2);
    }
}
