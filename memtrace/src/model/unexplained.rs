//! Memory that the hooked allocators do not explain.

/// Growth of resident memory that is not worth a word: thread stacks, page tables, an allocator's reserve.
const TOLERATED_BYTES: u64 = 8 << 20;

/// How much of the growth of resident memory since `rss_before` no live block explains; `None` where that is
/// nothing unusual.
///
/// It is unusual where resident memory has grown by more than 8 MiB and by more than twice the bytes that
/// are live of what was allocated meanwhile: an allocator keeps some of what was freed, seldom as much as is
/// live.
#[must_use]
pub fn unexplained_rss_bytes(rss_before: u64, rss_now: u64, live_bytes: u64) -> Option<u64> {
    let growth = rss_now.checked_sub(rss_before)?;
    (growth > TOLERATED_BYTES && growth > live_bytes.saturating_mul(2)).then(|| growth - live_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn growth_that_live_bytes_explain_is_not_told() {
        assert_eq!(unexplained_rss_bytes(MIB, 101 * MIB, 100 * MIB), None);
        assert_eq!(unexplained_rss_bytes(MIB, 101 * MIB, 50 * MIB), None);
        assert_eq!(unexplained_rss_bytes(MIB, 9 * MIB, 0), None);
        assert_eq!(unexplained_rss_bytes(100 * MIB, MIB, 0), None);
    }

    #[test]
    fn growth_that_nothing_explains_is_told_without_what_is_live() {
        assert_eq!(unexplained_rss_bytes(MIB, 10 * MIB, 0), Some(9 * MIB));
        assert_eq!(unexplained_rss_bytes(MIB, 101 * MIB, 49 * MIB), Some(51 * MIB));
        assert_eq!(unexplained_rss_bytes(0, u64::MAX, u64::MAX), None);
    }
}
