//! Whose memory is whose, of one target: what its allocators have mapped for themselves. All else is the program's own.

use memtrace_common::wire::mapping::{MappingEvent, MappingKind};

use super::sources::end_of;
use crate::model::ranges::Ranges;

/// The memory that a target's allocators have mapped and nobody has mapped since. (Memory that was given up stays here: where
/// nothing is mapped, nothing is looked at.)
#[derive(Debug, Default)]
pub(crate) struct AllocatorMappings {
    areas: Ranges<()>,
    /// The end of the data segment, once it is known.
    data_end: Option<u64>,
}

impl AllocatorMappings {
    /// Takes in what has happened; events come in the order in which they happened. Events that only tell the owner of a charge are
    /// passed over.
    pub(crate) fn handle(&mut self, event: &MappingEvent) {
        let is_allocators = event.flags & MappingEvent::BY_ALLOCATOR != 0;
        match MappingKind::try_from(event.kind) {
            Ok(MappingKind::AreaMapped) => self.set(event.result, end_of(event.result, event.length), is_allocators),
            Ok(MappingKind::AreaBreak) => {
                if let Some(before) = self.data_end.replace(event.result) {
                    self.set(before, event.result, is_allocators);
                }
            }
            _ => {}
        }
    }

    /// The allocators' areas, in order of addresses.
    pub(crate) fn areas(&self) -> Vec<(u64, u64)> {
        self.areas.parts().collect()
    }

    fn set(&mut self, start: u64, end: u64, is_allocators: bool) {
        self.areas.give_up(start, end);
        if is_allocators {
            self.areas.insert(start, end, ());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(result: u64, length: u64, flags: u32) -> MappingEvent {
        MappingEvent { kind: MappingKind::AreaMapped as u32, result, length, flags, ..MappingEvent::default() }
    }

    #[test]
    fn whoever_has_mapped_memory_last_has_it() {
        let mut book = AllocatorMappings::default();
        book.handle(&mapped(0x10000, 0x3001, MappingEvent::BY_ALLOCATOR));
        book.handle(&mapped(0x11000, 0x1000, 0));
        assert_eq!(book.areas(), [(0x10000, 0x11000), (0x12000, 0x14000)]);
        book.handle(&mapped(0x11000, 0x1000, MappingEvent::BY_ALLOCATOR));
        assert_eq!(book.areas(), [(0x10000, 0x11000), (0x11000, 0x12000), (0x12000, 0x14000)]);
    }

    #[test]
    fn the_data_segment_is_his_who_has_made_it_grow() {
        let grown = |result, flags| MappingEvent {
            kind: MappingKind::AreaBreak as u32,
            result,
            flags,
            ..MappingEvent::default()
        };
        let mut book = AllocatorMappings::default();
        // The first says where it is; then a static program's thread-local memory, then an allocator's.
        for event in [grown(0x5000, 0), grown(0x5d00, 0), grown(0x27000, 1), grown(0x26000, 1)] {
            book.handle(&event);
        }
        assert_eq!(book.areas(), [(0x5d00, 0x27000)]);
    }
}
