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
