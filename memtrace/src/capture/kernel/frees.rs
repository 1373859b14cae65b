//! Where blocks of some sites are freed: which are asked for, and what was seen.

use std::collections::HashSet;

use aya::maps::HashMap as BpfHashMap;
use memtrace_common::{free_side::FreeSide, site::SiteIndex, stack::StackId};

use super::{Kernel, KernelError, failed};

/// How many frees of a site are looked at from one asking to the next: a walk takes a few microseconds.
const FREES_A_TURN: u64 = 16;

impl Kernel {
    /// Asks for the stacks of the next frees at these sites, and at no others.
    pub fn want_frees(&mut self, sites: &[SiteIndex]) {
        let wanted: HashSet<SiteIndex> = sites.iter().copied().collect();
        for site in self.frees_wanted_of.difference(&wanted) {
            self.frees_wanted.set(site.0 as usize, 0);
        }
        for site in &wanted {
            self.frees_wanted.set(site.0 as usize, FREES_A_TURN);
        }
        self.frees_wanted_of = wanted;
    }

    /// How many blocks of each site were seen freed at each stack.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn free_sides(&self) -> Result<Vec<(FreeSide, u64)>, KernelError> {
        let sides: BpfHashMap<_, FreeSide, u64> = self.map("FREE_SIDES")?;
        sides.iter().collect::<Result<_, _>>().map_err(failed("read", "FREE_SIDES"))
    }

    /// Forgets what was seen of sites that are gone. Returns the stacks.
    pub(super) fn forget_free_sides(&mut self, gone: &HashSet<SiteIndex>) -> Result<HashSet<StackId>, KernelError> {
        let of_gone: Vec<FreeSide> =
            self.free_sides()?.into_iter().map(|(side, _)| side).filter(|side| gone.contains(&side.site)).collect();
        let mut sides: BpfHashMap<_, FreeSide, u64> = self.map_mut("FREE_SIDES")?;
        for side in &of_gone {
            // What is gone already need not be removed.
            _ = sides.remove(side);
        }
        for site in gone {
            self.frees_wanted.set(site.0 as usize, 0);
        }
        self.frees_wanted_of.retain(|site| !gone.contains(site));
        Ok(of_gone.into_iter().map(|side| side.stack).collect())
    }
}
