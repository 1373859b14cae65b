//! The memory of a process that makes its heap up, under mappings that it makes up as well.

use std::time::Duration;

use memtrace::{
    looking::holders::{Known, Wanted, holders},
    model::{
        holders::{NoHolders, ThreadName},
        roots::ThreadWords,
        survival::Amount,
    },
    process::{
        heap::{
            self, Bounds, Hints, Look,
            bytes::{Memory, Page, Reader},
            smaps,
        },
        kernel_words::{KernelWord, KernelWords},
        thread_words::Thread,
    },
};

use crate::{
    Target,
    input::{Input, part},
};

/// A version, the text of smaps, and memory: pieces, each with its address. A piece that is read again may have changed.
pub const TARGET: Target = Target { name: "heap", run, seeds };

/// Bytes of a page.
const PAGE: u64 = 4096;
/// No look needs more reads of so little memory.
const MAX_READS: u64 = 2_000_000;

/// Memory of a few pieces; all other pages are absent.
struct Forged<'a> {
    pieces: Vec<(u64, &'a [u8])>,
    reads: u64,
    /// Every so many reads a word of it is another.
    torn: u64,
}

impl Forged<'_> {
    /// Fills in what pieces have from `address` on. The first of several that overlap counts, as for [`Memory::end`].
    fn fill(&self, address: u64, into: &mut [u8]) {
        into.fill(0);
        for (start, bytes) in self.pieces.iter().rev() {
            // One of the two begins within the other, or they are apart.
            let (from, skipped) = (start.saturating_sub(address), address.saturating_sub(*start));
            let parts = usize::try_from(from).ok().zip(usize::try_from(skipped).ok());
            let Some((into, bytes)) = parts.and_then(|(from, skipped)| into.get_mut(from..).zip(bytes.get(skipped..)))
            else {
                continue;
            };
            let length = into.len().min(bytes.len());
            into[..length].copy_from_slice(&bytes[..length]);
        }
    }
}

impl Memory for Forged<'_> {
    fn pages(&mut self, address: u64, pages: &mut [Page]) -> bool {
        self.reads += 1;
        for (index, page) in pages.iter_mut().enumerate() {
            let from = (address & !(PAGE - 1)).saturating_add(index as u64 * PAGE);
            let until = from.saturating_add(PAGE);
            let overlaps =
                |(start, bytes): &(u64, &[u8])| *start < until && from < start.saturating_add(bytes.len() as u64);
            *page = if self.pieces.iter().any(overlaps) {
                Page::Resident
            } else if from % 7 == 6 {
                Page::Swapped
            } else {
                Page::Absent
            };
        }
        self.reads < MAX_READS
    }

    fn copy(&mut self, address: u64, into: &mut [u8]) -> bool {
        self.reads += 1;
        self.fill(address, into);
        if self.torn > 0 && self.reads.is_multiple_of(self.torn) {
            let at = usize::try_from(self.reads).unwrap_or(0) % into.len().max(1);
            if let Some(byte) = into.get_mut(at) {
                *byte ^= 0x41;
            }
        }
        true
    }

    fn end(&mut self, address: u64) -> Option<u64> {
        let within =
            |(start, bytes): &&(u64, &[u8])| address.checked_sub(*start).is_some_and(|at| at < bytes.len() as u64);
        self.pieces.iter().find(within).map(|(start, bytes)| start.saturating_add(bytes.len() as u64))
    }
}

fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let (version, torn) = (input.byte(), u64::from(input.byte()));
    let Ok(mappings) = smaps::parse(input.part()) else { return };
    let mut pieces = Vec::new();
    while !input.is_empty() && pieces.len() < 16 {
        let address = input.long();
        pieces.push((address, input.part()));
    }
    let hints = Hints { glibc_version: (version > 0).then_some((2, u32::from(version))) };
    let mut memory = Forged { pieces, reads: 0, torn };
    let bounds = Bounds { bytes: 1 << 26, time: Duration::from_millis(20), retries: 1000, blocks: 1 << 20 };
    let Ok(look) = heap::read(&mut memory, mappings, &hints, bounds) else { return };
    for found in &look.found {
        let (mut objects, mut bytes) = (0, 0);
        found.blocks.visit(&mut |block| {
            objects += 1;
            bytes += block.usable_bytes;
        });
        assert_eq!((objects, bytes), (found.allocator.live_objects, found.allocator.live_bytes));
        let resident = &found.resident;
        assert!(
            resident.returnable_bytes <= resident.area_bytes || found.consistency.skipped_bytes > 0,
            "{resident:?}"
        );
    }
    hold(&mut memory, look, bounds, version.into());
}

