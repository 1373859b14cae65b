//! The holders of the blocks that a look has found: their memory and that of roots is looked through once, and pointers are
//! followed. Pure but for [`system`]: memory comes through the same trait as for the readers of allocators.

pub(super) mod system;

use std::collections::HashMap;

use crate::{
    model::{
        holders::{BlockLabel, HolderLabel, HolderNode, HolderRoot, Holders, MAX_NODES, NoHolders, ThreadName},
        roots::WordKind,
        survival::Amount,
    },
    process::{
        heap::{
            budget::Exhausted,
            bytes::{Reader, Stop},
            found::Found,
            resident::Resident,
            smaps::MappedMemory,
        },
        kernel_words::KernelWords,
        maps::Mapping,
        root_places::{MappingKind, Open, Places, Spot},
        roots::{Stretch, stretches},
        thread_words::{Thread, ThreadRecord, records},
    },
    reach::{
        Extent,
        dominators::Dominators,
        holder_tree::{HolderTree, Label, SHAPE, Shape},
        marking::{Layout, MarkingError, Rank, Reach, Reached},
    },
};

/// Bytes of own memory that marking takes for a block that has a few pointers, and what dominators take beside that.
const BYTES_A_BLOCK: u64 = 100;
const RETAINED_BYTES_A_BLOCK: u64 = 80;
/// The most thread records that are noted.
const MAX_RECORDS: usize = 1 << 16;
/// From so many words in a row on that lead to blocks of one size, they count as one variable where no symbol tells.
const MIN_ROW: usize = 8;
/// The most spots in data without symbols that are told apart.
const MAX_UNNAMED: usize = 1 << 16;
/// The bit of the place of a root that tells the kernel's words from registers. Both are in no memory, and addresses have neither bit.
const OF_KERNEL: u64 = 1 << 62;
const OF_REGISTERS: u64 = 1 << 63;

/// Everything that is known of a process before its memory is looked through.
pub struct Known<'a> {
    /// Its mappings, in order of addresses.
    pub mappings: &'a [MappedMemory],
    /// Its allocators, as they were read right before.
    pub found: Vec<Found>,
    /// Its threads.
    pub threads: &'a [Thread],
    /// The words that the kernel keeps for it.
    pub kernel_words: &'a KernelWords,
    /// Opens its images.
    pub open: &'a mut Open<'a>,
    /// The name of a thread.
    pub thread_name: &'a dyn Fn(u32) -> ThreadName,
}

/// The wanted figures, and the memory that they may take beside the reader's bounds.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Whether the bytes that nodes retain are wanted.
    pub retained: bool,
    /// The most bytes of own memory.
    pub memory_bytes: u64,
}

impl From<Stop> for NoHolders {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Gone => Self::Gone,
            Stop::Exhausted(Exhausted::Bytes(_) | Exhausted::Time(_) | Exhausted::Blocks(_)) => Self::TooMuch,
        }
    }
}

impl From<MarkingError> for NoHolders {
    fn from(error: MarkingError) -> Self {
        match error {
            MarkingError::TooManyPointers => Self::TooManyPointers,
            MarkingError::Interrupted => Self::TooMuch,
        }
    }
}

/// Tells who holds the blocks.
///
/// # Errors
/// Where there are too many, a bound of the reader's is reached, or the process has ended.
pub fn holders(reader: &mut Reader<'_>, mut known: Known<'_>, wanted: Wanted) -> Result<Holders, NoHolders> {
    let (extents, layout, areas) = blocks(std::mem::take(&mut known.found), wanted)?;
    let mut places = Places::new(known.mappings, known.threads);
    let mut reach = Reach::new(extents, layout);
    let swapped_bytes = scan(reader, &known, &areas, &mut places, &mut reach)?;
    for (index, thread) in known.threads.iter().enumerate() {
        for word in thread.words.registers.iter().flatten() {
            reach.root(*word, Rank::Outside, OF_REGISTERS | index as u64);
        }
    }
    for word in &known.kernel_words.words {
        reach.root(word.word, Rank::Outside, OF_KERNEL | u64::from(word.descriptor));
    }
    let mut goes_on = || reader.budget().draw(0).is_ok();
    let reached = reach.follow(&mut goes_on)?;
    let dominators = if wanted.retained { Some(Dominators::of(&reached, &mut goes_on)?) } else { None };
    let roots = Roots::of(&reached, &mut places, &mut known);
    let label = |block: usize| label_of(reached.extents()[block].bytes());
    let place = |root: usize| roots.places.get(root).copied().unwrap_or(0);
    let shape = Shape { kept: MAX_NODES, ..SHAPE };
    let tree = HolderTree::of(&reached, &place, &label, dominators.as_ref(), shape, &mut goes_on)?;
    let all = reached.extents().iter().fold(Amount::default(), |sum, block| sum.plus(one(*block)));
    let by_way = reached.order().iter().filter_map(|block| reached.extents().get(*block as usize));
    let by_way = by_way.fold(Amount::default(), |sum, block| sum.plus(one(*block)));
    Ok(Holders {
        reached: by_way,
        unreached: all.less(by_way),
        nodes: nodes(&tree, &roots, &places, &known),
        elsewhere: tree.elsewhere,
        joined: tree.joined,
        swapped_bytes,
        kernel_words_left_out: known.kernel_words.left_out,
        has_retained: dominators.is_some(),
    })
}

