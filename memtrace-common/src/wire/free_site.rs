//! The other end of a site's blocks: at which stacks they are freed.

use crate::ids::{SiteIndex, StackId};

/// A site, and a stack at which blocks of it were freed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(serde::Serialize, serde::Deserialize))]
pub struct FreeSite {
    /// The stack that frees, from the freeing function itself outwards.
    pub stack: StackId,
    /// Where the site stands that had allocated.
    pub site: SiteIndex,
    /// Makes it whole words.
    pub unused: u32,
}

const _: () = assert!(size_of::<FreeSite>() == 16);

/// How many there can be, of all sites together.
pub const FREE_SITES: u32 = 1 << 13;
