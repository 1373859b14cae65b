//! How much each map can hold, and what that takes of the kernel's memory.

use memtrace_common::{
    ids::{BlockKey, ProcessSlot, SiteId, SiteIndex, StackId},
    steps::{
        block_table::{Bucket, FILTER, buckets_for},
        call::PendingCall,
        sampling,
    },
    thread::{Thread, ThreadMemory},
    wire::{
        code::{CodeRange, CodeTable, Row, SPARE_ROWS},
        free_site::{FREE_SITES, FreeSite},
        process::Process,
        resident::Resident,
        site::Site,
        stack::StackRecord,
    },
};

use super::point::Scope;

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
    /// The room beyond that: memory is taken for it as it is needed, and for stacks as well. Nothing where all memory is taken at
    /// load.
    pub spare: Option<Spare>,
}

/// Room for which memory is taken as it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spare {
    /// Blocks beside [`Capacities::blocks`].
    blocks: u32,
    /// Rows beside [`Capacities::rows`], as entries of so many.
    row_entries: u32,
}

/// The size of the targets that are known before tables are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetSize {
    /// How many threads they have.
    pub threads: u32,
    /// Their resident memory, in bytes.
    pub resident_bytes: u64,
    /// The files whose code they have mapped, in bytes.
    pub image_bytes: u64,
}

/// The capacities that the user has asked for, which are taken or refused, and never changed.
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
    /// The number of pages of the machine whose content is known.
    pub page_frames: u64,
}

impl Extras {
    /// The sizes that these and others add together.
    #[must_use]
    pub fn plus(self, others: Self) -> Self {
        Self {
            address_spaces: self.address_spaces || others.address_spaces,
            pages: self.pages || others.pages,
            page_frames: self.page_frames.max(others.page_frames),
        }
    }
}

/// The least that tables are halved to: what a small program needs.
const LEAST: Capacities = Capacities {
    blocks: 1 << 15,
    sites: 1 << 11,
    stacks: 1 << 10,
    threads: 1 << 9,
    rows: 1 << 17,
    processes: 16,
    spare: None,
};

/// A target of less resident memory has room for half as many blocks in the array. The others are spare: each takes longer.
const SMALL_BYTES: u64 = 128 << 20;
/// There is room for so many times the threads that a target has, and for so many at least.
const THREADS_PER_THREAD: u32 = 16;
const LEAST_THREADS: u32 = 1 << 11;
/// A row for so many bytes of an image: of large ones, few have more (docs/PERFORMANCE.md, compiling call frame information). So
/// many at least.
const IMAGE_BYTES_PER_ROW: u64 = 96;
const LEAST_ROWS: u32 = 3 << 17;
/// The memory that the kernel takes for a spare block, an entry of spare rows and a stack, in bytes: its allocator has sizes of 96
/// bytes, and powers of two.
const SPARE_BLOCK_BYTES: u64 = 96;
const SPARE_ROWS_BYTES: u64 = 4096;
const STACK_BYTES: u64 = 2048;

