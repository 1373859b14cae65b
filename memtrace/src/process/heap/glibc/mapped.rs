//! Chunks that have a mapping for themselves, and pieces of the main arena that brk(2) could not give. Neither is linked to
//! anything: they are found at the beginnings of pages, and the counters of malloc tell how many there are.

use super::{
    super::{
        bytes::{HEAD_BYTES, PAGE, Page, Reader, Stop},
        image::is_named,
        smaps::MappedMemory,
    },
    chunks::{ALIGNMENT, HEADER_BYTES, MIN_CHUNK_BYTES},
    header::Header,
    layout::Layout,
    walk::{End, Place, Walked, Walker},
};

/// Pages that are looked at together.
const PAGES_AT_ONCE: usize = 1024;
const PAGE_BYTES: u64 = PAGE as u64;
/// Alignments of blocks that are tried for those that do not begin where their mapping does.
const MAX_ALIGNMENT_BITS: u32 = 21;

/// No mapping is looked through that is larger: addresses that a runtime has reserved for itself.
const MAX_RANGE_BYTES: u64 = 256 << 30;

/// A chunk that has a mapping for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MappedChunk {
    /// Where its memory begins.
    pub(super) start: u64,
    /// Where that ends.
    pub(super) end: u64,
    /// The address that the program has.
    pub(super) block: u64,
    /// Bytes that the program may use of it.
    pub(super) usable_bytes: u64,
}

/// Ranges in which mapped chunks can be: private memory of no file, neighbours as one, without what is known already.
pub(super) fn ranges(mappings: &[MappedMemory], known: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut whole: Vec<(u64, u64)> = Vec::new();
    for one in mappings {
        let mapping = &one.mapping;
        let is_anonymous = mapping.file.is_none() && (mapping.path.as_os_str().is_empty() || is_named(one));
        let may_hold = is_anonymous && mapping.writable && mapping.readable && !mapping.shared && !one.is_guarded;
        let is_reserve = mapping.end - mapping.start > MAX_RANGE_BYTES;
        if !may_hold || one.resident_bytes == 0 || is_reserve {
            continue;
        }
        match whole.last_mut() {
            Some((_, end)) if *end == mapping.start => *end = mapping.end,
            _ => whole.push((mapping.start, mapping.end)),
        }
    }
    let mut ranges = Vec::new();
    for (start, end) in whole {
        let mut at = start;
        let first = known.partition_point(|(_, known_end)| *known_end <= start);
        for (known_start, known_end) in known.iter().skip(first).take_while(|(known_start, _)| *known_start < end) {
            if at < *known_start {
                ranges.push((at, *known_start));
            }
            at = at.max(*known_end);
        }
        if at < end {
            ranges.push((at, end));
        }
    }
    ranges
}

/// The chunks that are found in ranges.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    pub(super) chunks: Vec<MappedChunk>,
    /// Pieces of the main arena: where each begins, and its chunks.
    pub(super) pieces: Vec<(u64, Walked)>,
}

/// How pieces of the main arena are walked over; nothing where it has none.
pub(super) struct Pieces<'w, 'k> {
    pub(super) walker: &'w mut Walker<'k>,
    pub(super) top: (u64, u64),
}

