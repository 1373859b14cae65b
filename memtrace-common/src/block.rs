//! Live blocks: what is known of memory that was allocated and not yet freed.

use crate::{process::ProcessSlot, site::SiteIndex};

/// Names one block: an address means something only within one image of one process.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockKey {
    /// The address that the allocator returned.
    pub address: u64,
    /// The owner.
    pub process: ProcessSlot,
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
    pub site: SiteIndex,
    /// When it was allocated: [`crate::control::Control::now_ms`] of that moment.
    pub born_ms: u32,
}

const _: () = assert!(size_of::<BlockKey>() == 16);
const _: () = assert!(size_of::<LiveBlock>() == 16);
