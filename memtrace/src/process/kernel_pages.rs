//! The machine's pages, and what the kernel holds of them for itself.

use std::fs;

use crate::model::memory::KernelUsage;

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

/// The memory that the kernel holds for itself by its own account (`/proc/meminfo`); `None` where that cannot be read.
#[must_use]
pub fn usage() -> Option<KernelUsage> {
    usage_in(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn usage_in(meminfo: &str) -> Option<KernelUsage> {
    let mut usage = KernelUsage::default();
    for line in meminfo.lines() {
        let Some((name, amount)) = line.split_once(':') else { continue };
        let bytes = match name {
            "SReclaimable" => &mut usage.slab_reclaimable_bytes,
            "SUnreclaim" => &mut usage.slab_unreclaimable_bytes,
            "KernelStack" => &mut usage.stack_bytes,
            "VmallocUsed" => &mut usage.vmalloc_bytes,
            // The second are those of virtual machines (Linux 6.1).
            "PageTables" | "SecPageTables" => &mut usage.page_table_bytes,
            "Percpu" => &mut usage.percpu_bytes,
            _ => continue,
        };
        let kib: u64 = amount.trim().strip_suffix(" kB")?.parse().ok()?;
        *bytes = bytes.saturating_add(kib.saturating_mul(1024));
    }
    // Stacks are from there, but where the kernel was built in another way (`CONFIG_VMAP_STACK`).
    usage.vmalloc_bytes = usage.vmalloc_bytes.saturating_sub(usage.stack_bytes);
    (usage != KernelUsage::default()).then_some(usage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::memory::Reading;

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
    fn what_the_kernel_holds_is_told_by_kind() {
        let usage =
            usage_in("MemTotal: 100 kB\nSUnreclaim:  10 kB\nPercpu:   2 kB\nPageTables: 1 kB\nSecPageTables: 3 kB\n");
        let expected = KernelUsage {
            slab_unreclaimable_bytes: 10 << 10,
            percpu_bytes: 2 << 10,
            page_table_bytes: 4 << 10,
            ..KernelUsage::default()
        };
        assert_eq!((usage, usage.unwrap().bytes()), (Some(expected), 16 << 10));
        let stacks = usage_in("KernelStack:  4 kB\nVmallocTotal: 9 kB\nVmallocUsed: 7 kB\n").unwrap();
        assert_eq!((stacks.stack_bytes, stacks.vmalloc_bytes, stacks.bytes()), (4 << 10, 3 << 10, 7 << 10));
        assert_eq!((usage_in("MemTotal: 100 kB\n"), usage_in("Percpu: x kB\n")), (None, None));
        assert!(super::usage().unwrap().bytes() > 1 << 20);
    }
}