/// Looks through one range.
pub(super) fn scan(
    reader: &mut Reader<'_>,
    (start, end): (u64, u64),
    layout: &Layout,
    mut pieces: Option<&mut Pieces<'_, '_>>,
    found: &mut Scanned,
) -> Result<(), Stop> {
    let mut at = start.next_multiple_of(PAGE_BYTES);
    let (mut states, mut resident, mut heads) = (vec![Page::Absent; PAGES_AT_ONCE], Vec::new(), Vec::new());
    while at < end {
        let count = usize::try_from((end - at).div_ceil(PAGE_BYTES)).map_or(PAGES_AT_ONCE, |n| n.min(PAGES_AT_ONCE));
        let Some(states) = states.get_mut(..count) else { break };
        reader.pages(at, states)?;
        resident.clear();
        let addresses = (at..end).step_by(PAGE);
        resident.extend(
            addresses.zip(states.iter()).filter(|(_, state)| **state == Page::Resident).map(|(address, _)| address),
        );
        heads.resize(resident.len() * HEAD_BYTES, 0);
        reader.heads(&resident, &mut heads)?;
        let mut next = at + count as u64 * PAGE_BYTES;
        let mut passed = at;
        for (address, head) in resident.iter().zip(heads.chunks_exact(HEAD_BYTES)) {
            if *address < passed {
                continue;
            }
            let (words, _) = head.as_chunks::<8>();
            let word = |index: usize| words.get(index).map_or(0, |word| u64::from_ne_bytes(*word));
            // A chunk at the beginning of its memory has none before it.
            if word(0) != 0 {
                continue;
            }
            let header = Header(word(1));
            if let Some(bytes) = mapped_bytes(header, layout, end - address) {
                let block = address + HEADER_BYTES;
                let usable_bytes = bytes.saturating_sub(HEADER_BYTES + layout.mapped_tail_bytes);
                let chunk = MappedChunk { start: *address, end: address + bytes, block, usable_bytes };
                reader.budget().list(1)?;
                found.chunks.push(aligned(reader, chunk, layout)?);
                passed = chunk.end;
            } else if let Some(pieces) = pieces.as_deref_mut().filter(|_| may_begin_piece(header, end - address)) {
                let place =
                    Place { start: *address, end, told: End::Mapping, is_main: true, top: pieces.top, is_guess: true };
                if let Some(walked) = pieces.walker.walk(reader, &place)? {
                    passed = walked.end.next_multiple_of(PAGE_BYTES).max(address + PAGE_BYTES);
                    found.pieces.push((*address, walked));
                }
            }
        }
        next = next.max(passed);
        at = next;
    }
    Ok(())
}

/// The size of the mapping that a header at its beginning tells of, if it is one.
fn mapped_bytes(header: Header, layout: &Layout, room: u64) -> Option<u64> {
    let bytes = header.mapped_bytes()?.checked_add(layout.mapped_header_bytes)?;
    (bytes > 0 && bytes.is_multiple_of(PAGE_BYTES) && bytes <= room).then_some(bytes)
}

fn may_begin_piece(header: Header, room: u64) -> bool {
    let bytes = header.bytes();
    let is_size = bytes >= MIN_CHUNK_BYTES && bytes.is_multiple_of(ALIGNMENT) && bytes <= room;
    header.before_is_used() && header.mapped_bytes().is_none() && !header.is_of_other_arena() && is_size
}

/// A block with an alignment has a header of its own, further in, which says how far.
fn aligned(reader: &mut Reader<'_>, chunk: MappedChunk, layout: &Layout) -> Result<MappedChunk, Stop> {
    let mut tried = chunk.block;
    for bits in ALIGNMENT.trailing_zeros() + 1..=MAX_ALIGNMENT_BITS {
        let block = chunk.block.next_multiple_of(1 << bits);
        // Room for a header in front of it.
        let is_near = block > chunk.block && block - chunk.block < MIN_CHUNK_BYTES;
        let block = if is_near { block + (1 << bits) } else { block };
        if block == tried || block >= chunk.end {
            continue;
        }
        tried = block;
        let Some([before, word]) = reader.words::<2>(block - HEADER_BYTES)? else { continue };
        let lead = block - chunk.block;
        let size = (chunk.end - chunk.start).saturating_sub(lead + layout.mapped_header_bytes);
        if before == lead && Header(word).mapped_bytes().is_some_and(|bytes| bytes == size) {
            let usable_bytes = chunk.usable_bytes.saturating_sub(lead);
            return Ok(MappedChunk { block, usable_bytes, ..chunk });
        }
    }
    Ok(chunk)
}
