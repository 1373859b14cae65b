//! Where the kernel side finds the targets' code: unwind rows, once an image, and ranges, once a target.

use std::{collections::HashMap, time::Instant};

use memtrace_common::{
    ids::ProcessSlot,
    wire::code::{CodeRange, CodeTable, Row},
};

use super::{
    error::BpfError,
    mapped_array::MappedArray,
    named_map::ArrayMap,
    rooms::{Room, Rooms},
    rows::{RowPlace, RowStore},
};

/// The tables of rows and ranges, and who has what of them.
pub(super) struct CodeStore {
    /// Where each target's ranges stand.
    tables: ArrayMap<CodeTable>,
    /// Where the kernel sends hooked returns in each target.
    trampolines: ArrayMap<u64>,

    rows: RowStore,
    ranges: MappedArray<CodeRange>,
    version: u32,
    rooms: Rooms,
    /// The room of each target.
    of_target: HashMap<ProcessSlot, Room>,
}

impl CodeStore {
    pub(super) fn new(
        rows: RowStore,
        ranges: MappedArray<CodeRange>,
        tables: ArrayMap<CodeTable>,
        trampolines: ArrayMap<u64>,
    ) -> Self {
        let size = u32::try_from(ranges.len()).unwrap_or(u32::MAX).min(CodeTable::MAX_FIRST);
        let rooms = Rooms::new(size);
        Self { tables, trampolines, rows, ranges, version: 0, rooms, of_target: HashMap::new() }
    }

    /// Stores the rows of an image; `None` where there is no room.
    pub(super) fn add_rows(&mut self, rows: &[Row]) -> Option<RowPlace> {
        self.rows.add(rows)
    }

    /// Says where a target's code is and which rows it has: all of it, sorted by start. Ranges beyond the room are left out, those
    /// of files last. Returns whether there was room; where there is none by now, the target's ranges stay as they were.
    ///
    /// # Errors
    /// Where a map cannot be written.
    pub(super) fn set_ranges(&mut self, slot: ProcessSlot, ranges: &[CodeRange]) -> Result<bool, BpfError> {
        let (ranges, left_out) = most_telling(ranges, CodeTable::MAX_COUNT as usize);
        if left_out > 0 {
            let all = ranges.len() + left_out;
            log::warn!("no room for {left_out} of a process's {all} ranges of code: stacks end there");
        }
        let count = u32::try_from(ranges.len()).unwrap_or(u32::MAX);
        let Some(room) = self.rooms.take(count, Instant::now()) else {
            log::warn!("no room for new ranges of a process's code: stacks may end there until there is");
            return Ok(false);
        };
        self.forget_ranges(slot);
        for (index, range) in (room.first..).zip(&ranges) {
            self.ranges.set(index as usize, *range);
        }
        self.of_target.insert(slot, room);
        self.version = self.version.wrapping_add(1);
        self.tables.set(slot.0, CodeTable::new(room.first, count, self.version))?;
        Ok(true)
    }

    /// Says where the kernel sends hooked returns in a target.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub(super) fn set_trampoline(&mut self, slot: ProcessSlot, address: u64) -> Result<(), BpfError> {
        self.trampolines.set(slot.0, address)
    }

    /// Forgets all of a target that is over.
    ///
    /// # Errors
    /// Where a map cannot be written.
    pub(super) fn forget(&mut self, slot: ProcessSlot) -> Result<(), BpfError> {
        self.tables.set(slot.0, CodeTable::default())?;
        self.trampolines.set(slot.0, 0)
    }

    /// A target's ranges are not needed any more, or will be replaced.
    pub(super) fn forget_ranges(&mut self, slot: ProcessSlot) {
        if let Some(room) = self.of_target.remove(&slot) {
            self.rooms.leave(room, Instant::now());
        }
    }
}

/// No more than `most` of these ranges, and how many are left out. Ranges without rows that follow each other are one. Those with
/// rows, which are the program's and its libraries', come first.
fn most_telling(ranges: &[CodeRange], most: usize) -> (Vec<CodeRange>, usize) {
    let mut joined: Vec<CodeRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.row_count == 0 && range.row_count == 0 && last.end == range.start => {
                last.end = range.end;
            }
            _ => joined.push(*range),
        }
    }
    let left_out = joined.len().saturating_sub(most);
    let mut without_rows = most.saturating_sub(joined.iter().filter(|range| range.row_count > 0).count());
    joined.retain(|range| {
        let is_in = range.row_count > 0 || without_rows > 0;
        without_rows -= usize::from(range.row_count == 0 && without_rows > 0);
        is_in
    });
    joined.truncate(most);
    (joined, left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, row_count: u32) -> CodeRange {
        CodeRange { start, end: start + 1, bias: 0, first_row: 0, row_count }
    }

    #[test]
    fn code_with_rows_has_room_before_code_without() {
        let ranges: Vec<CodeRange> = (0..1000).map(|at| range(at * 2, u32::from(at % 100 == 99))).collect();
        let (chosen, left_out) = most_telling(&ranges, 50);
        assert_eq!((chosen.len(), left_out), (50, 950));
        assert_eq!(chosen.iter().filter(|range| range.row_count > 0).count(), 10);
        assert!(chosen.is_sorted_by_key(|range| range.start));
        let with_rows: Vec<CodeRange> = (0..9).map(|at| range(at, 1)).collect();
        assert_eq!(most_telling(&with_rows, 4), (with_rows[..4].to_vec(), 5));
    }

    #[test]
    fn ranges_without_rows_that_touch_take_the_room_of_one() {
        let touching = [range(1, 0), range(2, 0), range(3, 7), range(4, 0), range(6, 0)];
        let (joined, left_out) = most_telling(&touching, 9);
        assert_eq!(joined, [CodeRange { end: 3, ..range(1, 0) }, range(3, 7), range(4, 0), range(6, 0)]);
        assert_eq!(left_out, 0);
    }
}
