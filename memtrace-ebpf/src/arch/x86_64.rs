//! x86-64: registers by the System V calling convention, system calls and page faults as Linux has them.

use core::mem::offset_of;

use aya_ebpf::bindings::pt_regs;
use memtrace_common::{arch::RETURN_POPS_BYTES, steps::frame::Registers};

/// The registers of a program's thread, as the kernel keeps them.
pub(crate) type UserRegisters = pt_regs;

/// `X86_PF_PROT` and `X86_PF_WRITE` of arch/x86/include/asm/trap_pf.h: a write to a page that is there, and may not be
/// written to.
const WRITE_TO_PRESENT_PAGE: u64 = 0b11;

/// System calls by number: arch/x86/entry/syscalls/syscall_64.tbl.
pub(crate) mod system_call_numbers {
    pub(crate) const MMAP: u64 = 9;
    pub(crate) const MUNMAP: u64 = 11;
    pub(crate) const BRK: u64 = 12;
    pub(crate) const MREMAP: u64 = 25;
    pub(crate) const SHMAT: u64 = 30;
    pub(crate) const SHMDT: u64 = 67;
}

/// The registers that unwinding begins with.
#[inline(always)]
pub(crate) fn unwinding(regs: &UserRegisters) -> Registers {
    Registers { pc: regs.rip, sp: regs.rsp, bp: regs.rbp }
}

/// The same of a thread that is about to execute a `ret`, as they will be after it; but the program counter, which is not
/// looked for, is 0.
#[inline(always)]
pub(crate) fn after_return(regs: &UserRegisters) -> Registers {
    Registers { pc: 0, sp: regs.rsp + RETURN_POPS_BYTES, bp: regs.rbp }
}

/// The program counter.
#[inline(always)]
pub(crate) fn program_counter(regs: &UserRegisters) -> u64 {
    regs.rip
}

/// The stack pointer. At a function's entry, and before its `ret`, the return address lies there.
#[inline(always)]
pub(crate) fn stack_pointer(regs: &UserRegisters) -> u64 {
    regs.rsp
}

/// The value that a function returns, where it has just done so or is about to.
#[inline(always)]
pub(crate) fn returned(regs: &UserRegisters) -> u64 {
    regs.rax
}

/// The argument number `index`, from 0, of a function at its entry. Only the six register arguments
/// exist; another index gives 0, which no role table uses.
#[inline(always)]
pub(crate) fn argument(regs: &UserRegisters, index: u8) -> u64 {
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
fn load<const OFFSET: usize>(regs: &UserRegisters) -> u64 {
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

/// The number of the system call that a thread has entered.
#[inline(always)]
pub(crate) fn system_call_number(regs: &UserRegisters) -> u64 {
    regs.orig_rax
}

/// The arguments of the system call that a thread has entered.
#[inline(always)]
pub(crate) fn system_call_arguments(regs: &UserRegisters) -> [u64; 6] {
    [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9]
}

/// Whether a page fault was a write to a page that is there, by the error code that the processor gives.
#[inline(always)]
pub(crate) fn wrote_to_present_page(error_code: u64) -> bool {
    error_code & WRITE_TO_PRESENT_PAGE == WRITE_TO_PRESENT_PAGE
}
