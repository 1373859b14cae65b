//! Live blocks: what is known of memory that was allocated and not yet freed.

use crate::site::SiteId;

/// Names one block: an address means something only within one image of one process.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockKey {
    /// The address that the allocator returned.
    pub address: u64,
    /// The owner's thread group id (what user space calls the pid).
    pub tgid: u32,
    /// How often the owner has called `exec` since it became a target: an exec empties the heap, and
    /// counting it into the key makes every older record unreachable at once.
    pub exec_generation: u32,
}

/// What is known of one live block.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveBlock {
    /// The size the program asked for, in bytes.
    pub size_bytes: u64,
    /// The allocation site that is charged for it.
    pub site: SiteId,
    /// When it was allocated: nanoseconds of `CLOCK_MONOTONIC`.
    pub born_ns: u64,
}

const _: () = assert!(size_of::<BlockKey>() == 16);
const _: () = assert!(size_of::<LiveBlock>() == 24);
