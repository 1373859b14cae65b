//! Memory that the hooked allocators do not explain.

use crate::model::{finding::ResidentKind, memory::Usage};

/// Growth of resident memory that is not worth a word: thread stacks, page tables, an allocator's reserve.
const TOLERATED_BYTES: u64 = 8 << 20;
/// The same where it goes on.
const TOLERATED_BYTES_OF_MORE: u64 = 1 << 20;

/// How much of the growth of resident memory since `rss_before` no live block explains; `None` where that is
/// nothing unusual.
///
/// It is unusual where resident memory has grown by more than 8 MiB (1 MiB where it `goes_on` to grow) and by more
/// than twice the bytes that are live of what was allocated meanwhile: an allocator keeps some of what was freed,
/// seldom as much as is live.
#[must_use]
pub fn unexplained_rss_bytes(rss_before: u64, rss_now: u64, live_bytes: u64, goes_on: bool) -> Option<u64> {
    let growth = rss_now.checked_sub(rss_before)?;
    let tolerated = if goes_on { TOLERATED_BYTES_OF_MORE } else { TOLERATED_BYTES };
    (growth > tolerated && growth > live_bytes.saturating_mul(2)).then(|| growth - live_bytes)
}

/// The kind of resident memory that has grown most between two readings.
#[must_use]
pub fn grown_most(first: &Usage, latest: &Usage) -> ResidentKind {
    let grown = |of: fn(&Usage) -> u64| of(latest).saturating_sub(of(first));
    let kinds = [
        (grown(|usage| usage.file_bytes), ResidentKind::Files),
        (grown(|usage| usage.shmem_bytes), ResidentKind::Shared),
        // Of equals the last: blocks are anonymous.
        (grown(|usage| usage.anon_bytes), ResidentKind::Anonymous),
    ];
    kinds.into_iter().max_by_key(|(bytes, _)| *bytes).map_or(ResidentKind::Anonymous, |(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn growth_that_live_bytes_explain_is_not_told() {
        assert_eq!(unexplained_rss_bytes(MIB, 101 * MIB, 100 * MIB, true), None);
        assert_eq!(unexplained_rss_bytes(MIB, 101 * MIB, 50 * MIB, true), None);
        assert_eq!(unexplained_rss_bytes(MIB, 9 * MIB, 0, false), None);
        assert_eq!(unexplained_rss_bytes(MIB, 2 * MIB, 0, true), None);
        assert_eq!(unexplained_rss_bytes(100 * MIB, MIB, 0, true), None);
    }

    #[test]
    fn growth_that_nothing_explains_is_told_without_what_is_live() {
        assert_eq!(unexplained_rss_bytes(MIB, 10 * MIB, 0, false), Some(9 * MIB));
        assert_eq!(unexplained_rss_bytes(MIB, 9 * MIB, 0, true), Some(8 * MIB));
        assert_eq!(unexplained_rss_bytes(MIB, 101 * MIB, 49 * MIB, false), Some(51 * MIB));
        assert_eq!(unexplained_rss_bytes(0, u64::MAX, u64::MAX, true), None);
    }

    #[test]
    fn the_kind_that_has_grown_most_is_told() {
        let usage = |anon, file, shmem| Usage {
            anon_bytes: anon * MIB,
            file_bytes: file * MIB,
            shmem_bytes: shmem * MIB,
            ..Usage::default()
        };
        let first = usage(100, 10, 0);
        assert_eq!(grown_most(&first, &usage(104, 12, 1)), ResidentKind::Anonymous);
        assert_eq!(grown_most(&first, &usage(90, 13, 1)), ResidentKind::Files);
        assert_eq!(grown_most(&first, &usage(101, 11, 9)), ResidentKind::Shared);
        assert_eq!(grown_most(&first, &first), ResidentKind::Anonymous);
    }
}
