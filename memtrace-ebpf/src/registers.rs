//! Registers of the probed thread, by the x86-64 System V calling convention.

use core::mem::offset_of;

use aya_ebpf::bindings::pt_regs;
use memtrace_common::call::{CallRoles, Role, product_bytes};

/// The argument number `index`, from 0, of a function at its entry. Only the six register arguments
/// exist; another index gives 0, which no role table uses.
#[inline(always)]
pub(crate) fn argument(regs: &pt_regs, index: u8) -> u64 {
    match index {
        0 => load::<{ offset_of!(pt_regs, rdi) }>(regs),
        1 => load::<{ offset_of!(pt_regs, rsi) }>(regs),
        2 => load::<{ offset_of!(pt_regs, rdx) }>(regs),
        3 => load::<{ offset_of!(pt_regs, rcx) }>(regs),
        4 => load::<{ offset_of!(pt_regs, r8) }>(regs),
        5 => load::<{ offset_of!(pt_regs, r9) }>(regs),
        _ => 0,
    }
}

/// One register. In assembly, because the verifier wants a constant offset in the load itself, and the
/// compiler would merge the branches above into one load at a computed address.
#[inline(always)]
fn load<const OFFSET: usize>(regs: &pt_regs) -> u64 {
    let value: u64;
    // SAFETY: an aligned load from a field of the registers.
    unsafe {
        core::arch::asm!(
            "{value} = *(u64 *)({regs} + {offset})",
            value = out(reg) value,
            regs = in(reg) regs,
            offset = const OFFSET,
            options(pure, readonly, nostack),
        );
    }
    value
}

/// The argument that has `role`, or 0.
#[inline(always)]
pub(crate) fn argument_with(regs: &pt_regs, roles: CallRoles, role: Role) -> u64 {
    match opaque(roles).index_of(role) {
        Some(index) => argument(regs, index),
        None => 0,
    }
}

/// The bytes that a call asks for.
#[inline(always)]
pub(crate) fn requested_bytes(regs: &pt_regs, roles: CallRoles) -> u64 {
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