fn one(block: Extent) -> Amount {
    Amount { bytes: block.bytes(), objects: 1 }
}

/// The number of the label of blocks of a size, and what it stands for: sizes up to a KiB are their own numbers.
fn label_of(size_bytes: u64) -> u32 {
    match BlockLabel::of(size_bytes) {
        BlockLabel::Size(bytes) => u32::try_from(bytes).unwrap_or(u32::MAX),
        BlockLabel::UpTo(bytes) => LARGE | bytes.trailing_zeros(),
    }
}

/// The bit of a label's number that tells powers of two from sizes.
const LARGE: u32 = 1 << 31;

fn block_label(label: u32) -> BlockLabel {
    if label & LARGE == 0 { BlockLabel::Size(label.into()) } else { BlockLabel::UpTo(1 << ((label & !LARGE) % 64)) }
}

/// Blocks in order of their addresses, how they are placed, and the areas that they lie in.
type Blocks = (Vec<Extent>, Layout, Vec<(u64, u64)>);

/// All live blocks.
fn blocks(found: Vec<Found>, wanted: Wanted) -> Result<Blocks, NoHolders> {
    let count: u64 = found.iter().map(|one| one.allocator.live_objects).sum();
    let bytes_a_block = BYTES_A_BLOCK + if wanted.retained { RETAINED_BYTES_A_BLOCK } else { 0 };
    let most = wanted.memory_bytes / bytes_a_block;
    if count > most {
        return Err(NoHolders::TooManyBlocks { most });
    }
    let mut extents = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
    let (mut areas, mut glibc) = (Vec::new(), Vec::new());
    for one in found {
        if one.allocator.name == "glibc" {
            glibc.extend(&one.areas);
        }
        areas.extend(&one.areas);
        one.blocks.visit(&mut |block| extents.push(Extent::new(block.address, block.usable_bytes)));
    }
    // Those of one allocator are nearly in order already.
    extents.sort();
    Ok((extents, Layout::GlibcWithin(disjoint(glibc)), disjoint(areas)))
}

/// Ranges in order, joined where they overlap.
fn disjoint(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (start, end) in ranges {
        match joined.last_mut().filter(|last| start <= last.1) {
            Some(last) => last.1 = last.1.max(end),
            None => joined.push((start, end)),
        }
    }
    joined
}

/// Looks through the memory of blocks and of roots. Returns how many bytes are swapped out.
fn scan(
    reader: &mut Reader<'_>,
    known: &Known<'_>,
    areas: &[(u64, u64)],
    places: &mut Places<'_>,
    reach: &mut Reach,
) -> Result<u64, NoHolders> {
    let plain: Vec<Mapping> = known.mappings.iter().map(|one| one.mapping.clone()).collect();
    let stack_pointers: Vec<u64> = known.threads.iter().filter_map(|thread| thread.words.stack_pointer).collect();
    let (mut resident, mut found) = (Resident::default(), Vec::<ThreadRecord>::new());
    for Stretch { start, end, source, .. } in stretches(&plain, areas, &stack_pointers) {
        if !is_worth_reading(places, known.mappings, start) {
            continue;
        }
        let kind = places.kind(start);
        let rank = match kind {
            MappingKind::File(_) => Rank::Data,
            MappingKind::Stack => Rank::Thread,
            MappingKind::Other => Rank::Memory,
        };
        resident.each(reader, start, end, &mut |at, bytes| {
            if source == WordKind::Roots {
                found.extend(records(at, bytes).take(MAX_RECORDS.saturating_sub(found.len())));
            }
            reach.scan(at, bytes, source, rank).map_err(NoHolders::from)
        })?;
    }
    places.note_records(&found, known.threads);
    Ok(resident.swapped_bytes)
}

/// Whether the mapping of an address may hold pointers that are resident: what nobody has written to is as its file has it.
fn is_worth_reading(places: &Places<'_>, mappings: &[MappedMemory], address: u64) -> bool {
    places.mapping(address).and_then(|index| mappings.get(index)).is_some_and(|one| {
        let bytes = if one.mapping.shared { one.resident_bytes } else { one.anonymous_bytes };
        !one.is_guarded && (bytes > 0 || one.swap_bytes > 0)
    })
}

/// The key by which the place of a root is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Spot(Spot),
    /// All data of an image that is not told apart.
    Rest(usize),
    Thread(u32),
    Epoll(u32),
    Nowhere,
}

