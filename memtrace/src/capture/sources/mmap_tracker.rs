//! The memory that one target has mapped by itself, from the system calls that the kernel side tells of.

use std::collections::HashMap;

use memtrace_common::{
    arch::PAGE_BYTES as PAGE,
    ids::SiteIndex,
    wire::mapping::{MappingEvent, MappingKind},
};

use crate::model::{
    ranges::{Freed, Ranges},
    totals::Totals,
};

/// `MAP_FIXED` of `<asm-generic/mman-common.h>`: what lies there is replaced. (`MAP_FIXED_NOREPLACE` has a bit of
/// its own and fails instead.)
const MAP_FIXED: u32 = 0x10;
/// `SHM_REMAP` of `<linux/shm.h>`: what lies there is replaced.
const SHM_REMAP: u32 = 0o40000;
/// `MREMAP_FIXED` of `<linux/mman.h>`.
const MREMAP_FIXED: u32 = 2;
/// `MREMAP_DONTUNMAP` of `<linux/mman.h>`: the old range stays, empty.
const MREMAP_DONTUNMAP: u32 = 4;

/// The site that a mapping is charged to, and since when it is there.
#[derive(Clone, Copy, Debug)]
struct Owner {
    site: SiteIndex,
    born_ms: u32,
    /// Whether it is a System V segment, which one call detaches whatever is left of it.
    is_segment: bool,
}

/// The memory that one target has mapped by itself.
#[derive(Debug, Default)]
pub(crate) struct MmapTracker {
    ranges: Ranges<Owner>,
    /// The ranges that threads may be giving up at this moment, by thread: addresses from the first up to the last, without those
    /// that were mapped since. They count as mapped until the call has succeeded, or until others are handed them.
    leaving: HashMap<u32, Vec<(u64, u64)>>,
    /// The ends of System V segments by their starts: of those that are charged and were not detached.
    segments: HashMap<u64, u64>,
    /// The end of the data segment, once it is known.
    data_end: Option<u64>,
    totals: HashMap<SiteIndex, Totals>,
    missed_frees: u64,
}

impl MmapTracker {
    /// The sums that were mapped and given up, by site.
    pub(crate) fn totals(&self) -> &HashMap<SiteIndex, Totals> {
        &self.totals
    }

    /// How many parts of mappings were handed out again that nobody was told to give up, as
    /// [`memtrace_common::wire::counters::Counter::MissedFrees`] has them.
    pub(crate) fn missed_frees(&self) -> u64 {
        self.missed_frees
    }

    /// When the oldest mapping of each site was made of which something is left, in milliseconds.
    pub(crate) fn oldest_born_ms(&self) -> HashMap<SiteIndex, u64> {
        let mut oldest: HashMap<SiteIndex, u64> = HashMap::new();
        for Owner { site, born_ms, .. } in self.ranges.owners() {
            let known = oldest.entry(site).or_insert(u64::MAX);
            *known = u64::from(born_ms).min(*known);
        }
        oldest
    }

