//! Why tables are not as large as usual.

use super::units;
use crate::model::headroom::{Place, Room, Shortage};

/// The room where memory is short.
#[must_use]
pub fn shortage(shortage: &Shortage) -> String {
    let Room { limit, peaks_bytes } = shortage.room;
    let place = match shortage.place {
        Place::Cgroup => "its cgroup",
        Place::Machine => "the machine",
    };
    let [max, used, peaks, free] =
        [limit.max_bytes, limit.used_bytes, peaks_bytes, shortage.room.free_bytes()].map(units::bytes);
    let at_peaks = match peaks_bytes {
        0 => String::new(),
        _ => format!(", and {peaks} more at its processes' peaks"),
    };
    format!("{place} has {used} of {max}{at_peaks}, which leaves memtrace {free}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::memory::Limit;

    #[test]
    fn room_is_told_with_what_takes_it() {
        let limit = Limit { max_bytes: 320 << 20, used_bytes: 150 << 20 };
        let told = |place, peaks_bytes| shortage(&Shortage { place, room: Room { limit, peaks_bytes } });
        assert_eq!(
            told(Place::Cgroup, 60 << 20),
            "its cgroup has 150.0 MiB of 320.0 MiB, and 60.0 MiB more at its processes' peaks, which leaves memtrace \
             70.0 MiB"
        );
        assert_eq!(told(Place::Machine, 0), "the machine has 150.0 MiB of 320.0 MiB, which leaves memtrace 130.0 MiB");
    }
}
