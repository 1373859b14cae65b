//! Memory pressure on the group of a target: a look marks pages as used that the kernel might have taken back.
//!
//! A look that somebody has asked for is made all the same, with a warning. One that memtrace makes by itself is not.

use crate::{
    model::memory::Limit,
    process::cgroup::{self, memory_limit},
};

/// From this part of the last ten seconds on, in percent, in which some task of the group waited for memory.
const MUCH_WAITING: f64 = 10.0;
/// The part of its limit, in percent, from which on a group has hardly any room.
const NEARLY_ALL: u64 = 95;

/// A sign of memory pressure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pressure {
    /// Tasks of the group wait for memory.
    Waits {
        /// For this part of the last ten seconds, in percent.
        percent: f64,
    },
    /// The group is close to its limit.
    NearLimit(Limit),
}

/// The memory pressure on the group of a process; nothing where there is none, or the kernel tells of none.
#[must_use]
pub fn on(pid: u32) -> Option<Pressure> {
    of(cgroup::memory_waits(pid), memory_limit(pid, 0))
}

fn of(waits: Option<f64>, limit: Option<Limit>) -> Option<Pressure> {
    let is_near = |limit: &Limit| limit.used_bytes >= limit.max_bytes / 100 * NEARLY_ALL;
    let waits = waits.filter(|percent| *percent >= MUCH_WAITING).map(|percent| Pressure::Waits { percent });
    waits.or_else(|| limit.filter(is_near).map(Pressure::NearLimit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_waits_or_is_full_is_under_pressure() {
        let limit = |used_bytes| Some(Limit { max_bytes: 1000 << 20, used_bytes });
        assert_eq!(of(Some(9.9), limit(900 << 20)), None);
        assert_eq!(of(Some(10.0), None), Some(Pressure::Waits { percent: 10.0 }));
        assert_eq!(of(None, limit(950 << 20)), limit(950 << 20).map(Pressure::NearLimit));
        assert_eq!(of(None, None), None);
    }
}
