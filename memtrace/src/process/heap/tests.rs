//! Made-up heaps of glibc 2.36: whole, torn, damaged, swapped out.

use proptest::prelude::*;

use super::{
    bytes::{Memory, PAGE, Page},
    found::Block,
    *,
};
use crate::model::heap::{Consistency, FreeKind};

const DATA: u64 = 0x7f00_0000_0000;
const HEAP: u64 = 0x5500_0000_0000;
const ARENA: u64 = DATA + 64;
const KEY: u64 = 0x9e37_79b9_7f4a_7c15;
const PAGE_BYTES: u64 = PAGE as u64;

/// The use of a chunk that is made up.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Use {
    Live,
    Free,
    Cached,
    Fast,
}

/// Memory of two mappings, parts of which change while they are read.
struct Made {
    data: Vec<u64>,
    heap: Vec<u64>,
    /// Pages of the heap that are swapped out, by index.
    swapped: Vec<u64>,
    /// Of so many copies one has a word torn; 0 for none.
    torn: u64,
    copies: u64,
    random: u64,
}

impl Made {
    fn new(chunks: &[(u64, Use)]) -> Self {
        let mut made =
            Self { data: vec![0; 1024], heap: Vec::new(), swapped: vec![], torn: 0, copies: 0, random: 0x2545_f491 };
        for bin in (0..127).map(|index| ARENA + 112 + index * 16) {
            made.put(bin, bin - 16);
            made.put(bin + 8, bin - 16);
        }
        let bytes = chunks.iter().map(|(bytes, _)| bytes).sum::<u64>() + 64;
        let size = bytes.next_multiple_of(PAGE_BYTES);
        made.heap = vec![0; usize::try_from(size / 8).unwrap()];
        let parameters = DATA + 4000;
        let fields = [(80, 128 << 10), (32, 1 << 16), (0, HEAP)];
        let arena = [(2160, ARENA), (2184, size)];
        fields.into_iter().for_each(|(before, word)| made.put(parameters - before, word));
        arena.into_iter().for_each(|(behind, word)| made.put(ARENA + behind, word));
        made.put(DATA + 3000, KEY);
        let (mut at, mut before, mut fast) = (HEAP, None, [0; 10]);
        for (bytes, kind) in chunks.iter().copied().chain([(HEAP + size, Use::Live)]) {
            let is_top = bytes > size;
            let bytes = if is_top { HEAP + size - at } else { bytes };
            match before {
                Some((free, Use::Free)) => {
                    made.put(at, free);
                    made.put(at + 8, bytes);
                }
                _ => made.put(at + 8, bytes | 1),
            }
            let disguise = (at + 16) >> 12;
            match kind {
                Use::Cached => {
                    [(at + 16, disguise), (at + 24, KEY)].into_iter().for_each(|(at, word)| made.put(at, word));
                }
                Use::Fast => {
                    let list = usize::try_from(bytes / 16 - 2).unwrap();
                    made.put(at + 16, disguise ^ fast[list]);
                    fast[list] = at;
                }
                Use::Live if !is_top => made.put(at + 16, 0x4141_4141_4141_4141),
                _ => {}
            }
            if is_top {
                made.put(ARENA + 96, at);
            }
            (at, before) = (at + bytes, Some((bytes, kind)));
        }
        for (list, head) in (0..).zip(fast) {
            made.put(ARENA + 16 + list * 8, head);
        }
        made
    }

    fn put(&mut self, address: u64, word: u64) {
        *self.word(address).unwrap() = word;
    }

    fn word(&mut self, address: u64) -> Option<&mut u64> {
        let place = |start: u64| usize::try_from(address.checked_sub(start)? / 8).ok();
        if address >= DATA { self.data.get_mut(place(DATA)?) } else { self.heap.get_mut(place(HEAP)?) }
    }

    fn mappings(&self) -> Vec<MappedMemory> {
        let end = HEAP + self.heap.len() as u64 * 8;
        let text = format!(
            "{HEAP:x}-{end:x} rw-p 00000000 00:00 0    [heap]\n{DATA:x}-{:x} rw-p 00000000 08:01 77   /lib/libc.so.6\n",
            DATA + 8192
        );
        smaps::parse(text.as_bytes()).unwrap()
    }

