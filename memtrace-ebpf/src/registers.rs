//! Registers of the probed thread, by the x86-64 System V calling convention.

use aya_ebpf::bindings::pt_regs;
use memtrace_common::call::{CallRoles, Role, product_bytes};

/// The argument number `index`, from 0, of a function at its entry. Only the six register arguments
/// exist; another index gives 0, which no role table uses.
#[inline(always)]
pub(crate) fn argument(regs: &pt_regs, index: u8) -> u64 {
    match index {
        0 => regs.rdi,
        1 => regs.rsi,
        2 => regs.rdx,
        3 => regs.rcx,
        4 => regs.r8,
        5 => regs.r9,
        _ => 0,
    }
}

/// The argument that has `role`, or 0.
#[inline(always)]
pub(crate) fn argument_with(regs: &pt_regs, roles: CallRoles, role: Role) -> u64 {
    match roles.index_of(role) {
        Some(index) => argument(regs, index),
        None => 0,
    }
}

/// The bytes that a call asks for.
#[inline(always)]
pub(crate) fn requested_bytes(regs: &pt_regs, roles: CallRoles) -> u64 {
    let size = argument_with(regs, roles, Role::Size);
    match roles.index_of(Role::Count) {
        Some(index) => product_bytes(argument(regs, index), size),
        None => size,
    }
}
