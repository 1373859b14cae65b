//! Allocation sites: a distinct stack of one process, with its counters.

use crate::{process::ProcessSlot, sampling::Weight, stack::StackId};

/// Names an allocation site by what it is: [`SiteId::of`] its program, stack and kind of memory.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteId(pub u64);

impl SiteId {
    /// The site of `stack` in the program at `process`, of memory of one [`Category`], given as its code.
    #[inline(always)]
    #[must_use]
    pub fn of(stack: StackId, process: ProcessSlot, category: u32) -> Self {
        Self(crate::stack::mix(stack.0 ^ crate::stack::mix((category as u64) << 32 | process.0 as u64)))
    }
}

/// Where an allocation site's counters stand in the table of sites: a block remembers this, so that its
/// free costs no search. Sites are numbered from 1.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteIndex(pub u32);

impl SiteIndex {
    /// No site.
    pub const NONE: Self = Self(0);
}

/// What kind of memory a site allocates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Category {
    /// From an allocator's functions. The kernel side counts.
    Heap = 0,
    /// Mapped by the program itself. User space counts, because ranges can be split.
    Mmap = 1,
    /// Pages of anonymous memory, from when they became resident.
    AnonymousPages = 2,
    /// The same of files.
    FilePages = 3,
    /// The same of shared memory.
    SharedPages = 4,
    /// Pages that a process had in common with another until it wrote to them (copy on write): resident memory of the
    /// host grows, the process's own does not.
    CopiedPages = 5,
}

/// A code that names no [`Category`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownCategory(pub u32);

impl TryFrom<u32> for Category {
    type Error = UnknownCategory;

    fn try_from(code: u32) -> Result<Self, UnknownCategory> {
        match code {
            0 => Ok(Self::Heap),
            1 => Ok(Self::Mmap),
            2 => Ok(Self::AnonymousPages),
            3 => Ok(Self::FilePages),
            4 => Ok(Self::SharedPages),
            5 => Ok(Self::CopiedPages),
            other => Err(UnknownCategory(other)),
        }
    }
}

/// One allocation site and what it has done so far.
///
/// Sums only grow. `live = alloc - freed` is left to the reader, so that it holds by construction.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// The stack that allocates here.
    pub stack: StackId,
    /// The program; [`ProcessSlot::NONE`] where the place in the table is not in use.
    pub process: ProcessSlot,
    /// A [`Category`] code.
    pub category: u32,
    /// All that was ever allocated.
    pub alloc: Weight,
    /// All that was ever freed.
    pub freed: Weight,
    /// What was allocated while windows were open. It is part of no other sum.
    pub window_alloc: Count,
    /// What of it was freed while its window's blocks were followed.
    pub window_freed: Count,
}

/// Blocks that were counted one by one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Their bytes.
    pub bytes: u64,
    /// How many.
    pub objects: u64,
}

const _: () = assert!(size_of::<Site>() == 112);

/// How many sites a thread remembers, by the low bits of their ids: a power of two.
pub const REMEMBERED_SITES: usize = 16;

#[inline(always)]
fn place_of(id: SiteId) -> usize {
    usize::from(id.0.to_le_bytes()[0]) % REMEMBERED_SITES
}

/// The sites at which a thread has allocated lately.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecentSites {
    ids: [SiteId; REMEMBERED_SITES],
    indices: [SiteIndex; REMEMBERED_SITES],
}

impl RecentSites {
    /// Where the counters of a site stand, if the thread remembers it.
    #[inline(always)]
    #[must_use]
    pub fn find(&self, id: SiteId) -> Option<SiteIndex> {
        let at = place_of(id);
        if self.ids[at] == id { Some(self.indices[at]) } else { None }
    }

    /// Remembers a site, in place of another one.
    #[inline(always)]
    pub fn remember(&mut self, id: SiteId, index: SiteIndex) {
        let at = place_of(id);
        self.ids[at] = id;
        self.indices[at] = index;
    }
}

const _: () = assert!(size_of::<RecentSites>() == 192);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_found_until_another_takes_its_place() {
        let mut recent = RecentSites::default();
        let (one, other) = (SiteId(5), SiteId(5 + REMEMBERED_SITES as u64));
        assert_eq!(recent.find(one), None);
        recent.remember(one, SiteIndex(7));
        assert_eq!(recent.find(one), Some(SiteIndex(7)));
        assert_eq!(recent.find(other), None);
        recent.remember(other, SiteIndex(8));
        assert_eq!(recent.find(one), None);
    }
}
