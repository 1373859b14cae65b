//! The parts that every source of memory has.

use std::collections::HashMap;

use memtrace_common::{
    ids::{ProcessSlot, SiteIndex},
    wire::mapping::MappingEvent,
};

use crate::{
    bpf::{BpfError, Extras},
    model::not_seen::NotSeen,
    profile::reading::Reading,
};

/// A source of memory, which the BPF side `B` tells of.
pub(crate) trait Source<B> {
    /// The tables that it takes besides those of every run.
    fn tables(&self) -> Extras;

    /// Attaches the programs by which it is told of the whole host. Probes in a target are put there when that is looked at.
    ///
    /// # Errors
    /// Where the kernel refuses one.
    fn attach(&mut self, bpf: &mut B) -> Result<(), BpfError>;

    /// A target begins.
    fn begin(&mut self, _slot: ProcessSlot) {}

    /// The address space of a target has changed. It may be over by now.
    fn change(&mut self, _event: &MappingEvent) {}

    /// A target is over, and was read for the last time.
    fn end(&mut self, _slot: ProcessSlot) {}

    /// Puts into a reading what it tells of a target.
    ///
    /// # Errors
    /// Where a map cannot be read.
    fn read<'a>(&'a self, bpf: &B, slot: ProcessSlot, reading: &mut Reading<'a>) -> Result<(), BpfError>;

    /// When the oldest live memory of each site of these targets was allocated, in milliseconds after the start, where no sweep
    /// of blocks tells.
    fn oldest_born_ms(&self, _bpf: &B, _slots: &[ProcessSlot]) -> HashMap<SiteIndex, u64> {
        HashMap::new()
    }

    /// The memory of its kind that nobody can see on this machine.
    fn not_seen(&self, _bpf: &B) -> Vec<NotSeen> {
        Vec::new()
    }
}
