//! Unwind rows: in an array as large as the named targets need, and beyond it in a table that takes memory as rows come.

use memtrace_common::wire::code::{Row, SPARE_ROWS, SpareRows};

use super::{mapped_array::MappedArray, named_map::KeyedMap};

/// Where the rows of an image stand: the index of the first, and how many.
pub type RowPlace = (u32, u32);

/// The tables of rows.
pub(super) struct RowStore {
    rows: MappedArray<Row>,
    spare: KeyedMap<u32, SpareRows>,
    used: usize,
    /// The spare rows that were added last: others may follow in the same entry.
    last: SpareRows,
}

impl RowStore {
    pub(super) fn new(rows: MappedArray<Row>, spare: KeyedMap<u32, SpareRows>) -> Self {
        Self { rows, spare, used: 0, last: SpareRows([Row::default(); SPARE_ROWS as usize]) }
    }

    /// Stores the rows of an image; `None` where there is no room.
    pub(super) fn add(&mut self, rows: &[Row]) -> Option<RowPlace> {
        let place = (u32::try_from(self.used).ok()?, u32::try_from(rows.len()).ok()?);
        let in_array = rows.len().min(self.rows.len().saturating_sub(self.used));
        // The part beyond comes first: where that has no room, nothing is used.
        self.add_spare(&rows[in_array..], (self.used + in_array).checked_sub(self.rows.len()))?;
        for (index, row) in rows[..in_array].iter().enumerate() {
            self.rows.set(self.used + index, *row);
        }
        self.used = self.used.checked_add(rows.len())?;
        Some(place)
    }

    /// Stores rows from an index of the spare table on.
    fn add_spare(&mut self, rows: &[Row], first: Option<usize>) -> Option<()> {
        let mut rows = rows.iter().copied().peekable();
        let mut index = first.unwrap_or(0);
        while rows.peek().is_some() {
            let (entry, place) = (index / SPARE_ROWS as usize, index % SPARE_ROWS as usize);
            let mut stored = 0;
            for (room, row) in self.last.0[place..].iter_mut().zip(&mut rows) {
                *room = row;
                stored += 1;
            }
            if !self.spare.insert(u32::try_from(entry).ok()?, self.last) {
                return None;
            }
            index += stored;
        }
        Some(())
    }
}
