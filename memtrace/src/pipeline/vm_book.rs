//! What one target has mapped by itself, from the system calls that the kernel side tells of.

use std::collections::HashMap;

use memtrace_common::{
    site::SiteIndex,
    vm::{VmEvent, VmKind},
};

use crate::model::{
    ranges::{Part, Ranges},
    report::Totals,
};

/// `MAP_FIXED` of `<asm-generic/mman-common.h>`: what lies there is replaced. (`MAP_FIXED_NOREPLACE` has a bit of
/// its own and fails instead.)
const MAP_FIXED: u32 = 0x10;
/// `MREMAP_FIXED` of `<linux/mman.h>`.
const MREMAP_FIXED: u32 = 2;
/// `MREMAP_DONTUNMAP` of `<linux/mman.h>`: the old range stays, empty.
const MREMAP_DONTUNMAP: u32 = 4;
/// Bytes in a page: the kernel rounds lengths up.
const PAGE: u64 = 4096;

/// What a mapping is charged to, and since when it is there.
#[derive(Clone, Copy, Debug)]
struct Owner {
    site: SiteIndex,
    born_ms: u32,
}

/// What one target has mapped by itself.
#[derive(Debug, Default)]
pub(super) struct VmBook {
    ranges: Ranges<Owner>,
    /// What threads are giving up at this moment, by thread.
    leaving: HashMap<u32, Vec<Part>>,
    /// The end of the data segment, once it is known.
    data_end: Option<u64>,
    totals: HashMap<SiteIndex, Totals>,
}

impl VmBook {
    /// Nothing is mapped yet, as far as is known; the data segment ends there.
    pub(super) fn new(data_end: Option<u64>) -> Self {
        Self { data_end, ..Self::default() }
    }

    /// What was mapped and given up at a site.
    pub(super) fn totals(&self, site: SiteIndex) -> Totals {
        self.totals.get(&site).copied().unwrap_or_default()
    }

    /// When the oldest mapping of each site was made of which something is left, in milliseconds.
    pub(super) fn oldest_born_ms(&self) -> HashMap<SiteIndex, u64> {
        let mut oldest: HashMap<SiteIndex, u64> = HashMap::new();
        for Owner { site, born_ms } in self.ranges.owners() {
            let known = oldest.entry(site).or_insert(u64::MAX);
            *known = u64::from(born_ms).min(*known);
        }
        oldest
    }

    /// Takes in what has happened; events come in the order in which they happened.
    pub(super) fn handle(&mut self, event: &VmEvent) {
        match VmKind::try_from(event.kind) {
            Ok(VmKind::Leave) => {
                let parts = self.ranges.take(event.result, end_of(event.result, event.length));
                self.leaving.insert(event.tid, parts);
            }
            Ok(VmKind::Left) => self.settle(event),
            Ok(VmKind::Remapped) => self.remap(event),
            Ok(VmKind::Mapped) if !event.has_failed() => {
                if event.flags & MAP_FIXED != 0 {
                    self.free(event.result, end_of(event.result, event.length));
                }
                self.map(event.result, end_of(event.result, event.length), event);
            }
            Ok(VmKind::Break) => self.set_data_end(event),
            Ok(VmKind::Mapped) => {}
            Err(unknown) => log::warn!("unknown change of an address space {}", unknown.0),
        }
    }

    /// What the thread was about to give up is gone, or the call has failed and all of it is still there.
    fn settle(&mut self, event: &VmEvent) {
        let parts = self.leaving.remove(&event.tid).unwrap_or_default();
        if event.has_failed() {
            self.ranges.put_back(parts);
        } else {
            self.count_freed(parts);
        }
    }

    fn remap(&mut self, event: &VmEvent) {
        if !event.has_failed() && event.flags & MREMAP_DONTUNMAP != 0 {
            let parts = self.leaving.remove(&event.tid).unwrap_or_default();
            self.ranges.put_back(parts);
        } else {
            self.settle(event);
        }
        if event.has_failed() {
            return;
        }
        let end = end_of(event.result, event.length);
        if event.flags & MREMAP_FIXED != 0 {
            self.free(event.result, end);
        }
        self.map(event.result, end, event);
    }

    fn set_data_end(&mut self, event: &VmEvent) {
        let end = event.result;
        match self.data_end.replace(end) {
            Some(before) if before < end => self.map(before, end, event),
            Some(before) => self.free(end, before),
            None => {}
        }
    }

