//! memtrace's kernel side: the entry points. The work of each stands in the module that it calls.
//!
//! Every uprobe program runs in the context of the thread that made the call, and may be preempted: no
//! scratch memory here is per CPU.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(clippy::needless_pass_by_value, reason = "aya's macros give each program its context by value")]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "by value, keys and values would be copied to the BPF stack"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "words are cut on purpose, `usize` has 64 bits here, `try_from` may panic"
)]

mod address_space;
mod arch;
mod atomic;
mod heap;
mod kernel_fields;
mod kernel_memory;
mod lifecycle;
mod mappings;
mod maps;
mod namespace;
mod notices;
mod pages;
mod pid_records;
mod recording;
mod site;
mod stack;
mod system_calls;
mod target;
mod threads;
mod user_memory;
mod verifier;

use aya_ebpf::{
    cty::c_void,
    macros::{raw_tracepoint, tracepoint, uprobe, uretprobe},
    programs::{ProbeContext, RawTracePointContext, RetProbeContext, TracePointContext},
};
use heap::{
    calls,
    entry::{self, Return},
    free, returns,
};
use memtrace_common::wire::event::EventKind;
use target::Task;

/// Entry of a function that hands out a new block.
#[uprobe]
fn alloc_entry(ctx: ProbeContext) -> u32 {
    let task = Task::current();
    if !entry::is_passed_over(&ctx, task) {
        entry::enter_alloc(&ctx, task);
    }
    0
}

/// Entry of a function that resizes a block.
#[uprobe]
fn resize_entry(ctx: ProbeContext) -> u32 {
    entry::enter_resize(&ctx, Task::current());
    0
}

/// Return of a function that hands out or resizes a block.
#[uretprobe]
fn alloc_return(ctx: RetProbeContext) -> u32 {
    returns::leave(&ctx, Task::current());
    0
}

/// Entry and return of a function that hands out a new block, by one probe ("uprobe session", Linux 6.13).
///
/// Not by aya's macro, which makes every program return 0.
#[unsafe(link_section = "uprobe")]
#[unsafe(no_mangle)]
extern "C" fn alloc_call(ctx: *mut c_void) -> u32 {
    let (ctx, task) = (ProbeContext::new(ctx), Task::current());
    if entry::is_passed_over(&ctx, task) {
        return u32::from(true);
    }
    session(&ctx, task, entry::is_alloc_entry(&ctx, task), entry::enter_alloc)
}

/// Entry and return of a function that resizes a block, by one probe.
#[unsafe(link_section = "uprobe")]
#[unsafe(no_mangle)]
extern "C" fn resize_call(ctx: *mut c_void) -> u32 {
    let ctx = ProbeContext::new(ctx);
    session(&ctx, Task::current(), entry::is_entry(&ctx), entry::enter_resize)
}

/// The two runs of a program of a uprobe session: at the entry it says, by 1, that the return is of no interest.
#[inline(always)]
fn session(ctx: &ProbeContext, task: Task, is_entry: bool, enter: impl Fn(&ProbeContext, Task) -> Return) -> u32 {
    if !is_entry {
        returns::leave(ctx, task);
        return 0;
    }
    u32::from(enter(ctx, task) == Return::Skipped)
}

/// A `ret` of a function that hands out or resizes a block, and whose return address is left alone.
#[uprobe]
fn alloc_ret(ctx: ProbeContext) -> u32 {
    returns::leave_at_ret(&ctx);
    0
}

/// An exception is thrown, or a longjmp begins.
#[uprobe]
fn call_left(ctx: ProbeContext) -> u32 {
    calls::begin_to_leave(&ctx);
    0
}

/// An exception is caught.
#[uprobe]
fn call_caught(ctx: ProbeContext) -> u32 {
    calls::catch(&ctx);
    0
}

/// Entry of a function that frees a block.
#[uprobe]
fn free_entry(ctx: ProbeContext) -> u32 {
    free::enter_free(&ctx);
    0
}

