//! The parts of memory from before attach, and the growth since that looks from outside explain.
//!
//! In: looks at a heap, with what was counted by then. Out: parts of the ledger, and the heap of the report.

use super::heap_looks::HeapLooks;
use crate::{
    model::{
        heap::{Allocator, Heap, Resident},
        heap_look::{LookedAtHeap, NotLooked},
        ledger::{BeforeAttach, Explained, difference},
        survival::Amount,
    },
    profile::heap_history::{Effort, HeapHistory, HeapLook},
};

/// The bytes of resident memory that a block takes beside those that were asked for: a header of eight, and as many again on average
/// to the next size that there is.
const BESIDE_A_BLOCK: u64 = 16;

/// The heap in a report: as of the latest look, with its growth since the first.
pub(super) fn heap(history: &HeapHistory) -> LookedAtHeap {
    let mut looks = HeapLooks::default();
    let joined = [&history.first, &history.latest].into_iter().flatten();
    let heap = joined.map(|look| looks.add(look.at, look.heap.clone())).last();
    let Effort { looks, duration, retries } = history.effort;
    let heap = heap.map(|mut heap| {
        (heap.looks, heap.duration, heap.consistency.retries) = (looks, duration, retries);
        heap
    });
    let not_looked = history.not_looked.clone().or(heap.is_none().then(NotLooked::default));
    LookedAtHeap { heap, not_looked }
}

/// The parts of what was resident at attach; nothing without a look that has recognised an allocator.
///
/// A look comes a little after attach. Live blocks that were allocated since are taken off, but for as many as blocks from before
/// were freed by then, whose places they may have. As much as resident memory has grown by was not there; the rest lies
/// in what was free.
pub(super) fn before_attach(history: &HeapHistory, rss_at_attach_bytes: u64) -> Option<BeforeAttach> {
    let look = history.first.as_ref().filter(|look| is_told(&look.heap))?;
    let resident = &look.heap.resident;
    let taken = with_headers(look.since_attach).saturating_sub(freed_bytes(look)).min(resident.live_bytes);
    let added = look.rss_bytes.saturating_sub(rss_at_attach_bytes);
    // As much as there was, should it have shrunk since.
    let mut left = rss_at_attach_bytes;
    let mut part = |bytes: u64| {
        let bytes = bytes.min(left);
        left -= bytes;
        bytes
    };
    Some(BeforeAttach {
        live_bytes: part(resident.live_bytes - taken),
        free_bytes: part(resident.free_bytes.saturating_add(taken.saturating_sub(added))),
        returnable_bytes: part(resident.returnable_bytes),
        other_bytes: left,
    })
}

/// The growth between attach and the latest look; nothing without one after the first. Where mappings are followed, those of files and
/// stacks are counted as such.
pub(super) fn explained(history: &HeapHistory, before: &BeforeAttach, follows_mappings: bool) -> Option<Explained> {
    let (first, latest) = (history.first.as_ref()?, history.latest.as_ref()?);
    if !is_told(&latest.heap) {
        return None;
    }
    let (then, now) = (&first.heap.resident, &latest.heap.resident);
    let free = |resident: &Resident| resident.free_bytes.saturating_add(resident.returnable_bytes);
    let asked = i64::try_from(latest.since_attach.bytes).unwrap_or(i64::MAX);
    let mapped = |now: u64, then: u64| if follows_mappings { 0 } else { difference(now, then) };
    Some(Explained {
        free_bytes: difference(free(now), before.free_bytes.saturating_add(before.returnable_bytes)),
        blocks_bytes: difference(now.live_bytes, before.live_bytes).saturating_sub(asked),
        files_bytes: mapped(now.files_bytes, then.files_bytes),
        stacks_bytes: mapped(now.stacks_bytes, then.stacks_bytes),
    })
}

/// Whether a look tells live blocks from others.
fn is_told(heap: &Heap) -> bool {
    heap.allocators.iter().any(Allocator::is_recognised)
}

/// The resident bytes of blocks, with all that they take besides.
fn with_headers(blocks: Amount) -> u64 {
    blocks.bytes.saturating_add(blocks.objects.saturating_mul(BESIDE_A_BLOCK))
}

