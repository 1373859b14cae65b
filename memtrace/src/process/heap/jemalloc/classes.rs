//! jemalloc's size classes: an index stands for a usable size.
//!
//! `sc_data_init` of src/sc.c (<https://github.com/jemalloc/jemalloc/blob/5.3.0/src/sc.c>).

/// Classes of each doubling of the size.
const OF_A_GROUP: u32 = 4;
/// The largest class of slabs, in bytes.
const MAX_SMALL_BYTES: u64 = 14 << 10;

/// The classes of a build: they follow from its quantum, the distance of the smallest sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Classes {
    quantum: u64,
    /// Classes below the quantum.
    tiny: u32,
    /// How many there are; as an index, it is that of memory without a class.
    pub(super) count: u32,
}

impl Classes {
    /// Those of x86-64 by default, and those of builds with `--with-lg-quantum=3`, as redis has its own.
    pub(super) const ALL: [Self; 2] =
        [Self { quantum: 16, tiny: 1, count: 232 }, Self { quantum: 8, tiny: 0, count: 235 }];

    /// The usable size of a class in bytes.
    pub(super) fn bytes(self, class: u32) -> Option<u64> {
        if class >= self.count {
            return None;
        }
        let Some(index) = class.checked_sub(self.tiny) else { return Some(self.quantum / 2) };
        let step = u64::from(index % OF_A_GROUP) + 1;
        match (index / OF_A_GROUP).checked_sub(1) {
            None => Some(self.quantum * step),
            Some(doublings) => Some((self.quantum * (u64::from(OF_A_GROUP) + step)) << doublings),
        }
    }

    /// Whether blocks of a class may lie in slabs.
    pub(super) fn is_small(self, class: u32) -> bool {
        self.bytes(class).is_some_and(|bytes| bytes <= MAX_SMALL_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_stand_for_the_sizes_of_the_manual() {
        let [usual, fine] = Classes::ALL;
        let sizes = |classes: Classes| (0..12).filter_map(|class| classes.bytes(class)).collect::<Vec<u64>>();
        assert_eq!(sizes(usual), [8, 16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224]);
        assert_eq!(sizes(fine), [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128]);
        for (classes, small) in [(usual, 36), (fine, 39)] {
            assert_eq!((classes.bytes(small - 1), classes.bytes(small)), (Some(14 << 10), Some(16 << 10)));
            assert_eq!((classes.is_small(small - 1), classes.is_small(small)), (true, false));
            assert_eq!((classes.bytes(classes.count - 1), classes.bytes(classes.count)), (Some(7 << 60), None));
        }
    }
}
