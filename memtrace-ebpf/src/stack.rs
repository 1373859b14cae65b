//! The stack of a thread whose hooked call has just returned.
//!
//! Walked at the return, not at the entry: the program counter is then the direct caller's own, the
//! callee-saved registers are restored, and failed or nested calls cost nothing.

use aya_ebpf::{bindings::pt_regs, helpers::bpf_probe_read_user};
use memtrace_common::{
    frame_pointer::Cursor,
    stack::{StackHasher, StackId, StackRecord},
};

/// Walks the stack by frame pointers into `record` and names it.
#[inline(always)]
pub(crate) fn walk(regs: &pt_regs, record: &mut StackRecord) -> StackId {
    let mut hasher = StackHasher::new().frame(regs.rip);
    record.frames[0] = regs.rip;
    let mut count = 1usize;
    let mut truncated = false;
    let mut cursor = Cursor::at(regs.rsp, regs.rbp);
    while cursor.is_plausible() {
        // SAFETY: the helper checks the user address and fails where it is not readable.
        let Ok([saved, return_address]) = (unsafe { bpf_probe_read_user(cursor.frame_pointer as *const [u64; 2]) })
        else {
            break;
        };
        let Some((frame, caller)) = cursor.step(saved, return_address) else { break };
        // No indexing: it could panic, and a program that could panic is refused.
        let Some(slot) = record.frames.get_mut(count) else {
            truncated = true;
            break;
        };
        *slot = frame;
        hasher = hasher.frame(frame);
        count += 1;
        cursor = caller;
    }
    record.frame_count = count as u32;
    record.truncated = truncated as u32;
    hasher.finish(count as u32, truncated)
}