/// The bytes of blocks from before attach that were freed by a look, if they were as large as those that live.
fn freed_bytes(look: &HeapLook) -> u64 {
    let objects = look.heap.allocators.iter().fold(0_u64, |sum, one| sum.saturating_add(one.live_objects));
    let bytes = u128::from(look.heap.resident.live_bytes) * u128::from(look.older_freed_objects);
    u64::try_from(bytes / u128::from(objects.max(1))).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const MIB: u64 = 1 << 20;

    /// A look at 10 MiB live, 4 free, 2 returnable, 3 of files and 1 of others, at a time.
    fn look(seconds: u64) -> HeapLook {
        let glibc = Allocator { name: "glibc".into(), live_objects: 10_240, ..Allocator::default() };
        let resident = Resident {
            live_bytes: 10 * MIB,
            free_bytes: 4 * MIB,
            returnable_bytes: 2 * MIB,
            files_bytes: 3 * MIB,
            other_bytes: MIB,
            ..Resident::default()
        };
        HeapLook {
            at: Duration::from_secs(seconds),
            heap: Heap { looks: 1, resident, allocators: vec![glibc], ..Heap::default() },
            rss_bytes: 20 * MIB,
            ..HeapLook::default()
        }
    }

    fn history(looks: impl IntoIterator<Item = HeapLook>) -> HeapHistory {
        let mut history = HeapHistory::without(NotLooked::UnderWay);
        looks.into_iter().for_each(|look| history.note(look));
        history
    }

    fn parts(look: HeapLook, rss_at_attach_bytes: u64) -> [u64; 4] {
        let parts = before_attach(&history([look]), rss_at_attach_bytes).unwrap();
        let BeforeAttach { live_bytes, free_bytes, returnable_bytes, other_bytes } = parts;
        let parts = [live_bytes, free_bytes, returnable_bytes, other_bytes];
        assert_eq!(parts.iter().sum::<u64>(), rss_at_attach_bytes);
        parts
    }

    #[test]
    fn the_parts_from_before_are_those_of_a_look_and_add_up() {
        assert_eq!(parts(look(1), 20 * MIB), [10 * MIB, 4 * MIB, 2 * MIB, 4 * MIB]);
        // Most of it is gone by the look.
        assert_eq!(parts(look(1), 12 * MIB), [10 * MIB, 2 * MIB, 0, 0]);
        assert_eq!(parts(look(1), 0), [0; 4]);
    }

    #[test]
    fn blocks_since_attach_are_taken_off_what_lives() {
        let blocks = MIB / 64;
        let since = |bytes: u64| Amount { bytes: bytes - blocks * BESIDE_A_BLOCK, objects: blocks };
        let grown = HeapLook { since_attach: since(2 * MIB), ..look(1) };
        // They have made it grow.
        assert_eq!(parts(grown.clone(), 18 * MIB), [8 * MIB, 4 * MIB, 2 * MIB, 4 * MIB]);
        // They lie in what was free.
        assert_eq!(parts(grown.clone(), 20 * MIB), [8 * MIB, 6 * MIB, 2 * MIB, 4 * MIB]);
        // They lie in the places of older ones, of a KiB each.
        let replaced = HeapLook { older_freed_objects: 2048, ..grown.clone() };
        assert_eq!(parts(replaced, 20 * MIB), [10 * MIB, 4 * MIB, 2 * MIB, 4 * MIB]);
        let absurd = HeapLook { since_attach: Amount { bytes: u64::MAX, objects: u64::MAX }, ..look(1) };
        assert_eq!(parts(absurd, 20 * MIB), [0, 14 * MIB, 2 * MIB, 4 * MIB]);
    }

    #[test]
    fn growth_between_looks_is_told_by_what_it_is() {
        let mut later = look(11);
        let resident = &mut later.heap.resident;
        // Of 5 MiB that were asked for since, one is in the place of an older block.
        (resident.live_bytes, resident.free_bytes) = (14 * MIB, 11 * MIB);
        (resident.files_bytes, resident.stacks_bytes) = (4 * MIB, 2 * MIB);
        later.since_attach = Amount { bytes: 5 * MIB, objects: 5 };
        let history = history([look(1), later]);
        let before = before_attach(&history, 20 * MIB).unwrap();
        let mib = |bytes: i64| bytes / (1 << 20);
        let told = |follows| explained(&history, &before, follows).unwrap();
        let Explained { free_bytes, blocks_bytes, files_bytes, stacks_bytes } = told(false);
        assert_eq!([free_bytes, blocks_bytes, files_bytes, stacks_bytes].map(mib), [7, -1, 1, 2]);
        assert_eq!(mib(told(true).bytes()), 6);
        let heap = heap(&history).heap.unwrap();
        assert_eq!((heap.looks, heap.allocators[0].growth_bytes_per_s), (2, Some(0.0)));
    }

    #[test]
    fn absurd_figures_of_a_hostile_heap_overflow_nowhere() {
        let mut absurd = look(1);
        let most = u64::MAX;
        absurd.heap.resident = Resident {
            live_bytes: most,
            free_bytes: most,
            returnable_bytes: most,
            files_bytes: most,
            stacks_bytes: most,
            ..Resident::default()
        };
        absurd.heap.allocators[0].live_objects = most;
        absurd.heap.allocators.push(absurd.heap.allocators[0].clone());
        absurd.older_freed_objects = most;
        let history = history([look(1), absurd.clone()]);
        let before = before_attach(&history, 20 * MIB).unwrap();
        assert!(explained(&history, &before, false).unwrap().bytes() > 0);
        assert_eq!(parts(absurd, 20 * MIB), [20 * MIB, 0, 0, 0]);
    }

    #[test]
    fn a_heap_that_nobody_recognises_tells_nothing() {
        let mut unknown = look(1);
        unknown.heap.allocators[0].reason = Some("of another build".into());
        assert_eq!(before_attach(&history([unknown]), 20 * MIB), None);
        let none = HeapHistory::without(NotLooked::Forked);
        assert_eq!(before_attach(&none, 20 * MIB), None);
        assert_eq!(heap(&none), LookedAtHeap { heap: None, not_looked: Some(NotLooked::Forked) });
        assert_eq!(heap(&HeapHistory::default()), LookedAtHeap::default());
    }
}
