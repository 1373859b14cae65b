//! Made-up heaps of jemalloc 5.3: whole, of another version, damaged, random.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    super::{
        Bounds, Look,
        bytes::{Memory, PAGE, Page},
        found::Block,
        read as read_heap, smaps,
    },
    classes::Classes,
    *,
};
use crate::model::heap::{Consistency, FreeKind};

const PAGE_BYTES: u64 = PAGE as u64;
/// The image's data, with the root of the tree and the list of arenas.
const DATA: u64 = 0x7f00_0000_0000;
const DATA_BYTES: u64 = 0x21_0000;
const ROOT: u64 = DATA + 0x2000;
const ARENAS: u64 = DATA + 0x1000;
/// The block of records: its header, a leaf, records, an arena.
const BASE: u64 = 0x7d00_0000_0000;
const BASE_BYTES: u64 = 4 << 20;
const LEAF: u64 = BASE + 0x1000;
const RECORDS: u64 = BASE + 0x24_0000;
const ARENA: u64 = BASE + 0x30_0000;
/// Memory of a thread: its cache, and the stacks of its bins.
const THREAD: u64 = 0x7c00_0000_0000;
const SLOW: u64 = THREAD + 0x100;
const BINS: u64 = THREAD + 0x208;
const STACKS: u64 = THREAD + 0x1000;
const STACK_WORDS: u64 = 256;
/// The pages of extents.
const HEAP: u64 = 0x7e00_4000_0000;

/// An extent that is made up.
#[derive(Clone, Debug)]
enum Kind {
    /// A class, and for each block whether it is live (1), free (0) or cached (2).
    Slab(u32, Vec<u8>),
    Large(u32),
    Dirty(u64),
    Retained(u64),
}

#[derive(Default)]
struct Made {
    pages: BTreeMap<u64, Vec<u64>>,
    heap_end: u64,
    live: Vec<Block>,
    cached: u64,
    free: u64,
    dirty: u64,
    /// The name of the image.
    image: &'static str,
}

impl Made {
    fn new(extents: &[Kind], classes: Classes) -> Self {
        let mut made = Self { image: "/lib/libjemalloc.so.2", ..Self::default() };
        made.put(ROOT + (HEAP >> 30) * 8, LEAF);
        made.put(ROOT, 0);
        made.put(ROOT + (2 << 20) - 8, 0);
        made.put(ARENAS, ARENA);
        for (word, value) in (0..).step_by(8).zip([BASE_BYTES, 0, 0, ARENA + 0x1_0000, BASE_BYTES - 0x31_0000]) {
            made.put(BASE + word, value);
        }
        // The ring of one cache.
        made.put(ARENA + 0x2000, SLOW);
        for (word, value) in (0..).step_by(8).zip([SLOW, SLOW, SLOW + 16, SLOW + 16, BINS, ARENA]) {
            made.put(SLOW + word, value);
        }
        made.put(BINS - 8, SLOW);
        let mut stacks: Vec<Vec<u64>> = vec![Vec::new(); 41];
        let mut at = HEAP;
        for (record, kind) in (RECORDS..).step_by(128).zip(extents) {
            at += made.add(kind, at, record, classes, &mut stacks);
        }
        made.heap_end = at + PAGE_BYTES;
        for (class, stack) in (0..).zip(&stacks) {
            let empty = STACKS + (class + 1) * STACK_WORDS * 8;
            let head = empty - stack.len() as u64 * 8;
            let full = empty - (STACK_WORDS - 1) * 8;
            made.put(BINS + class * 24, head);
            made.put(BINS + class * 24 + 16, (full & 0xffff) << 16 | (empty & 0xffff) << 32);
            (head..).step_by(8).zip(stack).for_each(|(place, block)| made.put(place, *block));
        }
        made
    }

