//! One pass over the content of all live blocks, in order of their addresses: each word that points into an image may tell a class,
//! and each that points to a block may be a buffer's.

use super::{
    super::bytes::{MAX_WINDOW_BYTES, PAGE, Page, Reader, Stop, Window},
    buffers::{Buffers, Kind},
    classes::{Classes, Meaning},
    images::Images,
    index::Index,
    labels::{Label, Labels, NO_LABEL},
    nodes::{LINK_WORDS, Nodes},
    text::{TEXT_WORDS, is_text},
};

/// Words behind a block's first in which an object is looked for by which to name the block: behind a node's links.
const AROUND_WORDS: usize = 5;
/// Words behind one that tell of a buffer.
const BUFFER_WORDS: usize = 2;
/// Pages that are asked about at once, where most may not be there.
const PAGES_AT_ONCE: usize = 8192;
/// Marks the label of a block that may be a node: the rest is its number among these.
const NODE: u32 = 1 << 31;

/// All that is gathered about blocks.
#[derive(Debug)]
pub(super) struct Scan<'a> {
    images: &'a Images,
    index: &'a Index,
    /// The lowest address of images and blocks, and how far the highest is from that: no other word tells anything.
    extent: (u64, u64),
    pub(super) classes: Classes<'a>,
    pub(super) labels: Labels,
    /// The label of each block.
    of_block: Vec<u32>,
    nodes: Nodes,
    buffers: Buffers,
}

impl<'a> Scan<'a> {
    /// Nothing is known yet; nothing where there is no memory for it.
    pub(super) fn new(images: &'a Images, index: &'a Index) -> Option<Self> {
        let mut of_block = Vec::new();
        of_block.try_reserve_exact(index.len()).ok()?;
        of_block.resize(index.len(), NO_LABEL);
        let extents = images.extent().into_iter().chain(index.extent());
        let (low, high) = extents.fold((u64::MAX, 0), |(low, high), (start, end)| (low.min(start), high.max(end)));
        Some(Self {
            images,
            index,
            extent: (low, high.saturating_sub(low)),
            classes: Classes::new(images),
            labels: Labels::default(),
            of_block,
            nodes: Nodes::default(),
            buffers: Buffers::of(index.len())?,
        })
    }

    /// Looks through all blocks, which lie in `areas` (sorted).
    pub(super) fn blocks(&mut self, reader: &mut Reader<'_>, areas: &[(u64, u64)]) -> Result<(), Stop> {
        let mut window = Window::default();
        for block in 0..self.index.len() {
            reader.budget().step()?;
            if let (Some((address, bytes)), Ok(block)) = (self.index.block(block), u32::try_from(block)) {
                self.block(reader, areas, &mut window, (block, address, bytes))?;
            }
        }
        Ok(())
    }

    fn block(
        &mut self,
        reader: &mut Reader<'_>,
        areas: &[(u64, u64)],
        window: &mut Window,
        (block, address, bytes): (u32, u64, u64),
    ) -> Result<(), Stop> {
        let (Some(end), true) = (address.checked_add(bytes), address.is_multiple_of(8)) else { return Ok(()) };
        let mut at = address;
        while at < end {
            let has_all = window.start() <= at && end <= window.end();
            if !has_all {
                reader.window(at, MAX_WINDOW_BYTES, end.max(area_end(areas, at)), window)?;
                if !window.is_there() {
                    at = resident_from(reader, window.end().max(at.saturating_add(8)), end)?;
                    continue;
                }
            }
            let words = window.words_until(at, end);
            if words.is_empty() {
                break;
            }
            let has_beginning = at == address;
            if has_beginning {
                self.beginning(reader, (block, bytes), words)?;
            }
            let places = places(words.len(), at, end);
            self.words(reader, words, places, has_beginning)?;
            at = at.saturating_add(places as u64 * 8);
        }
        Ok(())
    }

