//! The facts of the processor architecture that only the kernel side needs: a file for each architecture, with the same
//! items. Nothing else here names a register, a system call's number or a processor's error code. The pure steps have
//! theirs in [`memtrace_common::arch`].

#[cfg(any(target_arch = "x86_64", bpf_target_arch = "x86_64"))]
mod x86_64;

#[cfg(any(target_arch = "x86_64", bpf_target_arch = "x86_64"))]
pub(crate) use x86_64::{
    UserRegisters, after_return, argument, program_counter, returned, stack_pointer, system_call_arguments,
    system_call_number, system_call_numbers, unwinding, wrote_to_present_page,
};

#[cfg(not(any(target_arch = "x86_64", bpf_target_arch = "x86_64")))]
compile_error!("memtrace runs on x86-64 only: another architecture takes a file like memtrace-ebpf/src/arch/x86_64.rs");