    fn add(&mut self, kind: &Kind, at: u64, record: u64, classes: Classes, stacks: &mut [Vec<u64>]) -> u64 {
        let pages = |bytes: u64| bytes.next_multiple_of(PAGE_BYTES);
        let (class, state, slab, bytes) = match kind {
            Kind::Slab(class, _) => (*class, 0, 1, pages(classes.bytes(*class).unwrap())),
            Kind::Large(class) => (*class, 0, 0, pages(classes.bytes(*class).unwrap()) + PAGE_BYTES),
            Kind::Dirty(pages) => (classes.count, 1, 0, pages * PAGE_BYTES),
            Kind::Retained(pages) => (classes.count, 3, 0, pages * PAGE_BYTES),
        };
        let size = classes.bytes(class).unwrap_or(0);
        let (mut free, mut map, mut address) = (0, [0_u64; 8], at);
        let mut block = |address, is_live| {
            if is_live {
                self.live.push(Block { address, usable_bytes: size, arena: Some(0) });
            }
        };
        match kind {
            Kind::Slab(_, uses) => {
                for (index, used) in (0..bytes / size).zip(uses.iter().cycle()) {
                    let start = at + index * size;
                    let stack = &mut stacks[class as usize];
                    match used {
                        0 => {
                            free += 1;
                            map[usize::try_from(index / 64).unwrap()] |= 1 << (index % 64);
                        }
                        2 if (stack.len() as u64) < STACK_WORDS - 1 => {
                            stack.push(start);
                            self.cached += size;
                        }
                        _ => block(start, true),
                    }
                }
                self.free += free * size;
            }
            Kind::Large(_) => {
                address += 0x340;
                block(address, true);
            }
            Kind::Dirty(_) => self.dirty += bytes,
            Kind::Retained(_) => {}
        }
        if !matches!(kind, Kind::Retained(_)) {
            (at..at + bytes).step_by(PAGE).for_each(|page| self.put(page, 0));
        }
        let bits = slab << 12 | 1 << 13 | state << 17 | u64::from(class) << 20 | free << 28;
        for (place, word) in (record..).step_by(8).zip([bits, address, bytes | 7]) {
            self.put(place, word);
        }
        (record + 64..).step_by(8).zip(map).for_each(|(place, word)| self.put(place, word));
        let entry = record | u64::from(class) << 48 | state << 2 | slab;
        let place = |page: u64| LEAF + (page - HEAP) / PAGE_BYTES * 8;
        self.put(place(at), entry);
        self.put(place(at + bytes - PAGE_BYTES), entry);
        if slab == 1 {
            (at..at + bytes).step_by(PAGE).for_each(|page| self.put(place(page), entry));
        }
        bytes
    }

    fn put(&mut self, address: u64, word: u64) {
        let page = self.pages.entry(address / PAGE_BYTES).or_insert_with(|| vec![0; PAGE / 8]);
        page[usize::try_from(address % PAGE_BYTES / 8).unwrap()] = word;
    }

    fn word(&self, address: u64) -> Option<u64> {
        self.pages.get(&(address / PAGE_BYTES))?.get(usize::try_from(address % PAGE_BYTES / 8).unwrap()).copied()
    }

    fn read(&mut self) -> Look {
        let text = format!(
            "{THREAD:x}-{:x} rw-p 00000000 00:00 0\n{BASE:x}-{:x} rw-p 00000000 00:00 0\n{HEAP:x}-{:x} rw-p 00000000 00:00 0\n\
             {DATA:x}-{:x} rw-p 00000000 08:01 77   {}\n{:x}-{:x} rw-p 00000000 00:00 0\n",
            THREAD + 0x2_0000,
            BASE + BASE_BYTES,
            self.heap_end.max(HEAP + PAGE_BYTES),
            DATA + PAGE_BYTES,
            self.image,
            DATA + PAGE_BYTES,
            DATA + DATA_BYTES,
        );
        let mappings = smaps::parse(text.as_bytes()).unwrap();
        read_heap(self, mappings, &Hints::default(), Bounds::default()).unwrap()
    }
}

impl Memory for Made {
    fn pages(&mut self, address: u64, pages: &mut [Page]) -> bool {
        for (at, page) in (address / PAGE_BYTES..).zip(pages) {
            *page = if self.pages.contains_key(&at) { Page::Resident } else { Page::Absent };
        }
        true
    }

