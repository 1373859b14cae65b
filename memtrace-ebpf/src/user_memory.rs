//! The memory of the current process.

use aya_ebpf::{
    cty::c_void,
    helpers::{bpf_probe_read_user, generated},
};
use memtrace_common::steps::stack_cache::{CACHE_WORDS, Source};

/// As stacks are read.
pub(crate) struct UserMemory;

impl Source for UserMemory {
    #[inline(always)]
    fn copy(&self, address: u64, words: &mut [u64; CACHE_WORDS]) -> bool {
        let size = size_of_val(words) as u32;
        // SAFETY: the helper checks the user address, fails where it is not readable, and writes `size` bytes.
        unsafe { generated::bpf_probe_read_user(words.as_mut_ptr().cast(), size, address as *const c_void) == 0 }
    }

    #[inline(always)]
    fn word(&self, address: u64) -> Option<u64> {
        word_at(address)
    }
}

/// A word; nothing where it cannot be read.
#[inline(always)]
pub(crate) fn word_at(address: u64) -> Option<u64> {
    // SAFETY: the helper checks the user address and fails where it is not readable.
    unsafe { bpf_probe_read_user(address as *const u64) }.ok()
}
