//! The tree of extents (`rtree_t`): two levels over all page numbers. Its root lies in the data of the image, and is where an
//! entry of a leaf says that it is.

use std::collections::HashMap;

use super::{
    super::{
        bytes::{PAGE, Page, Reader, Stop, Window},
        image::Copied,
    },
    classes::Classes,
    extent::{Entry, Extent, PAGE_BYTES, RECORD_BYTES, RECORD_WORDS, State},
    ranges::Ranges,
};

/// Bits of an address that one level has, and bytes of its table.
const LEVEL_BITS: u32 = 18;
const TABLE_BYTES: u64 = 8 << LEVEL_BITS;
/// From an address to its place in the root.
const ROOT_SHIFT: u32 = 30;
/// Tables lie at multiples of a cache line.
const TABLE_ALIGNMENT: u64 = 64;
/// Words that are tried as leaves, at most.
const MAX_PROBES: usize = 4096;
/// Entries of a leaf that are tried.
const MAX_TRIED: usize = 256;
/// Memory is no leaf of which so many entries lead to no extent of theirs.
const MAX_FAILED: usize = 16;
/// Records of listed blocks that an extent takes as much memory as: they draw on the same bound.
const EXTENT_BLOCKS: u64 = 28;
/// How often an entry is read again that contradicts its extent.
const ATTEMPTS: usize = 4;
/// Records are read in pieces of so many bytes, of which so many are kept.
const PIECE_BYTES: usize = 16 << 10;
const MAX_PIECES: usize = 512;
/// Leaves are read in pieces of so many bytes, and the records that each leads to right after: the two must be of one moment.
const LEAF_PIECE_BYTES: usize = 32 << 10;

/// The tree, by its leaves.
#[derive(Debug)]
pub(super) struct Tree {
    /// The number of a GiB of addresses, and the leaf for it.
    pub(super) leaves: Vec<(u64, u64)>,
    /// The classes with which its first extents agree.
    pub(super) classes: Classes,
}

/// All extents, and how far they were read.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// In order of their addresses, disjoint.
    pub(super) extents: Vec<Extent>,
    /// Slabs whose map has free blocks, as many as they say: the proof.
    pub(super) proofs: u64,
    /// Entries that stayed contradictory.
    pub(super) contradictions: u64,
    /// Bytes of leaves that are swapped out.
    pub(super) swapped_bytes: u64,
    /// Where records lie: the beginning of each piece.
    pub(super) records: Vec<u64>,
}

impl Tree {
    /// Looks for the tree in the data of an image.
    pub(super) fn find(reader: &mut Reader<'_>, data: &Copied, ranges: &Ranges) -> Result<Option<Self>, Stop> {
        let mut probes = 0;
        for (address, word) in data.iter() {
            reader.budget().step()?;
            let is_leaf = word.is_multiple_of(TABLE_ALIGNMENT) && ranges.is_anonymous(word, TABLE_BYTES);
            if !is_leaf {
                continue;
            }
            probes += 1;
            if probes > MAX_PROBES {
                break;
            }
            let Some((gib, classes)) = probe(reader, word, ranges)? else { continue };
            // The root begins so many entries in front of this one.
            let Some(root) = address.checked_sub(gib * 8) else { continue };
            let is_whole = data.word(root).is_some() && data.word(root + TABLE_BYTES - 8).is_some();
            if is_whole {
                let places = (0..1 << LEVEL_BITS).filter_map(|gib| Some((gib, data.word(root + gib * 8)?)));
                let leaves = places.filter(|(_, leaf)| *leaf != 0 && leaf.is_multiple_of(TABLE_ALIGNMENT));
                return Ok(Some(Self { leaves: leaves.collect(), classes }));
            }
        }
        Ok(None)
    }

