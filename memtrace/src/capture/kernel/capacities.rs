//! How much each map can hold, and what that takes of the kernel's memory.

use memtrace_common::{
    block_table::{Bucket, FILTER, buckets_for},
    free_side::{FREE_SIDES, FreeSide},
    pages::Resident,
    process::{Process, ProcessSlot},
    sampling,
    site::{Site, SiteId, SiteIndex},
    stack::{StackId, StackRecord},
    thread::{Thread, ThreadMemory},
    unwind::{CodeRange, CodeTable, Row},
};

use crate::capture::images::Scope;

/// How much each map can hold. All of it is allocated at load: an insert must not fail for want of
/// memory at a moment when the kernel cannot wait for some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacities {
    /// Blocks that are live at the same time.
    pub blocks: u32,
    /// Allocation sites.
    pub sites: u32,
    /// Distinct stacks.
    pub stacks: u32,
    /// Threads that allocate, at the same time.
    pub threads: u32,
    /// Unwind rows, of all images together.
    pub rows: u32,
    /// Targets at the same time.
    pub processes: u32,
}

/// Those of them that the user has asked for, which are taken or refused, and never changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// As [`Capacities::blocks`], and so on.
    pub blocks: Option<u32>,
    /// See [`Capacities::sites`].
    pub sites: Option<u32>,
    /// See [`Capacities::stacks`].
    pub stacks: Option<u32>,
    /// See [`Capacities::threads`].
    pub threads: Option<u32>,
    /// See [`Capacities::rows`].
    pub rows: Option<u32>,
    /// See [`Capacities::processes`].
    pub processes: Option<u32>,
}

/// Options that add to the size of the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// Whether changes of address spaces are told.
    pub address_spaces: bool,
    /// Whether it is told what makes pages resident.
    pub pages: bool,
    /// Of how many pages of the machine it is known what they hold.
    pub page_frames: u64,
}

/// The least that tables are halved to: what a small program needs.
const LEAST: Capacities =
    Capacities { blocks: 1 << 15, sites: 1 << 11, stacks: 1 << 10, threads: 1 << 9, rows: 1 << 17, processes: 16 };

/// Ranges of code, of all targets together: room for two thousand processes of thirty each.
pub(super) const MAX_RANGES: u32 = 1 << 16;
/// The room for changes of address spaces that were not read yet, in bytes: some 300,000.
pub(super) const VM_EVENTS_BYTES: u32 = 16 << 20;
/// The least that a ring buffer can have.
pub(super) const PAGE_BYTES: u32 = 4096;
/// The room for rare events, in bytes (memtrace-ebpf's `EVENTS`).
const EVENTS_BYTES: u64 = 256 << 10;

/// The kernel's own bytes beside the key and the value of an entry of a hash map, and for each list. There are as many lists as
/// entries, rounded up to a power of two (`struct htab_elem` and `struct bucket` of kernel/bpf/hashtab.c).
const HASH_ENTRY_BYTES: u64 = 48;
const HASH_LIST_BYTES: u64 = 16;

impl Capacities {
    /// Enough for the kernel's own memory. Its stacks are many, its processes those that were named.
    #[must_use]
    pub fn of_kernel() -> Self {
        Self { blocks: 1 << 20, sites: 1 << 15, stacks: 1 << 15, threads: 1, rows: 1, processes: 64 }
    }

    /// Enough for a few processes, or for a host full of them.
    #[must_use]
    pub fn of(scope: Scope) -> Self {
        match scope {
            Scope::Targets => Self {
                blocks: 1 << 20,
                sites: 1 << 15,
                stacks: 1 << 14,
                threads: 1 << 13,
                rows: 1 << 21,
                processes: 64,
            },
            Scope::EveryProcess => Self {
                blocks: 1 << 20,
                sites: 1 << 17,
                stacks: 1 << 16,
                threads: 1 << 14,
                rows: 1 << 22,
                processes: 1 << 12,
            },
        }
    }

