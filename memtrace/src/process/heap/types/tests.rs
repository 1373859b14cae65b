//! Made-up heaps with objects of classes, tables, nodes and buffers.

use std::time::Duration;

use super::*;
use crate::{
    model::{
        heap::{Allocator, Consistency},
        heap_types::{Pattern, Table},
    },
    process::heap::{
        budget::Bounds,
        bytes::{Memory, PAGE, Page},
        found::{Block, Blocks, ResidentPart},
        smaps,
    },
};

const CODE: u64 = 0x7f00_0000_0000;
const DATA: u64 = CODE + 0x1000;
const NAMES: u64 = CODE + 0x3000;
const HEAP: u64 = 0x5500_0000_0000;
const STACK: u64 = 0x7ff0_0000_0000;
const MAPPINGS: &str = "550000000000-550000008000 rw-p 0 00:00 0 [heap]\n\
                        7f0000000000-7f0000001000 r-xp 0 08:01 7 /lib/libzoo.so\n\
                        7f0000001000-7f0000003000 r--p 1000 08:01 7 /lib/libzoo.so\n\
                        7f0000003000-7f0000004000 r--p 3000 08:01 7 /lib/libzoo.so\n\
                        7ff000000000-7ff000001000 rw-p 0 00:00 0 [stack]\n";

/// Memory of a few pages, and a file of which one page is not resident.
struct Made {
    words: std::collections::BTreeMap<u64, u64>,
    absent: Vec<u64>,
    file_reads: usize,
}

impl Made {
    /// Words one behind the other.
    fn put(&mut self, address: u64, words: &[u64]) {
        self.words.extend((address..).step_by(8).zip(words.iter().copied()));
    }

    fn text(&mut self, address: u64, text: &str) {
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(bytes.len() / 8 * 8 + 8, 0);
        let words: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        self.put(address, &words);
    }

    /// A class with its description; returns what its objects begin with.
    fn class(&mut self, number: u64, name: &str) -> u64 {
        let (place, name_at) = (DATA + number * 0x80, NAMES + number * 0x80);
        self.text(name_at, name);
        self.put(place, &[DATA + 0x1ff0, name_at, 0, place, CODE + 8, CODE + 16]);
        place + 32
    }

    fn fill(&self, address: u64, into: &mut [u8]) {
        for (at, byte) in (address..).zip(into) {
            let word = self.words.get(&(at & !7)).copied().unwrap_or(0);
            *byte = word.to_le_bytes()[usize::try_from(at % 8).unwrap()];
        }
    }
}

impl Memory for Made {
    fn pages(&mut self, address: u64, pages: &mut [Page]) -> bool {
        for (page, at) in pages.iter_mut().zip((address..).step_by(PAGE)) {
            *page = if self.absent.contains(&at) { Page::Absent } else { Page::Resident };
        }
        true
    }

    fn copy(&mut self, address: u64, into: &mut [u8]) -> bool {
        self.fill(address, into);
        true
    }

    fn end(&mut self, _address: u64) -> Option<u64> {
        None
    }

    fn file(&mut self, mapping: &Mapping, file_offset: u64, into: &mut [u8]) -> bool {
        self.file_reads += 1;
        assert_eq!(mapping.path.to_str(), Some("/lib/libzoo.so"));
        // The image is mapped as its file is.
        self.fill(CODE + file_offset, into);
        true
    }
}

fn made() -> Made {
    Made { words: std::collections::BTreeMap::new(), absent: Vec::new(), file_reads: 0 }
}

#[derive(Debug)]
struct Listed(Vec<(u64, u64)>);

impl Blocks for Listed {
    fn visit(&self, with: &mut dyn FnMut(Block)) {
        for (address, usable_bytes) in &self.0 {
            with(Block { address: *address, usable_bytes: *usable_bytes, arena: None });
        }
    }
}

fn read_within(made: &mut Made, blocks: &[(u64, u64)], bounds: Bounds) -> Result<Types, NotTold> {
    let found = Found {
        allocator: Allocator { live_objects: blocks.len() as u64, ..Allocator::default() },
        consistency: Consistency::default(),
        resident: ResidentPart::default(),
        areas: vec![(HEAP, HEAP + 0x8000)],
        blocks: Box::new(Listed(blocks.to_vec())),
    };
    let mappings = smaps::parse(MAPPINGS.as_bytes()).unwrap();
    read(&mut Reader::new(made, bounds), &mappings, &[found])
}

