//! Where a walk begins, and what is left of it.

use memtrace_common::{
    ids::StackId,
    steps::frame::Registers,
    wire::stack::{StackHasher, StackRecord},
};

/// Where a walk begins.
pub(crate) struct Start {
    pub(crate) registers: Registers,
    /// 1 where the program counter is a return address, 0 where it is that of the next instruction.
    pub(crate) is_return: u64,
}

impl Start {
    /// As it is kept: as if it were a return address, because whoever symbolises looks one byte before.
    #[inline(always)]
    pub(crate) fn frame(&self) -> u64 {
        self.registers.pc.wrapping_add(1 - self.is_return)
    }
}

/// Completes the record of a walk, and names it. `ending` is the code of an [`Ending`].
///
/// [`Ending`]: memtrace_common::wire::stack::Ending
#[inline(always)]
pub(crate) fn finish(record: &mut StackRecord, hasher: StackHasher, frame_count: u32, ending: u32) -> StackId {
    record.frame_count = frame_count;
    record.ending = ending;
    hasher.finish(frame_count, ending)
}
