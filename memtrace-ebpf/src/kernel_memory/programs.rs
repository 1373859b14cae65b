//! The entry points for the kernel's own memory.

use aya_ebpf::{
    macros::{fentry, fexit, raw_tracepoint},
    programs::{FEntryContext, FExitContext, RawTracePointContext},
};
use memtrace_common::wire::kernel_memory::{PER_CPU, SLAB, VMALLOC};

use super::{objects, pages};

/// The kernel has handed out an object by size; attached where its own memory is asked for, as those that follow.
#[raw_tracepoint(tracepoint = "kmalloc")]
fn kmem_kmalloc(ctx: RawTracePointContext) -> i32 {
    objects::kmalloc(&ctx);
    0
}

/// The kernel has handed out an object of a cache.
#[raw_tracepoint(tracepoint = "kmem_cache_alloc")]
fn kmem_obj_alloc(ctx: RawTracePointContext) -> i32 {
    objects::cache_alloc(&ctx);
    0
}

/// The kernel frees an object by its address.
#[raw_tracepoint(tracepoint = "kfree")]
fn kmem_kfree(ctx: RawTracePointContext) -> i32 {
    // kfree(unsigned long call_site, const void *ptr): include/trace/events/kmem.h
    objects::freed(SLAB, ctx.arg(1));
    0
}

/// The kernel frees an object of a cache.
#[raw_tracepoint(tracepoint = "kmem_cache_free")]
fn kmem_obj_free(ctx: RawTracePointContext) -> i32 {
    // kmem_cache_free(unsigned long call_site, const void *ptr, …): the same
    objects::freed(SLAB, ctx.arg(1));
    0
}

/// The kernel has allocated pages.
#[raw_tracepoint(tracepoint = "mm_page_alloc")]
fn kmem_page_alloc(ctx: RawTracePointContext) -> i32 {
    pages::pages_allocated(&ctx);
    0
}

/// The kernel frees pages. (`mm_page_free_batched` comes in addition to this, for some of them.)
#[raw_tracepoint(tracepoint = "mm_page_free")]
fn kmem_page_free(ctx: RawTracePointContext) -> i32 {
    pages::pages_freed(&ctx);
    0
}

/// The kernel has allocated memory for each CPU.
#[raw_tracepoint(tracepoint = "percpu_alloc_percpu")]
fn kmem_cpu_alloc(ctx: RawTracePointContext) -> i32 {
    objects::per_cpu_alloc(&ctx);
    0
}

/// The kernel frees memory for each CPU.
#[raw_tracepoint(tracepoint = "percpu_free_percpu")]
fn kmem_cpu_free(ctx: RawTracePointContext) -> i32 {
    // percpu_free_percpu(void *base_addr, int off, void __percpu *ptr): include/trace/events/percpu.h
    objects::freed(PER_CPU, ctx.arg(2));
    0
}

/// The kernel has taken an area of its addresses.
#[raw_tracepoint(tracepoint = "alloc_vmap_area")]
fn kmem_area_alloc(ctx: RawTracePointContext) -> i32 {
    objects::area_alloc(&ctx);
    0
}

/// The kernel gives up an area of its addresses.
#[raw_tracepoint(tracepoint = "free_vmap_area_noflush")]
fn kmem_area_free(ctx: RawTracePointContext) -> i32 {
    // free_vmap_area_noflush(unsigned long va_start, …): include/trace/events/vmalloc.h
    objects::freed(VMALLOC, ctx.arg(0));
    0
}

/// The kernel has handed out objects of a cache in bulk.
#[fexit(function = "kmem_cache_alloc_bulk")]
fn kmem_bulk_alloc(ctx: FExitContext) -> i32 {
    objects::bulk_allocated(&ctx);
    0
}

/// The kernel frees objects in bulk.
#[fentry(function = "kmem_cache_free_bulk")]
fn kmem_bulk_free(ctx: FEntryContext) -> i32 {
    objects::bulk_freed(&ctx);
    0
}

/// The kernel is to free an object after a grace period, together with others.
#[fexit(function = "__kfree_rcu_sheaf")]
fn kmem_sheaf_free(ctx: FExitContext) -> i32 {
    objects::freed_later(&ctx);
    0
}
