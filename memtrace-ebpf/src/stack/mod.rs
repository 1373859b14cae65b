//! The stack of a thread whose hooked call has just returned, or which the kernel has interrupted.
//!
//! Calls are walked at the return, not at the entry: the program counter is then the direct caller's own, the
//! callee-saved registers are restored, and failed or nested calls cost nothing.

mod frame_pointers;
mod row_search;
mod rows;
mod start;

use aya_ebpf::Global;
use memtrace_common::{ids::StackId, steps::frame::Registers, thread::ThreadMemory};

use self::start::Start;
use crate::target::Target;

/// 1 where stacks are unwound by call frame information, 0 where by frame pointers: set at load, so that
/// kernels without `bpf_loop` (before 5.17) never see the code that calls it.
#[unsafe(no_mangle)]
static UNWIND_BY_ROWS: Global<u8> = Global::new(0);

/// Walks the stack from the registers that the call's caller goes on with, into the thread's record, and
/// names it.
#[inline(always)]
pub(crate) fn walk(target: &Target, caller: Registers, thread: &mut ThreadMemory) -> StackId {
    walk_from(target, &Start { registers: caller, is_return: 1 }, thread)
}

/// Walks the stack from the registers with which a thread was interrupted.
#[inline(always)]
pub(crate) fn walk_interrupted(target: &Target, registers: Registers, thread: &mut ThreadMemory) -> StackId {
    walk_from(target, &Start { registers, is_return: 0 }, thread)
}

#[inline(always)]
fn walk_from(target: &Target, start: &Start, thread: &mut ThreadMemory) -> StackId {
    // The thread has written to its stack since its last walk.
    thread.stack_cache.forget();
    if UNWIND_BY_ROWS.load() != 0 { rows::walk(target, start, thread) } else { frame_pointers::walk(start, thread) }
}