    /// Takes in what has happened; events come in the order in which they were told.
    ///
    /// That is not always the order in which the kernel did it, since calls of several threads overlap: what one of
    /// them gives up another may be handed before the first has returned. So a range is given up where the call
    /// has succeeded, or where its addresses are mapped anew, whichever is told first; a call that has failed
    /// changes nothing.
    pub(crate) fn handle(&mut self, event: &MappingEvent) {
        match MappingKind::try_from(event.kind) {
            Ok(MappingKind::Leave) => {
                self.leaving.insert(event.tid, vec![(event.result, end_of(event.result, event.length))]);
            }
            Ok(MappingKind::Left) => {
                let left = self.leaving.remove(&event.tid).unwrap_or_default();
                if !event.has_failed() {
                    self.give_up(&left);
                }
            }
            Ok(MappingKind::Remapped) => {
                let left = self.leaving.remove(&event.tid).unwrap_or_default();
                if event.has_failed() {
                    return;
                }
                let is_segment = left.first().is_some_and(|(start, _)| self.segments.remove(start).is_some());
                if event.flags & MREMAP_DONTUNMAP == 0 {
                    self.give_up(&left);
                }
                self.map(event, event.flags & MREMAP_FIXED != 0, is_segment);
            }
            Ok(MappingKind::Mapped) if !event.has_failed() => self.map(event, event.flags & MAP_FIXED != 0, false),
            Ok(MappingKind::Attached) => self.map(event, event.flags & SHM_REMAP != 0, true),
            Ok(MappingKind::Detach) => {
                let left = self.left_of_segment(event.result);
                self.leaving.insert(event.tid, left);
            }
            // Later the order in which threads are told of is the tracker's own.
            Ok(MappingKind::BreakFrom) if event.result != 0 => _ = self.data_end.get_or_insert(event.result),
            Ok(MappingKind::Break) => self.set_data_end(event),
            // Areas are of no interest here.
            Ok(MappingKind::Mapped | MappingKind::BreakFrom | MappingKind::AreaMapped | MappingKind::AreaBreak) => {}
            Err(unknown) => log::warn!("unknown change of an address space {}", unknown.0),
        }
    }

    fn set_data_end(&mut self, event: &MappingEvent) {
        let end = event.result;
        match self.data_end.replace(end) {
            Some(before) if before < end => {
                // Something may be mapped over the rest of the last page.
                self.give_up(&[(before, end)]);
                self.charge(before, end, event, false);
            }
            Some(before) => self.give_up(&[(end, before)]),
            None => {}
        }
    }

    /// The parts that are left of the System V segment that was attached there. (Others may be mapped over the rest.)
    fn left_of_segment(&mut self, start: u64) -> Vec<(u64, u64)> {
        let Some(end) = self.segments.remove(&start) else { return Vec::new() };
        self.ranges.left_of(start, end, |owner| owner.is_segment)
    }

    /// A range was mapped, where `is_fixed` in place of whatever was there. Else the kernel hands out only what nobody
    /// has, so what is there was given up.
    fn map(&mut self, event: &MappingEvent, is_fixed: bool, is_segment: bool) {
        let (start, end) = (event.result, end_of(event.result, event.length));
        for left in self.leaving.values_mut() {
            // Most others are elsewhere.
            if !left.iter().any(|(first, last)| *first < end && start < *last) {
                continue;
            }
            for (first, last) in std::mem::take(left) {
                count_freed(&mut self.totals, self.ranges.give_up(first.max(start), last.min(end)));
                let rest = [(first, last.min(start)), (first.max(end), last)];
                left.extend(rest.into_iter().filter(|(first, last)| first < last));
            }
        }
        let replaced = self.ranges.give_up(start, end);
        if !is_fixed {
            self.missed_frees += replaced.len() as u64;
        }
        count_freed(&mut self.totals, replaced);
        self.charge(start, end, event, is_segment);
    }

    /// Charges the range to the event's site, if there is one.
    fn charge(&mut self, start: u64, end: u64, event: &MappingEvent, is_segment: bool) {
        if event.site == SiteIndex::NONE || start >= end {
            return;
        }
        self.ranges.insert(start, end, Owner { site: event.site, born_ms: event.now_ms, is_segment });
        if is_segment {
            self.segments.insert(start, end);
        }
        let totals = self.totals.entry(event.site).or_default();
        totals.alloc_bytes += end - start;
        totals.alloc_objects += 1;
    }

    fn give_up(&mut self, ranges: &[(u64, u64)]) {
        for (start, end) in ranges {
            count_freed(&mut self.totals, self.ranges.give_up(*start, *end));
        }
    }
}

fn count_freed(totals: &mut HashMap<SiteIndex, Totals>, freed: Vec<Freed<Owner>>) {
    for freed in freed {
        let totals = totals.entry(freed.owner.site).or_default();
        totals.freed_bytes += freed.bytes;
        totals.freed_objects += u64::from(freed.was_last);
    }
}

