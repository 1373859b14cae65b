//! The heap: memory from allocators' functions. The kernel side counts it at the probes in each target, by block or by sample.

use memtrace_common::ids::ProcessSlot;

use super::source::Source;
use crate::{
    bpf::{Bpf, BpfError, Extras},
    profile::reading::{Reading, Sampling},
};

/// The allocators' functions.
pub(super) struct Heap;

impl Source<Bpf> for Heap {
    fn tables(&self) -> Extras {
        Extras::default()
    }

    fn attach(&mut self, _bpf: &mut Bpf) -> Result<(), BpfError> {
        // Which functions there are shows in the images of each target.
        Ok(())
    }

    fn read<'a>(&'a self, bpf: &Bpf, _slot: ProcessSlot, reading: &mut Reading<'a>) -> Result<(), BpfError> {
        reading.sampling = bpf.sample_bytes().map(|_| Sampling { may_change: bpf.is_adaptive() });
        Ok(())
    }
}
