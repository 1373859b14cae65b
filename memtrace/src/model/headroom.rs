//! Whether memtrace's own memory fits beside its targets', and how small its tables must be so that it does.
//!
//! In: the room where memtrace's memory is charged. Out: how often tables are halved. A process that is short of memory there
//! may be a target: so there must be room for the peaks that processes have had, and for some growth.

use super::memory::Limit;

/// The part of a limit that is left for growth which nobody has seen yet, one in so many, and the most of it.
const GROWTH: u64 = 8;
const MOST_GROWTH_BYTES: u64 = 256 << 20;

/// How often tables are halved: smaller ones are no use.
pub const MOST_HALVINGS: u32 = 5;

/// The memory in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// The most there may be, and the memory in use, in bytes.
    pub limit: Limit,
    /// The sum over the processes there of how much each had more at its peak than now, in bytes.
    pub peaks_bytes: u64,
}

impl Room {
    /// The room that memtrace may take, in bytes.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        let growth = (self.limit.max_bytes / GROWTH).min(MOST_GROWTH_BYTES);
        self.limit.room_bytes().saturating_sub(self.peaks_bytes.saturating_add(growth))
    }
}

/// Where memory is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The cgroup that memtrace is in.
    Cgroup,
    /// The machine.
    Machine,
}

/// The limit that keeps tables from being as large as usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Where that is.
    pub place: Place,
    /// The room there.
    pub room: Room,
}

/// How often tables must be halved, so that they fit beside what memtrace has of its own; `None` where they never do.
#[must_use]
pub fn halvings(free_bytes: u64, own_bytes: u64, table_bytes: impl Fn(u32) -> u64) -> Option<u32> {
    (0..=MOST_HALVINGS).find(|halvings| own_bytes.saturating_add(table_bytes(*halvings)) <= free_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn room(max: u64, used: u64, peaks: u64) -> Room {
        Room { limit: Limit { max_bytes: max * MIB, used_bytes: used * MIB }, peaks_bytes: peaks * MIB }
    }

    #[test]
    fn a_target_that_breathes_keeps_the_room_for_it_at_either_end() {
        let (out, full) = (room(320, 150, 60).free_bytes(), room(320, 210, 0).free_bytes());
        assert_eq!((out, full), (70 * MIB, 70 * MIB));
    }

    #[test]
    fn a_large_limit_leaves_no_more_for_growth_than_that() {
        assert_eq!(room(65_536, 60_000, 0).free_bytes(), (5_536 - 256) * MIB);
    }

    #[test]
    fn what_is_full_has_no_room_and_never_less() {
        assert_eq!(room(100, 120, 10).free_bytes(), 0);
        assert_eq!(room(100, 95, u64::MAX / MIB).free_bytes(), 0);
    }

    #[test]
    fn tables_are_as_large_as_they_can_be() {
        let tables = |halvings: u32| (146 * MIB) >> halvings;
        assert_eq!(halvings(200 * MIB, 40 * MIB, tables), Some(0));
        assert_eq!(halvings(120 * MIB, 40 * MIB, tables), Some(1));
        assert_eq!(halvings(45 * MIB, 40 * MIB, tables), Some(5));
        assert_eq!(halvings(40 * MIB, 40 * MIB, tables), None);
        assert_eq!(halvings(u64::MAX - 1, u64::MAX, tables), None);
    }
}
