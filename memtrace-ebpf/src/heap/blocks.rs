//! The live blocks: put in, taken out. See [`memtrace_common::steps::block_table`] for the table.
//!
//! Nobody frees a block before its allocation has returned, and only one thread frees it (or the program is wrong, and
//! one of them wins): so a key has one writer at a time, and atomic operations on single words are enough.

use aya_ebpf::{Global, cty::c_void, helpers::generated::bpf_loop};
use memtrace_common::{
    ids::BlockKey,
    steps::block_table::{self, FREE, PLACES, REACH, TAKEN, after, filter_entry, home},
    wire::block::LiveBlock,
};

use crate::{
    atomic::{add, compare_exchange, load, store, subtract, word_at},
    maps::{BLOCKS, FILTER, SPARE_BLOCKS},
    recording,
    verifier::forgotten,
};

/// How many buckets there are: set at load.
#[unsafe(no_mangle)]
static BUCKETS: Global<u32> = Global::new(1);

/// 1 where the kernel has `bpf_loop`: set at load. Before (5.17), a block is in its home bucket or nowhere.
#[unsafe(no_mangle)]
static HAS_LOOP: Global<u8> = Global::new(0);

/// The outcome for a record that was to be put in.
pub(crate) struct Put {
    /// Whether there was room for it.
    pub(crate) is_in: bool,
    /// The record that stood there and was never seen freed: it is out now.
    pub(crate) old: Option<LiveBlock>,
}

/// A search from bucket to bucket, by `bpf_loop`: the verifier follows one step, not all of them.
struct Search {
    key: BlockKey,
    /// The record that was found, or is to be put in.
    block: LiveBlock,
    /// The block's home.
    home: u32,
    is_done: bool,
}

/// Whether there may be a block at this address: where few are recorded, for nearly every one that is freed there is none.
#[inline(always)]
pub(crate) fn may_be_known(address: u64) -> bool {
    FILTER.get_ptr(filter_entry(address)).is_none_or(|count| load(count) != 0)
}

/// How many blocks there are at addresses like this one, where that is counted.
#[inline(always)]
fn filtered(address: u64) -> Option<*mut u64> {
    if recording::takes_samples() { FILTER.get_ptr_mut(filter_entry(address)) } else { None }
}

/// Takes a block's record out.
#[inline(always)]
pub(crate) fn take(key: BlockKey) -> Option<LiveBlock> {
    let at = home(key, BUCKETS.load());
    let bucket = bucket(at)?;
    let place = bucket.place_of(key.0);
    if place < PLACES {
        return take_from(bucket, place, key);
    }
    if load(bucket.passed_on) == 0 || HAS_LOOP.load() == 0 {
        return None;
    }
    let mut search = Search { key, block: LiveBlock::default(), home: at, is_done: false };
    let passed = run(REACH - 1, take_further as *mut c_void, &mut search);
    if !search.is_done {
        // Every bucket that it could be in has passed some on, and the last one to the spare table.
        return if passed == REACH - 1 { take_spare(&mut search) } else { None };
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
    let place = bucket.place_of(search.key.0);
    if place < PLACES {
        if let Some(block) = take_from(bucket, place, search.key) {
            search.block = block;
            search.is_done = true;
        }
        return 1;
    }
    (load(bucket.passed_on) == 0) as i64
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
        subtract(bucket.passed_on, 1);
    }
    0
}

/// Takes a block's record out of the spare table, where all buckets were full for it.
#[inline(always)]
fn take_spare(search: &mut Search) -> Option<LiveBlock> {
    let key = search.key;
    // SAFETY: a block has one owner at a time, and is copied at once.
    let block = *unsafe { SPARE_BLOCKS.get(&key) }?;
    // Where two threads free it, one of them has it.
    SPARE_BLOCKS.remove(&key).ok()?;
    if let Some(count) = filtered(key.address()) {
        subtract(count, 1);
    }
    forget_passing(search, REACH);
    Some(block)
}

