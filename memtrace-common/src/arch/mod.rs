//! The facts of the processor architecture that both sides build on: a file for each architecture, with the same items.
//!
//! The kernel side is compiled for the BPF machine, so it is told by `bpf_target_arch` where its programs will run.

#[cfg(any(target_arch = "x86_64", bpf_target_arch = "x86_64"))]
mod x86_64;

#[cfg(any(target_arch = "x86_64", bpf_target_arch = "x86_64"))]
pub use x86_64::{
    ADDRESS_BITS, FRAME_POINTER_WORDS, PAGE_BYTES, RETURN_POPS_BYTES, SAVED_REGISTERS, THREAD_BASES, VECTOR_WORDS,
    frame_pointer_cfa, linkage_table_cfa, return_address_at, saved_registers, signal_frame,
};

#[cfg(not(any(target_arch = "x86_64", bpf_target_arch = "x86_64")))]
compile_error!(
    "memtrace runs on x86-64 only: another architecture takes a file like memtrace-common/src/arch/x86_64.rs"
);
