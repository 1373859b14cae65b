//! Types of blocks in memory that a process makes up, with the blocks that its allocator claims.

use std::time::Duration;

use memtrace::{
    model::{
        heap::{Allocator, Consistency},
        heap_types::NotTold,
    },
    process::{
        heap::{
            Bounds,
            bytes::{Memory, Page, Reader},
            found::{Block, Blocks, Found, ResidentPart},
            smaps, types,
        },
        maps::Mapping,
    },
};

use crate::{
    Target,
    input::{Input, part},
};

/// How many blocks, then each by its offset and size in the heap; then words of pages: of the heap, of the image's data, of its
/// names, and of the stack. A byte tells which pages are absent, and another how often a word is torn.
pub const TARGET: Target = Target { name: "heap_types", run, seeds };

/// Bytes of a page.
const PAGE: u64 = 4096;
const CODE: u64 = 0x7f00_0000_0000;
const DATA: u64 = CODE + PAGE;
const NAMES: u64 = DATA + PAGE;
const HEAP: u64 = 0x5500_0000_0000;
const STACK: u64 = 0x7ff0_0000_0000;
const MAPPINGS: &str = "550000000000-550000010000 rw-p 0 00:00 0 [heap]\n\
                        7f0000000000-7f0000001000 r-xp 0 08:01 7 /lib/libzoo.so\n\
                        7f0000001000-7f0000002000 rw-p 1000 08:01 7 /lib/libzoo.so\n\
                        7f0000002000-7f0000003000 r--p 2000 08:01 7 /lib/libzoo.so\n\
                        7ff000000000-7ff000001000 rw-p 0 00:00 0 [stack]\n";
/// Blocks, at most.
const MAX_BLOCKS: u8 = 64;
/// No look needs more reads of so little memory.
const MAX_READS: u64 = 1_000_000;

#[derive(Clone, Debug)]
struct Listed(Vec<Block>);

impl Blocks for Listed {
    fn visit(&self, with: &mut dyn FnMut(Block)) {
        self.0.iter().for_each(|block| with(*block));
    }
}

struct Forged<'a> {
    pieces: [(u64, &'a [u8]); 4],
    absent: u8,
    torn: u64,
    reads: u64,
}

impl Forged<'_> {
    fn fill(&mut self, address: u64, into: &mut [u8]) {
        self.reads += 1;
        for (at, byte) in (address..).zip(into.iter_mut()) {
            let byte_of =
                |(start, bytes): &(u64, &[u8])| bytes.get(usize::try_from(at.checked_sub(*start)?).ok()?).copied();
            *byte = self.pieces.iter().find_map(byte_of).unwrap_or(0);
        }
        if self.torn > 0 && self.reads.is_multiple_of(self.torn) {
            let at = usize::try_from(self.reads).unwrap_or(0) % into.len().max(1);
            if let Some(byte) = into.get_mut(at) {
                *byte ^= 0x41;
            }
        }
    }
}

impl Memory for Forged<'_> {
    fn pages(&mut self, address: u64, pages: &mut [Page]) -> bool {
        self.reads += 1;
        for (page, at) in pages.iter_mut().zip((address..).step_by(4096)) {
            let number = (at / PAGE) % 8;
            *page = if self.absent >> number & 1 == 0 { Page::Resident } else { Page::Absent };
        }
        self.reads < MAX_READS
    }

    fn copy(&mut self, address: u64, into: &mut [u8]) -> bool {
        self.fill(address, into);
        true
    }

    fn end(&mut self, _address: u64) -> Option<u64> {
        None
    }

    fn file(&mut self, mapping: &Mapping, file_offset: u64, into: &mut [u8]) -> bool {
        assert!(mapping.file.is_some(), "memory of no file is read from one");
        self.fill(CODE.wrapping_add(file_offset), into);
        true
    }
}

fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let (absent, torn) = (input.byte(), u64::from(input.byte()));
    let count = input.byte() % MAX_BLOCKS;
    let block = |input: &mut Input<'_>| {
        let (offset, size) = (u64::from(input.short()), u64::from(input.short()));
        // The highest bit makes a block that reaches far.
        let usable_bytes = if size >> 15 == 0 { size } else { size << 32 };
        Block { address: HEAP + offset, usable_bytes, arena: None }
    };
    let blocks = Listed((0..count).map(|_| block(&mut input)).collect());
    let pieces = [HEAP, DATA, NAMES, STACK].map(|start| (start, input.part()));
    let Ok(mappings) = smaps::parse(MAPPINGS.as_bytes()) else { return };
    let found = Found {
        allocator: Allocator { live_objects: count.into(), ..Allocator::default() },
        consistency: Consistency::default(),
        resident: ResidentPart::default(),
        areas: vec![(HEAP, HEAP + 16 * PAGE)],
        blocks: Box::new(blocks.clone()),
    };
    let mut memory = Forged { pieces, absent, torn, reads: 0 };
    let bounds = Bounds { bytes: 1 << 28, time: Duration::from_secs(5), ..Bounds::default() };
    match types::read(&mut Reader::new(&mut memory, bounds), &mappings, &[found]) {
        Ok(types) => check(&types, &blocks.0),
        // Blocks may reach far, again and again.
        Err(why) => assert!(matches!(why, NotTold::Bytes | NotTold::Gone | NotTold::Time(_)), "{why:?}"),
    }
}

