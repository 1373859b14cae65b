//! The facts of the processor architecture that only user space needs: a file for each architecture, with the same items.
//! `memtrace_common::arch` has those that both sides build on.

#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::{
    BASES, NAME, RED_ZONE_BYTES, SYSTEM_CALLS, copied_registers, dwarf, registers_of, stack_effects, thread_record,
    vectors,
};

#[cfg(not(target_arch = "x86_64"))]
compile_error!(
    "memtrace runs on x86-64 only: another architecture takes a file like memtrace/src/process/arch/x86_64.rs"
);
