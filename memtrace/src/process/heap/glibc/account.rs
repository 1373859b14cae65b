//! The figures of an allocator: what of it is live, free by kind, resident, and could be given back.

use std::collections::BTreeMap;

use super::{
    super::{
        bytes::{PAGE, Reader, Stop},
        found::ResidentPart,
        residency::Residency,
    },
    chunks::{Chunk, Kind, MIN_CHUNK_BYTES, OVERHEAD_BYTES, Stretch},
    mapped::MappedChunk,
};
use crate::model::heap::{Allocator, Arena, Free, FreeKind, SizeClass};

const PAGE_BYTES: u64 = PAGE as u64;
/// `sizeof (struct malloc_chunk)`: of a free chunk so much stays, as `malloc_trim` does it.
const KEPT_BYTES: u64 = 48;
/// Usable sizes below this many bytes are counted in a table.
const TABLE_SIZES: usize = 1 << 16;

/// Live blocks by size.
#[derive(Debug)]
struct Sizes {
    small: Vec<u64>,
    large: BTreeMap<u64, u64>,
}

impl Sizes {
    fn add(&mut self, usable_bytes: u64) {
        let small = usize::try_from(usable_bytes / 8).ok().and_then(|index| self.small.get_mut(index));
        match small {
            Some(count) => *count += 1,
            None => *self.large.entry(usable_bytes).or_default() += 1,
        }
    }

    fn classes(&self) -> Vec<SizeClass> {
        let small = self.small.iter().zip((0..).step_by(8)).map(|(count, bytes)| (bytes, *count));
        let all = small.chain(self.large.iter().map(|(bytes, count)| (*bytes, *count)));
        all.filter(|(_, count)| *count > 0).map(|(bytes, count)| SizeClass::new(bytes, count)).collect()
    }
}

/// How the end of a heap could be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TopUse {
    /// Not at all by `malloc_trim`.
    Stays,
    /// In multiples of so many bytes.
    Given(u64),
}

/// The sums so far.
#[derive(Debug)]
pub(super) struct Account {
    arenas: Vec<Arena>,
    free: BTreeMap<FreeKind, u64>,
    sizes: Sizes,
    live: Arena,
    fragmented_bytes: u64,
    pub(super) resident: ResidentPart,
    pub(super) swapped_bytes: u64,
    residency: Residency,
}

impl Account {
    /// Of so many arenas.
    pub(super) fn new(arenas: usize) -> Self {
        Self {
            arenas: vec![Arena::default(); arenas],
            free: BTreeMap::new(),
            sizes: Sizes { small: vec![0; TABLE_SIZES / 8], large: BTreeMap::new() },
            live: Arena::default(),
            fragmented_bytes: 0,
            resident: ResidentPart::default(),
            swapped_bytes: 0,
            residency: Residency::default(),
        }
    }

    /// Adds the chunks of a stretch.
    pub(super) fn add(
        &mut self,
        reader: &mut Reader<'_>,
        stretch: &Stretch,
        arena: u32,
        top: TopUse,
    ) -> Result<(), Stop> {
        let mut sums = Arena::default();
        // Free chunks in a row, and those among them that become one when they are given back.
        let (mut run, mut joined): (Option<(u64, u64)>, Option<Joined>) = (None, None);
        for chunk in stretch.iter() {
            reader.budget().step()?;
            if chunk.kind.is_live() {
                self.close_joined(reader, joined.take())?;
                self.close_run(reader, run.take())?;
                let usable_bytes = chunk.bytes - OVERHEAD_BYTES;
                sums.live_bytes += usable_bytes;
                sums.live_objects += 1;
                self.sizes.add(usable_bytes);
                continue;
            }
            sums.free_bytes += chunk.bytes;
            *self.free.entry(free_kind(chunk.kind)).or_default() += chunk.bytes;
            let end = chunk.address + chunk.bytes;
            run = Some((run.map_or(chunk.address, |(start, _)| start), end));
            joined = match chunk.kind {
                Kind::Top => {
                    self.give_top(reader, joined.take(), chunk, top)?;
                    None
                }
                Kind::Bin | Kind::Fast => Some(Joined::grown(joined, chunk)),
                _ => {
                    self.close_joined(reader, joined.take())?;
                    None
                }
            };
        }
        self.close_joined(reader, joined)?;
        self.close_run(reader, run)?;
        if let Some(known) = usize::try_from(arena).ok().and_then(|index| self.arenas.get_mut(index)) {
            *known += sums;
        }
        self.live += sums;
        Ok(())
    }

