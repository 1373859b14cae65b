//! Figures of a process, in one line each.

use std::time::Duration;

use super::units;
use crate::model::{
    figures::{Figures, PageFigures},
    ledger::Ledger,
    overhead::Overhead,
    resident_change::ResidentChange,
    stats::estimate::Interval,
};

/// The holding of the process, as far as it was seen; nothing where its pages would be looked at, and are not (yet).
#[must_use]
pub fn held(figures: &Figures) -> Option<String> {
    let growth = units::bytes_per_s(figures.growth_bytes_per_s());
    let totals = match figures {
        Figures::Unread => return None,
        Figures::Pages(PageFigures { change, .. }) => return Some(pages(change, &growth)),
        Figures::Blocks(_) | Figures::Kernel(_) => figures.totals(),
    };
    let [live, allocated, freed] = [totals.live_bytes(), totals.alloc_bytes, totals.freed_bytes].map(units::bytes);
    let objects = units::count(totals.live_objects());
    Some(format!("live       {live} in {objects} objects, {growth}   (allocated {allocated}, freed {freed})"))
}

/// How much more is resident than when that was first told, and what has come and gone.
fn pages(change: &ResidentChange, growth: &str) -> String {
    let [became, given_back] = [change.became_resident, change.given_back].map(|amount| units::bytes(amount.bytes));
    let than = if change.bytes() < 0 { "less" } else { "more" };
    let copied = match change.copied.bytes {
        0 => String::new(),
        bytes => format!("; {} copied on write", units::bytes(bytes)),
    };
    format!(
        "pages      {} {than} than at first, {growth}   (became resident {became}, given back {given_back}{copied})",
        units::bytes(change.bytes().unsigned_abs()),
    )
}

/// The parts of resident memory.
#[must_use]
pub fn ledger(ledger: &Ledger) -> String {
    let amount = |bytes: u64| units::bytes(bytes);
    let signed = |bytes: i64| format!("{}{}", if bytes < 0 { "-" } else { "" }, amount(bytes.unsigned_abs()));
    let mapped = match ledger.live_mmap_bytes {
        0 => String::new(),
        bytes => format!(" and {} mapped", amount(bytes)),
    };
    let unexplained = ledger.unexplained_bytes();
    let (of_that, of_which) = match unexplained {
        0.. => ("of that ", "not explained"),
        // Memory need not be touched, nor lie where nothing was before.
        _ => ("", "of it not touched, or where older blocks were"),
    };
    format!(
        "RSS is {} from before attach and {} since; {of_that}{} in live blocks{mapped}, {} {of_which}",
        amount(ledger.rss_at_attach_bytes),
        signed(ledger.grown_bytes()),
        amount(ledger.live_heap_bytes),
        amount(unexplained.unsigned_abs()),
    )
}

/// The cost of tracing.
#[must_use]
pub fn cost(overhead: &Overhead) -> String {
    let (cost, cpu) = (units::duration(overhead.cost), units::duration(overhead.cpu));
    let share = match overhead.cpu {
        // The kernel counts CPU time in hundredths of a second.
        cpu if cpu < Duration::from_millis(100) => String::new(),
        _ => format!(" ({:.0} %)", overhead.share() * 100.0),
    };
    format!("about {cost} of its {cpu} on a CPU went to being traced{share}")
}

/// An interval in words: from its lower end to its upper one, where that is known.
#[must_use]
pub fn range(interval: Interval, to: &str, figure: fn(u64) -> String) -> String {
    let low = figure(interval.low);
    interval.high.map_or_else(|| format!("{low} or more"), |high| format!("{low}{to}{}", figure(high)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{overhead::Hits, survival::Amount};

    #[test]
    fn a_cost_has_a_share_where_there_is_cpu_time_to_compare_it_with() {
        let told = |cpu_ms| {
            let (time, cpu) = (Duration::from_millis(2), Duration::from_millis(cpu_ms));
            cost(&Overhead { hits: Hits::default(), cost: time, cpu })
        };
        assert_eq!(told(1000), "about 2 ms of its 1.0 s on a CPU went to being traced (0 %)");
        assert_eq!(told(10), "about 2 ms of its 10 ms on a CPU went to being traced");
    }

    #[test]
    fn the_parts_of_resident_memory_are_told_without_a_sign() {
        let told = |live_heap_bytes| {
            let (rss_at_attach_bytes, rss_bytes) = (64 << 20, 80 << 20);
            ledger(&Ledger { rss_at_attach_bytes, rss_bytes, live_heap_bytes, ..Ledger::default() })
        };
        let since = "RSS is 64.0 MiB from before attach and 16.0 MiB since;";
        assert_eq!(told(15 << 20), format!("{since} of that 15.0 MiB in live blocks, 1.00 MiB not explained"));
        // A block from before that was resized is live with all its bytes.
        let resized = "88.0 MiB in live blocks, 72.0 MiB of it not touched, or where older blocks were";
        assert_eq!(told(88 << 20), format!("{since} {resized}"));
    }

    #[test]
    fn what_has_become_of_resident_memory_is_told_with_its_sign() {
        let mib = |mib: u64| Amount { bytes: mib << 20, objects: mib << 8 };
        let (became_resident, given_back) = (mib(8), mib(50));
        let less = ResidentChange { became_resident, given_back, copied: Amount::default() };
        assert_eq!(
            pages(&less, "-1.00 MiB/s"),
            "pages      42.0 MiB less than at first, -1.00 MiB/s   (became resident 8.00 MiB, given back 50.0 MiB)"
        );
        let copies = ResidentChange { given_back: mib(1), copied: mib(54), ..less };
        assert_eq!(
            pages(&copies, "0 B/s"),
            "pages      7.00 MiB more than at first, 0 B/s   (became resident 8.00 MiB, given back 1.00 MiB; 54.0 MiB \
             copied on write)"
        );
    }
}
