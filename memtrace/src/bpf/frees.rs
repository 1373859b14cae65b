//! Where blocks of some sites are freed: which are asked for, and what was seen.

use std::collections::HashSet;

use memtrace_common::{
    ids::{SiteIndex, StackId},
    wire::free_site::FreeSite,
};

use super::{error::BpfError, mapped_array::MappedArray, named_map::KeyedMap};

/// How many frees of a site are looked at from one asking to the next: a walk takes a few microseconds.
const FREES_A_TURN: u64 = 16;

/// The tables of frees.
pub(super) struct Frees {
    /// The number of further frees at each site whose stacks are wanted, and the sites with any.
    wanted: MappedArray<u64>,
    wanted_of: HashSet<SiteIndex>,
    seen: KeyedMap<FreeSite, u64>,
}

impl Frees {
    pub(super) fn new(wanted: MappedArray<u64>, seen: KeyedMap<FreeSite, u64>) -> Self {
        Self { wanted, wanted_of: HashSet::new(), seen }
    }

    /// Asks for the stacks of the next frees at these sites, and at no others.
    pub(super) fn want(&mut self, sites: &[SiteIndex]) {
        let wanted: HashSet<SiteIndex> = sites.iter().copied().collect();
        for site in self.wanted_of.difference(&wanted) {
            self.wanted.set(site.0 as usize, 0);
        }
        for site in &wanted {
            self.wanted.set(site.0 as usize, FREES_A_TURN);
        }
        self.wanted_of = wanted;
    }

    /// How many blocks of each site were seen freed at each stack.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub(super) fn seen(&self) -> Result<Vec<(FreeSite, u64)>, BpfError> {
        self.seen.entries()
    }

    /// Forgets what was seen of sites that are gone. Returns the stacks.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub(super) fn forget(&mut self, gone: &HashSet<SiteIndex>) -> Result<HashSet<StackId>, BpfError> {
        let seen = self.seen()?.into_iter().map(|(free_site, _)| free_site);
        let of_gone: Vec<FreeSite> = seen.filter(|free_site| gone.contains(&free_site.site)).collect();
        of_gone.iter().for_each(|free_site| self.seen.remove(free_site));
        for site in gone {
            self.wanted.set(site.0 as usize, 0);
        }
        self.wanted_of.retain(|site| !gone.contains(site));
        Ok(of_gone.into_iter().map(|free_site| free_site.stack).collect())
    }
}