/// The types of these blocks, those with figures, in order of names.
fn told(made: &mut Made, blocks: &[(u64, u64)]) -> Vec<(TypeName, u64, u64, u64)> {
    let types = read_within(made, blocks, Bounds::default()).unwrap();
    let rows = types.figures.rows.iter();
    let mut told: Vec<_> = rows.map(|row| (row.name.clone(), row.objects, row.bytes, row.inside_objects)).collect();
    told.sort();
    told
}

fn class(name: &str) -> TypeName {
    TypeName::Class(name.into())
}

fn pattern(pattern: Pattern) -> TypeName {
    TypeName::Pattern(pattern)
}

#[test]
fn objects_are_told_by_the_description_of_their_class() {
    let mut made = made();
    let (dog, cat) = (made.class(0, "N3zoo3DogE"), made.class(1, "*3Cat"));
    made.put(HEAP + 16, &[dog]);
    made.put(HEAP + 64, &[cat]);
    // Two of them in a block that begins with something else.
    made.put(HEAP + 0x1000, &[9, 9, 9, 9, 9, 9, 9, 9, dog, 0, dog]);
    let blocks = [(HEAP + 16, 24), (HEAP + 64, 40), (HEAP + 0x1000, 104)];
    assert_eq!(told(&mut made, &blocks), [(class("*3Cat"), 1, 40, 0), (class("N3zoo3DogE"), 1, 24, 2)]);
}

#[test]
fn names_that_the_process_has_never_touched_come_from_the_file() {
    let mut made = made();
    let dog = made.class(0, "3Dog");
    made.put(HEAP + 16, &[dog]);
    made.absent = vec![NAMES];
    assert_eq!(told(&mut made, &[(HEAP + 16, 24)]), [(class("3Dog"), 1, 24, 0)]);
    assert!(made.file_reads > 0);
}

#[test]
fn a_part_of_an_object_and_a_name_that_is_none_tell_nothing() {
    let mut made = made();
    let (part, nonsense) = (made.class(0, "3Dog"), made.class(1, "a text of some kind"));
    made.put(part - 16, &[16_u64.wrapping_neg()]);
    made.put(HEAP + 16, &[part]);
    // Its first words are one address of code each, behind what is no offset and no description.
    made.put(nonsense - 16, &[77]);
    made.put(nonsense + 8, &[0]);
    made.put(HEAP + 64, &[nonsense]);
    assert_eq!(told(&mut made, &[(HEAP + 16, 24), (HEAP + 64, 24)]), []);
}

#[test]
fn tables_of_functions_are_told_by_their_place() {
    let mut made = made();
    made.put(DATA + 0x100, &[CODE + 8, CODE + 16]);
    made.put(HEAP + 16, &[DATA + 0x100]);
    made.put(HEAP + 64, &[DATA + 0x100]);
    let table =
        Table { image: "/lib/libzoo.so".into(), offset: 0x1100, symbol: None, address: DATA + 0x100, is_sure: true };
    assert_eq!(told(&mut made, &[(HEAP + 16, 24), (HEAP + 64, 40)]), [(TypeName::Table(table), 2, 64, 0)]);
}

#[test]
fn nodes_of_lists_and_trees_agree_with_their_neighbours() {
    let mut made = made();
    let block = |number: u64| HEAP + 16 + number * 64;
    let (list, tree) = (STACK + 0x100, STACK + 0x200);
    // A list of three, whose ends are on the stack.
    made.put(list, &[block(0), block(2)]);
    made.put(block(0), &[block(1), list]);
    made.put(block(1), &[block(2), block(0)]);
    made.put(block(2), &[list, block(1)]);
    // Two that claim to be between nodes that do not know them.
    made.put(block(3), &[block(1), block(0)]);
    made.put(block(4), &[block(3), 0]);
    // A tree of three, with an object in the root; padding behind a colour has anything.
    let dog = made.class(0, "3Dog");
    made.put(tree, &[0, block(5), block(6), block(7)]);
    made.put(block(5), &[1, tree, block(6), block(7), dog]);
    made.put(block(6), &[0xdead_0000_0000, block(5), 0, 0]);
    made.put(block(7), &[0, block(5), 0, 0]);
    // One with a parent that has other children.
    made.put(block(8), &[0, block(5), 0, 0]);
    let blocks: Vec<(u64, u64)> = (0..9).map(|number| (block(number), 40)).collect();
    let root = TypeName::Around { class: "3Dog".into(), offset: 32, pattern: Some(Pattern::TreeNode) };
    let expected = [
        (class("3Dog"), 0, 0, 1),
        (root, 1, 40, 0),
        (pattern(Pattern::ListNode), 3, 120, 0),
        (pattern(Pattern::TreeNode), 2, 80, 0),
    ];
    assert_eq!(told(&mut made, &blocks), expected);
}