/// Where a range of that length ends: the kernel works in whole pages.
pub(crate) fn end_of(start: u64, length: u64) -> u64 {
    start.saturating_add(length.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SITE: SiteIndex = SiteIndex(7);

    fn event(kind: MappingKind, result: u64, length: u64, flags: u32) -> MappingEvent {
        MappingEvent { kind: kind as u32, tid: 1, site: SITE, result, length, flags, ..MappingEvent::default() }
    }

    fn figures(tracker: &MmapTracker) -> (u64, u64, u64, u64) {
        let totals = tracker.totals().get(&SITE).copied().unwrap_or_default();
        (totals.alloc_bytes, totals.alloc_objects, totals.freed_bytes, totals.freed_objects)
    }

    #[test]
    fn lengths_are_whole_pages_and_a_failed_call_changes_nothing() {
        let mut tracker = MmapTracker::default();
        tracker.handle(&event(MappingKind::Mapped, 0x10000, 1, 0));
        tracker.handle(&event(MappingKind::Mapped, (-12i64) as u64, 1, 0));
        tracker.handle(&event(MappingKind::Leave, 0x10000, 1, 0));
        tracker.handle(&event(MappingKind::Left, (-22i64) as u64, 0, 0));
        assert_eq!(figures(&tracker), (4096, 1, 0, 0));
        tracker.handle(&event(MappingKind::Leave, 0x10000, 1, 0));
        tracker.handle(&event(MappingKind::Left, 0, 0, 0));
        assert_eq!(figures(&tracker), (4096, 1, 4096, 1));
    }

    /// The kernel refuses addresses within pages after they were told: what they name reaches into the next page,
    /// which may be another thread's.
    #[test]
    fn a_call_that_fails_takes_nothing_from_what_another_thread_maps_meanwhile() {
        let of_another = |kind, result, length, flags| MappingEvent { tid: 2, ..event(kind, result, length, flags) };
        let mut tracker = MmapTracker::default();
        tracker.handle(&event(MappingKind::Mapped, 0x10000, 0x1000, 0));
        tracker.handle(&of_another(MappingKind::Mapped, 0x11000, 0x4000, 0));
        // Up to 0x11001.
        tracker.handle(&event(MappingKind::Leave, 0x10001, 0x1000, 0));
        tracker.handle(&of_another(MappingKind::Mapped, 0x11000, 0x4000, MAP_FIXED));
        tracker.handle(&event(MappingKind::Left, (-22i64) as u64, 0, 0));
        assert_eq!(figures(&tracker), (0x9000, 3, 0x4000, 1));
        tracker.handle(&of_another(MappingKind::Leave, 0x11000, 0x4000, 0));
        tracker.handle(&of_another(MappingKind::Left, 0, 0, 0));
        assert_eq!(figures(&tracker), (0x9000, 3, 0x8000, 2));
        assert_eq!(tracker.missed_frees(), 0);
    }

    #[test]
    fn what_two_threads_give_up_at_once_is_given_up_once() {
        let mut tracker = MmapTracker::default();
        tracker.handle(&event(MappingKind::Mapped, 0x10000, 0x4000, 0));
        tracker.handle(&event(MappingKind::Leave, 0x10000, 0x3000, 0));
        tracker.handle(&MappingEvent { tid: 2, ..event(MappingKind::Leave, 0x12000, 0x2000, 0) });
        tracker.handle(&event(MappingKind::Left, 0, 0, 0));
        tracker.handle(&MappingEvent { tid: 2, ..event(MappingKind::Left, 0, 0, 0) });
        assert_eq!(figures(&tracker), (0x4000, 1, 0x4000, 1));
    }

    #[test]
    fn what_is_handed_out_again_unannounced_is_given_up_and_counted() {
        let mut tracker = MmapTracker::default();
        tracker.handle(&event(MappingKind::Mapped, 0x10000, 0x4000, 0));
        tracker.handle(&event(MappingKind::Mapped, 0x11000, 0x1000, MAP_FIXED));
        assert_eq!((figures(&tracker), tracker.missed_frees()), ((0x5000, 2, 0x1000, 0), 0));
        // Both parts of the first mapping, and the second.
        tracker.handle(&event(MappingKind::Mapped, 0x10000, 0x8000, 0));
        assert_eq!((figures(&tracker), tracker.missed_frees()), ((0xd000, 3, 0x5000, 2), 3));
    }

    #[test]
    fn what_another_thread_is_handed_meanwhile_is_not_given_up_with_it() {
        let mut tracker = MmapTracker::default();
        tracker.handle(&event(MappingKind::Mapped, 0x10000, 4096, 0));
        tracker.handle(&event(MappingKind::Leave, 0x10000, 4096, 0));
        tracker.handle(&MappingEvent { tid: 2, ..event(MappingKind::Mapped, 0x10000, 4096, 0) });
        tracker.handle(&event(MappingKind::Left, 0, 0, 0));
        assert_eq!(figures(&tracker), (8192, 2, 4096, 1));
    }

    #[test]
    fn a_fixed_range_replaces_what_was_there_whoever_it_is_charged_to() {
        let mut tracker = MmapTracker::default();
        tracker.handle(&event(MappingKind::Mapped, 0x10000, 0x4000, 0));
        // A file, say: nobody is charged for it.
        tracker
            .handle(&MappingEvent { site: SiteIndex::NONE, ..event(MappingKind::Mapped, 0x11000, 0x1000, MAP_FIXED) });
        assert_eq!(figures(&tracker), (0x4000, 1, 0x1000, 0));
    }

    #[test]
    fn a_remapped_range_is_a_new_one_and_the_old_one_may_stay() {
        let mut tracker = MmapTracker::default();
        tracker.handle(&event(MappingKind::Mapped, 0x10000, 0x2000, 0));
        tracker.handle(&event(MappingKind::Leave, 0x10000, 0x2000, 0));
        tracker.handle(&event(MappingKind::Remapped, 0x80000, 0x3000, 1));
        assert_eq!(figures(&tracker), (0x5000, 2, 0x2000, 1));
        tracker.handle(&event(MappingKind::Leave, 0x80000, 0x3000, 0));
        tracker.handle(&event(MappingKind::Remapped, 0x90000, 0x3000, 1 | MREMAP_DONTUNMAP));
        assert_eq!(figures(&tracker), (0x8000, 3, 0x2000, 1));
    }

    #[test]
    fn the_data_segment_grows_and_shrinks_by_the_byte() {
        let mut tracker = MmapTracker::default();
        // The second call of two threads is told of before the first is over.
        tracker.handle(&event(MappingKind::BreakFrom, 0x5000, 0, 0));
        tracker.handle(&event(MappingKind::BreakFrom, 0x5010, 0, 0));
        tracker.handle(&event(MappingKind::Break, 0x5064, 0, 0));
        tracker.handle(&event(MappingKind::Break, 0x5032, 0, 0));
        assert_eq!(figures(&tracker), (100, 1, 50, 0));
        let mut unknown = MmapTracker::default();
        unknown.handle(&event(MappingKind::BreakFrom, 0, 0, 0));
        unknown.handle(&event(MappingKind::Break, 0x5000, 0, 0));
        assert_eq!(figures(&unknown), (0, 0, 0, 0));
    }

    #[test]
    fn one_call_detaches_all_that_is_left_of_a_segment_and_nothing_else() {
        let of_another = |kind, result, length, flags| MappingEvent { tid: 2, ..event(kind, result, length, flags) };
        let mut tracker = MmapTracker::default();
        let detach = |tracker: &mut MmapTracker, at, outcome| {
            tracker.handle(&event(MappingKind::Detach, at, 0, 0));
            // Another thread is handed the last page meanwhile.
            tracker.handle(&of_another(MappingKind::Mapped, 0x17000, 0x1000, MAP_FIXED));
            tracker.handle(&event(MappingKind::Left, outcome, 0, 0));
        };
        tracker.handle(&event(MappingKind::Attached, 0x10000, 0x7fff, 0));
        assert_eq!(figures(&tracker), (0x8000, 1, 0, 0));
        // A hole, and something else at the start.
        tracker.handle(&event(MappingKind::Leave, 0x12000, 0x2000, 0));
        tracker.handle(&event(MappingKind::Left, 0, 0, 0));
        tracker.handle(&event(MappingKind::Mapped, 0x10000, 0x1000, MAP_FIXED));
        detach(&mut tracker, 0x10000, 0);
        assert_eq!(figures(&tracker), (0xa000, 3, 0x8000, 1));
        // Nothing is attached there any more, nor where memory was mapped otherwise.
        detach(&mut tracker, 0x10000, (-22i64) as u64);
        assert_eq!((figures(&tracker), tracker.missed_frees()), ((0xb000, 4, 0x9000, 2), 0));
    }

    #[test]
    fn a_segment_is_detached_where_it_was_moved_to() {
        let mut tracker = MmapTracker::default();
        tracker.handle(&event(MappingKind::Attached, 0x10000, 0x2000, 0));
        tracker.handle(&event(MappingKind::Leave, 0x10000, 0x2000, 0));
        tracker.handle(&event(MappingKind::Remapped, 0x80000, 0x2000, 1));
        tracker.handle(&event(MappingKind::Detach, 0x80000, 0, 0));
        tracker.handle(&event(MappingKind::Left, 0, 0, 0));
        assert_eq!(figures(&tracker), (0x4000, 2, 0x4000, 2));
        tracker.handle(&event(MappingKind::Attached, 0x10000, 0x2000, 0));
        tracker.handle(&event(MappingKind::Attached, 0x10000, 0x2000, SHM_REMAP));
        assert_eq!((figures(&tracker), tracker.missed_frees()), ((0x8000, 4, 0x6000, 3), 0));
    }

    /// A kernel that does what threads ask for, page by page, and what is told of it.
    struct World {
        /// By page: the mapping, and the thread that has it.
        pages: [Option<(usize, usize)>; 40],
        /// By mapping: how many pages are left.
        left: Vec<usize>,
        /// As [`figures`].
        truth: (u64, u64, u64, u64),
    }

    /// Where a thread is in a system call.
    #[derive(Clone, Copy)]
    enum Thread {
        Outside,
        Entered(Call),
        /// The kernel has done it, and has not told yet.
        Done(MappingEvent),
    }

    #[derive(Clone, Copy)]
    enum Call {
        Map { pages: usize },
        MapFixed { from: usize, pages: usize },
        Unmap { from: usize, pages: usize },
        Remap { from: usize, pages: usize, wanted: usize },
        Fail { kind: MappingKind },
    }

    impl World {
        fn give_up(&mut self, from: usize, pages: usize) {
            for page in &mut self.pages[from..from + pages] {
                let Some((mapping, _)) = page.take() else { continue };
                self.left[mapping] -= 1;
                self.truth.2 += PAGE;
                self.truth.3 += u64::from(self.left[mapping] == 0);
            }
        }

        fn map(&mut self, from: usize, pages: usize, thread: usize) {
            self.pages[from..from + pages].fill(Some((self.left.len(), thread)));
            self.left.push(pages);
            self.truth.0 += pages as u64 * PAGE;
            self.truth.1 += 1;
        }

        /// The lowest addresses that nobody has.
        fn free(&self, pages: usize) -> Option<usize> {
            self.pages.windows(pages).position(|window| window.iter().all(Option::is_none))
        }

        /// Some pages in a row that the thread has: from the first one on that is not before `near`.
        fn had_by(&self, thread: usize, near: usize, at_most: usize) -> Option<(usize, usize)> {
            let is_had = |page: usize| self.pages.get(page).copied().flatten().is_some_and(|(_, by)| by == thread);
            let from = (near..self.pages.len()).find(|page| is_had(*page))?;
            Some((from, (from..from + at_most).take_while(|page| is_had(*page)).count()))
        }

        /// A thread's call, and the event that is told as it enters the kernel.
        fn enter(&self, thread: usize, kind: u8, near: usize, pages: usize) -> Option<(Call, Option<MappingEvent>)> {
            let leave = |at: u64, length: usize| Some(event(MappingKind::Leave, at, length as u64 * PAGE, 0));
            if kind == 0 {
                return Some((Call::Map { pages }, None));
            }
            if kind == 1 {
                // Within a page, and up to wherever it may be: whoever has that.
                let kind = if pages.is_multiple_of(2) { MappingKind::Left } else { MappingKind::Remapped };
                return Some((Call::Fail { kind }, leave(address(near) + 1, pages)));
            }
            let (from, had) = self.had_by(thread, near, pages)?;
            Some(match kind {
                2 => (Call::MapFixed { from, pages: had }, None),
                3 => (Call::Unmap { from, pages: had }, leave(address(from), had)),
                _ => (Call::Remap { from, pages: had, wanted: pages }, leave(address(from), had)),
            })
        }

        /// The kernel does it. Returns what is told as the thread returns.
        fn act(&mut self, thread: usize, call: Call) -> MappingEvent {
            let failed = (-12i64) as u64;
            match call {
                Call::Fail { kind } => event(kind, failed, PAGE, 0),
                Call::Map { pages } => {
                    let Some(from) = self.free(pages) else { return event(MappingKind::Mapped, failed, PAGE, 0) };
                    self.map(from, pages, thread);
                    event(MappingKind::Mapped, address(from), pages as u64 * PAGE, 0)
                }
                Call::MapFixed { from, pages } => {
                    self.give_up(from, pages);
                    self.map(from, pages, thread);
                    event(MappingKind::Mapped, address(from), pages as u64 * PAGE, MAP_FIXED)
                }
                Call::Unmap { from, pages } => {
                    self.give_up(from, pages);
                    event(MappingKind::Left, 0, 0, 0)
                }
                Call::Remap { from, pages, wanted } => {
                    let to = if wanted <= pages { Some(from) } else { self.free(wanted) };
                    let Some(to) = to else { return event(MappingKind::Remapped, failed, PAGE, 0) };
                    self.give_up(from, pages);
                    self.map(to, wanted, thread);
                    event(MappingKind::Remapped, address(to), wanted as u64 * PAGE, 1)
                }
            }
        }
    }

    fn address(page: usize) -> u64 {
        0x10000 + page as u64 * PAGE
    }

    proptest! {
        /// A thread enters the kernel, the kernel acts and the thread returns, and between any two of these the other
        /// threads do so.
        #[test]
        fn calls_of_threads_that_overlap_in_any_way_leave_what_the_kernel_has(
            steps in prop::collection::vec((0usize..4, 0u8..5, 0usize..40, 1usize..8), 0..300),
        ) {
            let mut world = World { pages: [None; 40], left: Vec::new(), truth: (0, 0, 0, 0) };
            let mut threads = [Thread::Outside; 4];
            let mut tracker = MmapTracker::default();
            // At the end everybody returns.
            let returns = (0..8).map(|step| (step % 4, u8::MAX, 0, 1));
            for (thread, kind, near, pages) in steps.into_iter().chain(returns) {
                let tell = |event| MappingEvent { tid: u32::try_from(thread).unwrap(), ..event };
                threads[thread] = match threads[thread] {
                    Thread::Outside if kind == u8::MAX => Thread::Outside,
                    Thread::Outside => match world.enter(thread, kind, near, pages) {
                        None => Thread::Outside,
                        Some((call, told)) => {
                            told.into_iter().for_each(|event| tracker.handle(&tell(event)));
                            Thread::Entered(call)
                        }
                    },
                    Thread::Entered(call) => Thread::Done(world.act(thread, call)),
                    Thread::Done(event) => {
                        tracker.handle(&tell(event));
                        Thread::Outside
                    }
                };
            }
            prop_assert_eq!(figures(&tracker), world.truth);
            prop_assert_eq!(tracker.missed_frees(), 0);
            // Nor are there parts that nobody could give up any more.
            world.give_up(0, 40);
            tracker.give_up(&[(0, u64::MAX)]);
            prop_assert_eq!(figures(&tracker), world.truth);
        }
    }
}
