//! The holders of the blocks of a site, as the last look at the heap has found them.

use std::cmp::Reverse;

use memtrace_common::ids::SiteIndex;

use crate::{
    model::holders::{Marked, SiteHolders},
    profile::heap_history::HeapHistory,
};

/// The holders of the blocks of these sites, which are one in reports; nothing where none of their blocks was looked for and found.
pub(super) fn holders(history: &HeapHistory, sites: &[SiteIndex]) -> Option<SiteHolders> {
    let look = history.latest.as_ref()?;
    let told = look.heap.holders.as_ref()?;
    let mut holders = SiteHolders::default();
    for (number, _) in (0..).zip(&look.marked).filter(|(_, site)| sites.contains(site)) {
        let found =
            usize::try_from(number).ok().and_then(|number| told.marked.get(number)).copied().unwrap_or_default();
        let Marked { reached, unreached } = holders.marked;
        holders.marked = Marked { reached: reached.plus(found.reached), unreached: unreached.plus(found.unreached) };
        holders.ways.extend(told.ways_to(number));
    }
    holders.ways.sort_by_key(|way| Reverse(way.own().bytes));
    let Marked { reached, unreached } = holders.marked;
    (reached.objects + unreached.objects > 0).then_some(holders)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        model::{
            heap::Heap,
            holders::{BlockLabel, HolderLabel, HolderNode, HolderRoot, Holders},
            survival::Amount,
        },
        profile::heap_history::HeapLook,
    };

    fn amount(objects: u64) -> Amount {
        Amount { bytes: objects * 24, objects }
    }

    #[test]
    fn sites_that_are_one_share_their_ways_and_others_have_none() {
        let root = HolderLabel::Root(HolderRoot::Mapping("[heap]".into()));
        let node = |parent, label, mark, objects| HolderNode {
            parent,
            label,
            mark,
            own: amount(objects),
            below: Amount::default(),
            retained_bytes: 0,
        };
        let blocks = |mark, objects| node(Some(0), HolderLabel::Block(BlockLabel::Size(24)), Some(mark), objects);
        let marked = |reached, unreached| Marked { reached: amount(reached), unreached: amount(unreached) };
        let told = Holders {
            nodes: vec![node(None, root, None, 0), blocks(0, 1), blocks(2, 5)],
            marked: vec![marked(1, 0), marked(0, 3), marked(5, 0)],
            ..Holders::default()
        };
        let heap = Heap { holders: Some(told), ..Heap::default() };
        let sites = [7, 8, 9, 10].map(SiteIndex);
        let look = HeapLook { heap, marked: sites.to_vec(), ..HeapLook::default() };
        let history = HeapHistory { latest: Some(Arc::new(look)), ..HeapHistory::default() };
        let merged = holders(&history, &[sites[0], sites[2]]).unwrap();
        assert_eq!(merged.marked, marked(6, 0));
        assert_eq!(merged.ways.iter().map(|way| way.own().objects).collect::<Vec<_>>(), [5, 1]);
        let lost = holders(&history, &sites[1..2]).unwrap();
        assert_eq!((lost.marked, lost.ways.len()), (marked(0, 3), 0));
        assert_eq!(holders(&history, &sites[3..]), None, "its blocks are gone by then");
        assert_eq!(holders(&history, &[SiteIndex(1)]), None);
        assert_eq!(holders(&HeapHistory::default(), &sites), None);
    }
}
