//! The machine's pages, and what the kernel holds of them for itself.

use std::fs;

/// How many pages lie between the machine's first and its last, gaps included, by `/proc/zoneinfo` (Linux 2.6.13); `None` where
/// that cannot be read.
#[must_use]
pub fn frames() -> Option<u64> {
    span(&fs::read_to_string("/proc/zoneinfo").ok()?)
}

fn span(zones: &str) -> Option<u64> {
    let mut spanned = 0;
    let (mut first, mut end) = (u64::MAX, 0);
    for line in zones.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("spanned"), Some(count)) => spanned = count.parse().ok()?,
            // A zone's beginning comes after its span.
            (Some("start_pfn:"), Some(start)) if spanned > 0 => {
                let start: u64 = start.parse().ok()?;
                first = first.min(start);
                end = end.max(start.checked_add(spanned)?);
                spanned = 0;
            }
            _ => {}
        }
    }
    end.checked_sub(first).filter(|span| *span > 0)
}

/// What the kernel holds for itself by its own account, in bytes: slabs, its threads' stacks, page tables and per-CPU memory
/// (`/proc/meminfo`).
#[must_use]
pub fn held_bytes() -> Option<u64> {
    held(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn held(meminfo: &str) -> Option<u64> {
    const HELD: [&str; 5] = ["Slab", "KernelStack", "PageTables", "SecPageTables", "Percpu"];
    let kib = meminfo.lines().filter_map(|line| {
        let (name, amount) = line.split_once(':')?;
        let kib = amount.trim().strip_suffix(" kB")?.parse::<u64>().ok()?;
        HELD.contains(&name).then_some(kib)
    });
    kib.reduce(u64::saturating_add).map(|kib| kib.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZONES: &str = "\
Node 0, zone      DMA
        spanned  4095
        present  3998
  start_pfn:           1
Node 0, zone   Normal
        spanned  5505024
  start_pfn:           1048576
Node 0, zone  Movable
        spanned  0
  start_pfn:           0
";

    #[test]
    fn gaps_between_zones_count_and_empty_zones_do_not() {
        assert_eq!(span(ZONES), Some(1_048_576 + 5_505_024 - 1));
        assert_eq!((span(""), span("spanned x\n")), (None, None));
        assert!(frames().unwrap() > 1000);
    }

    #[test]
    fn what_the_kernel_holds_is_a_sum() {
        assert_eq!(held("MemTotal: 100 kB\nSlab:  10 kB\nPercpu:   2 kB\nPageTables: x kB\n"), Some(12 * 1024));
        assert_eq!(held("MemTotal: 100 kB\n"), None);
        assert!(held_bytes().unwrap() > 1 << 20);
    }
}