    fn map(&mut self, start: u64, end: u64, event: &VmEvent) {
        if event.site == SiteIndex::NONE || start >= end {
            return;
        }
        self.ranges.insert(start, end, Owner { site: event.site, born_ms: event.now_ms });
        let totals = self.totals.entry(event.site).or_default();
        totals.alloc_bytes += end - start;
        totals.alloc_objects += 1;
    }

    fn free(&mut self, start: u64, end: u64) {
        let parts = self.ranges.take(start, end);
        self.count_freed(parts);
    }

    fn count_freed(&mut self, parts: Vec<Part>) {
        for freed in self.ranges.free(parts) {
            let totals = self.totals.entry(freed.owner.site).or_default();
            totals.freed_bytes += freed.bytes;
            totals.freed_objects += u64::from(freed.was_last);
        }
    }
}

/// Where a range of that length ends: the kernel works in whole pages.
fn end_of(start: u64, length: u64) -> u64 {
    start.saturating_add(length.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: SiteIndex = SiteIndex(7);

    fn event(kind: VmKind, result: u64, length: u64, flags: u32) -> VmEvent {
        VmEvent { kind: kind as u32, tid: 1, site: SITE, result, length, flags, ..VmEvent::default() }
    }

    fn figures(book: &VmBook) -> (u64, u64, u64, u64) {
        let totals = book.totals(SITE);
        (totals.alloc_bytes, totals.alloc_objects, totals.freed_bytes, totals.freed_objects)
    }

    #[test]
    fn lengths_are_whole_pages_and_a_failed_call_changes_nothing() {
        let mut book = VmBook::default();
        book.handle(&event(VmKind::Mapped, 0x10000, 1, 0));
        book.handle(&event(VmKind::Mapped, (-12i64) as u64, 1, 0));
        book.handle(&event(VmKind::Leave, 0x10000, 1, 0));
        book.handle(&event(VmKind::Left, (-22i64) as u64, 0, 0));
        assert_eq!(figures(&book), (4096, 1, 0, 0));
        book.handle(&event(VmKind::Leave, 0x10000, 1, 0));
        book.handle(&event(VmKind::Left, 0, 0, 0));
        assert_eq!(figures(&book), (4096, 1, 4096, 1));
    }

    #[test]
    fn what_another_thread_is_handed_meanwhile_is_not_given_up_with_it() {
        let mut book = VmBook::default();
        book.handle(&event(VmKind::Mapped, 0x10000, 4096, 0));
        book.handle(&event(VmKind::Leave, 0x10000, 4096, 0));
        book.handle(&VmEvent { tid: 2, ..event(VmKind::Mapped, 0x10000, 4096, 0) });
        book.handle(&event(VmKind::Left, 0, 0, 0));
        assert_eq!(figures(&book), (8192, 2, 4096, 1));
    }

    #[test]
    fn a_fixed_range_replaces_what_was_there_whoever_it_is_charged_to() {
        let mut book = VmBook::default();
        book.handle(&event(VmKind::Mapped, 0x10000, 0x4000, 0));
        // A file, say: nobody is charged for it.
        book.handle(&VmEvent { site: SiteIndex::NONE, ..event(VmKind::Mapped, 0x11000, 0x1000, MAP_FIXED) });
        assert_eq!(figures(&book), (0x4000, 1, 0x1000, 0));
    }

    #[test]
    fn a_remapped_range_is_a_new_one_and_the_old_one_may_stay() {
        let mut book = VmBook::default();
        book.handle(&event(VmKind::Mapped, 0x10000, 0x2000, 0));
        book.handle(&event(VmKind::Leave, 0x10000, 0x2000, 0));
        book.handle(&event(VmKind::Remapped, 0x80000, 0x3000, 1));
        assert_eq!(figures(&book), (0x5000, 2, 0x2000, 1));
        book.handle(&event(VmKind::Leave, 0x80000, 0x3000, 0));
        book.handle(&event(VmKind::Remapped, 0x90000, 0x3000, 1 | MREMAP_DONTUNMAP));
        assert_eq!(figures(&book), (0x8000, 3, 0x2000, 1));
    }

    #[test]
    fn the_data_segment_grows_and_shrinks_by_the_byte() {
        let mut book = VmBook::new(Some(0x5000));
        book.handle(&event(VmKind::Break, 0x5000, 0, 0));
        book.handle(&event(VmKind::Break, 0x5064, 0, 0));
        book.handle(&event(VmKind::Break, 0x5032, 0, 0));
        assert_eq!(figures(&book), (100, 1, 50, 0));
        let mut unknown = VmBook::default();
        unknown.handle(&event(VmKind::Break, 0x5000, 0, 0));
        assert_eq!(figures(&unknown), (0, 0, 0, 0));
    }
}
