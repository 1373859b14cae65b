//! The truth about a process's memory, added up: what it has, what of that is known, and what is not.

/// Resident memory against live blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Resident memory when the process was first read, in bytes: from before attach, so that nobody can tell what it is.
    pub rss_at_attach_bytes: u64,
    /// Resident memory now.
    pub rss_bytes: u64,
    /// Live bytes of what was allocated since attach, by allocators' functions.
    pub live_heap_bytes: u64,
    /// The same of what the program has mapped by itself; 0 where that is not followed.
    pub live_mmap_bytes: u64,
    /// Events that are missing from these figures, of all causes.
    pub lost_events: u64,
    /// Frees of blocks from before attach.
    pub unmatched_frees: u64,
    /// The parts of resident memory from before attach; nothing where no look has told them.
    pub before_attach: Option<BeforeAttach>,
    /// The growth since then that looks tell of; nothing without a look after the first.
    pub explained: Option<Explained>,
}

/// The parts of resident memory as of attach, in bytes. They add up to [`Ledger::rss_at_attach_bytes`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BeforeAttach {
    /// Live blocks of allocators, with their headers.
    pub live_bytes: u64,
    /// Free inside allocators, on pages that cannot be given back one by one.
    pub free_bytes: u64,
    /// Free inside allocators, on whole pages that they could give back.
    pub returnable_bytes: u64,
    /// All else: files, stacks, mappings of no allocator that is known.
    pub other_bytes: u64,
}

/// Growth of resident memory since attach that is in no live block, by what it is, in bytes; below zero where there is less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Explained {
    /// Free inside allocators.
    pub free_bytes: i64,
    /// In live blocks beside the bytes that were asked for since attach: headers and rounding, less blocks from before attach that
    /// were freed, less blocks that were not touched.
    pub blocks_bytes: i64,
    /// Pages of files, and of shared memory.
    pub files_bytes: i64,
    /// Stacks of threads.
    pub stacks_bytes: i64,
}

impl Explained {
    /// All of it.
    #[must_use]
    pub fn bytes(&self) -> i64 {
        [self.free_bytes, self.blocks_bytes, self.files_bytes, self.stacks_bytes]
            .into_iter()
            .fold(0, i64::saturating_add)
    }
}

impl Ledger {
    /// By how much resident memory has grown, in bytes.
    #[must_use]
    pub fn grown_bytes(&self) -> i64 {
        difference(self.rss_bytes, self.rss_at_attach_bytes)
    }

    /// The growth that neither live blocks nor looks explain, in bytes. Above zero: memory that is mapped directly or by an allocator
    /// that is not known and, where there was no look after the first, freed blocks that allocators keep, their bookkeeping around
    /// live ones, stacks of threads, pages of files. Below: memory that was not touched yet, or that lies in memory which was there
    /// before.
    #[must_use]
    pub fn unexplained_bytes(&self) -> i64 {
        let live = i64::try_from(self.live_heap_bytes.saturating_add(self.live_mmap_bytes)).unwrap_or(i64::MAX);
        let explained = self.explained.map_or(0, |explained| explained.bytes());
        self.grown_bytes().saturating_sub(live).saturating_sub(explained)
    }
}

/// How much more `a` is than `b`.
#[must_use]
pub fn difference(a: u64, b: u64) -> i64 {
    i64::try_from(i128::from(a) - i128::from(b)).unwrap_or(if a > b { i64::MAX } else { i64::MIN })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_explained_is_growth_without_what_is_live() {
        let ledger = Ledger {
            rss_at_attach_bytes: 100,
            rss_bytes: 180,
            live_heap_bytes: 50,
            live_mmap_bytes: 10,
            ..Ledger::default()
        };
        assert_eq!((ledger.grown_bytes(), ledger.unexplained_bytes()), (80, 20));
        let untouched = Ledger { rss_at_attach_bytes: 100, rss_bytes: 90, live_heap_bytes: 50, ..Ledger::default() };
        assert_eq!((untouched.grown_bytes(), untouched.unexplained_bytes()), (-10, -60));
        let explained = Explained { free_bytes: 30, blocks_bytes: -5, ..Explained::default() };
        assert_eq!(Ledger { explained: Some(explained), ..ledger }.unexplained_bytes(), -5);
        let absurd = Ledger { rss_bytes: u64::MAX, live_heap_bytes: u64::MAX, ..Ledger::default() };
        assert_eq!(absurd.unexplained_bytes(), 0);
    }
}
