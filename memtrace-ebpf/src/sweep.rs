//! One look at every block: which are of programs that are over, and how old the oldest of each site is.
//!
//! Here and not in user space, where each block would cost two system calls.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_for_each_map_elem;
use memtrace_common::block::{BlockKey, LiveBlock};

use crate::maps::{BLOCKS, OLDEST, PROCESSES};

/// Looks at every block. User space has set every site's oldest birth to the latest there can be.
#[inline(always)]
pub(crate) fn sweep() {
    let (map, visit) = ((&raw const BLOCKS).cast_mut().cast(), visit_block as *mut c_void);
    // SAFETY: the callback has the signature that the helper calls for a hash map.
    unsafe { bpf_for_each_map_elem(map, visit, core::ptr::null_mut(), 0) };
}

/// Visits one block. Returns 0: there is always more to visit.
#[inline(never)]
extern "C" fn visit_block(_map: *mut c_void, key: *const BlockKey, block: *const LiveBlock, _: *mut c_void) -> i64 {
    // SAFETY: the helper passes pointers to the entry's own key and value, which may be changed meanwhile by
    // whoever frees the block: then it is gone, and what is read here does not matter.
    let (key, block) = unsafe { (*key, *block) };
    if let Some(oldest) = OLDEST.get_ptr_mut(block.site.0) {
        // SAFETY: an array map's entry lives as long as the map; only one sweep runs at a time.
        let oldest = unsafe { &mut *oldest };
        *oldest = (block.born_ms as u64).min(*oldest);
    }
    if PROCESSES.get(key.process().0).is_some_and(|process| process.is_over != 0) {
        // That somebody else has removed it is no error.
        _ = BLOCKS.remove(key);
    }
    0
}