    /// These, halved so often, but for what was asked for.
    #[must_use]
    pub fn halved(self, halvings: u32, asked: &Asked) -> Self {
        let part = |size: u32, least: u32, asked: Option<u32>| asked.unwrap_or((size >> halvings).max(least.min(size)));
        Self {
            blocks: part(self.blocks, LEAST.blocks, asked.blocks),
            sites: part(self.sites, LEAST.sites, asked.sites),
            stacks: part(self.stacks, LEAST.stacks, asked.stacks),
            threads: part(self.threads, LEAST.threads, asked.threads),
            rows: part(self.rows, LEAST.rows, asked.rows),
            processes: part(self.processes, LEAST.processes, asked.processes),
        }
    }

    /// The size of all maps together, in bytes.
    #[must_use]
    pub fn table_bytes(&self, extras: Extras) -> u64 {
        let [sites, stacks, threads, rows, processes] =
            [self.sites, self.stacks, self.threads, self.rows, self.processes].map(u64::from);
        let residents = if extras.pages { processes } else { 1 };
        let threads = threads.next_power_of_two();
        array::<Bucket>(u64::from(buckets_for(self.blocks)))
            + array::<u64>(u64::from(FILTER))
            + array::<Site>(sites)
            + array::<u64>(sites)
            + array::<SiteIndex>(sites)
            + hash::<SiteId, SiteIndex>(sites)
            + hash::<StackId, StackRecord>(stacks)
            + array::<Thread>(threads)
            + array::<ThreadMemory>(1)
            + array::<Row>(rows)
            + array::<CodeRange>(u64::from(MAX_RANGES))
            + hash::<FreeSide, u64>(u64::from(FREE_SIDES))
            + array::<Process>(processes)
            + array::<CodeTable>(processes)
            + array::<u64>(processes)
            + array::<ProcessSlot>(processes)
            + hash::<u32, ProcessSlot>(processes)
            + array::<Resident>(residents)
            + hash::<u64, ProcessSlot>(residents)
            + array::<u64>(u64::from(sampling::WEIGHTS + sampling::LOGARITHMS))
            + array::<u64>(extras.page_frames)
            + EVENTS_BYTES
            + u64::from(if extras.address_spaces { VM_EVENTS_BYTES } else { PAGE_BYTES })
    }
}

/// An array of so many, each of which begins at a whole word.
fn array<T>(entries: u64) -> u64 {
    entries * words::<T>()
}

fn hash<K, V>(entries: u64) -> u64 {
    let lists = entries.checked_next_power_of_two().unwrap_or(entries);
    entries * (HASH_ENTRY_BYTES + words::<K>() + words::<V>()) + lists * HASH_LIST_BYTES
}

const fn words<T>() -> u64 {
    size_of::<T>().next_multiple_of(8) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn tables_take_about_what_help_says() {
        let of = |scope| Capacities::of(scope).table_bytes(Extras::default()) / MIB;
        assert!((130..150).contains(&of(Scope::Targets)), "{}", of(Scope::Targets));
        assert!((270..310).contains(&of(Scope::EveryProcess)), "{}", of(Scope::EveryProcess));
    }

    #[test]
    fn each_halving_takes_about_half_and_leaves_what_was_asked_for() {
        let asked = Asked { blocks: Some(500_000), ..Asked::default() };
        let whole = Capacities::of(Scope::Targets);
        let least = whole.halved(5, &asked);
        assert_eq!((least.blocks, least.sites, least.rows), (500_000, LEAST.sites, LEAST.rows));
        assert_eq!(whole.halved(0, &Asked::default()), whole);
        let bytes = |halvings| whole.halved(halvings, &Asked::default()).table_bytes(Extras::default());
        assert!((1..=5).all(|halvings| bytes(halvings) < bytes(halvings - 1)));
        assert!(bytes(5) < 12 * MIB, "{}", bytes(5));
    }

    #[test]
    fn what_is_smaller_than_the_least_stays() {
        let none = Capacities { blocks: 1, ..Capacities::of(Scope::Targets) };
        assert_eq!(none.halved(3, &Asked::default()).blocks, 1);
    }
}
