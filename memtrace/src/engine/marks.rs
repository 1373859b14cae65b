//! Marks on the blocks of sites whose holders are worth knowing.

use std::collections::HashMap;

use memtrace_common::ids::{ProcessSlot, SiteIndex};

use super::targets::Targets;
use crate::{
    bpf::{Bpf, FoundBlock},
    model::holders::{MAX_MARK_NUMBERS, MAX_MARKS, Mark},
};

/// Marks, with the site that each number stands for, by the number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) sites: Vec<SiteIndex>,
    pub(super) marks: Vec<Mark>,
}

impl Targets {
    /// Marks on blocks of a target, as many of each site as there may be.
    pub(super) fn marks(&self, slot: ProcessSlot, bpf: &Bpf) -> Marks {
        let Some(followed) = self.get(slot) else { return Marks::default() };
        let sites: Vec<SiteIndex> = followed.profile.worth_holders().into_iter().take(MAX_MARK_NUMBERS).collect();
        if sites.is_empty() { Marks::default() } else { marks(sites, bpf.blocks(slot), MAX_MARKS) }
    }
}

fn marks(sites: Vec<SiteIndex>, blocks: Vec<FoundBlock>, most: usize) -> Marks {
    let most = most / sites.len().max(1);
    let mut places: HashMap<SiteIndex, (u32, usize)> =
        (0..).zip(&sites).map(|(number, site)| (*site, (number, most))).collect();
    let mark = |block: FoundBlock| {
        let (number, left) = places.get_mut(&block.site)?;
        *left = left.checked_sub(1)?;
        Some(Mark { address: block.address, number: *number })
    };
    let marks = blocks.into_iter().filter_map(mark).collect();
    Marks { sites, marks }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_these_sites_are_marked_up_to_the_share_of_each() {
        let block = |address, site| FoundBlock { address, size_bytes: 8, site: SiteIndex(site) };
        let blocks = vec![block(16, 7), block(32, 9), block(48, 8), block(64, 7), block(80, 7)];
        let sites = vec![SiteIndex(7), SiteIndex(8)];
        let mark = |address, number| Mark { address, number };
        let expected = vec![mark(16, 0), mark(48, 1), mark(64, 0)];
        assert_eq!(marks(sites.clone(), blocks.clone(), 4), Marks { sites, marks: expected });
        assert_eq!(marks(Vec::new(), blocks, 4), Marks::default());
    }
}