/// Labels and figures add up to the blocks.
fn check(types: &types::Types, blocks: &[Block]) {
    let figures = &types.figures;
    let labelled: Vec<&Block> = blocks
        .iter()
        .enumerate()
        .filter(|(number, _)| types.label(*number).is_some())
        .map(|(_, block)| block)
        .collect();
    assert_eq!(figures.objects(), labelled.len() as u64);
    assert!(figures.bytes() <= labelled.iter().map(|block| block.usable_bytes).sum());
    let has_name = |number: usize| types.label(number).is_none_or(|label| types.name(label).is_some());
    assert!((0..blocks.len()).all(has_name));
    for name in figures.rows.iter().filter_map(|row| row.name.class()) {
        assert!(name.len() < 1024 && name.is_ascii() && !name.contains(|c: char| c.is_ascii_control()), "{name:?}");
    }
}

/// Words that begin at offsets of a page.
fn page(words: &[(u64, u64)]) -> Vec<u8> {
    let mut page = vec![0; 1024];
    for (offset, word) in words {
        if let Some(place) = usize::try_from(*offset).ok().and_then(|at| page.get_mut(at..at + 8)) {
            place.copy_from_slice(&word.to_le_bytes());
        }
    }
    page
}

/// Two objects of a class, one in a block; a list of two and a tree of three; a buffer of each kind; a table of functions; text.
fn seeds() -> Vec<Vec<u8>> {
    let (dog, table) = (DATA + 32, DATA + 64);
    let block = |number: u64| HEAP + 16 + number * 64;
    let offset = |number: u64| 16 + number * 64;
    let heap = page(&[
        (offset(0), dog),
        (offset(1) + 16, dog),
        (offset(2), block(3)),
        (offset(2) + 8, STACK + 144),
        (offset(3), STACK + 144),
        (offset(3) + 8, block(2)),
        (offset(4), 1),
        (offset(4) + 8, STACK + 32),
        (offset(4) + 16, block(5)),
        (offset(4) + 24, block(6)),
        (offset(5) + 8, block(4)),
        (offset(6) + 8, block(4)),
        (offset(7), table),
        (offset(8), u64::from_le_bytes(*b"a text t")),
        (offset(8) + 8, u64::from_le_bytes(*b"hat is l")),
        (offset(8) + 16, u64::from_le_bytes(*b"onger th")),
        (offset(8) + 24, u64::from_le_bytes(*b"an most.")),
    ]);
    let data = page(&[(0, DATA), (8, NAMES), (24, DATA), (32, CODE), (40, CODE + 8), (64, CODE), (72, CODE + 16)]);
    let names = b"N3zoo3DogE\0".to_vec();
    let stack = page(&[
        (40, block(4)),
        (48, block(5)),
        (56, block(6)),
        (80, block(9)),
        (88, 30),
        (96, 40),
        (120, block(10)),
        (128, block(10)),
        (136, block(10) + 48),
        // Not at the page's beginning: a word whose lower half is zero looks like the colour of a tree's node.
        (144, block(2)),
        (152, block(3)),
    ]);
    let blocks: Vec<u8> = (0..11)
        .flat_map(|number: u64| {
            let offset = u16::try_from(offset(number)).unwrap_or(0);
            [offset.to_le_bytes(), 56_u16.to_le_bytes()].concat()
        })
        .collect();
    let memory = [part(&heap), part(&data), part(&names), part(&stack)].concat();
    [(0, 0), (4, 0), (0, 3)].map(|(absent, torn)| [&[absent, torn, 11][..], &blocks, &memory].concat()).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Random changes begin from memory in which each kind of type is told.
    #[test]
    fn the_seed_has_a_block_of_each_kind() {
        let seed = seeds().swap_remove(0);
        let mut input = Input::new(&seed[3..]);
        let blocks: Vec<Block> = (0..11)
            .map(|_| Block {
                address: HEAP + u64::from(input.short()),
                usable_bytes: input.short().into(),
                arena: None,
            })
            .collect();
        let pieces = [HEAP, DATA, NAMES, STACK].map(|start| (start, input.part()));
        let mut memory = Forged { pieces, absent: 0, torn: 0, reads: 0 };
        let found = Found {
            allocator: Allocator { live_objects: 11, ..Allocator::default() },
            consistency: Consistency::default(),
            resident: ResidentPart::default(),
            areas: vec![(HEAP, HEAP + 16 * PAGE)],
            blocks: Box::new(Listed(blocks)),
        };
        let mappings = smaps::parse(MAPPINGS.as_bytes()).unwrap();
        let mut reader = Reader::new(&mut memory, Bounds::default());
        let types = types::read(&mut reader, &mappings, &[found]).unwrap();
        assert_eq!(types.figures.objects(), 11, "{:#?}", types.figures);
        assert_eq!(types.figures.rows.len(), 8, "{:#?}", types.figures);
    }
}