/// The cost of the probe itself: what `cargo xtask bench` measures memtrace against.
#[uprobe]
fn empty_entry(_ctx: ProbeContext) -> u32 {
    0
}

/// See [`empty_entry`].
#[uretprobe]
fn empty_return(_ctx: RetProbeContext) -> u32 {
    0
}

/// See [`empty_entry`]: of a uprobe session.
#[uprobe]
fn empty_call(_ctx: ProbeContext) -> u32 {
    0
}

/// A thread ends: what was remembered of it goes.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
fn thread_exit(ctx: RawTracePointContext) -> i32 {
    lifecycle::end_thread(&ctx);
    0
}

/// A process has become another program.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn process_exec(ctx: RawTracePointContext) -> i32 {
    lifecycle::begin_program(&ctx);
    0
}

/// A thread or process has been made, and has not run yet.
#[raw_tracepoint(tracepoint = "task_newtask")]
fn new_task(ctx: RawTracePointContext) -> i32 {
    lifecycle::begin_process(&ctx);
    0
}

/// A process's number in the machine's first pid namespace: attached to nothing, run by user space (`BPF_PROG_TEST_RUN`).
///
/// Not by aya's macro, which makes every program return 0.
#[unsafe(link_section = "raw_tp")]
#[unsafe(no_mangle)]
extern "C" fn first_pid(ctx: *mut c_void) -> u32 {
    namespace::first_number(&RawTracePointContext::new(ctx))
}

/// A target's dynamic linker has loaded or unloaded images.
#[uprobe]
fn linker_notice(ctx: ProbeContext) -> u32 {
    notices::announce_images(&ctx);
    0
}

/// A system call of any process of the host is about to return; only attached where a command is traced
/// from its first instruction.
#[raw_tracepoint(tracepoint = "sys_exit")]
fn syscall_exit(ctx: RawTracePointContext) -> i32 {
    notices::stop_after_mapping_code(&ctx);
    0
}

/// A system call of any process of the host begins; only attached where mapped ranges are asked for.
#[raw_tracepoint(tracepoint = "sys_enter")]
fn mapping_enter(ctx: RawTracePointContext) -> i32 {
    mappings::enter(&ctx);
    0
}

/// See [`mapping_enter`].
#[raw_tracepoint(tracepoint = "sys_exit")]
fn mapping_leave(ctx: RawTracePointContext) -> i32 {
    mappings::leave(&ctx);
    0
}

/// The same; only attached where it is to be told what can be reached when a command ends.
#[raw_tracepoint(tracepoint = "sys_exit")]
fn area_mapped(ctx: RawTracePointContext) -> i32 {
    mappings::tell_area(&ctx);
    0
}

/// A target is about to end: a function of the C library that ends it is called.
#[uprobe]
fn process_end(ctx: ProbeContext) -> u32 {
    notices::stop_before_end(&ctx, EventKind::Ending);
    0
}

/// A target is about to become another program: a function of the C library that makes it one is called.
#[uprobe]
fn process_replace(ctx: ProbeContext) -> u32 {
    notices::stop_before_end(&ctx, EventKind::Replacing);
    0
}

/// A target begins to end: it is about to free its blocks.
#[uprobe]
fn process_leaves(ctx: ProbeContext) -> u32 {
    notices::announce_way_out(&ctx);
    0
}

/// An address space's memory has become more or less; only attached where pages are asked for, as are the next two.
#[tracepoint]
fn rss_stat(ctx: TracePointContext) -> u32 {
    pages::change(&ctx);
    0
}

/// A thread has run into a page that is not as it needs it.
#[raw_tracepoint(tracepoint = "page_fault_user")]
fn page_fault(ctx: RawTracePointContext) -> i32 {
    pages::fault(&ctx);
    0
}

/// The kernel has handed out pages.
#[raw_tracepoint(tracepoint = "mm_page_alloc")]
fn page_allocated(ctx: RawTracePointContext) -> i32 {
    pages::page_allocated(&ctx);
    0
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Several helpers that capture uses are reserved for GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
