//! memtrace's kernel side: the entry points. What each does stands in the module it calls.
//!
//! Every uprobe program runs in the context of the thread that made the call, and may be preempted: no
//! scratch memory here is per CPU.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod alloc;
mod atomic;
mod blocks;
mod calls;
mod free_side;
mod kernel_objects;
mod kernel_pages;
mod kernel_sites;
mod maps;
mod namespace;
mod pages;
mod registers;
mod sample;
mod site;
mod stack;
mod target;
mod task;
mod threads;
mod verifier;
mod vm;
mod watch;

use alloc::Return;
use aya_ebpf::{
    cty::c_void,
    macros::{fentry, fexit, raw_tracepoint, tracepoint, uprobe, uretprobe},
    programs::{FEntryContext, FExitContext, ProbeContext, RawTracePointContext, RetProbeContext, TracePointContext},
};
use memtrace_common::{
    event::EventKind,
    kernel_memory::{PER_CPU, SLAB, VMALLOC},
};
use target::Task;

/// Entry of a function that hands out a new block.
#[uprobe]
fn alloc_entry(ctx: ProbeContext) -> u32 {
    let task = Task::current();
    if !alloc::is_passed_over(&ctx, task) {
        alloc::enter_alloc(&ctx, task);
    }
    0
}

/// Entry of a function that resizes a block.
#[uprobe]
fn resize_entry(ctx: ProbeContext) -> u32 {
    alloc::enter_resize(&ctx, Task::current());
    0
}

/// Return of a function that hands out or resizes a block.
#[uretprobe]
fn alloc_return(ctx: RetProbeContext) -> u32 {
    alloc::leave(&ctx, Task::current());
    0
}

/// Entry and return of a function that hands out a new block, by one probe ("uprobe session", Linux 6.13).
///
/// Not by aya's macro, which makes every program return 0.
#[unsafe(link_section = "uprobe")]
#[unsafe(no_mangle)]
extern "C" fn alloc_call(ctx: *mut c_void) -> u32 {
    let (ctx, task) = (ProbeContext::new(ctx), Task::current());
    if alloc::is_passed_over(&ctx, task) {
        return u32::from(true);
    }
    session(&ctx, task, alloc::is_alloc_entry(&ctx, task), alloc::enter_alloc)
}

/// Entry and return of a function that resizes a block, by one probe.
#[unsafe(link_section = "uprobe")]
#[unsafe(no_mangle)]
extern "C" fn resize_call(ctx: *mut c_void) -> u32 {
    let ctx = ProbeContext::new(ctx);
    session(&ctx, Task::current(), alloc::is_entry(&ctx), alloc::enter_resize)
}

/// What a program of a uprobe session does: at the entry it says, by 1, that the return is of no interest.
#[inline(always)]
fn session(ctx: &ProbeContext, task: Task, is_entry: bool, enter: impl Fn(&ProbeContext, Task) -> Return) -> u32 {
    if !is_entry {
        alloc::leave(ctx, task);
        return 0;
    }
    u32::from(enter(ctx, task) == Return::Skipped)
}

/// A `ret` of a function that hands out or resizes a block, and whose return address is left alone.
#[uprobe]
fn alloc_ret(ctx: ProbeContext) -> u32 {
    alloc::leave_at_ret(&ctx);
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
    alloc::enter_free(&ctx);
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
    task::end_thread(&ctx);
    0
}

/// A process has become another program.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn process_exec(ctx: RawTracePointContext) -> i32 {
    task::begin_program(&ctx);
    0
}

/// A thread or process has been made, and has not run yet.
#[raw_tracepoint(tracepoint = "task_newtask")]
fn new_task(ctx: RawTracePointContext) -> i32 {
    task::begin_process(&ctx);
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
    task::announce_images(&ctx);
    0
}

/// A system call of any process of the host is about to return; only attached where a command is traced
/// from its first instruction.
#[raw_tracepoint(tracepoint = "sys_exit")]
fn syscall_exit(ctx: RawTracePointContext) -> i32 {
    task::stop_after_mapping_code(&ctx);
    0
}

/// A system call of any process of the host begins; only attached where mapped ranges are asked for.
#[raw_tracepoint(tracepoint = "sys_enter")]
fn vm_enter(ctx: RawTracePointContext) -> i32 {
    vm::enter(&ctx);
    0
}

/// See [`vm_enter`].
#[raw_tracepoint(tracepoint = "sys_exit")]
fn vm_leave(ctx: RawTracePointContext) -> i32 {
    vm::leave(&ctx);
    0
}

