//! Which frames of a kernel stack are the tracer's and the allocators' own: everybody's stack begins with them, and they say nothing
//! of who has allocated.
//!
//! By the names of functions, innermost first. Compilers put some into others, and kernels rename them, so names are told by how they
//! begin; what is not known here is kept.

use memtrace_common::kernel_memory::Source;

/// The way from a tracepoint to the program: kernel/trace/bpf_trace.c, include/trace/bpf_probe.h, and the program itself.
const TRACER: [&str; 8] = [
    "bpf_prog_",
    "bpf_trace_run",
    "__bpf_trace_",
    "__traceiter_",
    "bpf_get_stack",
    "__bpf_get_stack",
    "bpf_dispatcher_",
    "bpf_trampoline_",
];

/// Frames that the way from a tracepoint to the program can take.
const TRACER_FRAMES: usize = 12;

/// The slab allocator's functions, and those that only call them: mm/slub.c, mm/slab_common.c, mm/util.c, mm/mempool.c.
const SLAB: [&str; 20] = [
    "kmalloc",
    "__kmalloc",
    "___kmalloc",
    "__do_kmalloc",
    "kzalloc",
    "kcalloc",
    "krealloc",
    "__krealloc",
    "kvmalloc",
    "__kvmalloc",
    "kvrealloc",
    "kmem_cache_alloc",
    "__kmem_cache_alloc",
    "slab_alloc",
    "__slab_alloc",
    "kmemdup",
    "kvmemdup",
    "kstrdup",
    "kstrndup",
    "mempool_",
];

/// The page allocator's functions, and those that only call them: mm/page_alloc.c, mm/mempolicy.c, mm/vmalloc.c.
const PAGES: [&str; 14] = [
    "__alloc_pages",
    "alloc_pages",
    "__alloc_frozen_pages",
    "alloc_frozen_pages",
    "__get_free_pages",
    "get_free_pages",
    "get_zeroed_page",
    "__folio_alloc",
    "folio_alloc",
    "__vmalloc",
    "vmalloc",
    "vzalloc",
    "vm_area_alloc_pages",
    "__page_frag_alloc",
];

/// The per-CPU allocator's functions: mm/percpu.c.
const PER_CPU: [&str; 3] = ["pcpu_alloc", "__alloc_percpu", "alloc_percpu"];

/// Those that take pages for another allocator: for slabs and large objects (mm/slub.c), and for per-CPU memory (mm/percpu-vm.c).
const BACKED: [&str; 12] = [
    "allocate_slab",
    "alloc_slab_page",
    "new_slab",
    "___slab_alloc",
    "__slab_alloc",
    "___kmalloc_large",
    "__kmalloc_large",
    "kmalloc_large",
    "kmalloc_order",
    "pcpu_populate",
    "pcpu_alloc_pages",
    "pcpu_create_chunk",
];

fn begins_with(name: Option<&&str>, one_of: &[&str]) -> bool {
    name.is_some_and(|name| one_of.iter().any(|beginning| name.starts_with(beginning)))
}

/// How many innermost frames are the tracer's and the allocator's own. One is left, whatever it is.
pub(super) fn own_frames(names: &[&str], source: Source) -> usize {
    let beginnings: &[&[&str]] = match source {
        // An object may be kept in reserve, or cut off a page.
        Source::Slab => &[&SLAB],
        Source::Pages => &[&PAGES, &SLAB],
        Source::PerCpu => &[&PER_CPU],
    };
    let tracer = tracer_frames(names);
    let own = names.iter().skip(tracer).take_while(|name| beginnings.iter().any(|own| begins_with(Some(name), own)));
    (tracer + own.count()).min(names.len().saturating_sub(1))
}

/// Whether pages were taken for another allocator of the kernel's, whose objects in them are counted themselves: the page
/// allocator's caller is one.
pub(super) fn is_backing(names: &[&str]) -> bool {
    let callers = names.iter().skip(tracer_frames(names)).skip_while(|name| begins_with(Some(name), &PAGES));
    begins_with(callers.take(1).next(), &BACKED)
}

fn tracer_frames(names: &[&str]) -> usize {
    let last = names.iter().take(TRACER_FRAMES).rposition(|name| begins_with(Some(name), &TRACER));
    last.map_or(0, |last| last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_begins_with_whoever_called_the_allocator() {
        let pipe = ["bpf_prog_12ab_kmem_kmalloc", "bpf_trace_run6", "__traceiter_kmalloc", "__kmalloc_cache_noprof"];
        let names = [&pipe[..], &["alloc_pipe_info", "create_pipe_files"]].concat();
        assert_eq!(own_frames(&names, Source::Slab), 4);
        let unlisted =
            [&["", "bpf_trace_run4"][..], &["alloc_pages_mpol", "alloc_pages_noprof", "pipe_write"]].concat();
        assert_eq!(own_frames(&unlisted, Source::Pages), 4);
        // Reclaim inside of an allocation is somebody's own doing.
        assert_eq!(own_frames(&["kmem_cache_alloc_noprof", "shrink", "kmalloc_x"], Source::Slab), 1);
    }

    #[test]
    fn something_is_always_left() {
        assert_eq!(own_frames(&["bpf_trace_run6", "__kmalloc_noprof"], Source::Slab), 1);
        assert_eq!(own_frames(&["", ""], Source::Slab), 0);
        assert_eq!(own_frames(&[], Source::Pages), 0);
    }

    #[test]
    fn pages_of_slabs_and_large_objects_are_told_by_the_page_allocators_caller() {
        let page = ["bpf_trace_run4", "__traceiter_mm_page_alloc", "__alloc_frozen_pages_noprof"];
        let called_by = |callers: &[&'static str]| is_backing(&[&page[..], callers].concat());
        assert!(called_by(&["alloc_pages_mpol", "allocate_slab", "___slab_alloc", "kmem_cache_alloc_noprof", "do_x"]));
        assert!(called_by(&["alloc_frozen_pages_noprof", "___kmalloc_large_node", "__kmalloc_large_noprof", "do_x"]));
        assert!(called_by(&["pcpu_populate_chunk", "pcpu_balance_workfn"]));
        assert!(!called_by(&["alloc_pages_noprof", "pipe_write"]));
        // A file system that writes while a slab is being found room for.
        assert!(!called_by(&["alloc_pages_noprof", "write_something", "try_to_free_pages", "allocate_slab"]));
        assert!(!is_backing(&page));
    }
}
