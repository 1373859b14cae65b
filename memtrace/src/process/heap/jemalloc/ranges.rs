//! The mappings of a process, as far as an allocator's own memory can lie in them.

use super::super::smaps::MappedMemory;

/// Ranges of addresses, in order.
#[derive(Debug)]
pub(super) struct Ranges {
    /// Private writable memory of no file: start and end. Neighbours are one.
    anonymous: Vec<(u64, u64)>,
    /// All other memory, which is not read.
    other: Vec<(u64, u64)>,
}

impl Ranges {
    /// Those of a process.
    pub(super) fn of(mappings: &[MappedMemory]) -> Self {
        let mut ranges = Self { anonymous: Vec::new(), other: Vec::new() };
        for one in mappings {
            let mapping = &one.mapping;
            let is_anonymous = mapping.writable && !mapping.shared && mapping.file.is_none() && !one.is_guarded;
            let into = if is_anonymous { &mut ranges.anonymous } else { &mut ranges.other };
            match into.last_mut().filter(|last| last.1 == mapping.start) {
                Some(last) => last.1 = mapping.end,
                None => into.push((mapping.start, mapping.end)),
            }
        }
        ranges
    }

    /// Whether all of `bytes` from `address` on are anonymous memory.
    pub(super) fn is_anonymous(&self, address: u64, bytes: u64) -> bool {
        let range = containing(&self.anonymous, address);
        range.is_some_and(|(_, end)| address.checked_add(bytes).is_some_and(|last| last <= end))
    }

    /// Whether the memory at `address` may be read: it is anonymous, or was not there yet.
    pub(super) fn may_be_read(&self, address: u64) -> bool {
        containing(&self.other, address).is_none()
    }
}

fn containing(ranges: &[(u64, u64)], address: u64) -> Option<(u64, u64)> {
    let index = ranges.partition_point(|(_, end)| *end <= address);
    ranges.get(index).copied().filter(|(start, _)| *start <= address)
}
