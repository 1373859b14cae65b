//! The rows that a thread's walks have used lately: an ordinary stack has a dozen frames, most of them the same each time.

use crate::wire::code::{CodeTable, Row};

/// How many sets of rows a thread remembers, two rows each: a power of two. With one row each, two of the dozen
/// frames of an ordinary stack are in each other's way more often than not.
const SETS: usize = 64;

/// The rows that a thread's walks have used lately, by address.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct RecentRows {
    /// The addresses, mixed with the version of the target's code in which they were looked up; the newer of each
    /// set first.
    tags: [u64; 2 * SETS],
    rows: [Row; 2 * SETS],
}

impl RecentRows {
    /// The row at `address`, if the thread remembers it.
    #[inline(always)]
    #[must_use]
    pub fn find(&self, address: u64, code: CodeTable) -> Option<Row> {
        let (at, tag) = (place_of(address), tag(address, code));
        if self.tags[at] == tag {
            Some(self.rows[at])
        } else if self.tags[at + 1] == tag {
            Some(self.rows[at + 1])
        } else {
            None
        }
    }

    /// Remembers a row, in place of the older of its set.
    #[inline(always)]
    pub fn remember(&mut self, address: u64, code: CodeTable, row: Row) {
        let at = place_of(address);
        (self.tags[at + 1], self.rows[at + 1]) = (self.tags[at], self.rows[at]);
        (self.tags[at], self.rows[at]) = (tag(address, code), row);
    }
}

const _: () = assert!(size_of::<RecentRows>() == 2048);

/// Different versions of the code make different tags of an address. Never 0, which is what an empty place
/// holds: no address of a user has the top bit.
#[inline(always)]
fn tag(address: u64, code: CodeTable) -> u64 {
    (address ^ code.version().wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1 << 63
}

/// Where the set of an address begins.
#[inline(always)]
fn place_of(address: u64) -> usize {
    let folded = address ^ address >> 6 ^ address >> 12;
    usize::from(folded.to_le_bytes()[0]) % SETS * 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::code::CfaRule;

    #[test]
    fn two_addresses_of_one_set_are_both_remembered_and_a_third_takes_the_olders_place() {
        let empty = RecentRows { tags: [0; 2 * SETS], rows: [Row::default(); 2 * SETS] };
        let code = CodeTable::new(0, 1, 7);
        let addresses: Vec<u64> =
            (0x40_0000..).filter(|address| place_of(*address) == place_of(0x40_0000)).take(3).collect();
        let mut recent = empty;
        for (words, address) in (1..).zip(&addresses) {
            recent.remember(*address, code, Row::new(0, CfaRule::Sp, words, 0).unwrap());
        }
        let found: Vec<Option<i32>> =
            addresses.iter().map(|address| recent.find(*address, code).map(Row::offset_words)).collect();
        assert_eq!(found, [None, Some(2), Some(3)]);
        assert_eq!(recent.find(addresses[2], CodeTable::new(0, 1, 8)), None);
    }
}
