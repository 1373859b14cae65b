//! Allocation sites: a distinct stack of one process, with its counters.

use crate::ids::{ProcessSlot, SiteId, SiteIndex, StackId};

/// The kind of memory that a site allocates.
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
    /// Allocated and freed memory, by when it was allocated: at [`Generation::place`]. The oldest generation's place goes
    /// over to the newest as it is, so these are sums as well, of all generations that had the place: what became of one
    /// of them is the difference between two readings.
    pub generations: [Generation; GENERATIONS],
    /// The freed memory of blocks that were older than that.
    pub freed_older: Count,
    /// The variances of both sums, where these are estimates.
    pub alloc_variance: Variance,
    /// The same of what was freed.
    pub freed_variance: Variance,
    /// The memory that was allocated while windows were open. It is part of no other sum.
    pub window_alloc: Count,
    /// The part of it that was freed while its window's blocks were followed.
    pub window_freed: Count,
    /// The program's [`code_changes`] when it allocated here first.
    ///
    /// [`code_changes`]: crate::wire::process::Process::code_changes
    pub opened: u64,
}

impl Site {
    /// All that was ever allocated.
    #[must_use]
    pub fn alloc(&self) -> Weight {
        self.generations.iter().fold(Count::default(), |sum, one| sum.plus(one.alloc)).with(self.alloc_variance)
    }

    /// All that was ever freed.
    #[must_use]
    pub fn freed(&self) -> Weight {
        self.generations.iter().fold(self.freed_older, |sum, one| sum.plus(one.freed)).with(self.freed_variance)
    }
}

/// How many generations of blocks are told apart: those of the last half a minute.
pub const GENERATIONS: usize = 8;

/// How long a generation's births go on: 2 to this power of milliseconds, 4.096 s.
const GENERATION_SHIFT: u32 = 12;

/// Blocks that were allocated in the same four seconds: their sums.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(serde::Serialize, serde::Deserialize))]
pub struct Generation {
    /// The allocated memory.
    pub alloc: Count,
    /// The freed part of it.
    pub freed: Count,
}

impl Generation {
    /// The generation of what is allocated at this time ([`crate::wire::control::Control::now_ms`]), numbered from 0.
    #[inline(always)]
    #[must_use]
    pub const fn at(now_ms: u32) -> u32 {
        now_ms >> GENERATION_SHIFT
    }

    /// When a generation begins, in milliseconds since the start.
    #[must_use]
    pub const fn begins_ms(generation: u32) -> u64 {
        (generation as u64) << GENERATION_SHIFT
    }

    /// Where a generation's sums stand.
    #[inline(always)]
    #[must_use]
    pub const fn place(generation: u32) -> usize {
        generation as usize % GENERATIONS
    }

    /// Whether the place of what was allocated at `born_ms` is its own still.
    #[inline(always)]
    #[must_use]
    pub const fn is_told_apart(born_ms: u32, now_ms: u32) -> bool {
        ((Self::at(now_ms).wrapping_sub(Self::at(born_ms))) as usize) < GENERATIONS
    }
}

/// How sure two sums are: as in [`Weight`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Variance {
    /// Of bytes.
    pub bytes: u64,
    /// Of objects.
    pub objects: u64,
}

/// Blocks that were counted one by one; in a [`Generation`], what they stand for, as in [`Weight`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(serde::Serialize, serde::Deserialize))]
pub struct Count {
    /// Their bytes.
    pub bytes: u64,
    /// How many.
    pub objects: u64,
}

impl Count {
    /// Both together. Sums that were read while they moved may wrap around, and back.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self { bytes: self.bytes.wrapping_add(other.bytes), objects: self.objects.wrapping_add(other.objects) }
    }

    /// The increase since it was `then`; nothing where that is more, as readings in the moment may have it.
    #[must_use]
    pub const fn since(self, then: Self) -> Self {
        Self { bytes: self.bytes.saturating_sub(then.bytes), objects: self.objects.saturating_sub(then.objects) }
    }

    fn with(self, variance: Variance) -> Weight {
        Weight {
            bytes: self.bytes,
            objects: self.objects,
            bytes_variance: variance.bytes,
            objects_variance: variance.objects,
        }
    }
}

/// The memory that one sampled allocation stands for, or many do together. Where all are counted, one is its own bytes and one
/// object, without variance.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// Bytes.
    pub bytes: u64,
    /// Objects, in parts of [`OBJECT`] where they are samples.
    pub objects: u64,
    /// The variance that it adds to a sum of bytes, in [`BYTES_VARIANCE`] squared bytes.
    pub bytes_variance: u64,
    /// The variance that it adds to a sum of objects, in parts of [`OBJECTS_VARIANCE`].
    pub objects_variance: u64,
}

const _: () = assert!(size_of::<Site>() == 360);

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
    fn sums_are_those_of_all_generations_and_of_what_was_older() {
        let mut site = Site { freed_older: Count { bytes: 5, objects: 1 }, ..Site::default() };
        for (place, generation) in site.generations.iter_mut().enumerate() {
            generation.alloc = Count { bytes: 10 * place as u64, objects: 1 };
            generation.freed = Count { bytes: place as u64, objects: 0 };
        }
        assert_eq!((site.alloc().bytes, site.alloc().objects), (280, 8));
        assert_eq!((site.freed().bytes, site.freed().objects), (33, 1));
    }

    #[test]
    fn a_generation_is_told_apart_until_its_place_is_anothers() {
        let last_ms = |generation: u32| u32::try_from(Generation::begins_ms(generation + 1)).unwrap() - 1;
        assert_eq!(Generation::at(last_ms(3)), 3);
        assert!(Generation::is_told_apart(last_ms(3), last_ms(10)));
        assert!(!Generation::is_told_apart(last_ms(3), last_ms(10) + 1));
        assert_eq!(Generation::place(3), Generation::place(11));
    }

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