/// Looks for who holds the blocks, with a thread and a word of the kernel's that lead to some of them.
fn hold(memory: &mut Forged<'_>, look: Look, bounds: Bounds, seed: u64) {
    let mut first = None;
    for found in &look.found {
        found.blocks.visit(&mut |block| first = first.or(Some(block.address)));
    }
    let word = first.unwrap_or(seed << 12);
    let words = ThreadWords { tid: 7, stack_pointer: Some(word ^ seed), registers: Some(vec![word, seed]) };
    let kernel_words = KernelWords { words: vec![KernelWord { descriptor: 3, word }], left_out: 0 };
    let known = Known {
        mappings: &look.mappings,
        found: look.found,
        threads: &[Thread { words, own_tid: 7 }],
        kernel_words: &kernel_words,
        open: &mut |_| None,
        thread_name: &|tid| ThreadName { tid, name: String::new() },
    };
    let mut reader = Reader::new(memory, bounds);
    match holders(&mut reader, known, Wanted { retained: true, memory_bytes: 1 << 30 }) {
        Ok(holders) => {
            let parts = holders.nodes.iter().map(|node| node.own.plus(node.below));
            assert_eq!(parts.fold(holders.elsewhere, Amount::plus), holders.reached);
        }
        Err(why) => assert!(matches!(why, NoHolders::TooMuch | NoHolders::Gone), "{why:?}"),
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = glibc_seeds();
    seeds.push(jemalloc_seed());
    seeds
}

/// jemalloc's tree with one leaf, for a slab of 48 bytes (one block live, one in a thread's cache, the others free) and a free
/// extent; an arena with the ring of that cache; the thread's memory.
fn jemalloc_seed() -> Vec<u8> {
    const DATA: u64 = 0x7f00_0000_0000;
    const BASE: u64 = 0x7d00_0000_0000;
    const HEAP: u64 = 0x7e00_4000_0000;
    let (leaf, records, arena) = (BASE + 0x1000, BASE + 0x20_1000, BASE + 0x20_2000);
    let (thread, root) = (BASE + 0x20_3000, DATA + 0x1000);
    let place = root + (HEAP >> 30) * 8;
    let (slow, bins, empty) = (thread, thread + 64, thread + 0x400);
    let head = empty - 8;
    let bin = |class: u64, head: u64| [(bins + class * 24, head), (bins + class * 24 + 16, (empty & 0xffff) << 32)];
    let ring = [slow, slow, slow + 16, slow + 16, bins, arena];
    let words = [
        (BASE, 4 << 20),
        (BASE + 24, arena + 0x1000),
        (BASE + 32, BASE + (4 << 20) - arena - 0x1000),
        (leaf, records | 3 << 48 | 1),
        (leaf + 8, (records + 128) | 232 << 48 | 1 << 2),
        (records, 3 << 20 | 1 << 12 | 83 << 28),
        (records + 8, HEAP),
        (records + 16, 4096),
        (records + 64, !3),
        (records + 72, (1 << 21) - 1),
        (records + 128, 232 << 20 | 1 << 17),
        (records + 136, HEAP + 4096),
        (records + 144, 4096),
        (arena + 64, slow),
        (bins - 8, slow),
        (head, HEAP + 48),
    ];
    let ring = (slow..).step_by(8).zip(ring);
    let bins = [bin(0, empty), bin(1, empty), bin(2, empty), bin(3, head)];
    let words: Vec<(u64, u64)> = words.into_iter().chain(ring).chain(bins.into_iter().flatten()).collect();
    // A page each, with what lies in it.
    let page = |start: u64| {
        let mut page = vec![0; usize::try_from(PAGE).unwrap_or(0)];
        for (address, word) in words.iter().chain([&(place, leaf), &(DATA + 0x10, arena)]) {
            let at = address.checked_sub(start).and_then(|at| usize::try_from(at).ok());
            if let Some(bytes) = at.and_then(|at| page.get_mut(at..at + 8)) {
                bytes.copy_from_slice(&word.to_le_bytes());
            }
        }
        [&start.to_le_bytes()[..], &part(&page)].concat()
    };
    let mappings = b"7d0000000000-7d0000400000 rw-p 00000000 00:00 0\nRss: 16 kB\nAnonymous: 16 kB\n\
                     7e0040000000-7e0040002000 rw-p 00000000 00:00 0\nRss: 8 kB\nAnonymous: 8 kB\n\
                     7f0000000000-7f0000210000 rw-p 00000000 08:01 77   /lib/libjemalloc.so.2\nRss: 8 kB\nAnonymous: 8 kB\n";
    let pages = [BASE, leaf, records, arena, thread, HEAP, HEAP + 4096, DATA, place & !(PAGE - 1)].map(page);
    [&[0, 0][..], &part(mappings), &pages.concat()].concat()
}

/// A library's data with one arena, whose first heap has a few chunks: live, in a thread's cache, in a fastbin, free, the top.
fn glibc_seeds() -> Vec<Vec<u8>> {
    const DATA: u64 = 0x7f00_0000_0000;
    const HEAP: u64 = 0x5500_0000_0000;
    const KEY: u64 = 0x9e37_79b9_7f4a_7c15;
    let arena = DATA + 64;
    let mut data = vec![0_u64; 512];
    let mut put = |address: u64, word: u64| {
        if let Some(place) = usize::try_from((address - DATA) / 8).ok().and_then(|index| data.get_mut(index)) {
            *place = word;
        }
    };
    for bin in 0..127 {
        let bin = arena + 112 + bin * 16;
        put(bin, bin - 16);
        put(bin + 8, bin - 16);
    }
    put(arena + 2160, arena);
    put(arena + 2184, 4096);
    put(DATA + 2400, KEY);
    // The parameters, as far as they are read.
    let base = DATA + 3000;
    for (before, word) in [(80, 128 << 10), (32, 1 << 16), (0, HEAP)] {
        put(base - before, word);
    }
    let disguise = |chunk: u64| (chunk + 16) >> 12;
    let mut heap = vec![0_u64; 512];
    let mut at = 0_usize;
    for (size, flags, first, second) in
        [(0x290_u64, 1, 0, 0), (0x30, 1, 7, 7), (0x40, 1, 0, KEY), (0x20, 1, 0, 0), (0x50, 1, 9, 9)]
    {
        let chunk = HEAP + at as u64 * 8;
        let first = if second == KEY || size == 0x20 { disguise(chunk) } else { first };
        for (offset, word) in [(1, size | flags), (2, first), (3, second)] {
            if let Some(place) = heap.get_mut(at + offset) {
                *place = word;
            }
        }
        if size == 0x20 {
            put(arena + 16, chunk);
        }
        at += usize::try_from(size / 8).unwrap_or(0);
    }
    put(arena + 96, HEAP + at as u64 * 8);
    if let Some(place) = heap.get_mut(at + 1) {
        *place = (4096 - at as u64 * 8) | 1;
    }
    let mappings = b"550000000000-550000001000 rw-p 00000000 00:00 0    [heap]\nRss: 4 kB\nAnonymous: 4 kB\n\
                     7f0000000000-7f0000001000 rw-p 00000000 08:01 77   /lib/libc.so.6\nRss: 4 kB\nAnonymous: 4 kB\n";
    let bytes = |words: &[u64]| part(&words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>());
    let memory = [&DATA.to_le_bytes()[..], &bytes(&data), &HEAP.to_le_bytes()[..], &bytes(&heap)].concat();
    [(36, 0), (31, 0), (0, 0), (36, 3)]
        .map(|(version, torn)| [&[version, torn][..], &part(mappings), &memory].concat())
        .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(seed: &[u8]) -> Look {
        let mut input = Input::new(seed.get(2..).unwrap());
        let mappings = smaps::parse(input.part()).unwrap();
        let mut pieces = Vec::new();
        while !input.is_empty() {
            let address = input.long();
            pieces.push((address, input.part()));
        }
        let mut memory = Forged { pieces, reads: 0, torn: 0 };
        let hints = Hints { glibc_version: Some((2, 36)) };
        heap::read(&mut memory, mappings, &hints, Bounds::default()).unwrap()
    }

    /// Random changes begin from heaps that are read to their end.
    #[test]
    fn seeds_are_heaps() {
        let free = |look: &Look| -> Vec<u64> { look.heap.allocators[0].free.iter().map(|free| free.bytes).collect() };
        let glibc = look(&seeds().swap_remove(0));
        let allocator = &glibc.heap.allocators[0];
        assert_eq!((allocator.live_objects, free(&glibc)), (3, vec![4096 - 0x370, 0x40, 0x20]), "{allocator:?}");
        let jemalloc = look(&jemalloc_seed());
        let allocator = &jemalloc.heap.allocators[0];
        assert_eq!((allocator.live_objects, free(&jemalloc)), (1, vec![48, 83 * 48, 4096]), "{allocator:?}");
        for look in [glibc, jemalloc] {
            // Some pages that are not there count as swapped out.
            let consistency = look.heap.consistency;
            assert_eq!((consistency.retries, consistency.skipped_bytes), (0, 0));
        }
    }
}
