//! The other end of a site's blocks: at which stacks they are freed.

use crate::{site::SiteIndex, stack::StackId};

/// A site, and a stack at which blocks of it were freed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FreeSide {
    /// The stack that frees, from the freeing function itself outwards.
    pub stack: StackId,
    /// Where the site stands that had allocated.
    pub site: SiteIndex,
    /// Makes it whole words.
    pub unused: u32,
}

const _: () = assert!(size_of::<FreeSide>() == 16);

/// How many there can be, of all sites together.
pub const FREE_SIDES: u32 = 1 << 13;
