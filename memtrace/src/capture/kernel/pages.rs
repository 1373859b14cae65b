//! What makes pages resident: the kernel's tracepoints about memory, and what the programs there remember.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use aya::{
    maps::{Array, HashMap as BpfHashMap},
    programs::TracePoint,
};
use memtrace_common::{
    pages::{RSS_STAT_FIELDS, Resident},
    process::ProcessSlot,
};
use perf_event::{Builder, Counter, events::Tracepoint};

use super::{Kernel, KernelError, failed, multi};
use crate::capture::tracefs::Tracefs;

/// The program at `kmem:rss_stat`; it runs as long as this is kept.
pub(super) struct PageLink {
    _link: OwnedFd,
    _event: Counter,
}

/// The program at `kmem:rss_stat`, and the tracepoint.
const PROGRAM: &str = "rss_stat";
const EVENT: &str = "kmem/rss_stat";

impl Kernel {
    /// Looks for the tracepoint of [`Kernel::follow_pages`], for a run in which that begins later: by then memtrace has given up
    /// the privilege to read of tracepoints where tracefs is not mounted.
    ///
    /// # Errors
    /// Where the kernel has no such tracepoint, or it tells something else.
    pub fn find_page_event(&mut self) -> Result<(), KernelError> {
        self.page_event = Some(tracepoint()?);
        Ok(())
    }

    /// Attaches the programs that tell which stacks make pages resident, unless they are. Page faults of the whole host
    /// become a little slower.
    ///
    /// # Errors
    /// Where the kernel has no such tracepoints, or refuses them.
    pub fn follow_pages(&mut self) -> Result<(), KernelError> {
        if self.pages.is_some() {
            return Ok(());
        }
        let id = self.page_event.map_or_else(tracepoint, Ok)?;
        let refused = |source| KernelError::Tracepoint { name: PROGRAM, source };
        let event = event(id).map_err(refused)?;
        let program: &mut TracePoint = self.program(PROGRAM)?;
        let not_loaded = |source| KernelError::Program { name: PROGRAM, source: Box::new(source) };
        program.load().map_err(not_loaded)?;
        let descriptor = program.fd().map_err(not_loaded)?.as_fd();
        let link = multi::link_to_event(descriptor, event.as_raw_fd()).map_err(refused)?;
        self.pages = Some(PageLink { _link: link, _event: event });
        // Writes to pages that are shared since a fork: without, the rest is as exact as with them.
        let copies = self.attach_tracepoint("page_fault", "page_fault_user");
        if let Err(error) = copies.and_then(|()| self.attach_tracepoint("page_allocated", "mm_page_alloc")) {
            log::warn!("{error}: copies on write are not told");
        }
        Ok(())
    }

    /// What is known of a target's resident memory, where pages are followed.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn resident(&self, slot: ProcessSlot) -> Result<Option<Resident>, KernelError> {
        if self.pages.is_none() {
            return Ok(None);
        }
        let residents: Array<_, Resident> = self.map("RESIDENT")?;
        residents.get(&slot.0, 0).map(Some).map_err(failed("read", "RESIDENT"))
    }

    /// Forgets the resident memory of a program that is over.
    pub(super) fn forget_pages(&mut self, slot: ProcessSlot) -> Result<(), KernelError> {
        let Some(resident) = self.resident(slot)? else { return Ok(()) };
        let mut slots: BpfHashMap<_, u64, ProcessSlot> = self.map_mut("MM_SLOTS")?;
        // It may never have been there, or be another's by now: the kernel's names come again.
        if slots.get(&resident.mm_id, 0).is_ok_and(|known| known == slot) {
            _ = slots.remove(&resident.mm_id);
        }
        self.set("RESIDENT", slot.0, Resident::default())
    }
}

/// The tracepoint's number, once its record is what the program takes it for.
fn tracepoint() -> Result<u64, KernelError> {
    Ok(Tracefs::open()?.event(EVENT, &RSS_STAT_FIELDS)?)
}

/// A perf event that happens at a tracepoint, on whichever CPU: the kernel runs a BPF program of one on all of them.
fn event(id: u64) -> std::io::Result<Counter> {
    let mut builder = Builder::new(Tracepoint::with_id(id));
    builder.any_pid().one_cpu(0).include_kernel().enabled(true);
    builder.build()
}
