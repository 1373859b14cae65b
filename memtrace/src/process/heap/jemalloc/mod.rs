//! jemalloc 5.3 on x86-64, read without symbols: its tree of extents lists them all, and says itself where it begins.

mod account;
mod base;
mod blocks;
mod caches;
mod classes;
mod extent;
mod ranges;
mod tree;

use std::path::Path;

use self::{account::Account, blocks::Extents, caches::Caches, ranges::Ranges, tree::Tree};
use super::{
    bytes::{Reader, Stop},
    found::{Found, Hints, Outcome},
    image::{self, Copied, Data},
    smaps::MappedMemory,
};
use crate::model::heap::{Allocator, Consistency};

const NAME: &str = "jemalloc";
/// The versions with these structures.
const VERSIONS: &str = "5.3";
/// An image has no room for the tree's root whose data is shorter, in bytes.
const MIN_DATA_BYTES: u64 = 2 << 20;
/// How often a tree that contradicts itself is read.
const ATTEMPTS: usize = 3;
/// Of how many extents one may contradict itself.
const CONTRADICTIONS_OF: u64 = 100;
const NOT_PROVEN: &str = "its extents were not found: it is not in use, or of a version other than 5.3";
const CONTRADICTORY: &str = "its extents contradict one another: it is of a build with other structures";
const NO_CACHES: &str = "the caches of its threads were not found: it has none, or is of a build with other structures";

/// Reads every jemalloc of a process, in its shared library or inside of another image.
///
/// # Errors
/// Where the process is gone, or a bound is reached.
pub fn read(reader: &mut Reader<'_>, mappings: &[MappedMemory], _: &Hints) -> Result<Vec<Outcome>, Stop> {
    let ranges = Ranges::of(mappings);
    let mut outcomes = Vec::new();
    for data in image::all(mappings) {
        let is_named = is_jemalloc(&data.image);
        if !is_named && data.end - data.start < MIN_DATA_BYTES {
            continue;
        }
        match read_one(reader, &data, &ranges)? {
            Ok(found) => outcomes.push(Outcome::Found(Box::new(found))),
            Err(reason) if is_named || reason != NOT_PROVEN => {
                outcomes.push(Outcome::Refused(Box::new(Allocator {
                    name: NAME.into(),
                    image: Some(data.image),
                    reason: Some(reason.into()),
                    ..Allocator::default()
                })));
            }
            Err(_) => {}
        }
    }
    Ok(outcomes)
}

/// Whether an image is jemalloc's library, by its name.
fn is_jemalloc(image: &str) -> bool {
    let name = Path::new(image).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.starts_with("libjemalloc")
}

/// Reads the jemalloc of an image, or tells why not.
fn read_one(reader: &mut Reader<'_>, data: &Data, ranges: &Ranges) -> Result<Result<Found, &'static str>, Stop> {
    let retries = reader.budget().retries();
    for _ in 0..ATTEMPTS {
        let copied = Copied::of(reader, data)?;
        let Some(tree) = Tree::find(reader, &copied, ranges)? else { return Ok(Err(NOT_PROVEN)) };
        let walk = tree.walk(reader, ranges)?;
        if walk.proofs == 0 || walk.contradictions > walk.extents.len() as u64 / CONTRADICTIONS_OF {
            continue;
        }
        let mut extents = Extents::new(walk.extents);
        let caches = Caches::find(reader, &copied, &extents, ranges)?;
        if caches.is_empty() {
            return Ok(Err(NO_CACHES));
        }
        caches.take_off(reader, &mut extents)?;
        let leaves = tree.leaves.iter().map(|(_, leaf)| *leaf);
        let records = leaves.chain(walk.records).chain(caches.arenas.iter().copied());
        let own = base::blocks(reader, records, ranges)?;
        let mut account = Account::default();
        account.add(reader, &extents)?;
        for (start, end) in &own {
            account.add_area(reader, *start, *end)?;
        }
        let areas = areas(extents.iter().map(|extent| (extent.base, extent.end())).chain(own).collect());
        let consistency = Consistency {
            retries: reader.budget().retries() - retries,
            skipped_bytes: walk.contradictions * extent::PAGE_BYTES,
            swapped_bytes: account.swapped_bytes + walk.swapped_bytes,
            threads_without_registers: 0,
        };
        let (allocator, resident) = account.finish();
        let allocator = Allocator {
            name: NAME.into(),
            version: Some(VERSIONS.into()),
            image: Some(data.image.clone()),
            ..allocator
        };
        return Ok(Ok(Found { allocator, consistency, resident, areas, blocks: Box::new(extents) }));
    }
    Ok(Err(CONTRADICTORY))
}

/// Ranges in order, those that touch or overlap as one.
fn areas(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut areas: Vec<(u64, u64)> = Vec::new();
    for (start, end) in ranges {
        match areas.last_mut().filter(|last| start <= last.1) {
            Some(last) => last.1 = last.1.max(end),
            None => areas.push((start, end)),
        }
    }
    areas
}

#[cfg(test)]
mod tests;
