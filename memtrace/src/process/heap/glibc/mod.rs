//! glibc's malloc, 2.31 to 2.43 on x86-64, read without symbols: the structures prove themselves by what they say of one another.

mod account;
mod arenas;
mod blocks;
mod cache;
mod chunks;
mod fast;
mod find;
mod header;
pub(super) mod keys;
mod layout;
mod mapped;
pub(super) mod survey;
pub mod version;
mod walk;

use std::path::Path;

use self::{find::MainArena, survey::Survey};
use super::{
    bytes::{Reader, Stop},
    found::{Found, Hints, Outcome},
    image::{self, Copied, Data},
    smaps::MappedMemory,
};
use crate::model::heap::Allocator;

const NAME: &str = "glibc";
/// How often the main arena is looked for, as it changes.
const FINDING_ATTEMPTS: usize = 3;
/// How often a heap is read as a whole, where too much of it is passed over.
const READING_ATTEMPTS: usize = 3;
/// Of how many bytes one may be passed over in a look that counts at once.
const SKIPPED_OF: u64 = 1000;
/// The reason for no figures.
const NOT_PROVEN: &str = "its arenas were not found: it is not in use, or of a build with other structures";

/// Reads every glibc of a process: that of its shared library, else of its program.
///
/// # Errors
/// Where the process is gone, or a bound is reached.
pub fn read(reader: &mut Reader<'_>, mappings: &[MappedMemory], hints: &Hints) -> Result<Vec<Outcome>, Stop> {
    let mut outcomes = Vec::new();
    let images = image::all(mappings);
    let is_libc = |data: &Data| version::is_libc(Path::new(&data.image));
    let has_library = images.iter().any(is_libc);
    // Other libraries hardly ever have one inside.
    let attempts = if has_library { FINDING_ATTEMPTS } else { 1 };
    for data in images.iter().filter(|data| is_libc(data) == has_library) {
        match found_in(reader, data, attempts)? {
            Some((copied, main)) => {
                outcomes.push(Outcome::Found(Box::new(best(reader, mappings, hints, data, &copied, &main)?)));
            }
            None if has_library => outcomes.push(Outcome::Refused(Box::new(Allocator {
                name: NAME.into(),
                version: hints.glibc_version.map(version::name),
                image: Some(data.image.clone()),
                reason: Some(NOT_PROVEN.into()),
                ..Allocator::default()
            }))),
            None => {}
        }
    }
    Ok(outcomes)
}

fn found_in(reader: &mut Reader<'_>, data: &Data, attempts: usize) -> Result<Option<(Copied, MainArena)>, Stop> {
    for _ in 0..attempts {
        let copied = Copied::of(reader, data)?;
        if let Some(main) = find::main_arena(reader, &copied)? {
            return Ok(Some((copied, main)));
        }
    }
    Ok(None)
}

/// Reads until little is passed over, and keeps the best.
fn best(
    reader: &mut Reader<'_>,
    mappings: &[MappedMemory],
    hints: &Hints,
    data: &Data,
    copied: &Copied,
    main: &MainArena,
) -> Result<Found, Stop> {
    let survey = Survey { mappings, version: hints.glibc_version, copied, main };
    let is_good = |found: &Found| found.consistency.skipped_bytes <= found.resident.area_bytes / SKIPPED_OF;
    let mut best = survey.read(reader)?;
    for _ in 1..READING_ATTEMPTS {
        if is_good(&best) {
            break;
        }
        let again = survey.read(reader)?;
        if again.consistency.skipped_bytes < best.consistency.skipped_bytes {
            best = again;
        }
    }
    best.allocator.name = NAME.into();
    best.allocator.image = Some(data.image.clone());
    best.allocator.version = Some(hints.glibc_version.map_or_else(|| main.layout.versions().into(), version::name));
    Ok(best)
}