    /// Adds a chunk with a mapping for itself.
    pub(super) fn add_mapped(&mut self, chunk: &MappedChunk) {
        let usable_bytes = chunk.usable_bytes;
        self.live += Arena { live_bytes: usable_bytes, live_objects: 1, free_bytes: 0 };
        self.sizes.add(usable_bytes);
    }

    /// Adds an area.
    pub(super) fn add_area(&mut self, reader: &mut Reader<'_>, (start, end): (u64, u64)) -> Result<(), Stop> {
        let area = self.residency.whereabouts(reader, start, end)?;
        self.resident.area_bytes += area.resident_bytes;
        self.swapped_bytes += area.swapped_bytes;
        Ok(())
    }

    /// Free chunks that become one: whole pages of them are given back.
    fn close_joined(&mut self, reader: &mut Reader<'_>, joined: Option<Joined>) -> Result<(), Stop> {
        let Some(Joined { start, end, .. }) = joined else { return Ok(()) };
        self.give(reader, (start + KEPT_BYTES).next_multiple_of(PAGE_BYTES), end & !(PAGE_BYTES - 1))
    }

    /// The last chunk of a heap, with what joins it before it is given back.
    fn give_top(
        &mut self,
        reader: &mut Reader<'_>,
        joined: Option<Joined>,
        chunk: Chunk,
        top: TopUse,
    ) -> Result<(), Stop> {
        let end = chunk.address + chunk.bytes;
        // Only what comes from a fastbin is not part of it yet.
        let start = match joined {
            Some(joined) if joined.has_fast => joined.start,
            other => {
                self.close_joined(reader, other)?;
                chunk.address
            }
        };
        let TopUse::Given(multiple) = top else { return Ok(()) };
        let given = (end - start).saturating_sub(MIN_CHUNK_BYTES + 1) / multiple.max(1) * multiple;
        self.give(reader, end - given, end)
    }

    fn give(&mut self, reader: &mut Reader<'_>, start: u64, end: u64) -> Result<(), Stop> {
        if start < end {
            self.resident.returnable_bytes += self.residency.bytes(reader, start, end)?;
        }
        Ok(())
    }

    /// Free chunks in a row: pages at their ends have live ones as well.
    fn close_run(&mut self, reader: &mut Reader<'_>, run: Option<(u64, u64)>) -> Result<(), Stop> {
        let Some((start, end)) = run else { return Ok(()) };
        self.resident.free_bytes += self.residency.bytes(reader, start, end)?;
        let (first_whole, last_whole) = (start.next_multiple_of(PAGE_BYTES).min(end), end & !(PAGE_BYTES - 1));
        self.fragmented_bytes += self.residency.bytes(reader, start, first_whole)?;
        if last_whole >= first_whole {
            self.fragmented_bytes += self.residency.bytes(reader, last_whole, end)?;
        }
        Ok(())
    }

    /// All figures.
    pub(super) fn finish(mut self) -> (Allocator, ResidentPart, u64) {
        // So far all that is free; the parts are disjoint.
        self.resident.free_bytes = self.resident.free_bytes.saturating_sub(self.resident.returnable_bytes);
        let allocator = Allocator {
            live_bytes: self.live.live_bytes,
            live_objects: self.live.live_objects,
            free: self.free.into_iter().map(|(kind, bytes)| Free { kind, bytes }).collect(),
            returnable_bytes: self.resident.returnable_bytes,
            fragmented_bytes: self.fragmented_bytes,
            resident_bytes: self.resident.area_bytes,
            arenas: self.arenas,
            size_classes: self.sizes.classes(),
            ..Allocator::default()
        };
        (allocator, self.resident, self.swapped_bytes)
    }
}

/// Free chunks side by side.
#[derive(Clone, Copy, Debug)]
struct Joined {
    start: u64,
    end: u64,
    has_fast: bool,
}

impl Joined {
    fn grown(before: Option<Self>, chunk: Chunk) -> Self {
        let start = before.map_or(chunk.address, |before| before.start);
        let has_fast = before.is_some_and(|before| before.has_fast) || chunk.kind == Kind::Fast;
        Self { start, end: chunk.address + chunk.bytes, has_fast }
    }
}

fn free_kind(kind: Kind) -> FreeKind {
    match kind {
        Kind::Top => FreeKind::Top,
        Kind::Cached => FreeKind::ThreadCache,
        Kind::Fast => FreeKind::Fastbin,
        Kind::Bin | Kind::InUse | Kind::MaybeFast => FreeKind::Bin,
    }
}
