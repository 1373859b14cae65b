//! The kernel's own memory. The kernel side counts it at its allocators' tracepoints, all of it or what it allocates for some.

use std::{collections::HashMap, sync::Arc};

use memtrace_common::{
    ids::{ProcessSlot, SiteIndex, StackId},
    wire::kernel_memory::Scope,
};

use super::source::Source;
use crate::{
    bpf::{BpfError, Capacities, Extras, KernelMemory, MemorySettings},
    capture::selection::Selection,
    model::{
        category::Category,
        figures::Allocator,
        frame::KERNEL_IMAGE,
        not_seen::{KernelGap, NotSeen},
    },
    process::{
        kernel_pages,
        kernel_types::{KernelTypes, KernelTypesError},
    },
    profile::{
        reading::{Placed, Reading},
        stack::PlacedStack,
    },
    symbolize::{KernelCode, KernelStack},
};

/// The kernel's allocators.
pub(crate) struct KernelAllocators {
    scope: Scope,
    types: KernelTypes,
    code: Arc<KernelCode>,
    /// How many pages the machine has; nothing where pages are left out.
    page_frames: Option<u64>,
}

impl KernelAllocators {
    /// Looks at the running kernel: its types, and its symbols, which later memtrace may not be privileged to read. Says so
    /// where the kernel hides these.
    ///
    /// # Errors
    /// Where the kernel is not one that memtrace knows.
    pub(crate) fn find(selection: &Selection) -> Result<Self, KernelTypesError> {
        let types = KernelTypes::read()?;
        let (code, hidden) = KernelCode::read();
        if let Some(problem) = hidden {
            eprintln!(
                "memtrace: {problem}: stacks have no names, and pages and vmalloc are left out, since pages of slabs cannot \
                 be told from others"
            );
            eprintln!("hint: sysctl kernel.kptr_restrict=1 (or 0), and CAP_SYSLOG");
        }
        let page_frames = kernel_pages::frames().filter(|_| code.has_names());
        Ok(Self { scope: scope(selection), types, code: Arc::new(code), page_frames })
    }

    /// Loads the programs. Nothing is attached yet.
    ///
    /// # Errors
    /// Where the kernel refuses, mostly for want of privileges or of memory.
    pub(crate) fn load(&self, capacities: Capacities) -> Result<KernelMemory, BpfError> {
        let Self { scope, types, page_frames, .. } = *self;
        KernelMemory::load(MemorySettings { capacities, scope, types, page_frames, interrupts: self.code.interrupts() })
    }

    /// The code that stacks lead through.
    pub(crate) fn code(&self) -> &Arc<KernelCode> {
        &self.code
    }

    /// A stack, as a profile keeps it; nothing where it is not known.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub(crate) fn place(
        &self,
        bpf: &KernelMemory,
        id: StackId,
        category: Category,
    ) -> Result<Option<Placed>, BpfError> {
        let Some((record, source)) = bpf.stack(id)?.zip(category.kernel_source()) else { return Ok(None) };
        Ok(Some(match self.code.stack(&record, source, bpf.counts_areas()) {
            KernelStack::LeftOut => Placed::LeftOut,
            KernelStack::Of(places, truncation) => {
                let stack = PlacedStack { places, truncation, ..PlacedStack::default() };
                Placed::At { stack, is_cut: false }
            }
        }))
    }

    /// The allocators that are traced, as reports have them.
    pub(crate) fn allocators(bpf: &KernelMemory) -> Vec<Allocator> {
        let allocator = |(name, functions): (&str, Vec<String>)| Allocator {
            name: name.to_owned(),
            number: 0,
            image: KERNEL_IMAGE.to_owned(),
            functions,
        };
        bpf.tracepoints().into_iter().map(allocator).collect()
    }
}

impl Source<KernelMemory> for KernelAllocators {
    fn tables(&self) -> Extras {
        Extras { page_frames: self.page_frames.unwrap_or(0), ..Extras::default() }
    }

    fn attach(&mut self, bpf: &mut KernelMemory) -> Result<(), BpfError> {
        bpf.attach()
    }

    fn read<'a>(&'a self, bpf: &KernelMemory, slot: ProcessSlot, reading: &mut Reading<'a>) -> Result<(), BpfError> {
        reading.counters = bpf.process(slot)?.counters;
        if self.scope == Scope::Host {
            reading.kernel_usage = kernel_pages::usage();
        }
        Ok(())
    }

    fn oldest_born_ms(&self, bpf: &KernelMemory, _slots: &[ProcessSlot]) -> HashMap<SiteIndex, u64> {
        bpf.oldest_born_ms().into_iter().map(|(site, born_ms)| (site, u64::from(born_ms))).collect()
    }

    fn not_seen(&self, bpf: &KernelMemory) -> Vec<NotSeen> {
        bpf.not_seen().into_iter().chain([KernelGap::Always]).map(NotSeen::OfKernel).collect()
    }
}

/// Whose allocations are recorded.
fn scope(selection: &Selection) -> Scope {
    match selection {
        Selection::Pids(_) => Scope::Targets,
        Selection::Comm(_) => Scope::Comm,
        Selection::Cgroup(_) => Scope::Cgroup,
        Selection::All | Selection::Command(_) => Scope::Host,
    }
}