    /// Looks through words outside of blocks for those that tell of buffers. Returns how many bytes it has read.
    pub(super) fn roots(&mut self, reader: &mut Reader<'_>, start: u64, end: u64) -> Result<u64, Stop> {
        let (mut at, mut window, mut read) = (start.next_multiple_of(8), Window::default(), 0);
        while at < end {
            reader.window(at, MAX_WINDOW_BYTES, end, &mut window)?;
            if !window.is_there() {
                at = resident_from(reader, window.end().max(at.saturating_add(8)), end)?;
                continue;
            }
            let words = window.words_until(at, end);
            if words.is_empty() {
                break;
            }
            let places = places(words.len(), at, end);
            let (low, length) = self.extent;
            for (place, word) in words.iter().enumerate().take(places) {
                let word = u64::from_ne_bytes(*word);
                if word.wrapping_sub(low) < length {
                    self.buffer(word, words, place);
                }
            }
            read += places as u64 * 8;
            at = at.saturating_add(places as u64 * 8);
        }
        Ok(read)
    }

    /// Labels a block by its beginning.
    fn beginning(
        &mut self,
        reader: &mut Reader<'_>,
        (block, bytes): (u32, u64),
        words: &[[u8; 8]],
    ) -> Result<(), Stop> {
        let word = |place: usize| words.get(place).map_or(0, |word| u64::from_ne_bytes(*word));
        let mut label = match self.meaning(reader, word(0))? {
            Meaning::Class(class) => self.labels.number(Label::Class(class)),
            Meaning::Table(table) => self.labels.number(Label::Table(table)),
            Meaning::Nothing => NO_LABEL,
        };
        if label == NO_LABEL {
            for place in 1..=AROUND_WORDS.min(words.len().saturating_sub(1)) {
                if let (Meaning::Class(class), Ok(offset)) =
                    (self.meaning(reader, word(place))?, u8::try_from(place * 8))
                {
                    label = self.labels.number(Label::Around { class, offset, pattern: None });
                    break;
                }
            }
            if label == NO_LABEL && words.first_chunk::<TEXT_WORDS>().is_some_and(is_text) {
                label = self.labels.number(Label::Text);
            }
            let links: [u64; LINK_WORDS] = std::array::from_fn(word);
            if let Some(node) = self.nodes.take(self.index, (block, bytes), &links, label)
                && node < NODE - 1
            {
                label = NODE | node;
            }
        }
        if let Some(place) = usize::try_from(block).ok().and_then(|block| self.of_block.get_mut(block)) {
            *place = label;
        }
        Ok(())
    }

    #[inline]
    fn meaning(&mut self, reader: &mut Reader<'_>, word: u64) -> Result<Meaning, Stop> {
        if self.images.may_have(word) { self.classes.meaning(reader, word) } else { Ok(Meaning::Nothing) }
    }

    /// Looks through the first `places` words of a piece of a block; the first of all tells of the block itself.
    fn words(
        &mut self,
        reader: &mut Reader<'_>,
        words: &[[u8; 8]],
        places: usize,
        has_beginning: bool,
    ) -> Result<(), Stop> {
        let (low, length) = self.extent;
        for (place, word) in words.iter().enumerate().take(places) {
            let word = u64::from_ne_bytes(*word);
            if word.wrapping_sub(low) >= length {
                continue;
            }
            let label = match self.meaning(reader, word)? {
                Meaning::Class(class) => Some(Label::Class(class)),
                Meaning::Table(table) => Some(Label::Table(table)),
                Meaning::Nothing => None,
            };
            match label {
                Some(label) if place > 0 || !has_beginning => self.labels.count_inside(label),
                Some(_) => {}
                None => self.buffer(word, words, place),
            }
        }
        Ok(())
    }

    /// Marks the block at `word` if the words behind it say that it is a buffer.
    #[inline]
    fn buffer(&mut self, word: u64, words: &[[u8; 8]], place: usize) {
        let Some([second, third]) = words.get(place + 1..).and_then(<[_]>::first_chunk::<BUFFER_WORDS>) else { return };
        if let Some((kind, bytes)) = Kind::told(word, u64::from_ne_bytes(*second), u64::from_ne_bytes(*third))
            && let Some(block) = self.index.at(word).and_then(|block| usize::try_from(block).ok())
            && let Some((_, usable)) = self.index.block(block)
        {
            self.buffers.mark(block, kind, bytes, usable);
        }
    }