/// Ranges of code, of all targets together: room for two thousand processes of thirty each.
pub(super) const MAX_RANGES: u32 = 1 << 16;
/// The room for changes of address spaces that were not read yet, in bytes: some 300,000.
pub(super) const MAPPING_EVENTS_BYTES: u32 = 16 << 20;
/// The least that a ring buffer can have.
#[expect(clippy::cast_possible_truncation, reason = "a page of any architecture is far smaller")]
pub(super) const PAGE_BYTES: u32 = memtrace_common::arch::PAGE_BYTES as u32;
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
        Self { blocks: 1 << 20, sites: 1 << 15, stacks: 1 << 15, threads: 1, rows: 1, processes: 64, spare: None }
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
                spare: None,
            },
            Scope::EveryProcess => Self {
                blocks: 1 << 20,
                sites: 1 << 17,
                stacks: 1 << 16,
                threads: 1 << 14,
                rows: 1 << 22,
                processes: 1 << 12,
                spare: None,
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
            spare: self.spare.filter(|_| halvings == 0),
        }
    }

    /// These with tables as large as such targets need, and room for the rest as it is needed; not where a size was asked for.
    #[must_use]
    pub fn sized_to(self, size: &TargetSize, asked: &Asked) -> Self {
        let threads =
            size.threads.saturating_mul(THREADS_PER_THREAD).clamp(LEAST_THREADS.min(self.threads), self.threads);
        let rows = u32::try_from(size.image_bytes / IMAGE_BYTES_PER_ROW).unwrap_or(u32::MAX);
        let rows = asked.rows.unwrap_or(rows.clamp(LEAST_ROWS.min(self.rows), self.rows));
        let is_small = size.resident_bytes < SMALL_BYTES && asked.blocks.is_none();
        let blocks = if is_small { self.blocks.div_ceil(2) } else { self.blocks };
        let spare =
            Spare { blocks: self.blocks - blocks, row_entries: (self.rows - rows.min(self.rows)).div_ceil(SPARE_ROWS) };
        Self { blocks, rows, threads: asked.threads.unwrap_or(threads), spare: Some(spare), ..self }
    }

    /// The spare room for blocks, in blocks.
    pub(super) fn spare_blocks(&self) -> u32 {
        self.spare.map_or(0, |spare| spare.blocks)
    }

    /// The spare room for rows, in entries of so many.
    pub(super) fn spare_rows(&self) -> u32 {
        self.spare.map_or(0, |spare| spare.row_entries)
    }

    /// The size of all maps together once all room is taken, in bytes.
    #[must_use]
    pub fn most_bytes(&self, extras: Extras) -> u64 {
        let taken = self.spare.map_or(0, |Spare { blocks, row_entries }| {
            u64::from(blocks) * SPARE_BLOCK_BYTES
                + u64::from(row_entries) * SPARE_ROWS_BYTES
                + u64::from(self.stacks) * STACK_BYTES
        });
        self.table_bytes(extras).saturating_add(taken)
    }

    /// How many places the table of threads has: a power of two.
    pub(super) fn thread_places(&self) -> u32 {
        self.threads.checked_next_power_of_two().unwrap_or(1 << 31)
    }

    /// The size of all maps together when they are made, in bytes.
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
            + if self.spare.is_some() { lists(stacks) } else { hash::<StackId, StackRecord>(stacks) }
            + lists(u64::from(self.spare_blocks().max(1)))
            + lists(u64::from(self.spare_rows().max(1)))
            + array::<Thread>(threads)
            + array::<ThreadMemory>(1)
            + hash::<BlockKey, PendingCall>(threads)
            + array::<Row>(rows)
            + array::<CodeRange>(u64::from(MAX_RANGES))
            + hash::<FreeSite, u64>(u64::from(FREE_SITES))
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
            + u64::from(if extras.address_spaces { MAPPING_EVENTS_BYTES } else { PAGE_BYTES })
    }
}

/// An array of so many, each of which begins at a whole word.
fn array<T>(entries: u64) -> u64 {
    entries * words::<T>()
}

fn hash<K, V>(entries: u64) -> u64 {
    entries * (HASH_ENTRY_BYTES + words::<K>() + words::<V>()) + lists(entries)
}

/// The lists of a hash map, without its entries.
pub(super) fn lists(entries: u64) -> u64 {
    entries.checked_next_power_of_two().unwrap_or(entries) * HASH_LIST_BYTES
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
    fn tables_of_a_small_target_take_half_and_hold_as_much() {
        let whole = Capacities::of(Scope::Targets);
        let size = TargetSize { threads: 5, resident_bytes: 10 * MIB, image_bytes: 16 * MIB };
        let small = whole.sized_to(&size, &Asked::default());
        let bytes = small.table_bytes(Extras::default());
        assert!(bytes < 72 * MIB, "{bytes}");
        assert_eq!(small.blocks + small.spare_blocks(), whole.blocks);
        assert!(small.rows + small.spare_rows() * SPARE_ROWS >= whole.rows);
        assert_eq!((small.threads, small.stacks, small.sites), (1 << 11, whole.stacks, whole.sites));
        assert!(small.most_bytes(Extras::default()) > bytes + 48 * MIB);
        let large = TargetSize { threads: 1000, resident_bytes: 1 << 30, image_bytes: 1 << 30 };
        let large = whole.sized_to(&large, &Asked::default());
        assert_eq!((large.blocks, large.threads, large.rows), (whole.blocks, whole.threads, whole.rows));
        let asked = Asked { blocks: Some(64), threads: Some(7), rows: Some(9), ..Asked::default() };
        let sized = whole.halved(0, &asked).sized_to(&size, &asked);
        assert_eq!((sized.blocks, sized.threads, sized.rows), (64, 7, 9));
        assert_eq!((sized.spare_blocks(), sized.spare_rows()), (0, 0));
    }

    #[test]
    fn what_is_smaller_than_the_least_stays() {
        let none = Capacities { blocks: 1, ..Capacities::of(Scope::Targets) };
        assert_eq!(none.halved(3, &Asked::default()).blocks, 1);
    }
}
