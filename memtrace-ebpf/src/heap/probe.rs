//! Probes in functions of the heap: what they tell of a call.

use aya_ebpf::{EbpfContext, helpers::generated::bpf_get_attach_cookie, programs::ProbeContext};
use memtrace_common::steps::call::{CallRoles, Role, product_bytes};

use crate::arch::{UserRegisters, argument};

/// The registers of the thread that has run into the probe.
#[inline(always)]
pub(crate) fn registers(ctx: &impl EbpfContext) -> &UserRegisters {
    // SAFETY: the context of a uprobe program is the thread's registers, valid while the program runs.
    unsafe { &*ctx.as_ptr().cast() }
}

/// The meaning of the probed function's arguments.
#[inline(always)]
pub(crate) fn roles(ctx: &ProbeContext) -> CallRoles {
    // SAFETY: the helper reads the running program's own attachment.
    CallRoles(unsafe { bpf_get_attach_cookie(ctx.as_ptr()) })
}

/// The argument that has `role`, or 0.
#[inline(always)]
pub(crate) fn argument_with(regs: &UserRegisters, roles: CallRoles, role: Role) -> u64 {
    match opaque(roles).index_of(role) {
        Some(index) => argument(regs, index),
        None => 0,
    }
}

/// The bytes that a call asks for.
#[inline(always)]
pub(crate) fn requested_bytes(regs: &UserRegisters, roles: CallRoles) -> u64 {
    let size = argument_with(regs, roles, Role::Size);
    match opaque(roles).index_of(Role::Count) {
        Some(index) => product_bytes(argument(regs, index), size),
        None => size,
    }
}

/// The same roles, of which the compiler knows nothing. It would tell from one question about them what another was
/// answered, and leave a register unset that the verifier, which does not know that, sees used.
#[inline(always)]
fn opaque(roles: CallRoles) -> CallRoles {
    let mut word = roles.0;
    // SAFETY: a register becomes what it is. (Without an instruction, the next one would have two lines of source, and the
    // kernel refuses such a program.)
    unsafe { core::arch::asm!("{word} = {word}", word = inout(reg) word, options(nomem, nostack)) };
    CallRoles(word)
}
