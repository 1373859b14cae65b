//! One reading of all of a glibc: arenas, their heaps, pieces, mapped chunks, and the figures of these.

use std::collections::HashSet;

use super::{
    super::{
        bytes::{PAGE, Reader, Stop},
        found::Found,
        image::Copied,
        smaps::MappedMemory,
    },
    account::{Account, TopUse},
    arenas::{self, Arena, Arenas},
    blocks::Chunks,
    cache,
    chunks::{ALIGNMENT, HEADER_BYTES, Kind, Stretch},
    fast,
    find::{self, MainArena, Parameters},
    keys::{self, Keys},
    mapped::{self, Pieces, Scanned},
    walk::{End, Place, Walked, Walker},
};
use crate::model::heap::Consistency;

/// The first version whose keys are random.
const RANDOM_KEYS: (u32, u32) = (2, 34);
/// How often mapped chunks are looked for, where there are fewer than malloc says.
const SCANS: usize = 3;

/// The parts that a reading rests on.
pub(super) struct Survey<'s> {
    pub(super) mappings: &'s [MappedMemory],
    pub(super) version: Option<(u32, u32)>,
    pub(super) copied: &'s Copied,
    pub(super) main: &'s MainArena,
}

/// A reading on its way.
#[derive(Default)]
struct Progress {
    chunks: Chunks,
    areas: Vec<(u64, u64)>,
    consistency: Consistency,
}

impl Progress {
    fn take(&mut self, arena: u32, walked: Walked) {
        self.consistency.retries += walked.retries;
        self.consistency.skipped_bytes += walked.skipped_bytes;
        self.chunks.stretches.extend(walked.stretches.into_iter().map(|stretch| (arena, stretch)));
    }
}

impl Survey<'_> {
    /// Reads it.
    pub(super) fn read(&self, reader: &mut Reader<'_>) -> Result<Found, Stop> {
        let heap = self.main_heap();
        let parameters = find::parameters(self.copied, heap);
        let arenas = arenas::read(reader, self.main, parameters.as_ref())?;
        let main_place = self.main_place(&arenas, heap, parameters.as_ref());
        let keys = self.keys(reader, &arenas, main_place.as_ref())?;
        let mut walker = Walker::new(&keys, self.main.layout.fastbins.is_some());
        let mut progress = Progress::default();
        progress.consistency.skipped_bytes = arenas.unreadable_bytes;
        let mut links = fast::MAX_LINKS;
        for (index, arena) in (0..).zip(&arenas.arenas) {
            let places = places(arena, main_place.as_ref());
            let from = progress.chunks.stretches.len();
            // Lists before and after: a chunk that looks like one of a list, and is in either.
            let mut listed = HashSet::new();
            fast::collect(reader, &self.main.layout, arena.address, &mut links, &mut listed)?;
            for place in &places {
                if let Some(walked) = walker.walk(reader, place)? {
                    let start = if let End::Heap(heap) = place.told { heap } else { place.start };
                    progress.areas.push((start, walked.end.max(place.end)));
                    progress.take(index, walked);
                }
            }
            if arena.is_main {
                progress.areas.sort_unstable();
                let others = arenas.arenas.iter().flat_map(|arena| &arena.heaps).map(|heap| (heap.start, heap.end));
                let mut known: Vec<(u64, u64)> = progress.areas.iter().copied().chain(others).collect();
                known.sort_unstable();
                let pieces = Pieces { walker: &mut walker, top: arena.top };
                self.mapped(reader, arena, parameters.as_ref(), &known, pieces, &mut progress)?;
            }
            fast::collect(reader, &self.main.layout, arena.address, &mut links, &mut listed)?;
            for (_, stretch) in progress.chunks.stretches.iter_mut().skip(from) {
                stretch.resolve(|chunk| match chunk.kind {
                    Kind::MaybeFast if listed.contains(&chunk.address) => Kind::Fast,
                    Kind::MaybeFast => Kind::InUse,
                    other => other,
                });
            }
        }
        elect(&keys, &walker, &mut progress.chunks);
        finish(reader, progress, &arenas, main_place.as_ref(), parameters.as_ref())
    }

    /// The heap that brk(2) gives: all of it, for the kernel parts it where its pages are treated differently.
    fn main_heap(&self) -> Option<(u64, u64)> {
        let mut parts = self.mappings.iter().filter(|one| one.mapping.path.as_os_str() == "[heap]");
        let first = &parts.next()?.mapping;
        let last = parts.next_back().map_or(first, |last| &last.mapping);
        Some((first.start, last.end))
    }

    /// Where the main arena begins.
    fn main_place(&self, arenas: &Arenas, heap: Option<(u64, u64)>, parameters: Option<&Parameters>) -> Option<Place> {
        let (start, end) = heap?;
        // A static program has its own memory in front of it.
        let start = parameters.map_or(start, |parameters| parameters.sbrk_base);
        let top = arenas.arenas.first().map_or((0, 0), |main| main.top);
        let start = start.checked_next_multiple_of(ALIGNMENT)?;
        Some(Place { start, end, told: End::Mapping, is_main: true, top, is_guess: false })
    }

    /// The keys of cached chunks. Random ones lie in the image's data. Before there were these, they are the addresses of the
    /// caches, for which all heaps are walked over once.
    fn keys(&self, reader: &mut Reader<'_>, arenas: &Arenas, main_place: Option<&Place>) -> Result<Keys, Stop> {
        let is_random = match self.version {
            Some(version) => version >= RANDOM_KEYS,
            None => self.main.layout.fastbins.is_none() || arenas.has_long_header == Some(true),
        };
        if is_random {
            return Ok(Keys::one_of(self.copied));
        }
        let none = Keys::all_of(Vec::new());
        let mut walker = Walker::new(&none, false);
        let (mut caches, mut looked_at) = (Vec::new(), 0);
        for place in arenas.arenas.iter().flat_map(|arena| places(arena, main_place)) {
            let Some(walked) = walker.walk(reader, &place)? else { continue };
            let chunks = walked.stretches.iter().flat_map(Stretch::iter);
            for chunk in chunks.filter(|chunk| chunk.bytes == cache::CHUNK_BYTES && chunk.kind.is_live()) {
                looked_at += 1;
                if looked_at <= cache::MAX_CACHES && cache::is_own_key(reader, chunk.address + HEADER_BYTES)? {
                    caches.push(chunk.address + HEADER_BYTES);
                }
            }
        }
        let is_told = self.version.is_some() || !caches.is_empty();
        Ok(if is_told { Keys::all_of(caches) } else { Keys::one_of(self.copied) })
    }

    /// Mapped chunks and pieces. Malloc's own counter says whether there are any, and whether all were found.
    fn mapped(
        &self,
        reader: &mut Reader<'_>,
        main: &Arena,
        parameters: Option<&Parameters>,
        known: &[(u64, u64)],
        mut pieces: Pieces<'_, '_>,
        progress: &mut Progress,
    ) -> Result<(), Stop> {
        let has_pieces = main.is_in_pieces || self.main_heap().is_none();
        let counted = |reader: &mut Reader<'_>| match parameters {
            Some(parameters) => parameters.again(reader),
            None => Ok(None),
        };
        let mut before = counted(reader)?;
        if !has_pieces && before.is_some_and(|counted| counted.mapped_chunks == 0) {
            return Ok(());
        }
        for scan in 1..=SCANS {
            let mut found = Scanned::default();
            for range in mapped::ranges(self.mappings, known) {
                let pieces = has_pieces.then_some(&mut pieces);
                mapped::scan(reader, range, &self.main.layout, pieces, &mut found)?;
            }
            let after = counted(reader)?;
            let bytes: u64 = found.chunks.iter().map(|chunk| chunk.end - chunk.start).sum();
            let least =
                before.zip(after).map(|(one, other)| if one.mapped_chunks < other.mapped_chunks { one } else { other });
            let missing = least.filter(|least| (found.chunks.len() as u64) < least.mapped_chunks);
            if missing.is_some() && scan < SCANS && reader.budget().retry() {
                progress.consistency.retries += 1;
                before = after;
                continue;
            }
            progress.consistency.skipped_bytes += missing.map_or(0, |least| least.mapped_bytes.saturating_sub(bytes));
            progress.areas.extend(found.chunks.iter().map(|chunk| (chunk.start, chunk.end)));
            progress.chunks.mapped = found.chunks;
            for (start, walked) in found.pieces {
                progress.areas.push((start, walked.end));
                progress.take(0, walked);
            }
            break;
        }
        Ok(())
    }
}