/// The places of roots.
struct Roots {
    /// The place of each root, as an index into `keys`.
    places: Vec<u32>,
    keys: Vec<Key>,
}

impl Roots {
    fn of(reached: &Reached, places: &mut Places<'_>, known: &mut Known<'_>) -> Self {
        let mut keys = Vec::with_capacity(reached.roots().len());
        let mut unnamed: Vec<(u64, usize)> = Vec::new();
        for (index, root) in reached.roots().iter().enumerate() {
            let key = match root.place {
                place if root.rank != Rank::Outside => places.spot(place, known.open).map_or(Key::Nowhere, Key::Spot),
                place if place & OF_REGISTERS != 0 => {
                    let thread = usize::try_from(place & !OF_REGISTERS).ok();
                    let thread = thread.and_then(|thread| known.threads.get(thread));
                    thread.map_or(Key::Nowhere, |thread| Key::Thread(thread.words.tid))
                }
                place => Key::Epoll(u32::try_from(place & !OF_KERNEL).unwrap_or(u32::MAX)),
            };
            if let Key::Spot(Spot::Unnamed(..)) = key {
                unnamed.push((root.place, index));
            }
            keys.push(if let Key::Spot(Spot::Thread(tid)) = key { Key::Thread(tid) } else { key });
        }
        unnamed.sort_unstable();
        join_rows(&unnamed, reached, &mut keys);
        let mut numbers: HashMap<Key, u32> = HashMap::new();
        let mut distinct = Vec::new();
        let number = |key: &Key| {
            let next = u32::try_from(distinct.len()).unwrap_or(u32::MAX);
            *numbers.entry(*key).or_insert_with(|| {
                distinct.push(*key);
                next
            })
        };
        let places = keys.iter().map(number).collect();
        Self { places, keys: distinct }
    }
}

/// Joins words in a row that lead to blocks with the same label, as in an array, and all of an image that are beyond the most that are
/// told apart. `unnamed` has words in data without symbols, in order of addresses, each with the index of its key.
fn join_rows(unnamed: &[(u64, usize)], reached: &Reached, keys: &mut [Key]) {
    let label = |index: usize| {
        let block = reached.roots().get(index).and_then(|root| reached.extents().get(root.block as usize));
        block.map(|block| label_of(block.bytes()))
    };
    let is_next = |one: &(u64, usize), other: &(u64, usize)| {
        one.0.checked_add(8) == Some(other.0) && label(one.1) == label(other.1)
    };
    let mut told_apart = 0;
    for row in unnamed.chunk_by(is_next) {
        let Some(first) = row.first().and_then(|(_, index)| keys.get(*index)).copied() else { continue };
        let is_array = row.len() >= MIN_ROW;
        told_apart += if is_array { 1 } else { row.len() };
        for (_, index) in row {
            let Some(key) = keys.get_mut(*index) else { continue };
            match *key {
                Key::Spot(Spot::Unnamed(image, _)) if told_apart > MAX_UNNAMED => *key = Key::Rest(image),
                _ if is_array => *key = first,
                _ => {}
            }
        }
    }
}

/// The nodes of a tree, as reports have them.
fn nodes(tree: &HolderTree, roots: &Roots, places: &Places<'_>, known: &Known<'_>) -> Vec<HolderNode> {
    let root = |place: u32| {
        let key = usize::try_from(place).ok().and_then(|place| roots.keys.get(place)).copied();
        described(key.unwrap_or(Key::Nowhere), places, known)
    };
    let node = |node: &crate::reach::holder_tree::Node| HolderNode {
        parent: node.parent,
        label: match node.label {
            Label::Place(place) => HolderLabel::Root(root(place)),
            Label::Block(label) => HolderLabel::Block(block_label(label)),
        },
        own: node.own,
        below: node.below,
        retained_bytes: node.retained_bytes,
    };
    tree.nodes.iter().map(node).collect()
}

fn described(key: Key, places: &Places<'_>, known: &Known<'_>) -> HolderRoot {
    let data = |image, offset| HolderRoot::Data { image: places.path(image), offset, symbol: None };
    match key {
        Key::Spot(Spot::Variable(image, offset) | Spot::Unnamed(image, offset)) => data(image, Some(offset)),
        Key::Rest(image) => data(image, None),
        Key::Spot(Spot::ThreadLocal(tid, offset)) => HolderRoot::ThreadLocal {
            thread: (known.thread_name)(tid),
            image: places.program().map(|program| places.path(program)).unwrap_or_default(),
            offset,
            symbol: None,
        },
        Key::Thread(tid) | Key::Spot(Spot::Thread(tid)) => HolderRoot::Thread((known.thread_name)(tid)),
        Key::Spot(Spot::Mapping(mapping)) => HolderRoot::Mapping(places.path(mapping)),
        Key::Epoll(descriptor) => HolderRoot::Epoll { descriptor },
        Key::Nowhere => HolderRoot::Mapping(String::new()),
    }
}
