//! x86-64, as Linux and the System V ABI use it.

pub(crate) mod saved;
pub(crate) mod stack_effects;

pub(crate) use saved::{BASES, copied_registers, vectors};

use nix::{
    sys::ptrace::{self, regset},
    unistd::Pid,
};

/// The name that Rust and uname(1) use.
pub(crate) const NAME: &str = "x86_64";

/// How far below its stack pointer a function may use the stack (System V ABI of x86-64, 3.2.2).
pub(crate) const RED_ZONE_BYTES: u64 = 128;

/// System calls that only this architecture has, by number, and that change nothing: stat(2), and those through which another
/// tracer's probes in the C library, or memtrace's own, return (Linux 6.11 and 6.18; arch/x86/entry/syscalls/syscall_64.tbl).
pub(crate) const SYSTEM_CALLS: [i64; 3] = [libc::SYS_stat, SYS_URETPROBE, SYS_UPROBE];
const SYS_URETPROBE: i64 = 335;
const SYS_UPROBE: i64 = 336;

/// The stack pointer of a thread that is held, and every word of its registers that its code may still need; with `ends`, the
/// stack pointer alone: a thread that ends the process needs nothing else any more.
///
/// # Errors
/// Where the thread is not held, or its registers are not to be read.
pub(crate) fn registers_of(thread: Pid, ends: bool) -> nix::Result<(u64, Vec<u64>)> {
    let r = ptrace::getregs(thread)?;
    let mut words = vec![r.rsp];
    if ends {
        return Ok((r.rsp, words));
    }
    words.extend([r.rbx, r.rdx, r.rsi, r.rdi, r.rbp, r.r8, r.r9, r.r10, r.r12, r.r13, r.r14, r.r15]);
    // In a system call nobody needs the others any more: the call itself overwrites some, and no function leaves vectors
    // to its caller as they were.
    if r.orig_rax.cast_signed() < 0 {
        words.extend([r.rax, r.rcx, r.r11]);
        let vectors = ptrace::getregset::<regset::NT_PRFPREG>(thread)?;
        let pairs = vectors.xmm_space.as_chunks::<2>().0.iter();
        words.extend(pairs.map(|[low, high]| u64::from(*low) | u64::from(*high) << 32));
    }
    Ok((r.rsp, words))
}

/// The record of a thread to which its thread pointer leads (System V ABI of x86-64, thread-local storage).
pub(crate) mod thread_record {
    /// Where it has its own address again, in bytes from its beginning (`self` of glibc's `tcbhead_t`).
    pub(crate) const ITSELF: usize = 16;
    /// Where glibc notes the thread's number (`tid` of its `struct pthread`, behind a header of 704 bytes and a list of two words).
    pub(crate) const TID: usize = 720;
}

/// Call frame information: the registers' numbers, and what expressions of frames are made of (System V ABI of x86-64, 3.6.2).
pub(crate) mod dwarf {
    use gimli::{Register, X86_64};

    /// The column of the return address.
    pub(crate) const RETURN_ADDRESS: Register = X86_64::RA;
    /// The frame pointer.
    pub(crate) const FRAME_POINTER: Register = X86_64::RBP;
    /// The stack pointer.
    pub(crate) const STACK_POINTER: Register = X86_64::RSP;

    /// How far above the CFA the return address lies, in bytes: [`memtrace_common::arch::return_address_at`].
    pub(crate) const RETURN_ADDRESS_OFFSET: i64 = -8;

    /// `DW_OP_breg6`: the frame pointer and an offset.
    pub(crate) const FRAME_POINTER_AND: u8 = 0x76;
    /// `DW_OP_breg7`: the stack pointer and an offset.
    pub(crate) const STACK_POINTER_AND: u8 = 0x77;

    /// The expression that linkers write for the procedure linkage table (binutils, bfd/elfxx-x86.c):
    /// rsp + 8 + ((rip & 15) >= 11) * 8.
    pub(crate) const LINKAGE_TABLE: [u8; 11] =
        [STACK_POINTER_AND, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22];
}