#[test]
fn a_node_that_is_alone_is_known_by_the_end_that_it_leads_to() {
    let mut made = made();
    let block = |number: u64| HEAP + 16 + number * 64;
    let (list, tree) = (STACK + 0x100, STACK + 0x200);
    made.put(list, &[block(0), block(0)]);
    made.put(block(0), &[list, list]);
    made.put(tree, &[0, block(1), block(1), block(1)]);
    made.put(block(1), &[1, tree, 0, 0]);
    // These lead to what leads elsewhere.
    made.put(block(2), &[tree, tree]);
    made.put(block(3), &[1, list, 0, 0]);
    let blocks: Vec<(u64, u64)> = (0..4).map(|number| (block(number), 40)).collect();
    let expected = [(pattern(Pattern::ListNode), 1, 40, 0), (pattern(Pattern::TreeNode), 1, 40, 0)];
    assert_eq!(told(&mut made, &blocks), expected);
}

#[test]
fn buffers_are_told_by_who_holds_them() {
    let mut made = made();
    let block = |number: u64| HEAP + 16 + number * 64;
    let dog = made.class(0, "3Dog");
    made.text(block(0), "a text that is a string's own, with its length");
    made.text(block(1), "a text that nobody has told the length of");
    made.put(block(2), &[dog, 0, dog]);
    // The holders are on the stack, and in another block.
    made.put(STACK + 0x10, &[block(0), 46, 50]);
    made.put(block(3), &[5, block(2), block(2) + 32, block(2) + 48]);
    made.put(STACK + 0x40, &[block(1), 60, 50]);
    // A stream that has written the texts.
    made.put(STACK + 0x80, &[block(1), block(1) + 41, block(1) + 50]);
    made.put(STACK + 0xa0, &[block(0), block(0) + 46, block(0) + 50]);
    let blocks: Vec<(u64, u64)> = (0..4).map(|number| (block(number), 56)).collect();
    let expected = [
        (class("3Dog"), 0, 0, 2),
        (pattern(Pattern::StringBuffer), 1, 56, 0),
        (pattern(Pattern::VectorBuffer), 1, 56, 0),
        (TypeName::Text, 1, 56, 0),
    ];
    assert_eq!(told(&mut made, &blocks), expected);
}

#[test]
fn labels_go_by_the_order_of_blocks() {
    let mut made = made();
    let (dog, cat) = (made.class(0, "3Dog"), made.class(1, "3Cat"));
    made.put(HEAP + 16, &[dog]);
    made.put(HEAP + 80, &[cat]);
    let blocks = [(HEAP + 16, 24), (HEAP + 48, 24), (HEAP + 80, 24)];
    let types = read_within(&mut made, &blocks, Bounds::default()).unwrap();
    let named = |block| types.label(block).and_then(|label| types.name(label)).and_then(TypeName::class);
    assert_eq!([0, 1, 2, 3].map(named), [Some("3Dog"), None, Some("3Cat"), None]);
}

#[test]
fn large_blocks_are_read_in_pieces_and_absent_pages_are_not() {
    let mut made = made();
    let dog = made.class(0, "3Dog");
    // Over the end of the first piece, and of the second.
    let (first, second) = (HEAP + (1 << 20), HEAP + (2 << 20));
    made.put(first - 8, &[dog, dog, dog]);
    made.put(second - 24, &[dog, dog, dog, dog]);
    made.absent = (0..256).map(|page| HEAP + (3 << 20) + page * 4096).collect();
    made.put(HEAP + (3 << 20), &[dog]);
    assert_eq!(told(&mut made, &[(HEAP, 5 << 20)]), [(class("3Dog"), 0, 0, 7)]);
}

#[test]
fn bounds_end_it_and_say_why() {
    let mut made = made();
    let late = Bounds { time: Duration::ZERO, ..Bounds::default() };
    let told = |made: &mut Made, bounds| read_within(made, &[(HEAP + 16, 24)], bounds).map(drop);
    assert_eq!(told(&mut made, late), Err(NotTold::Time(Duration::ZERO)));
    assert_eq!(told(&mut made, Bounds { bytes: 100, ..Bounds::default() }), Err(NotTold::Bytes));
    assert_eq!(told(&mut made, Bounds::default()), Ok(()));
}
