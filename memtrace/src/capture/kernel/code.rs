//! Where the kernel side finds the targets' code: unwind rows, once an image, and ranges, once a target.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use memtrace_common::{
    process::ProcessSlot,
    unwind::{CodeRange, CodeTable, Row},
};

use super::mapped::MappedArray;

/// How long ranges that were replaced stay as they are: a walk may be using them, and a child that was just
/// forked does so until its own are there.
const GRACE: Duration = Duration::from_secs(10);

/// The smallest room for a target's ranges, in ranges; every room is a power of two.
const SMALLEST_ROOM: u32 = 16;

/// Where the rows of an image stand: the index of the first, and how many.
pub type RowPlace = (u32, u32);

/// A part of the table of ranges.
#[derive(Clone, Copy)]
struct Room {
    first: u32,
    size: u32,
}

/// The tables of rows and ranges, and who has what of them.
pub(super) struct CodeStore {
    rows: MappedArray<Row>,
    used_rows: usize,
    ranges: MappedArray<CodeRange>,
    used_ranges: u32,
    version: u32,
    rooms: HashMap<ProcessSlot, Room>,
    free: HashMap<u32, Vec<Room>>,
    leaving: VecDeque<(Instant, Room)>,
}

impl CodeStore {
    pub(super) fn new(rows: MappedArray<Row>, ranges: MappedArray<CodeRange>) -> Self {
        Self {
            rows,
            used_rows: 0,
            ranges,
            used_ranges: 0,
            version: 0,
            rooms: HashMap::new(),
            free: HashMap::new(),
            leaving: VecDeque::new(),
        }
    }

    /// Stores the rows of an image; `None` where there is no room.
    pub(super) fn add_rows(&mut self, rows: &[Row]) -> Option<RowPlace> {
        let place = (u32::try_from(self.used_rows).ok()?, u32::try_from(rows.len()).ok()?);
        if self.used_rows.checked_add(rows.len())? > self.rows.len() {
            return None;
        }
        for (index, row) in rows.iter().enumerate() {
            self.rows.set(self.used_rows + index, *row);
        }
        self.used_rows += rows.len();
        Some(place)
    }

    /// Stores a target's ranges, all of them, sorted by start. What goes beyond the room is left out, and how
    /// many that are comes second.
    pub(super) fn set_ranges(&mut self, slot: ProcessSlot, ranges: &[CodeRange]) -> (CodeTable, usize) {
        self.forget(slot);
        let wanted = u32::try_from(ranges.len()).unwrap_or(u32::MAX).min(CodeTable::MAX_COUNT);
        self.version = self.version.wrapping_add(1);
        let Some(room) = self.room(wanted) else { return (CodeTable::new(0, 0, self.version), ranges.len()) };
        for (index, range) in (room.first..).zip(ranges.iter().take(wanted as usize)) {
            self.ranges.set(index as usize, *range);
        }
        self.rooms.insert(slot, room);
        (CodeTable::new(room.first, wanted, self.version), ranges.len() - wanted as usize)
    }

    /// A target's ranges are not needed any more, or will be replaced.
    pub(super) fn forget(&mut self, slot: ProcessSlot) {
        if let Some(room) = self.rooms.remove(&slot) {
            self.leaving.push_back((Instant::now(), room));
        }
    }

    fn room(&mut self, count: u32) -> Option<Room> {
        while let Some((since, room)) = self.leaving.front().copied()
            && since.elapsed() > GRACE
        {
            self.leaving.pop_front();
            self.free.entry(room.size).or_default().push(room);
        }
        let size = count.max(SMALLEST_ROOM).next_power_of_two();
        if let Some(room) = self.free.get_mut(&size).and_then(Vec::pop) {
            return Some(room);
        }
        let first = self.used_ranges;
        let end = first.checked_add(size)?;
        if end as usize > self.ranges.len() || end > CodeTable::MAX_FIRST {
            return None;
        }
        self.used_ranges = end;
        Some(Room { first, size })
    }
}
