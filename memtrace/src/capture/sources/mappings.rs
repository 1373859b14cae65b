//! Mappings: memory that programs map by themselves. The kernel side tells of their system calls, and what is left of each
//! mapping is reckoned here.

use std::collections::HashMap;

use memtrace_common::{
    ids::{ProcessSlot, SiteIndex},
    wire::{counters::Counter, mapping::MappingEvent},
};

use super::{mmap_tracker::MmapTracker, source::Source};
use crate::{
    bpf::{Bpf, BpfError, Extras},
    model::not_seen::NotSeen,
    profile::reading::Reading,
};

/// The mappings of every target.
#[derive(Default)]
pub(super) struct Mappings {
    trackers: HashMap<ProcessSlot, MmapTracker>,
}

impl Source<Bpf> for Mappings {
    fn tables(&self) -> Extras {
        Extras { address_spaces: true, ..Extras::default() }
    }

    fn attach(&mut self, bpf: &mut Bpf) -> Result<(), BpfError> {
        bpf.follow_address_spaces()
    }

    fn begin(&mut self, slot: ProcessSlot) {
        self.trackers.insert(slot, MmapTracker::default());
    }

    fn change(&mut self, event: &MappingEvent) {
        // One that is over gives up nothing any more.
        if let Some(tracker) = self.trackers.get_mut(&event.slot) {
            tracker.handle(event);
        }
    }

    fn end(&mut self, slot: ProcessSlot) {
        self.trackers.remove(&slot);
    }

    fn read<'a>(&'a self, _bpf: &Bpf, slot: ProcessSlot, reading: &mut Reading<'a>) -> Result<(), BpfError> {
        if let Some(tracker) = self.trackers.get(&slot) {
            reading.mapped = Some(tracker.totals());
            reading.counters[Counter::MissedFrees as usize] += tracker.missed_frees();
        }
        Ok(())
    }

    fn not_seen(&self, bpf: &Bpf) -> Vec<NotSeen> {
        if bpf.tells_segments() { Vec::new() } else { vec![NotSeen::Segments] }
    }

    fn oldest_born_ms(&self, _bpf: &Bpf, slots: &[ProcessSlot]) -> HashMap<SiteIndex, u64> {
        slots.iter().filter_map(|slot| self.trackers.get(slot)).flat_map(MmapTracker::oldest_born_ms).collect()
    }
}
