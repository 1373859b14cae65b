//! memtrace's own memory: what it has freed goes back to the system at once, since the target may need it.

/// Sets up the C library's allocator for a process that takes much memory for a moment (the symbols of an image, its unwind rows),
/// and little for good. Large blocks are mapped each: by default, the limit from which they are rises with each that is freed, up
/// to 32 MiB, and what lies below is kept. There is one heap, not one for each thread. To be called before there is a second
/// thread.
pub fn give_back_what_is_freed() {
    // musl's gives it back by itself.
    #[cfg(target_env = "gnu")]
    for (parameter, value) in
        [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_THRESHOLD, LARGE_BYTES), (libc::M_TRIM_THRESHOLD, LARGE_BYTES)]
    {
        // SAFETY: a plain call, while there is no other thread.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Gives back the pages of the heap that are free, after work that took many small blocks.
pub fn give_back_free_pages() {
    #[cfg(target_env = "gnu")]
    // SAFETY: a plain call; it takes the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// From how many bytes on a block is mapped.
#[cfg(target_env = "gnu")]
const LARGE_BYTES: libc::c_int = 128 << 10;
