//! Findings about a process, in one line each.

use super::{unchecked, units};
use crate::model::{
    at_exit::AtExit,
    finding::{Finding, OneSided, ResidentKind, Side},
    stats::teardown::BeforeEnd,
};

/// A finding.
#[must_use]
pub fn finding(finding: &Finding) -> String {
    match finding {
        Finding::UnexplainedGrowth { bytes, kind, with_mappings } => {
            let most = likely_cause(*kind, *with_mappings);
            format!("{} of the growth of RSS are in no live block, most of it {most}", units::bytes(*bytes))
        }
        Finding::AtExit(found) => at_exit(found),
        Finding::OneSided(found) => found.iter().map(one_sided).collect::<Vec<_>>().join("; "),
        Finding::BeforeEnd(before) => before_end(before),
    }
}

/// The likely cause of growth that no block explains, and the option that shows more of it.
fn likely_cause(kind: ResidentKind, with_mappings: bool) -> &'static str {
    match (kind, with_mappings) {
        (ResidentKind::Anonymous, false) => {
            "anonymous: mapped directly, as thread stacks and Python's arenas are (--category mmap), free inside the allocator, or \
             from an allocator that is not hooked (--alloc)"
        }
        (ResidentKind::Anonymous, true) => {
            "anonymous: free inside the allocator, or from one that is not hooked (--alloc)"
        }
        (ResidentKind::Files, false) => "pages of files that it has mapped (--category mmap)",
        (ResidentKind::Files, true) => "pages of files, mapped before attach or by an allocator",
        (ResidentKind::Shared, false) => "shared memory (--category mmap)",
        (ResidentKind::Shared, true) => "shared memory, mapped before attach or by an allocator",
    }
}

/// An allocator of which only one side is seen.
fn one_sided(found: &OneSided) -> String {
    let OneSided { allocator, image, seen, events } = found;
    let events = units::count(*events);
    match seen {
        Side::Frees => format!(
            "only frees of {allocator} in {image} are seen ({events}), none of its allocations: unless it frees nothing but what it \
             had before attach, its figures are not to be relied on; name its functions by --alloc"
        ),
        Side::Allocations => format!(
            "only allocations of {allocator} in {image} are seen, none of its frees ({events} blocks were handed out again): its \
             figures are not to be relied on; name its functions by --free"
        ),
    }
}

/// The look at a program that was about to end.
fn at_exit(found: &AtExit) -> String {
    let checked = match found {
        AtExit::Unchecked(why) => return format!("not checked for reachability: {}", unchecked::reason(why)),
        AtExit::Checked(checked) => checked,
    };
    let of = units::count(checked.live.objects);
    match checked.unreachable.objects {
        0 if checked.live.objects == 0 => "no block is live".to_owned(),
        0 if checked.live.objects == 1 => "the one live block can be reached".to_owned(),
        0 => format!("all {of} live blocks can be reached"),
        lost => {
            let (lost, bytes) = (units::count(lost), units::bytes(checked.unreachable.bytes));
            format!("{lost} of {of} live blocks are unreachable ({bytes})")
        }
    }
}

/// Live blocks and resident memory of one moment.
fn before_end(before: &BeforeEnd) -> String {
    let (live, objects) = (units::bytes(before.live_bytes), units::count(before.live_objects));
    let resident = before.rss_bytes.map_or_else(String::new, |bytes| format!(" with {} of RSS", units::bytes(bytes)));
    format!("{live} live in {objects} objects{resident}, after {}", units::duration(before.at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{at_exit::Checked, survival::Amount, unchecked::Unchecked};
    use std::time::Duration;

    #[test]
    fn a_look_at_the_end_is_told_with_its_outcome() {
        let told = |at_exit| finding(&Finding::AtExit(at_exit));
        let (live, unreachable) = (Amount { bytes: 4096, objects: 4 }, Amount { bytes: 1024, objects: 1 });
        let checked = Checked { live, unreachable, ..Checked::default() };
        assert_eq!(told(AtExit::Checked(checked)), "1 of 4 live blocks are unreachable (1.00 KiB)");
        let reached =
            |objects| told(AtExit::Checked(Checked { live: Amount { bytes: 64, objects }, ..Checked::default() }));
        let sentences = ["no block is live", "the one live block can be reached", "all 2 live blocks can be reached"];
        assert_eq!([0, 1, 2].map(reached), sentences);
        let why = AtExit::Unchecked(Unchecked::Killed { signal: 9 });
        assert_eq!(told(why), "not checked for reachability: killed by signal 9");
    }

    #[test]
    fn live_bytes_are_told_of_the_moment_of_resident_memory() {
        let at = Duration::from_millis(39_600);
        let before = BeforeEnd { at, live_bytes: 8 << 20, live_objects: 8000, rss_bytes: Some(9 << 20) };
        assert_eq!(
            finding(&Finding::BeforeEnd(before)),
            "8.00 MiB live in 8,000 objects with 9.00 MiB of RSS, after 39.6 s"
        );
    }

    #[test]
    fn an_allocator_of_one_side_is_told_with_what_is_missing() {
        let one = |allocator: &str, seen| OneSided {
            allocator: allocator.into(),
            image: "/usr/bin/x".into(),
            seen,
            events: 1234,
        };
        let told = finding(&Finding::OneSided(vec![one("mimalloc", Side::Frees), one("x", Side::Allocations)]));
        let (frees, allocations) = told.split_once("--alloc; ").unwrap();
        assert!(frees.starts_with("only frees of mimalloc in /usr/bin/x are seen (1,234), none of its allocations: "));
        assert!(
            allocations.starts_with("only allocations of x in /usr/bin/x are seen, none of its frees (1,234 blocks ")
        );
        assert!(allocations.ends_with("by --free"), "{allocations}");
    }

    #[test]
    fn growth_that_nothing_explains_is_told_with_the_next_step() {
        let told = |kind, with_mappings| {
            let told = finding(&Finding::UnexplainedGrowth { bytes: 3 << 20, kind, with_mappings });
            told.strip_prefix("3.00 MiB of the growth of RSS are in no live block, most of it ").unwrap().to_owned()
        };
        let heap = told(ResidentKind::Anonymous, false);
        assert!(heap.starts_with("anonymous: mapped directly, ") && heap.contains("(--category mmap)"), "{heap}");
        assert!(heap.ends_with("not hooked (--alloc)"), "{heap}");
        assert!(!told(ResidentKind::Anonymous, true).contains("mmap"));
        assert_eq!(told(ResidentKind::Files, false), "pages of files that it has mapped (--category mmap)");
        assert_eq!(told(ResidentKind::Shared, false), "shared memory (--category mmap)");
        // Memory that was mapped since is live.
        assert_eq!(told(ResidentKind::Files, true), "pages of files, mapped before attach or by an allocator");
        assert_eq!(told(ResidentKind::Shared, true), "shared memory, mapped before attach or by an allocator");
    }
}
