//! The side of the system: threads, descriptors and images of a live process.

use std::time::Duration;

use super::{Known, Wanted, holders};
use crate::{
    model::{
        holders::{Holders, NoHolders},
        roots::ThreadWords,
    },
    process::{
        heap::{Bounds, Look, bytes::Reader, live::Live},
        image::Image,
        kernel_words, thread_words,
    },
};

/// Tells who holds the blocks of a look that was made right before, with how many threads have no registers that are told.
///
/// # Errors
/// Where that cannot be told within these bounds.
pub(in crate::looking) fn of(
    pid: u32,
    look: Look,
    told: &[ThreadWords],
    wanted: Wanted,
    bounds: Bounds,
) -> (Result<Holders, NoHolders>, u32) {
    let threads = thread_words::read(pid, told);
    let without = threads.iter().filter(|thread| thread.words.registers.is_none()).count();
    let without = u32::try_from(without).unwrap_or(u32::MAX);
    let kernel_words = kernel_words::read(pid);
    let Ok(mut live) = Live::open(pid) else { return (Err(NoHolders::Refused), without) };
    let mut reader = Reader::new(&mut live, Bounds { time: bounds.time.max(Duration::from_millis(1)), ..bounds });
    let known = Known {
        mappings: &look.mappings,
        found: look.found,
        threads: &threads,
        kernel_words: &kernel_words,
        // An image that cannot be opened is a mapping with a name.
        open: &mut |mapping| Image::open(pid, mapping).ok()?.data().ok(),
        thread_name: &|tid| thread_words::name(pid, tid),
    };
    (holders(&mut reader, known, wanted), without)
}