    fn read(&mut self) -> Look {
        let hints = Hints { glibc_version: Some((2, 36)) };
        let mappings = self.mappings();
        read(self, mappings, &hints, Bounds::default()).unwrap()
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

impl Memory for Made {
    fn pages(&mut self, address: u64, pages: &mut [Page]) -> bool {
        for (index, page) in (0..).zip(pages) {
            let at = address + index * PAGE_BYTES;
            let is_swapped = (HEAP..DATA).contains(&at) && self.swapped.contains(&((at - HEAP) / PAGE_BYTES));
            *page = match self.word(at).is_some() {
                true if is_swapped => Page::Swapped,
                true => Page::Resident,
                false => Page::Absent,
            };
        }
        true
    }

    fn copy(&mut self, address: u64, into: &mut [u8]) -> bool {
        for (offset, bytes) in (0..).step_by(8).zip(into.chunks_exact_mut(8)) {
            let Some(word) = self.word(address + offset) else { return false };
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        self.copies += 1;
        if self.torn > 0 && address < DATA && into.len() > 64 && self.copies.is_multiple_of(self.torn) {
            // A word of the piece is already that of the next moment.
            let (value, place) = (self.random(), self.random());
            let words = into.len() as u64 / 8;
            let at = usize::try_from(place % words).unwrap() * 8;
            into[at..at + 8].copy_from_slice(&(value % 5000).to_ne_bytes());
        }
        true
    }

    fn end(&mut self, address: u64) -> Option<u64> {
        (address < DATA).then_some(HEAP + self.heap.len() as u64 * 8)
    }
}

fn chunks() -> impl Strategy<Value = Vec<(u64, Use)>> {
    let small = (2_u64..11).prop_map(|units| units * 16);
    let any = prop_oneof![8 => small.clone(), 1 => (2_u64..20_000).prop_map(|units| units * 16)];
    let chunk = prop_oneof![
        5 => (any.clone(), Just(Use::Live)),
        2 => (any, Just(Use::Free)),
        1 => (small.clone(), Just(Use::Cached)),
        1 => (small, Just(Use::Fast)),
    ];
    prop::collection::vec(chunk, 1..600)
}

fn blocks(look: &Look) -> Vec<Block> {
    let mut blocks = Vec::new();
    look.found.iter().for_each(|found| found.blocks.visit(&mut |block| blocks.push(block)));
    blocks
}

/// The blocks that the chunks are.
fn live(chunks: &[(u64, Use)]) -> Vec<Block> {
    let mut at = HEAP;
    let mut live = Vec::new();
    for (bytes, kind) in chunks {
        if *kind == Use::Live {
            live.push(Block { address: at + 16, usable_bytes: bytes - 8, arena: Some(0) });
        }
        at += bytes;
    }
    live
}

fn free(look: &Look, kind: FreeKind) -> u64 {
    let free = look.heap.allocators.iter().flat_map(|allocator| &allocator.free);
    free.filter(|free| free.kind == kind).map(|free| free.bytes).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn every_chunk_is_told_by_its_use(chunks in chunks()) {
        let look = Made::new(&chunks).read();
        prop_assert_eq!(blocks(&look), live(&chunks));
        let of = |used: Use| chunks.iter().filter(|(_, kind)| *kind == used).map(|(bytes, _)| bytes).sum::<u64>();
        let kinds = [(FreeKind::Bin, Use::Free), (FreeKind::ThreadCache, Use::Cached), (FreeKind::Fastbin, Use::Fast)];
        for (kind, used) in kinds {
            prop_assert_eq!(free(&look, kind), of(used), "{:?}", kind);
        }
        prop_assert_eq!(look.heap.consistency, Consistency::default());
        let resident = &look.heap.resident;
        let all = resident.live_bytes + resident.free_bytes + resident.returnable_bytes;
        prop_assert_eq!(all, look.found[0].areas.iter().map(|(start, end)| end - start).sum::<u64>());
    }

    /// A torn word that makes a header contradict itself is read again. One in the program's own bytes is none.
    #[test]
    fn torn_words_cost_retries_and_no_blocks(chunks in chunks(), torn in 2_u64..6) {
        let mut made = Made::new(&chunks);
        made.torn = torn;
        let look = made.read();
        let (found, truth) = (blocks(&look).len(), live(&chunks).len());
        // A torn word can also be a header that agrees: a few chunks at most are other ones then.
        prop_assert!(found.abs_diff(truth) <= 4 + truth / 50, "{found} of {truth}: {:?}", look.heap.consistency);
    }

    #[test]
    fn a_damaged_header_costs_what_is_told_as_skipped(chunks in chunks(), at in any::<prop::sample::Index>()) {
        let index = at.index(chunks.len());
        let mut made = Made::new(&chunks);
        let damaged = HEAP + chunks[..index].iter().map(|(bytes, _)| bytes).sum::<u64>();
        made.put(damaged + 8, 0x1_2345_6789_abcf);
        let look = made.read();
        let (found, truth) = (blocks(&look), live(&chunks));
        let missing: u64 = truth.iter().filter(|block| !found.contains(block)).map(|block| block.usable_bytes).sum();
        prop_assert!(look.heap.consistency.skipped_bytes > 0);
        prop_assert!(missing <= look.heap.consistency.skipped_bytes, "{missing} of {:?}", look.heap.consistency);
    }

    #[test]
    fn random_memory_ends(words in prop::collection::vec(any::<u64>(), 512), kept in 0..3) {
        let mut made = Made::new(&[(64, Use::Live), (128, Use::Free), (4096 * 3, Use::Live)]);
        let (keeps_data, keeps_heap) = (kept != 0, kept != 1);
        if !keeps_heap {
            made.heap[..512].copy_from_slice(&words);
        }
        if !keeps_data {
            made.data[..512].copy_from_slice(&words);
        }
        let look = made.read();
        prop_assert!(blocks(&look).len() <= made.heap.len());
    }
}

#[test]
fn swapped_pages_are_left_out_and_counted() {
    let chunks: Vec<(u64, Use)> = std::iter::repeat_n((256, Use::Live), 1000).collect();
    let mut made = Made::new(&chunks);
    made.swapped = vec![5, 6, 20];
    let look = made.read();
    assert_eq!(look.heap.consistency.swapped_bytes, 3 * PAGE_BYTES);
    // Sixteen chunks a page; one more at each gap has its header in front of it, or lacks it behind.
    let missing = 1000 - blocks(&look).len();
    assert!((45..=51).contains(&missing), "{missing}");
    assert!(look.heap.consistency.skipped_bytes <= 3 * 256, "{:?}", look.heap.consistency);
}

#[test]
fn a_library_without_proof_is_refused_by_name() {
    let mut made = Made::new(&[(64, Use::Live)]);
    made.data.fill(7);
    let look = made.read();
    let [allocator] = &look.heap.allocators[..] else { panic!("{look:?}") };
    assert_eq!((allocator.name.as_str(), allocator.live_objects, look.found.len()), ("glibc", 0, 0));
    assert!(allocator.reason.is_some() && allocator.version.as_deref() == Some("2.36"));
}

#[test]
fn bounds_end_a_look() {
    let chunks: Vec<(u64, Use)> = std::iter::repeat_n((32, Use::Live), 5000).collect();
    let hints = Hints::default();
    let look = |bounds| {
        let mut made = Made::new(&chunks);
        let mappings = made.mappings();
        read(&mut made, mappings, &hints, bounds).map(drop)
    };
    let bounds = Bounds::default();
    assert_eq!(look(Bounds { bytes: 1 << 15, ..bounds }), Err(Exhausted::Bytes(1 << 15).into()));
    assert_eq!(look(Bounds { blocks: 100, ..bounds }), Err(Exhausted::Blocks(100).into()));
    assert_eq!(look(Bounds { time: Duration::ZERO, ..bounds }), Err(Exhausted::Time(Duration::ZERO).into()));
    assert_eq!(look(bounds), Ok(()));
}

#[test]
fn our_own_heap_is_told() {
    let block: Vec<u8> = std::hint::black_box(vec![1; 12_345]);
    let look = look_closely(std::process::id(), Bounds::default()).unwrap();
    let address = block.as_ptr().addr() as u64;
    // Other tests go on, and more looks than one follow: the block is there in each.
    assert!(blocks(&look).iter().any(|found| found.address == address && found.usable_bytes >= 12_345));
    drop(block);
}
