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
}

impl Ledger {
    /// By how much resident memory has grown, in bytes.
    #[must_use]
    pub fn grown_bytes(&self) -> i64 {
        difference(self.rss_bytes, self.rss_at_attach_bytes)
    }

    /// The growth that no live block explains, in bytes. Above zero: freed blocks that allocators keep, their bookkeeping around live
    /// ones, memory that is mapped directly or by an allocator that is not known, stacks of threads, pages of files. Below:
    /// memory that was not touched yet, or that lie in memory which was there before.
    #[must_use]
    pub fn unexplained_bytes(&self) -> i64 {
        let live = i64::try_from(self.live_heap_bytes.saturating_add(self.live_mmap_bytes)).unwrap_or(i64::MAX);
        self.grown_bytes().saturating_sub(live)
    }
}

fn difference(a: u64, b: u64) -> i64 {
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
        let absurd = Ledger { rss_bytes: u64::MAX, live_heap_bytes: u64::MAX, ..Ledger::default() };
        assert_eq!(absurd.unexplained_bytes(), 0);
    }
}
