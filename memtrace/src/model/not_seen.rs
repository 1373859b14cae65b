//! Memory that was asked about and that nobody could see.

use serde::{Deserialize, Serialize};

/// Memory that was asked about and that nobody could see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NotSeen {
    /// Blocks of a function that the user named: no program has mapped its image.
    NeverMapped {
        /// The function as the user named it.
        function: String,
        /// The image as the user named it.
        image: String,
    },
    /// Memory of programs that began and ended between two windows.
    BetweenWindows {
        /// How many programs.
        programs: u64,
    },
    /// System V segments that programs attach, and what is before the first growth of a data segment that was told.
    Segments,
    /// Memory of processes that the targets have started, and that were not followed.
    Children {
        /// How many of them lived at a time, at most.
        processes: u64,
        /// Their resident memory then.
        rss_bytes: u64,
    },
    /// Memory of the kernel's.
    OfKernel(KernelGap),
}

/// Memory of the kernel's that a machine does not tell of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KernelGap {
    /// Pages, and those of vmalloc.
    Pages,
    /// Pages that vmalloc takes in bulk.
    VmallocInBulk,
    /// Per-CPU memory.
    PerCpu,
    /// Objects that are allocated in bulk.
    AllocatedInBulk,
    /// Frees of objects in bulk, and after a grace period.
    FreedInBulk,
    /// Pages that no kernel tells of.
    Always,
}