    /// Reads all extents.
    pub(super) fn walk(&self, reader: &mut Reader<'_>, ranges: &Ranges) -> Result<Walk, Stop> {
        let mut walk = Walk::default();
        let mut records = Records::default();
        let mut window = Window::default();
        for (gib, leaf) in &self.leaves {
            let Some(end) = leaf.checked_add(TABLE_BYTES) else { continue };
            let mut at = *leaf;
            while at < end {
                reader.budget().step()?;
                reader.window(at, LEAF_PIECE_BYTES, end, &mut window)?;
                records.pieces.clear();
                let until = window.end().min(end);
                if until <= at {
                    break;
                }
                while at < until {
                    let page_end = (at & !(PAGE_BYTES - 1)).saturating_add(PAGE_BYTES).min(until);
                    match window.page(at) {
                        Page::Resident => {
                            let place = Place { leaf: *leaf, gib: *gib };
                            self.entries(reader, &window, at..page_end, place, &mut records, &mut walk, ranges)?;
                        }
                        Page::Swapped => walk.swapped_bytes += PAGE_BYTES,
                        Page::Absent => {}
                    }
                    at = page_end;
                }
            }
        }
        walk.records = records.seen;
        walk.records.sort_unstable();
        walk.records.dedup();
        Ok(walk)
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one walk")]
    fn entries(
        &self,
        reader: &mut Reader<'_>,
        window: &Window,
        range: std::ops::Range<u64>,
        place: Place,
        records: &mut Records,
        walk: &mut Walk,
        ranges: &Ranges,
    ) -> Result<(), Stop> {
        for at in range.step_by(8) {
            let Some([word]) = window.words::<1>(at) else { break };
            // One that was emptied still has the class of none.
            if Entry(word).record() == 0 {
                continue;
            }
            reader.budget().step()?;
            let page = place.page(at);
            // Pages behind the first of an extent lead to the same.
            if walk.extents.last().is_some_and(|last| page < last.end()) {
                continue;
            }
            let covered = walk.extents.last().map_or(0, Extent::end);
            let mut entry = Entry(word);
            let mut found = records.read(reader, entry, ranges)?.and_then(|words| self.covering(entry, &words, page));
            for _ in 0..ATTEMPTS {
                if found.is_some_and(|extent| extent.base >= covered) || !reader.budget().retry() {
                    break;
                }
                let Some(again) = reader.word(at)? else { break };
                entry = Entry(again);
                if entry.record() == 0 {
                    break;
                }
                let is_readable = ranges.may_be_read(entry.record());
                let words = if is_readable { reader.words::<RECORD_WORDS>(entry.record())? } else { None };
                found = words.and_then(|words| self.covering(entry, &words, page));
            }
            match found.filter(|extent| extent.base >= covered) {
                Some(extent) => {
                    let live = extent.live_blocks();
                    reader.budget().list(EXTENT_BLOCKS + live)?;
                    let is_slab = extent.is_slab && extent.state == State::Active;
                    walk.proofs += u64::from(is_slab && live < extent.blocks.into());
                    walk.extents.push(extent);
                }
                None if entry.record() != 0 => walk.contradictions += 1,
                None => {}
            }
        }
        Ok(())
    }

    fn covering(&self, entry: Entry, words: &[u64; RECORD_WORDS], page: u64) -> Option<Extent> {
        let extent = Extent::proven(entry, words, self.classes)?;
        let is_within = (extent.base..extent.end()).contains(&page);
        // Free and large extents have entries for their first and last page only.
        let is_end = page == extent.base || page + PAGE_BYTES == extent.end();
        (is_within && (is_end || extent.is_slab || extent.state == State::Active)).then_some(extent)
    }
}

/// A leaf, and the GiB that it is for.
#[derive(Clone, Copy, Debug)]
struct Place {
    leaf: u64,
    gib: u64,
}

impl Place {
    /// The page that the entry at an address stands for.
    fn page(self, entry: u64) -> u64 {
        (self.gib << ROOT_SHIFT) + (entry - self.leaf) / 8 * PAGE_BYTES
    }
}

/// Takes memory for a leaf: the GiB that an extent says it is for, and the classes that it agrees with.
fn probe(reader: &mut Reader<'_>, leaf: u64, ranges: &Ranges) -> Result<Option<(u64, Classes)>, Stop> {
    let pages = usize::try_from(TABLE_BYTES / PAGE_BYTES).unwrap_or(0) + 1;
    let mut states = vec![Page::Absent; pages];
    let first = leaf & !(PAGE_BYTES - 1);
    reader.pages(first, &mut states)?;
    let mut window = Window::default();
    let (mut tried, mut failed) = (0, 0);
    let mut votes: Vec<(u64, Classes, u32)> = Vec::new();
    for (start, _) in (first..).step_by(PAGE).zip(&states).filter(|(_, state)| **state == Page::Resident) {
        let range = start.max(leaf)..start.saturating_add(PAGE_BYTES).min(leaf + TABLE_BYTES);
        reader.window(start, PAGE, range.end, &mut window)?;
        for at in range.step_by(8) {
            reader.budget().step()?;
            let Some([word]) = window.words::<1>(at) else { break };
            let entry = Entry(word);
            if entry.record() == 0 {
                continue;
            }
            tried += 1;
            if tried > MAX_TRIED || failed > MAX_FAILED && failed * 2 > tried {
                return Ok(decided(&votes));
            }
            failed += 1;
            if !ranges.is_anonymous(entry.record(), RECORD_BYTES) {
                continue;
            }
            let Some(words) = reader.words::<RECORD_WORDS>(entry.record())? else { continue };
            let mut is_one = false;
            for classes in Classes::ALL {
                let Some(extent) = Extent::proven(entry, &words, classes) else { continue };
                let gib = extent.base >> ROOT_SHIFT;
                let is_covering = (extent.base..extent.end()).contains(&Place { leaf, gib }.page(at));
                is_one |= is_covering;
                // Free ones have no class to speak of.
                if is_covering && extent.state == State::Active {
                    match votes.iter_mut().find(|vote| (vote.0, vote.1) == (gib, classes)) {
                        Some(vote) => vote.2 += 1,
                        None => votes.push((gib, classes, 1)),
                    }
                }
            }
            failed -= usize::from(is_one);
        }
    }
    Ok(decided(&votes))
}

/// The answer of most extents; with as many votes, the first one.
fn decided(votes: &[(u64, Classes, u32)]) -> Option<(u64, Classes)> {
    let most = votes.iter().map(|vote| vote.2).max()?;
    votes.iter().find(|vote| vote.2 == most).map(|vote| (vote.0, vote.1))
}

/// Records, read many at once: they lie side by side.
#[derive(Debug, Default)]
struct Records {
    pieces: HashMap<u64, Window>,
    seen: Vec<u64>,
}

impl Records {
    fn read(
        &mut self,
        reader: &mut Reader<'_>,
        entry: Entry,
        ranges: &Ranges,
    ) -> Result<Option<[u64; RECORD_WORDS]>, Stop> {
        let address = entry.record();
        if address == 0 || !ranges.may_be_read(address) {
            return Ok(None);
        }
        let piece = address & !(PIECE_BYTES as u64 - 1);
        if !self.pieces.contains_key(&piece) {
            if self.pieces.len() >= MAX_PIECES {
                self.pieces.clear();
            }
            if self.seen.last() != Some(&piece) {
                self.seen.push(piece);
            }
            let mut window = Window::default();
            reader.window(piece, PIECE_BYTES, piece.saturating_add(PIECE_BYTES as u64), &mut window)?;
            self.pieces.insert(piece, window);
        }
        let Some(window) = self.pieces.get(&piece) else { return Ok(None) };
        Ok(window.words(address).filter(|_| window.page(address) == Page::Resident))
    }
}