/// Puts a block's record into the spare table. Returns whether there was room.
#[inline(always)]
fn put_spare(key: BlockKey, block: &LiveBlock) -> bool {
    let count = filtered(key.address());
    if let Some(count) = count {
        add(count, 1);
    }
    let is_in = SPARE_BLOCKS.insert(&key, block, 0).is_ok();
    if let Some(count) = count.filter(|_| !is_in) {
        subtract(count, 1);
    }
    is_in
}

#[inline(always)]
fn take_from(bucket: Bucket, place: usize, key: BlockKey) -> Option<LiveBlock> {
    // SAFETY: within a bucket. Where another thread is writing there, the key is another by now, and what was read is let go of.
    let block = unsafe { bucket.block_at(place)?.read_volatile() };
    let stands = word_at(bucket.keys, place)?;
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
    if load(home.passed_on) == 0 && home.place_of(key.0) == PLACES && put_into(home, key, block) {
        return Put { is_in: true, old: None };
    }
    let old = take(key);
    if HAS_LOOP.load() == 0 {
        return Put { is_in: put_into(home, key, block), old };
    }
    let mut search = Search { key, block: *block, home: at, is_done: false };
    let tried = run(REACH, put_further as *mut c_void, &mut search);
    if !search.is_done {
        search.is_done = put_spare(key, block);
    }
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
    add(bucket.passed_on, 1);
    0
}

#[inline(always)]
fn put_into(bucket: Bucket, key: BlockKey, block: &LiveBlock) -> bool {
    // Another thread may take the place that was found; then the next bucket will do as well.
    let place = bucket.place_of(FREE);
    let (Some(stands), Some(room)) = (word_at(bucket.keys, place), bucket.block_at(place)) else { return false };
    if compare_exchange(stands, FREE, TAKEN) != FREE {
        return false;
    }
    if let Some(count) = filtered(key.address()) {
        add(count, 1);
    }
    // SAFETY: within a bucket; the place is this thread's own until its key stands there.
    unsafe { room.write(*block) };
    // The key comes last: whoever looks at all blocks sees whole ones.
    store(stands, key.0);
    true
}

/// Calls `step` up to so many times. Returns how often it was called.
#[inline(always)]
fn run(times: u32, step: *mut c_void, search: &mut Search) -> u32 {
    // SAFETY: the callbacks have the signature that the helper calls, and the context outlives the call.
    unsafe { bpf_loop(times, step, (&raw mut *search).cast(), 0) as u32 }
}

/// A bucket in the map. By pointers: other CPUs change its words at any moment.
#[derive(Clone, Copy)]
struct Bucket {
    keys: *mut [u64; PLACES],
    passed_on: *mut u64,
    blocks: *mut [LiveBlock; PLACES],
}

impl Bucket {
    /// The place of a key; `PLACES` where it is not there.
    #[inline(always)]
    fn place_of(self, key: u64) -> usize {
        let place = block_table::place_of(key, |place| word_at(self.keys, place).map(|word| load(word)));
        forgotten(place as u64, key) as usize
    }

    /// The record of the block at a place.
    #[inline(always)]
    fn block_at(self, place: usize) -> Option<*mut LiveBlock> {
        // No indexing: it could panic, and a program that could panic is refused.
        if place < PLACES { Some(self.blocks.cast::<LiveBlock>().wrapping_add(place)) } else { None }
    }
}

#[inline(always)]
fn bucket(at: u32) -> Option<Bucket> {
    let bucket = BLOCKS.get_ptr_mut(at)?;
    // SAFETY: an array map's entry lives as long as the map.
    let keys = unsafe { &raw mut (*bucket).keys };
    // SAFETY: as above.
    let passed_on = unsafe { &raw mut (*bucket).passed_on };
    // SAFETY: as above.
    let blocks = unsafe { &raw mut (*bucket).blocks };
    Some(Bucket { keys, passed_on, blocks })
}
