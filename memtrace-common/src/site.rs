//! Allocation sites: a distinct stack of one process, with its counters.

use crate::stack::StackId;

/// Names an allocation site: [`SiteId::of`] its process, image and stack.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteId(pub u64);

impl SiteId {
    /// The site of `stack` in the process `tgid` after `exec_generation` execs.
    #[inline(always)]
    #[must_use]
    pub fn of(stack: StackId, tgid: u32, exec_generation: u32) -> Self {
        let owner = (tgid as u64) << 32 | exec_generation as u64;
        Self(crate::stack::mix(stack.0 ^ crate::stack::mix(owner)))
    }
}

/// One allocation site and what it has done so far.
///
/// Counters only grow. `live = alloc - freed` is left to the reader, so that it holds by construction.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// The stack that allocates here.
    pub stack: StackId,
    /// The process's thread group id.
    pub tgid: u32,
    /// The process's exec generation, see [`crate::block::BlockKey::exec_generation`].
    pub exec_generation: u32,
    /// Bytes ever allocated.
    pub alloc_bytes: u64,
    /// Objects ever allocated.
    pub alloc_objects: u64,
    /// Bytes ever freed.
    pub freed_bytes: u64,
    /// Objects ever freed.
    pub freed_objects: u64,
}

const _: () = assert!(size_of::<Site>() == 48);
