//! The fastbins of an arena: chunks in short lists, which look like live ones in the heap itself.

use std::collections::HashSet;

use super::{
    super::bytes::{Reader, Stop},
    chunks::{ALIGNMENT, MIN_CHUNK_BYTES},
    header::Header,
    layout::Layout,
};

/// Lists of an arena.
const LISTS: usize = 10;
/// Links that are followed in all lists of a process, at most.
pub(super) const MAX_LINKS: usize = 1 << 20;

/// Notes the chunks of an arena's lists. A list that changes under our eyes ends early; `links` is what may still be followed.
pub(super) fn collect(
    reader: &mut Reader<'_>,
    layout: &Layout,
    arena: u64,
    links: &mut usize,
    chunks: &mut HashSet<u64>,
) -> Result<(), Stop> {
    let Some(fastbins) = layout.fastbins else { return Ok(()) };
    let Some(heads) = reader.words::<LISTS>(arena.wrapping_add(fastbins))? else { return Ok(()) };
    for (index, head) in heads.into_iter().enumerate() {
        let bytes = MIN_CHUNK_BYTES + index as u64 * ALIGNMENT;
        let mut known = linked(reader, head, bytes)?;
        while let Some((chunk, link)) = known {
            reader.budget().step()?;
            if *links == 0 || !chunks.insert(chunk) {
                break;
            }
            *links -= 1;
            known = next(reader, chunk, link, bytes)?;
        }
    }
    Ok(())
}

/// The next chunk of a list, with its own link: links are plain up to 2.31, since then disguised by the address that they lie at.
fn next(reader: &mut Reader<'_>, chunk: u64, link: u64, bytes: u64) -> Result<Option<(u64, u64)>, Stop> {
    let disguised = link ^ (chunk.wrapping_add(16) >> 12);
    match linked(reader, disguised, bytes)? {
        // The end of a list is 0.
        None if disguised != 0 && link != disguised => linked(reader, link, bytes),
        found => Ok(found),
    }
}

/// A chunk of that size, if one lies there, and its link.
fn linked(reader: &mut Reader<'_>, chunk: u64, bytes: u64) -> Result<Option<(u64, u64)>, Stop> {
    if chunk == 0 || !chunk.is_multiple_of(ALIGNMENT) || chunk >> 47 != 0 {
        return Ok(None);
    }
    let words = reader.words::<2>(chunk.wrapping_add(8))?;
    Ok(words.filter(|[word, _]| Header(*word).bytes() == bytes).map(|[_, link]| (chunk, link)))
}
