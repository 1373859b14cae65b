//! Fields of the kernel's structures, by offsets that user space has from the kernel's own type information.

use aya_ebpf::helpers::{bpf_get_current_task, bpf_probe_read_kernel};

/// An address in the kernel.
pub(crate) type Address = *const u8;

/// The current thread's `task_struct`.
#[inline(always)]
pub(crate) fn current_task() -> Address {
    // SAFETY: a plain helper about the current task.
    unsafe { bpf_get_current_task() as Address }
}

/// A field of a structure.
#[inline(always)]
pub(crate) fn field<T>(structure: Address, offset: u32) -> Option<T> {
    let at: *const T = structure.wrapping_add(offset as usize).cast();
    // SAFETY: the helper checks the kernel address and fails where it is not readable.
    unsafe { bpf_probe_read_kernel(at) }.ok()
}

/// The pointer in a field of a structure; nothing where it leads nowhere.
#[inline(always)]
pub(crate) fn pointer(structure: Address, offset: u32) -> Option<Address> {
    let pointer: Address = field(structure, offset)?;
    if pointer.is_null() { None } else { Some(pointer) }
}
