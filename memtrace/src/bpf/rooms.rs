//! Parts of a table that are given out, and taken back when nobody can be reading them any more.
//!
//! In: how much is wanted, and at which moment. Out: where it is. Knows nothing of maps.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

/// How long a room that was left stays as it is: a walk may be using it, and a child that was just forked does so until its own
/// is there.
const GRACE: Duration = Duration::from_secs(10);
/// The same where there is no other room: a walk takes microseconds, a fork is told within milliseconds. A program that loads
/// plug-ins by the second leaves a room each time.
const GRACE_IN_NEED: Duration = Duration::from_secs(2);
/// Rooms are multiples of this, so that few gaps are too small for any.
const UNIT: u32 = 16;

/// A part of a table, in entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Its first entry.
    pub(super) first: u32,
    /// The number of its entries.
    size: u32,
}

/// A table, and what of it is given out.
pub(super) struct Rooms {
    /// Sizes of the gaps, by their first entries; none touch.
    gaps: BTreeMap<u32, u32>,
    /// Rooms that were left, with the moment, oldest first.
    leaving: VecDeque<(Instant, Room)>,
}

impl Rooms {
    /// A table of `size` entries, all of them unused.
    pub(super) fn new(size: u32) -> Self {
        Self { gaps: BTreeMap::from([(0, size)]), leaving: VecDeque::new() }
    }

    /// Takes a room of `count` entries at least; `None` where there is none.
    pub(super) fn take(&mut self, count: u32, now: Instant) -> Option<Room> {
        let size = count.max(1).checked_next_multiple_of(UNIT)?;
        while self.take_back(now, GRACE) {}
        loop {
            if let Some((&first, &gap)) = self.gaps.iter().find(|(_, gap)| **gap >= size) {
                self.gaps.remove(&first);
                if gap > size {
                    self.gaps.insert(first + size, gap - size);
                }
                return Some(Room { first, size });
            }
            if !self.take_back(now, GRACE_IN_NEED) {
                return None;
            }
        }
    }

    /// Nobody new reads a room from `now` on.
    pub(super) fn leave(&mut self, room: Room, now: Instant) {
        self.leaving.push_back((now, room));
    }

    /// Takes back the room that was left first, if that is so long ago.
    fn take_back(&mut self, now: Instant, grace: Duration) -> bool {
        let is_over = |(left, _): &(Instant, Room)| now.saturating_duration_since(*left) > grace;
        let Some((_, room)) = self.leaving.pop_front_if(|left| is_over(left)) else { return false };
        let Room { mut first, mut size } = room;
        if let Some((&before, &gap)) = self.gaps.range(..first).next_back()
            && before + gap == first
        {
            self.gaps.remove(&before);
            (first, size) = (before, gap + size);
        }
        if let Some(gap) = self.gaps.remove(&(first + size)) {
            size += gap;
        }
        self.gaps.insert(first, size);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_that_was_left_is_given_out_again_after_a_while() {
        let (mut rooms, start) = (Rooms::new(64), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let first = rooms.take(17, start).unwrap();
        let second = rooms.take(32, start).unwrap();
        assert_eq!((first.first, second.first, rooms.take(1, start)), (0, 32, None));
        rooms.leave(first, start);
        assert_eq!(rooms.take(32, after(2)), None);
        assert_eq!(rooms.take(32, after(3)), Some(first));
    }

    #[test]
    fn neighbours_that_were_left_are_one_room() {
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [0, 2, 1, 3], [1, 3, 0, 2]] {
            let (mut rooms, start) = (Rooms::new(64), Instant::now());
            let all: Vec<Room> = (0..4).map(|_| rooms.take(16, start).unwrap()).collect();
            order.iter().for_each(|index| rooms.leave(all[*index], start));
            assert_eq!(rooms.take(64, start + GRACE * 2).map(|room| room.first), Some(0));
        }
    }

    #[test]
    fn rooms_that_grow_and_are_replaced_ten_times_a_second_do_not_run_out() {
        let (mut rooms, start) = (Rooms::new(1 << 16), Instant::now());
        let mut now = start;
        let mut held: Option<Room> = None;
        for count in 20..2000 {
            held.into_iter().for_each(|room| rooms.leave(room, now));
            held = Some(rooms.take(count, now).unwrap_or_else(|| panic!("no room for {count}")));
            now += Duration::from_millis(100);
        }
    }
}