    /// Decides on nodes and buffers, and counts. Returns the labels of blocks.
    pub(super) fn finish(&mut self, reader: &mut Reader<'_>) -> Result<Vec<u32>, Stop> {
        let of_block = std::mem::take(&mut self.of_block);
        let number_of = |block: u32| {
            let label = usize::try_from(block).ok().and_then(|block| of_block.get(block)).copied()?;
            node_of(label)
        };
        for number in 0..self.nodes.len() {
            reader.budget().step()?;
            if let Some(pattern) = self.nodes.pattern(reader, self.index, number, number_of)? {
                let inner = self.nodes.label(number).and_then(|label| self.labels.get(label));
                let label = match inner {
                    Some(Label::Around { class, offset, .. }) => {
                        Label::Around { class, offset, pattern: Some(pattern) }
                    }
                    _ => Label::Pattern(pattern),
                };
                let label = self.labels.number(label);
                self.nodes.set_label(number, label);
            }
        }
        let mut of_block = of_block;
        for (block, place) in of_block.iter_mut().enumerate() {
            reader.budget().step()?;
            let label = node_of(*place).and_then(|number| self.nodes.label(number)).unwrap_or(*place);
            *place = self.with_buffer(block, label);
            let bytes = self.index.block(block).map_or(0, |(_, bytes)| bytes);
            self.labels.count(*place, bytes);
        }
        Ok(of_block)
    }

    /// The label of a block once it is known who has it as a buffer.
    fn with_buffer(&mut self, block: usize, label: u32) -> u32 {
        let Some(kind) = self.buffers.kind(block) else { return label };
        match self.labels.get(label) {
            None | Some(Label::Around { pattern: None, .. }) => {}
            // Streams have addresses of text as vectors have those of their elements, and leave them on stacks.
            Some(Label::Text) if self.buffers.is_string(block) => {
                return self.labels.number(Label::Pattern(Kind::String.pattern()));
            }
            // A buffer of objects, of which the first is one of many.
            Some(first @ (Label::Class(_) | Label::Table(_))) if kind == Kind::Vector => {
                self.labels.count_inside(first);
            }
            // A list or a tree may be the first element of a vector, and the node leads back to that.
            Some(Label::Pattern(_)) if kind == Kind::Vector => {}
            Some(_) => return label,
        }
        self.labels.number(Label::Pattern(kind.pattern()))
    }

    /// Words, blocks and ends that may have told a type and were passed over.
    pub(super) fn passed_over(&self) -> u64 {
        let parts = [self.classes.passed_over(), self.labels.passed_over(), self.nodes.passed_over()];
        parts.into_iter().fold(0, u64::saturating_add)
    }
}

fn node_of(label: u32) -> Option<u32> {
    (label & NODE != 0 && label != NO_LABEL).then_some(label & !NODE)
}

/// How many of a piece's words are looked through: the last ones come with the next piece, as words that tell of a buffer may lie on
/// both sides of its end.
fn places(words: usize, at: u64, end: u64) -> usize {
    let has_more = at.saturating_add(words as u64 * 8) < end;
    if has_more { words.saturating_sub(BUFFER_WORDS).max(1) } else { words }
}

/// The first address from `at` on that is resident, or `end`: of large blocks most may never have been touched.
fn resident_from(reader: &mut Reader<'_>, at: u64, end: u64) -> Result<u64, Stop> {
    let mut at = at;
    let mut pages = vec![Page::Absent; PAGES_AT_ONCE];
    while end.saturating_sub(at) > MAX_WINDOW_BYTES as u64 {
        let start = at & !(PAGE as u64 - 1);
        let count = usize::try_from((end - start).div_ceil(PAGE as u64)).unwrap_or(PAGES_AT_ONCE).min(PAGES_AT_ONCE);
        let Some(pages) = pages.get_mut(..count) else { break };
        reader.pages(start, pages)?;
        let first = pages.iter().position(|page| *page == Page::Resident);
        let next = start.saturating_add(first.unwrap_or(count) as u64 * PAGE as u64);
        at = at.max(next.min(end));
        if first.is_some() {
            break;
        }
    }
    Ok(at)
}

/// The end of the area that an address is in.
fn area_end(areas: &[(u64, u64)], address: u64) -> u64 {
    let index = areas.partition_point(|(_, end)| *end <= address);
    areas.get(index).filter(|(start, _)| *start <= address).map_or(0, |(_, end)| *end)
}