/// The heaps of an arena.
fn places(arena: &Arena, main: Option<&Place>) -> Vec<Place> {
    if arena.is_main {
        return main.copied().into_iter().collect();
    }
    let of_heap = |heap: &arenas::ArenaHeap| Place {
        start: heap.first_chunk,
        end: heap.end,
        told: End::Heap(heap.start),
        is_main: false,
        top: arena.top,
        is_guess: false,
    };
    arena.heaps.iter().map(of_heap).collect()
}

/// Only one random word is the key: chunks that have another are live.
fn elect(keys: &Keys, walker: &Walker<'_>, chunks: &mut Chunks) {
    if keys.are_all {
        return;
    }
    let key = keys::elected(&walker.votes);
    let live: HashSet<u64> =
        walker.votes.iter().filter(|vote| Some(vote.key) != key).map(|vote| vote.address).collect();
    if live.is_empty() {
        return;
    }
    for (_, stretch) in &mut chunks.stretches {
        stretch.resolve(|chunk| {
            if chunk.kind == Kind::Cached && live.contains(&chunk.address) { Kind::InUse } else { chunk.kind }
        });
    }
}

/// Adds up.
fn finish(
    reader: &mut Reader<'_>,
    mut progress: Progress,
    arenas: &Arenas,
    main_place: Option<&Place>,
    parameters: Option<&Parameters>,
) -> Result<Found, Stop> {
    let mut account = Account::new(arenas.arenas.len());
    let multiple = parameters.map_or(0, |parameters| parameters.transparent_page_bytes).max(PAGE as u64);
    // Only the heap that brk(2) gives is made shorter.
    let heap = main_place.map(|place| place.start..place.end);
    for (arena, stretch) in &progress.chunks.stretches {
        let is_given = *arena == 0 && heap.as_ref().is_some_and(|heap| heap.contains(&stretch.start));
        let top = if is_given { TopUse::Given(multiple) } else { TopUse::Stays };
        account.add(reader, stretch, *arena, top)?;
    }
    for chunk in &progress.chunks.mapped {
        account.add_mapped(chunk);
    }
    progress.areas.sort_unstable();
    for area in &progress.areas {
        account.add_area(reader, *area)?;
    }
    let (allocator, resident, swapped_bytes) = account.finish();
    let consistency = Consistency { swapped_bytes, ..progress.consistency };
    Ok(Found { allocator, consistency, resident, areas: progress.areas, blocks: Box::new(progress.chunks) })
}