    fn copy(&mut self, address: u64, into: &mut [u8]) -> bool {
        for (at, bytes) in (address..).step_by(8).zip(into.chunks_exact_mut(8)) {
            let Some(word) = self.word(at) else { return false };
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        true
    }

    fn end(&mut self, _: u64) -> Option<u64> {
        None
    }
}

fn kind() -> impl Strategy<Value = Kind> {
    let uses = prop::collection::vec(0_u8..3, 1..40);
    prop_oneof![
        6 => (0_u32..36, uses).prop_map(|(class, uses)| Kind::Slab(class, uses)),
        2 => (36_u32..45).prop_map(Kind::Large),
        1 => (1_u64..9).prop_map(Kind::Dirty),
        1 => (1_u64..9).prop_map(Kind::Retained),
    ]
}

/// A slab with a live block and a free one is always among them: without one nothing is proven.
fn extents() -> impl Strategy<Value = Vec<Kind>> {
    prop::collection::vec(kind(), 0..60).prop_map(|mut kinds| {
        kinds.push(Kind::Slab(3, vec![1, 0, 1]));
        kinds
    })
}

fn blocks(look: &Look) -> Vec<Block> {
    let mut blocks = Vec::new();
    look.found.iter().for_each(|found| found.blocks.visit(&mut |block| blocks.push(block)));
    blocks
}

fn reason(made: &mut Made) -> Option<String> {
    let look = made.read();
    assert!(look.found.is_empty());
    look.heap.allocators.iter().find_map(|allocator| allocator.reason.clone())
}

fn some() -> Vec<Kind> {
    vec![Kind::Slab(3, vec![1, 0, 2]), Kind::Large(40), Kind::Dirty(3), Kind::Slab(20, vec![1]), Kind::Retained(4)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(16) })]

    #[test]
    fn every_block_is_told_by_its_use(extents in extents(), is_fine in any::<bool>()) {
        let classes = Classes::ALL[usize::from(is_fine)];
        let mut made = Made::new(&extents, classes);
        let look = made.read();
        prop_assert_eq!(blocks(&look), made.live.clone());
        let allocator = &look.heap.allocators[0];
        let free = |kind| allocator.free.iter().filter(|free| free.kind == kind).map(|free| free.bytes).sum::<u64>();
        let told = [FreeKind::ThreadCache, FreeKind::Run, FreeKind::Span].map(free);
        prop_assert_eq!(told, [made.cached, made.free, made.dirty]);
        prop_assert_eq!((allocator.returnable_bytes, look.heap.consistency), (made.dirty, Consistency::default()));
        let of_classes: u64 = allocator.size_classes.iter().map(|class| class.size_bytes * class.live_objects).sum();
        prop_assert_eq!(of_classes, allocator.live_bytes);
        let areas = &look.found[0].areas;
        prop_assert!(areas.contains(&(BASE, BASE + BASE_BYTES)), "{areas:x?}");
        let resident = &look.found[0].resident;
        prop_assert!(resident.free_bytes + resident.returnable_bytes <= resident.area_bytes);
    }

    #[test]
    fn random_memory_ends(
        words in prop::collection::vec((0_u8..6, 0_u64..0x1000, prop_oneof![any::<u64>(), 0_u64..9, Just(RECORDS)]), 200)
    ) {
        let mut made = Made::new(&some(), Classes::ALL[0]);
        for (place, offset, word) in words {
            let start = [ARENAS, LEAF, RECORDS, ARENA + 0x2000, SLOW & !0xff, STACKS][usize::from(place)];
            let word = if offset % 3 == 0 { made.word(start + offset / 8 * 8).unwrap_or(0) ^ (word & 0xff00) } else { word };
            made.put(start + offset % 0x400 / 8 * 8, word);
        }
        let look = made.read();
        prop_assert!(blocks(&look).len() as u64 <= look.heap.allocators.iter().map(|one| one.live_objects).sum());
    }
}

#[test]
fn records_of_another_version_are_not_read() {
    let mut made = Made::new(&some(), Classes::ALL[0]);
    // Bits of 5.2: two of the state, a bit earlier.
    for record in (RECORDS..).step_by(128).take(5) {
        let bits = made.word(record).unwrap();
        made.put(record, (bits & 0xffff) | bits >> 20 << 18);
    }
    assert_eq!(reason(&mut made).as_deref(), Some(NOT_PROVEN));
}

#[test]
fn a_map_that_contradicts_its_count_is_no_slab() {
    let mut made = Made::new(&some(), Classes::ALL[0]);
    let map = made.word(RECORDS + 64).unwrap();
    made.put(RECORDS + 64, map ^ 1);
    assert_eq!(reason(&mut made).as_deref(), Some(CONTRADICTORY));
    // A free block behind the last one.
    let mut made = Made::new(&some(), Classes::ALL[0]);
    let (bits, map) = (made.word(RECORDS).unwrap(), made.word(RECORDS + 64 + 8).unwrap());
    made.put(RECORDS + 64 + 8, map | 1 << 63);
    made.put(RECORDS, bits + (1 << 28));
    assert_eq!(reason(&mut made).as_deref(), Some(CONTRADICTORY));
}

#[test]
fn caches_that_are_not_found_are_no_figures() {
    let mut made = Made::new(&some(), Classes::ALL[0]);
    made.put(BINS - 8, 0);
    assert_eq!(reason(&mut made).as_deref(), Some(NO_CACHES));
}

#[test]
fn an_image_without_a_tree_is_told_by_its_name_only() {
    let mut made = Made::new(&[], Classes::ALL[0]);
    assert_eq!(reason(&mut made).as_deref(), Some(NOT_PROVEN));
    made.image = "/usr/bin/program";
    assert_eq!(reason(&mut made), None);
    let mut inside = Made { image: "/usr/bin/program", ..Made::new(&some(), Classes::ALL[0]) };
    assert_eq!(blocks(&inside.read()), inside.live);
}
