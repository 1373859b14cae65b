//! Resident memory of a target: what the kernel side remembers of it, and the kinds of pages.

use super::site::Category;

/// How many kinds of memory the kernel counts for an address space: files, anonymous, swapped out, shared
/// (`MM_FILEPAGES` to `MM_SHMEMPAGES` of `<linux/mm_types_task.h>`, Linux 4.5 and later).
pub const KINDS: usize = 4;

/// As what pages of a kind that has grown are charged; `None` for what is not resident.
#[inline(always)]
#[must_use]
pub const fn category_of(kind: usize) -> Option<Category> {
    match kind {
        0 => Some(Category::FilePages),
        1 => Some(Category::AnonymousPages),
        3 => Some(Category::SharedPages),
        _ => None,
    }
}

/// The last state of one target's resident memory that the kernel side has seen.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resident {
    /// The kernel's name for the address space ([`RssStat::mm_id`]); 0 before its first change was seen.
    pub mm_id: u64,
    /// The size of each kind as last told, in bytes plus 1; 0 before it was.
    pub sizes: [u64; KINDS],
    /// By how many bytes resident memory has grown, all times together, whoever made it grow.
    pub grown_bytes: u64,
    /// By how many it has shrunk.
    pub shrunk_bytes: u64,
}

/// A record of the tracepoint `kmem:rss_stat` (include/trace/events/kmem.h, as it is since Linux 5.10): a kind of an address
/// space's memory has changed. User space compares this with the running kernel's own description.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RssStat {
    /// The fields that every tracepoint's record begins with.
    pub common: u64,
    /// A hash of the address of the kernel's `mm_struct`.
    pub mm_id: u32,
    /// 1 where it is the address space of the current thread.
    pub curr: u32,
    /// Which kind has changed.
    pub member: i32,
    /// Nothing.
    pub padding: u32,
    /// How large it is now, in bytes.
    pub size: i64,
}

/// The fields of [`RssStat`] as the kernel names them: name, offset and size in bytes.
#[cfg(any(feature = "user", test))]
pub const RSS_STAT_FIELDS: [(&str, usize, usize); 4] = [
    ("mm_id", core::mem::offset_of!(RssStat, mm_id), 4),
    ("curr", core::mem::offset_of!(RssStat, curr), 4),
    ("member", core::mem::offset_of!(RssStat, member), 4),
    ("size", core::mem::offset_of!(RssStat, size), 8),
];

const _: () = assert!(size_of::<Resident>() == 56);
const _: () = assert!(size_of::<RssStat>() == 32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_swapped_out_is_not_resident() {
        /// `MM_SWAPENTS`.
        const SWAPPED: usize = 2;
        assert_eq!(category_of(SWAPPED), None);
        assert_eq!(category_of(KINDS), None);
    }
}
