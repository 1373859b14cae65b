//! The live blocks: put in, taken out. See [`memtrace_common::block_table`] for the table.
//!
//! Nobody frees a block before its allocation has returned, and only one thread frees it (or the program is wrong, and
//! one of them wins): so a key has one writer at a time, and atomic operations on single words are enough.

use aya_ebpf::{Global, cty::c_void, helpers::generated::bpf_loop};
use memtrace_common::{
    block::{BlockKey, LiveBlock},
    block_table::{Bucket, FREE, PLACES, REACH, TAKEN, after, filter_entry, home},
};

use crate::{
    atomic::{add, compare_exchange, store, subtract},
    maps::{BLOCKS, FILTER},
    sample,
    verifier::forgotten,
};

/// How many buckets there are: set at load.
#[unsafe(no_mangle)]
static BUCKETS: Global<u32> = Global::new(1);

/// 1 where the kernel has `bpf_loop`: set at load. Before (5.17), a block is in its home bucket or nowhere.
#[unsafe(no_mangle)]
static HAS_LOOP: Global<u8> = Global::new(0);

/// What became of a record that was to be put in.
pub(crate) struct Put {
    /// Whether there was room for it.
    pub(crate) is_in: bool,
    /// The record that stood there and was never seen freed: it is out now.
    pub(crate) old: Option<LiveBlock>,
}

/// A search from bucket to bucket, by `bpf_loop`: the verifier follows one step, not all of them.
struct Search {
    key: BlockKey,
    /// What was found, or is to be put in.
    block: LiveBlock,
    /// The block's home.
    home: u32,
    is_done: bool,
}

/// Whether there may be a block at this address: where few are recorded, for nearly every one that is freed there is none.
#[inline(always)]
pub(crate) fn may_be_known(address: u64) -> bool {
    FILTER.get(filter_entry(address)).is_none_or(|count| *count != 0)
}

/// How many blocks there are at addresses like this one, where that is counted.
#[inline(always)]
fn filtered(address: u64) -> Option<*mut u64> {
    if sample::is_on() { FILTER.get_ptr_mut(filter_entry(address)) } else { None }
}

/// Takes a block's record out.
#[inline(always)]
pub(crate) fn take(key: BlockKey) -> Option<LiveBlock> {
    let at = home(key, BUCKETS.load());
    let bucket = bucket(at)?;
    let place = place_of(bucket, key.0);
    if place < PLACES {
        return take_from(bucket, place, key);
    }
    if bucket.passed_on == 0 || HAS_LOOP.load() == 0 {
        return None;
    }
    let mut search = Search { key, block: LiveBlock::default(), home: at, is_done: false };
    let passed = run(REACH - 1, take_further as *mut c_void, &mut search);
    if !search.is_done {
        return None;
    }
    forget_passing(&mut search, passed);
    Some(search.block)
}

/// Looks for a block this many buckets after the one that follows its home. Returns 1 where the search is over.
#[inline(never)]
extern "C" fn take_further(index: u64, search: *mut Search) -> i64 {
    // SAFETY: `take` passes its own `Search`, which nobody else uses meanwhile.
    let search = unsafe { &mut *search };
    let Some(bucket) = bucket(after(search.home, index as u32 + 1, BUCKETS.load())) else { return 1 };
    let place = place_of(bucket, search.key.0);
    if place < PLACES {
        if let Some(block) = take_from(bucket, place, search.key) {
            search.block = block;
            search.is_done = true;
        }
        return 1;
    }
    (bucket.passed_on == 0) as i64
}

/// Takes back what `count` buckets from a block's home on have noted of it when they passed it on.
#[inline(always)]
fn forget_passing(search: &mut Search, count: u32) {
    run(count, forget_further as *mut c_void, search);
}

/// Takes back what a bucket has noted. Returns 0: there may be more.
#[inline(never)]
extern "C" fn forget_further(index: u64, search: *mut Search) -> i64 {
    // SAFETY: `forget_passing` passes its own `Search`, which nobody else uses meanwhile.
    let search = unsafe { &mut *search };
    if let Some(bucket) = bucket(after(search.home, index as u32, BUCKETS.load())) {
        subtract(&raw mut bucket.passed_on, 1);
    }
    0
}

#[inline(always)]
fn take_from(bucket: &mut Bucket, place: usize, key: BlockKey) -> Option<LiveBlock> {
    let block = *bucket.blocks.get(place)?;
    let stands = bucket.keys.get_mut(place)?;
    if compare_exchange(stands, key.0, FREE) != key.0 {
        return None;
    }
    if let Some(count) = filtered(key.address()) {
        subtract(count, 1);
    }
    Some(block)
}

/// Puts a block's record in.
#[inline(always)]
pub(crate) fn put(key: BlockKey, block: &LiveBlock) -> Put {
    let at = home(key, BUCKETS.load());
    let Some(home) = bucket(at) else { return Put { is_in: false, old: None } };
    if home.passed_on == 0 && place_of(home, key.0) == PLACES && put_into(home, key, block) {
        return Put { is_in: true, old: None };
    }
    let old = take(key);
    if HAS_LOOP.load() == 0 {
        return Put { is_in: put_into(home, key, block), old };
    }
    let mut search = Search { key, block: *block, home: at, is_done: false };
    let tried = run(REACH, put_further as *mut c_void, &mut search);
    if !search.is_done {
        forget_passing(&mut search, tried);
    }
    Put { is_in: search.is_done, old }
}

/// Puts a block's record into the bucket this many after its home, if that has room. Returns 1 where it had.
#[inline(never)]
extern "C" fn put_further(index: u64, search: *mut Search) -> i64 {
    // SAFETY: `put` passes its own `Search`, which nobody else uses meanwhile.
    let search = unsafe { &mut *search };
    let Some(bucket) = bucket(after(search.home, index as u32, BUCKETS.load())) else { return 1 };
    search.is_done = put_into(bucket, search.key, &search.block);
    if search.is_done {
        return 1;
    }
    add(&raw mut bucket.passed_on, 1);
    0
}

#[inline(always)]
fn put_into(bucket: &mut Bucket, key: BlockKey, block: &LiveBlock) -> bool {
    // Another thread may take the place that was found; then the next bucket will do as well.
    let place = place_of(bucket, FREE);
    let (Some(stands), Some(room)) = (bucket.keys.get_mut(place), bucket.blocks.get_mut(place)) else { return false };
    if compare_exchange(stands, FREE, TAKEN) != FREE {
        return false;
    }
    if let Some(count) = filtered(key.address()) {
        add(count, 1);
    }
    *room = *block;
    // The key comes last: whoever looks at all blocks sees whole ones.
    store(stands, key.0);
    true
}

/// The place of a key in a bucket; `PLACES` where it is not there.
#[inline(always)]
fn place_of(bucket: &Bucket, key: u64) -> usize {
    forgotten(bucket.place_of(key) as u64, key) as usize
}

/// Calls `step` up to so many times. Returns how often it was called.
#[inline(always)]
fn run(times: u32, step: *mut c_void, search: &mut Search) -> u32 {
    // SAFETY: the callbacks have the signature that the helper calls, and the context outlives the call.
    unsafe { bpf_loop(times, step, (&raw mut *search).cast(), 0) as u32 }
}

#[inline(always)]
fn bucket<'a>(at: u32) -> Option<&'a mut Bucket> {
    // SAFETY: an array map's entry lives as long as the map; what others change meanwhile are single words.
    BLOCKS.get_ptr_mut(at).map(|bucket| unsafe { &mut *bucket })
}
