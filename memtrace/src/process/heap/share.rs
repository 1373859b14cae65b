//! Where the resident memory of a process is: that of its allocators by use, all other by kind of mapping.

use super::{found::Found, smaps::MappedMemory};
use crate::model::heap::Resident;

/// The shares. Those of mappings are of the look's beginning, those of allocators of when they were read.
pub(super) fn shares(mappings: &[MappedMemory], found: &[Found]) -> Resident {
    let mut shares = Resident::default();
    let mut areas: Vec<(u64, u64)> = Vec::new();
    let mut area_bytes = 0_u64;
    for one in found {
        let resident = &one.resident;
        area_bytes += resident.area_bytes;
        shares.free_bytes += resident.free_bytes;
        shares.returnable_bytes += resident.returnable_bytes;
        areas.extend(&one.areas);
    }
    shares.live_bytes = area_bytes.saturating_sub(shares.free_bytes).saturating_sub(shares.returnable_bytes);
    areas.sort_unstable();
    let mut anonymous = 0;
    let mut before: Option<&MappedMemory> = None;
    for one in mappings {
        let mapping = &one.mapping;
        shares.swap_bytes += one.swap_bytes;
        if mapping.shared {
            shares.files_bytes += one.resident_bytes;
        } else {
            shares.files_bytes += one.resident_bytes.saturating_sub(one.anonymous_bytes);
            if is_stack(before, one) && !overlaps(&areas, mapping.start, mapping.end) {
                shares.stacks_bytes += one.anonymous_bytes;
            } else {
                anonymous += one.anonymous_bytes;
            }
        }
        before = Some(one);
    }
    shares.other_bytes = anonymous.saturating_sub(area_bytes);
    shares
}

/// Whether a mapping is a stack: the kernel names the main thread's, and C libraries put a guard below the others.
fn is_stack(before: Option<&MappedMemory>, one: &MappedMemory) -> bool {
    let mapping = &one.mapping;
    if mapping.path.as_os_str() == "[stack]" {
        return true;
    }
    let is_anonymous = mapping.file.is_none() && mapping.writable && mapping.path.as_os_str().is_empty();
    is_anonymous && before.is_some_and(|before| before.mapping.guards(mapping))
}

fn overlaps(areas: &[(u64, u64)], start: u64, end: u64) -> bool {
    let first = areas.partition_point(|(_, area_end)| *area_end <= start);
    areas.get(first).is_some_and(|(area_start, _)| *area_start < end)
}
