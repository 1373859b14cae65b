//! Pages: memory from when it becomes resident. The kernel side counts it at the kernel's own tracepoints.

use memtrace_common::ids::ProcessSlot;

use super::source::Source;
use crate::{
    bpf::{Bpf, BpfError, Extras},
    model::figures::FigureKind,
    profile::reading::Reading,
};

/// The pages of every target.
pub(super) struct Pages {
    /// Of pages, unless there is another source.
    figures: FigureKind,
    /// Whether nobody is followed before a process has grown.
    wait_for_growth: bool,
}

impl Pages {
    pub(super) fn new(figures: FigureKind, wait_for_growth: bool) -> Self {
        Self { figures, wait_for_growth }
    }
}

impl Source<Bpf> for Pages {
    fn tables(&self) -> Extras {
        Extras { pages: true, ..Extras::default() }
    }

    fn attach(&mut self, bpf: &mut Bpf) -> Result<(), BpfError> {
        if self.wait_for_growth { bpf.find_page_event() } else { bpf.follow_pages() }
    }

    fn read<'a>(&'a self, bpf: &Bpf, slot: ProcessSlot, reading: &mut Reading<'a>) -> Result<(), BpfError> {
        reading.resident = bpf.resident(slot)?;
        reading.figures = self.figures;
        Ok(())
    }
}
