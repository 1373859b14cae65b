//! The kernel's own memory: who is asked about, where from it was taken, and what is known of each page.

use crate::{
    arch::PAGE_BYTES,
    ids::{ProcessSlot, SiteIndex},
};

/// Where the kernel as a whole stands in the table of targets.
pub const KERNEL: ProcessSlot = ProcessSlot(1);

/// Stands for the slab allocator in the keys of blocks. An object is seldom freed by the thread that allocated it, so that
/// keys do not name processes here.
pub const SLAB: ProcessSlot = ProcessSlot(1);

/// Stands for the per-CPU allocator in the keys of blocks, whose addresses are offsets.
pub const PER_CPU: ProcessSlot = ProcessSlot(2);

/// Stands for vmalloc in the keys of blocks.
pub const VMALLOC: ProcessSlot = ProcessSlot(3);

/// Whose allocations are recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Scope {
    /// All of the kernel's, also in interrupts and its own threads.
    #[default]
    Host = 0,
    /// Those in the context of targets.
    Targets = 1,
    /// Those in the context of processes with the short name [`crate::wire::control::Control::comm`].
    Comm = 2,
    /// Those in the context of processes in the cgroup of the map `CGROUPS`, or below.
    Cgroup = 3,
}

/// Which of the kernel's allocators a site's memory is from: codes of [`crate::wire::site::Site::category`] beside those of
/// [`crate::wire::site::Category`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Source {
    /// The slab allocator's objects (kmalloc, kmem_cache_alloc).
    Slab = 16,
    /// Whole pages.
    Pages = 17,
    /// The per-CPU allocator's areas: one for each CPU, counted together.
    PerCpu = 18,
    /// Areas of the kernel's addresses that vmalloc has put pages behind, or that something else was mapped to.
    Vmalloc = 19,
}

/// A code that names no [`Source`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownSource(pub u32);

impl TryFrom<u32> for Source {
    type Error = UnknownSource;

    fn try_from(code: u32) -> Result<Self, UnknownSource> {
        match code {
            16 => Ok(Self::Slab),
            17 => Ok(Self::Pages),
            18 => Ok(Self::PerCpu),
            19 => Ok(Self::Vmalloc),
            other => Err(UnknownSource(other)),
        }
    }
}

/// The state of one page of the machine, in one word that is read and changed as one.
///
/// A block of pages may be freed in parts and in other orders than it was allocated in, so each page is known by itself.
/// The block is one object, which its first page stands for.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageEntry(pub u64);

impl PageEntry {
    /// Free, or allocated before counting began, or unseen.
    pub const UNKNOWN: Self = Self(0);
    /// Allocated, but nobody's who is asked about.
    pub const NOT_COUNTED: Self = Self(1 << 30);
    /// Set where it is the first of its block.
    const FIRST: u64 = 1 << 31;
    /// The site: there are at most 2^27.
    const SITE: u64 = (1 << 30) - 1;

    /// A page that was allocated at a site; `born_ms` as [`crate::wire::control::Control::now_ms`].
    #[inline(always)]
    #[must_use]
    pub const fn new(site: SiteIndex, born_ms: u32) -> Self {
        Self((born_ms as u64) << 32 | site.0 as u64 & Self::SITE)
    }

    /// The same, as the first of its block.
    #[inline(always)]
    #[must_use]
    pub const fn first(self) -> Self {
        Self(self.0 | Self::FIRST)
    }

    /// Whether it is the first of its block.
    #[inline(always)]
    #[must_use]
    pub const fn is_first(self) -> bool {
        self.0 & Self::FIRST != 0
    }

    /// The site that is charged for it; [`SiteIndex::NONE`] where none is.
    #[inline(always)]
    #[must_use]
    pub const fn site(self) -> SiteIndex {
        SiteIndex((self.0 & Self::SITE) as u32)
    }