/// The same; only attached where it is to be told what can be reached when a command ends.
#[raw_tracepoint(tracepoint = "sys_exit")]
fn area_mapped(ctx: RawTracePointContext) -> i32 {
    vm::tell_area(&ctx);
    0
}

/// A target is about to end: a function of the C library that ends it is called.
#[uprobe]
fn process_end(ctx: ProbeContext) -> u32 {
    task::stop_before_end(&ctx, EventKind::Ending);
    0
}

/// A target is about to become another program: a function of the C library that makes it one is called.
#[uprobe]
fn process_replace(ctx: ProbeContext) -> u32 {
    task::stop_before_end(&ctx, EventKind::Replacing);
    0
}

/// A target begins to end: it is about to free its blocks.
#[uprobe]
fn process_leaves(ctx: ProbeContext) -> u32 {
    task::announce_way_out(&ctx);
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

/// The kernel has handed out an object by size; attached where its own memory is asked for, as those that follow.
#[raw_tracepoint(tracepoint = "kmalloc")]
fn kmem_kmalloc(ctx: RawTracePointContext) -> i32 {
    kernel_objects::kmalloc(&ctx);
    0
}

/// The kernel has handed out an object of a cache.
#[raw_tracepoint(tracepoint = "kmem_cache_alloc")]
fn kmem_obj_alloc(ctx: RawTracePointContext) -> i32 {
    kernel_objects::cache_alloc(&ctx);
    0
}

/// The kernel frees an object by its address.
#[raw_tracepoint(tracepoint = "kfree")]
fn kmem_kfree(ctx: RawTracePointContext) -> i32 {
    // kfree(unsigned long call_site, const void *ptr): include/trace/events/kmem.h
    kernel_objects::freed(SLAB, ctx.arg(1));
    0
}

/// The kernel frees an object of a cache.
#[raw_tracepoint(tracepoint = "kmem_cache_free")]
fn kmem_obj_free(ctx: RawTracePointContext) -> i32 {
    // kmem_cache_free(unsigned long call_site, const void *ptr, …): the same
    kernel_objects::freed(SLAB, ctx.arg(1));
    0
}

/// The kernel has allocated pages.
#[raw_tracepoint(tracepoint = "mm_page_alloc")]
fn kmem_page_alloc(ctx: RawTracePointContext) -> i32 {
    kernel_pages::pages_allocated(&ctx);
    0
}

/// The kernel frees pages. (`mm_page_free_batched` comes in addition to this, for some of them.)
#[raw_tracepoint(tracepoint = "mm_page_free")]
fn kmem_page_free(ctx: RawTracePointContext) -> i32 {
    kernel_pages::pages_freed(&ctx);
    0
}

/// The kernel has allocated memory for each CPU.
#[raw_tracepoint(tracepoint = "percpu_alloc_percpu")]
fn kmem_cpu_alloc(ctx: RawTracePointContext) -> i32 {
    kernel_objects::per_cpu_alloc(&ctx);
    0
}

/// The kernel frees memory for each CPU.
#[raw_tracepoint(tracepoint = "percpu_free_percpu")]
fn kmem_cpu_free(ctx: RawTracePointContext) -> i32 {
    // percpu_free_percpu(void *base_addr, int off, void __percpu *ptr): include/trace/events/percpu.h
    kernel_objects::freed(PER_CPU, ctx.arg(2));
    0
}

/// The kernel has taken an area of its addresses.
#[raw_tracepoint(tracepoint = "alloc_vmap_area")]
fn kmem_area_alloc(ctx: RawTracePointContext) -> i32 {
    kernel_objects::area_alloc(&ctx);
    0
}

/// The kernel gives up an area of its addresses.
#[raw_tracepoint(tracepoint = "free_vmap_area_noflush")]
fn kmem_area_free(ctx: RawTracePointContext) -> i32 {
    // free_vmap_area_noflush(unsigned long va_start, …): include/trace/events/vmalloc.h
    kernel_objects::freed(VMALLOC, ctx.arg(0));
    0
}

/// The kernel has handed out objects of a cache in bulk.
#[fexit(function = "kmem_cache_alloc_bulk")]
fn kmem_bulk_alloc(ctx: FExitContext) -> i32 {
    kernel_objects::bulk_allocated(&ctx);
    0
}

/// The kernel frees objects in bulk.
#[fentry(function = "kmem_cache_free_bulk")]
fn kmem_bulk_free(ctx: FEntryContext) -> i32 {
    kernel_objects::bulk_freed(&ctx);
    0
}

/// The kernel is to free an object after a grace period, together with others.
#[fexit(function = "__kfree_rcu_sheaf")]
fn kmem_sheaf_free(ctx: FExitContext) -> i32 {
    kernel_objects::freed_later(&ctx);
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
