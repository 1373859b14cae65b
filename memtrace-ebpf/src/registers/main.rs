//! Registers of threads that are in the kernel: an object of its own, with one program and one map, so that a look at a process
//! takes no table of memtrace's. Attached to nothing: user space runs the program itself (`BPF_PROG_TEST_RUN`).
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "words are cut on purpose, `usize` has 64 bits here, `try_from` may panic"
)]

#[path = "../kernel_fields.rs"]
mod kernel_fields;
#[path = "../pid_records.rs"]
mod pid_records;
mod thread;
mod walk;

use aya_ebpf::{cty::c_void, programs::RawTracePointContext};

/// Copies the registers of some threads of a process. Arguments: a descriptor of the process's folder in `/proc`, its number there,
/// and how many threads to pass over. Returns a [`memtrace_common::wire::registers::PieceAnswer`].
///
/// Not by aya's macro, which makes every program return 0.
#[unsafe(link_section = "raw_tp")]
#[unsafe(no_mangle)]
extern "C" fn read_registers(ctx: *mut c_void) -> u32 {
    walk::read(&RawTracePointContext::new(ctx)).0
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Reading the kernel's memory is reserved for GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