    /// When it was allocated, as [`crate::wire::control::Control::now_ms`].
    #[inline(always)]
    #[must_use]
    pub const fn born_ms(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Pages of one site that were found while going over a block of pages, most often all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The site; [`SiteIndex::NONE`] where nothing was found yet.
    pub site: SiteIndex,
    /// Their bytes.
    pub bytes: u64,
    /// How many of them are the first of a block.
    pub objects: u64,
}

impl Found {
    /// Takes in what stood for the next page. Returns what was found at another site before that, and is complete.
    #[inline(always)]
    #[must_use]
    pub fn add(&mut self, entry: PageEntry) -> Option<Self> {
        let site = entry.site();
        if site.0 == SiteIndex::NONE.0 {
            return None;
        }
        let before = *self;
        let objects = entry.is_first() as u64;
        if before.site.0 == site.0 {
            self.bytes += PAGE_BYTES;
            self.objects += objects;
            return None;
        }
        *self = Self { site, bytes: PAGE_BYTES, objects };
        if before.site.0 == SiteIndex::NONE.0 { None } else { Some(before) }
    }
}

/// Where a page stands in the table of pages, which has `frames` entries: `page` is the address of its `struct page`, of
/// `page_bytes` bytes.
///
/// Where the table of those begins is not known (some architectures choose it at boot), and need not be: they lie one
/// behind the other, so that no two of `frames` neighbours get the same place.
#[inline(always)]
#[must_use]
pub const fn place_of_page(page: u64, page_bytes: u64, frames: u64) -> u64 {
    // Nothing that could panic: the kernel side would be refused.
    match page.checked_div(page_bytes) {
        Some(index) => place_after(index, 0, frames),
        None => 0,
    }
}

/// Where the page so many behind one stands.
#[inline(always)]
#[must_use]
pub const fn place_after(place: u64, distance: u64, frames: u64) -> u64 {
    match place.wrapping_add(distance).checked_rem(frames) {
        Some(place) => place,
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// The kernel side's table, as it goes over it.
    struct Table {
        entries: Vec<PageEntry>,
        live: BTreeMap<u32, (u64, u64)>,
    }

    impl Table {
        fn give_back(&mut self, found: Found) {
            if found.site != SiteIndex::NONE {
                let live = self.live.get_mut(&found.site.0).unwrap();
                live.0 -= found.bytes;
                live.1 -= found.objects;
            }
        }

        fn put(&mut self, first: usize, order: u32, entry: PageEntry) {
            let mut found = Found::default();
            for page in first..first + (1 << order) {
                let new = if page == first && entry != PageEntry::UNKNOWN { entry.first() } else { entry };
                let old = std::mem::replace(&mut self.entries[page], new);
                if let Some(complete) = found.add(old) {
                    self.give_back(complete);
                }
            }
            self.give_back(found);
        }

        fn allocate(&mut self, first: usize, order: u32, site: u32) {
            let live = self.live.entry(site).or_default();
            live.0 += PAGE_BYTES << order;
            live.1 += 1;
            self.put(first, order, PageEntry::new(SiteIndex(site), 7));
        }
    }

    proptest! {
        #[test]
        fn whatever_the_orders_of_frees_what_is_live_is_what_was_not_freed(
            steps in prop::collection::vec((any::<bool>(), 0usize..64, 0u32..5, 1u32..4), 1..200),
        ) {
            let mut table = Table { entries: vec![PageEntry::UNKNOWN; 64], live: BTreeMap::new() };
            // By page: its site, and whether it is the first of its block.
            let mut truth: Vec<Option<(u32, bool)>> = vec![None; 64];
            for (allocates, page, order, site) in steps {
                let first = page >> order << order;
                for (page, owner) in truth.iter_mut().enumerate().skip(first).take(1 << order) {
                    *owner = allocates.then_some((site, page == first));
                }
                if allocates {
                    table.allocate(first, order, site);
                } else {
                    table.put(first, order, PageEntry::UNKNOWN);
                }
                for site in 1..4 {
                    let owned = truth.iter().flatten().filter(|(owner, _)| *owner == site);
                    let bytes = owned.clone().count() as u64 * PAGE_BYTES;
                    let objects = owned.filter(|(_, is_first)| *is_first).count() as u64;
                    prop_assert_eq!(table.live.get(&site).copied().unwrap_or_default(), (bytes, objects));
                }
            }
        }
    }

    #[test]
    fn a_page_tells_its_site_its_age_and_whether_it_is_the_first() {
        let entry = PageEntry::new(SiteIndex(1 << 27), u32::MAX);
        assert_eq!((entry.site(), entry.born_ms(), entry.is_first()), (SiteIndex(1 << 27), u32::MAX, false));
        assert!(entry.first().is_first() && entry.first().site() == entry.site());
        for nobodys in [PageEntry::UNKNOWN, PageEntry::NOT_COUNTED, PageEntry::NOT_COUNTED.first()] {
            assert_eq!(nobodys.site(), SiteIndex::NONE);
        }
        assert_ne!(PageEntry::NOT_COUNTED, PageEntry::UNKNOWN);
    }

    #[test]
    fn neighbours_have_places_of_their_own_wherever_the_table_begins() {
        for (base, page_bytes, frames) in [(0xffff_ea00_0000_0000, 64, 1000), (0xffd4_0000_4000_0000, 80, 77_777)] {
            let places: std::collections::HashSet<u64> =
                (0..frames).map(|frame| place_of_page(base + frame * page_bytes, page_bytes, frames)).collect();
            assert_eq!(places.len() as u64, frames);
        }
    }

    #[test]
    fn every_source_has_its_own_code() {
        for source in [Source::Slab, Source::Pages, Source::PerCpu, Source::Vmalloc] {
            assert_eq!(Source::try_from(source as u32), Ok(source));
            assert!(crate::wire::site::Category::try_from(source as u32).is_err());
        }
        assert_eq!(Source::try_from(0), Err(UnknownSource(0)));
    }
}
