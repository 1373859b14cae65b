//! Pages that become resident: the kernel's tracepoints about memory, and the state that the programs there keep.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use aya::programs::TracePoint;
use memtrace_common::{
    ids::ProcessSlot,
    wire::resident::{RSS_STAT_FIELDS, Resident},
};
use perf_event::{Builder, Counter, events::Tracepoint};

use super::{
    error::{BpfError, of_program},
    named_map::{ArrayMap, KeyedMap},
    object::Object,
    sys,
};
use crate::process::tracefs::Tracefs;

/// The program at `kmem:rss_stat`; it runs as long as this is kept.
struct PageLink {
    _link: OwnedFd,
    _event: Counter,
}

/// The program at `kmem:rss_stat`, and the tracepoint.
const PROGRAM: &str = "rss_stat";
const EVENT: &str = "kmem/rss_stat";

/// The tables of resident memory.
pub(super) struct Pages {
    residents: ArrayMap<Resident>,
    by_mm: KeyedMap<u64, ProcessSlot>,
    /// The tracepoint, where it was looked for.
    event: Option<u64>,
    /// There once pages are followed.
    link: Option<PageLink>,
}

impl Pages {
    pub(super) fn new(residents: ArrayMap<Resident>, by_mm: KeyedMap<u64, ProcessSlot>) -> Self {
        Self { residents, by_mm, event: None, link: None }
    }

    /// Looks for the tracepoint of [`Self::follow`], for a run in which that begins later.
    ///
    /// # Errors
    /// Where the kernel has no such tracepoint, or it tells something else.
    pub(super) fn find_event(&mut self) -> Result<(), BpfError> {
        self.event = Some(tracepoint()?);
        Ok(())
    }

    /// Attaches the programs that tell which stacks make pages resident, unless they are.
    ///
    /// # Errors
    /// Where the kernel has no such tracepoints, or refuses them.
    pub(super) fn follow(&mut self, object: &mut Object) -> Result<(), BpfError> {
        if self.link.is_some() {
            return Ok(());
        }
        let id = self.event.map_or_else(tracepoint, Ok)?;
        let refused = |source| BpfError::Tracepoint { name: PROGRAM, source };
        let event = event(id).map_err(refused)?;
        let program: &mut TracePoint = object.program(PROGRAM)?;
        let not_loaded = |error| BpfError::Program { name: PROGRAM, source: of_program(error) };
        program.load().map_err(not_loaded)?;
        let descriptor = program.fd().map_err(not_loaded)?.as_fd();
        let link = sys::link_to_event(descriptor, event.as_raw_fd()).map_err(refused)?;
        self.link = Some(PageLink { _link: link, _event: event });
        // Writes to pages that are shared since a fork: without, the rest is as exact as with them.
        let copies = object.follow("page_fault", "page_fault_user");
        if let Err(error) = copies.and_then(|()| object.follow("page_allocated", "mm_page_alloc")) {
            log::warn!("{error}: copies on write are not told");
        }
        Ok(())
    }

    /// The state of a target's resident memory, where pages are followed.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub(super) fn resident(&self, slot: ProcessSlot) -> Result<Option<Resident>, BpfError> {
        self.link.as_ref().map(|_| self.residents.get(slot.0)).transpose()
    }

    /// Forgets the resident memory of a target that is over.
    ///
    /// # Errors
    /// Where a map cannot be read or written.
    pub(super) fn forget(&mut self, slot: ProcessSlot) -> Result<(), BpfError> {
        let Some(resident) = self.resident(slot)? else { return Ok(()) };
        // It may never have been there, or be another's by now: the kernel's names come again.
        if self.by_mm.get(&resident.mm_id).is_ok_and(|known| known == Some(slot)) {
            self.by_mm.remove(&resident.mm_id);
        }
        self.residents.set(slot.0, Resident::default())
    }
}

/// The tracepoint's number, once its record is what the program takes it for.
fn tracepoint() -> Result<u64, BpfError> {
    Ok(Tracefs::open()?.event(EVENT, &RSS_STAT_FIELDS)?)
}

/// A perf event that happens at a tracepoint, on whichever CPU: the kernel runs a BPF program of one on all of them.
fn event(id: u64) -> std::io::Result<Counter> {
    let mut builder = Builder::new(Tracepoint::with_id(id));
    builder.any_pid().one_cpu(0).include_kernel().enabled(true);
    builder.build()
}
