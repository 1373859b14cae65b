//! The words on looks that a run makes at heaps by itself: why one was not made.

use super::{heap, units};
use crate::model::{heap::Heap, heap_look::NotLooked};

/// Why a run has not looked at the heap of a process.
#[must_use]
pub fn not_looked(why: &NotLooked) -> String {
    match why {
        NotLooked::NoBlocks => "none of its blocks is traced".to_owned(),
        NotLooked::NotWanted => "nobody wanted it (--no-seed)".to_owned(),
        NotLooked::BegunTraced => "its program has begun while it was traced: no block is from before".to_owned(),
        NotLooked::Forked => "it was forked while its parent was traced".to_owned(),
        NotLooked::TooMany { most } => {
            format!(
                "more than {} processes are traced (`memtrace heap --pid N` looks at one)",
                units::count(*most as u64)
            )
        }
        NotLooked::Pressure(pressure) => format!("its cgroup is short of memory: {}", heap::pressure(pressure)),
        NotLooked::TooLarge { rss_bytes, most_bytes } => {
            let [rss, most] = [rss_bytes, most_bytes].map(|bytes| units::bytes(*bytes));
            format!("it has {rss} of resident memory, and {most} are read unasked (`memtrace heap --pid N` reads more)")
        }
        NotLooked::UnderWay => "the look is under way".to_owned(),
        NotLooked::UsedUp => "looks at other processes have taken the time and bytes of all".to_owned(),
        NotLooked::TooSlow => {
            "the report would have waited for it for too long (`memtrace heap --pid N` looks at it)".to_owned()
        }
        NotLooked::Failed(why) => heap::not_read(why),
    }
}

/// That no allocator of a heap was recognised, and why.
#[must_use]
pub fn not_recognised(heap: &Heap) -> String {
    let reasons = heap.allocators.iter().filter_map(|one| Some(format!("{}: {}", one.name, one.reason.as_ref()?)));
    match reasons.collect::<Vec<_>>() {
        reasons if reasons.is_empty() => "not told: no allocator that memtrace can read was found".to_owned(),
        reasons => format!("not told: {}", reasons.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{heap::Allocator, heap_look::Pressure, heap_report::NotRead};

    #[test]
    fn an_allocator_that_is_not_recognised_is_told_with_the_reason() {
        let mut heap = Heap::default();
        assert_eq!(not_recognised(&heap), "not told: no allocator that memtrace can read was found");
        let reason = Some("of another build".to_owned());
        heap.allocators = vec![Allocator { name: "jemalloc".into(), reason, ..Allocator::default() }];
        assert_eq!(not_recognised(&heap), "not told: jemalloc: of another build");
    }

    #[test]
    fn every_reason_is_told_in_words_and_by_a_cause_of_its_own() {
        let reasons = [
            (NotLooked::NoBlocks, "none of its blocks is traced"),
            (NotLooked::NotWanted, "nobody wanted it (--no-seed)"),
            (NotLooked::BegunTraced, "its program has begun while it was traced: no block is from before"),
            (NotLooked::Forked, "it was forked while its parent was traced"),
            (NotLooked::TooMany { most: 8 }, "more than 8 processes are traced (`memtrace heap --pid N` looks at one)"),
            (
                NotLooked::Pressure(Pressure::Waits { percent: 40.0 }),
                "its cgroup is short of memory: tasks of it waited for memory in 40 % of the last 10 s",
            ),
            (
                NotLooked::TooLarge { rss_bytes: 20 << 30, most_bytes: 16 << 30 },
                "it has 20.0 GiB of resident memory, and 16.0 GiB are read unasked (`memtrace heap --pid N` reads more)",
            ),
            (NotLooked::UnderWay, "the look is under way"),
            (NotLooked::UsedUp, "looks at other processes have taken the time and bytes of all"),
            (
                NotLooked::TooSlow,
                "the report would have waited for it for too long (`memtrace heap --pid N` looks at it)",
            ),
            (NotLooked::Failed(NotRead::Gone), "the process has ended"),
        ];
        let mut causes: Vec<&str> = reasons.iter().map(|(why, _)| why.cause()).collect();
        for (why, told) in reasons {
            assert_eq!(not_looked(&why), told);
        }
        causes.sort_unstable();
        causes.dedup();
        assert_eq!(causes.len(), 11);
    }
}
