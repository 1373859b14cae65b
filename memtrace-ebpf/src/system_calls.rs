//! System calls, as the tracepoints at their begin and end tell them.

use aya_ebpf::{helpers::bpf_probe_read_kernel, programs::RawTracePointContext};

use crate::arch::UserRegisters;

/// `MAP_ANONYMOUS` of `<asm-generic/mman-common.h>`.
pub(crate) const MAP_ANONYMOUS: u64 = 0x20;
/// `PROT_EXEC` of `<asm-generic/mman-common.h>`.
pub(crate) const PROT_EXEC: u64 = 4;
/// `MAX_ERRNO` of `<linux/err.h>`.
const MAX_ERRNO: u64 = 4095;

/// Whether a call that returns an address has returned one, and not an error number.
#[inline(always)]
pub(crate) fn is_address(result: u64) -> bool {
    result < MAX_ERRNO.wrapping_neg()
}

/// The registers with which the current thread has entered the kernel.
#[inline(always)]
pub(crate) fn registers(ctx: &RawTracePointContext) -> Option<UserRegisters> {
    // sys_enter(struct pt_regs *regs, long id) and sys_exit(struct pt_regs *regs, long ret):
    // include/trace/events/syscalls.h
    let regs: *const UserRegisters = ctx.arg(0);
    // SAFETY: the helper checks the kernel address and fails where it is not readable.
    unsafe { bpf_probe_read_kernel(regs) }.ok()
}
