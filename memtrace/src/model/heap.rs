//! The content of a process's heap at one look from outside: what its allocators hold now, whenever it was allocated.
//!
//! Bytes are those that a program may use of its blocks (`malloc_usable_size`), as requested sizes are not kept.

use std::{ops::AddAssign, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    heap_types::Types,
    holders::{Holders, NoHolders},
};

/// The heap of a process, as one or several looks saw it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Heap {
    /// How many looks it rests on.
    pub looks: u32,
    /// How long they took, in all.
    pub duration: Duration,
    /// The effort, and what was passed over.
    pub consistency: Consistency,
    /// Where resident memory is.
    pub resident: Resident,
    /// The allocators of the process, those that were not recognised included.
    pub allocators: Vec<Allocator>,
    /// The types of live blocks.
    pub types: Types,
    /// The holders of live blocks; nothing where that was not asked for, or not told.
    pub holders: Option<Holders>,
    /// Why that is not told though it was asked for.
    pub no_holders: Option<NoHolders>,
}

impl Heap {
    /// How fast the live bytes of all allocators grow; nothing where none was seen twice.
    #[must_use]
    pub fn growth_bytes_per_s(&self) -> Option<f64> {
        self.allocators.iter().filter_map(|allocator| allocator.growth_bytes_per_s).reduce(|sum, rate| sum + rate)
    }
}

/// How well a look agrees with itself: memory changes while it is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consistency {
    /// Places that were read again because they contradicted themselves.
    pub retries: u64,
    /// Bytes of heaps that stayed contradictory, and were passed over.
    pub skipped_bytes: u64,
    /// Bytes of heaps that are swapped out, and were left there.
    pub swapped_bytes: u64,
    /// Threads whose registers could not be read.
    pub threads_without_registers: u32,
}

impl AddAssign for Consistency {
    fn add_assign(&mut self, more: Self) {
        self.retries += more.retries;
        self.skipped_bytes += more.skipped_bytes;
        self.swapped_bytes += more.swapped_bytes;
        self.threads_without_registers += more.threads_without_registers;
    }
}

/// Where the resident memory of a process is, in bytes. The parts are disjoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resident {
    /// Live blocks of allocators, with their headers.
    pub live_bytes: u64,
    /// Free inside allocators, on pages that cannot be given back one by one.
    pub free_bytes: u64,
    /// Free inside allocators, on whole pages that they could give back.
    pub returnable_bytes: u64,
    /// Arenas of Python's own allocator.
    pub python_bytes: u64,
    /// Pages of files, and of shared memory.
    pub files_bytes: u64,
    /// Stacks of threads.
    pub stacks_bytes: u64,
    /// All other resident memory.
    pub other_bytes: u64,
    /// Swapped out: not resident.
    pub swap_bytes: u64,
}

impl Resident {
    /// All resident memory: its parts, without swap.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let heap = [self.live_bytes, self.free_bytes, self.returnable_bytes];
        let others = [self.python_bytes, self.files_bytes, self.stacks_bytes, self.other_bytes];
        heap.into_iter().chain(others).fold(0, u64::saturating_add)
    }
}

/// An allocator of a process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Allocator {
    /// Its family: `glibc`, `jemalloc`.
    pub name: String,
    /// Its version, or the range of versions that have its structures.
    pub version: Option<String>,
    /// The path of its image, as the process has it.
    pub image: Option<String>,
    /// Why its structures were not recognised; nothing where they were. Figures of an allocator that was not are 0.
    pub reason: Option<String>,
    /// Usable bytes of live blocks.
    pub live_bytes: u64,
    /// Live blocks.
    pub live_objects: u64,
    /// Free bytes, by kind.
    pub free: Vec<Free>,
    /// Free bytes on whole resident pages, which the allocator could give back (`malloc_trim`).
    pub returnable_bytes: u64,
    /// Free bytes on pages that hold live blocks as well.
    pub fragmented_bytes: u64,
    /// Resident bytes of its areas.
    pub resident_bytes: u64,
    /// How fast live bytes grow, between the first look and the last; nothing after one look.
    pub growth_bytes_per_s: Option<f64>,
    /// Its arenas, in its own order.
    pub arenas: Vec<Arena>,
    /// Its live blocks by usable size, in order of size.
    pub size_classes: Vec<SizeClass>,
}

impl Allocator {
    /// Whether its structures were recognised: it has figures.
    #[must_use]
    pub fn is_recognised(&self) -> bool {
        self.reason.is_none()
    }

    /// Free bytes of all kinds.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.free.iter().fold(0, |sum, free| sum.saturating_add(free.bytes))
    }
}

/// Free bytes of an allocator, of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Free {
    /// The kind.
    pub kind: FreeKind,
    /// Bytes.
    pub bytes: u64,
}

/// Where an allocator keeps free memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FreeKind {
    /// Behind the last block of an arena (glibc).
    Top,
    /// In bins of an arena (glibc).
    Bin,
    /// In the caches of threads.
    ThreadCache,
    /// In fastbins (glibc).
    Fastbin,
    /// Free regions of runs or slabs of one size class (jemalloc).
    Run,
    /// Whole free spans or extents.
    Span,
}

/// An arena of an allocator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arena {
    /// Usable bytes of live blocks.
    pub live_bytes: u64,
    /// Live blocks.
    pub live_objects: u64,
    /// Free bytes of all kinds.
    pub free_bytes: u64,
}

impl AddAssign for Arena {
    fn add_assign(&mut self, more: Self) {
        self.live_bytes += more.live_bytes;
        self.live_objects += more.live_objects;
        self.free_bytes += more.free_bytes;
    }
}

/// The live blocks of one usable size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SizeClass {
    /// Usable bytes of each.
    pub size_bytes: u64,
    /// How many.
    pub live_objects: u64,
    /// How fast their number grows; nothing after one look.
    pub growth_objects_per_s: Option<f64>,
}

impl SizeClass {
    /// So many blocks of a size, as one look found them.
    #[must_use]
    pub fn new(size_bytes: u64, live_objects: u64) -> Self {
        Self { size_bytes, live_objects, growth_objects_per_s: None }
    }

    /// Usable bytes of all its live blocks.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.size_bytes.saturating_mul(self.live_objects)
    }

    /// How fast the bytes of its live blocks grow; nothing after one look.
    #[must_use]
    pub fn growth_bytes_per_s(&self) -> Option<f64> {
        self.growth_objects_per_s.map(|objects| objects * self.size_bytes as f64)
    }
}
