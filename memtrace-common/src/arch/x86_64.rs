//! x86-64, as Linux and the System V ABI use it.

/// The size of a page, in bytes: `PAGE_SIZE` of arch/x86/include/asm/page_types.h. A huge page counts as the 512 that it is.
pub const PAGE_BYTES: u64 = 4096;

/// How many bits an address of a program has, with four-level page tables. With five levels the kernel hands out higher
/// addresses only to programs that ask for them by name (Documentation/arch/x86/x86_64/5level-paging.rst), which no
/// allocator does.
pub const ADDRESS_BITS: u32 = 47;

/// By how many bytes a return moves the stack pointer: `ret` pops the return address that `call` has pushed.
pub const RETURN_POPS_BYTES: u64 = 8;

/// How many words below the canonical frame address (CFA) code with frame pointers saves its caller's.
pub const FRAME_POINTER_WORDS: u8 = 2;

/// Where the return address of the frame that begins at `cfa` lies: one word below, as the `call` instruction leaves it
/// (System V AMD64 ABI, 3.2.2; DWARF 5, 6.4).
#[inline(always)]
#[must_use]
pub const fn return_address_at(cfa: u64) -> u64 {
    cfa.wrapping_sub(8)
}

/// Where the frame begins whose frame pointer is `bp`: that points at the caller's, above which lies the return address.
#[inline(always)]
#[must_use]
pub const fn frame_pointer_cfa(bp: u64) -> u64 {
    bp.wrapping_add(16)
}

/// Where the frame of an entry of the procedure linkage table begins: it pushes an index half-way, with the instruction
/// that ends before the eleventh byte of each 16.
#[inline(always)]
#[must_use]
pub const fn linkage_table_cfa(pc: u64, sp: u64) -> u64 {
    sp.wrapping_add(if pc & 15 >= 11 { 16 } else { 8 })
}

/// Where the kernel's signal frame holds the interrupted registers, in bytes from the stack pointer in `__restore_rt`:
/// `struct rt_sigframe` of arch/x86/include/asm/sigframe.h, behind its return address.
pub mod signal_frame {
    /// The frame pointer.
    pub const BP: u64 = 120;
    /// The stack pointer.
    pub const SP: u64 = 160;
    /// The program counter.
    pub const PC: u64 = 168;
}

/// How many words the kernel saves of a thread that enters it: `struct pt_regs` of arch/x86/include/asm/ptrace.h.
pub const SAVED_REGISTERS: usize = 21;

/// How many registers hold the base of memory that only the thread has: fs and gs.
pub const THREAD_BASES: usize = 2;

/// The words of the sixteen vector registers that every such processor has, without the upper parts that newer ones have besides.
pub const VECTOR_WORDS: usize = 32;

/// Where the kernel saves each register: its index among [`SAVED_REGISTERS`] words.
pub mod saved_registers {
    /// Those that a function leaves to its caller as they were, but for the stack pointer.
    pub const KEPT: [usize; 6] = [R15, R14, R13, R12, BP, BX];
    /// Those that hold the arguments of a system call: nothing changes them in it.
    pub const ARGUMENTS: [usize; 6] = [DI, SI, DX, R10, R9, R8];
    /// Those that the system call instruction overwrites.
    pub const OVERWRITTEN: [usize; 3] = [AX, CX, R11];
    /// The number of the system call that the thread has entered; negative where something else has interrupted it.
    pub const SYSTEM_CALL: usize = 15;
    /// The program counter.
    pub const PC: usize = 16;
    /// The stack pointer.
    pub const SP: usize = 19;

    const R15: usize = 0;
    const R14: usize = 1;
    const R13: usize = 2;
    const R12: usize = 3;
    const BP: usize = 4;
    const BX: usize = 5;
    const R11: usize = 6;
    const R10: usize = 7;
    const R9: usize = 8;
    const R8: usize = 9;
    const AX: usize = 10;
    const CX: usize = 11;
    const DX: usize = 12;
    const SI: usize = 13;
    const DI: usize = 14;
}
