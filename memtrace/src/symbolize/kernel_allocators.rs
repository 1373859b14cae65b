//! Which frames of a kernel stack are the tracer's and the allocators' own: everybody's stack begins with them, and they say nothing
//! of who has allocated.
//!
//! By the names of functions, innermost first. Compilers put some into others, and kernels rename them, so names are told by how they
//! begin; what is not known here is kept.

use crate::model::category::KernelSource;

/// The way from a tracepoint or a function to the program: kernel/trace/bpf_trace.c, include/trace/bpf_probe.h.
/// Programs themselves are told by [`is_program`].
const TRACER: [&str; 6] =
    ["bpf_trace_run", "__bpf_trace_", "__traceiter_", "bpf_get_stack", "__bpf_get_stack", TRAMPOLINE];

/// Code that the kernel puts between a function that programs are attached to, whoever attached them, and its caller or its body:
/// kernel/bpf/trampoline.c.
const TRAMPOLINE: &str = "bpf_trampoline_";

/// Innermost frames that may have no name, or a wrong one, since the list of names is older than they are: the program
/// itself, and its trampoline where it has one.
const UNLISTED_FRAMES: usize = 2;

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

/// The page allocator's functions, and those that only call them: mm/page_alloc.c, mm/mempolicy.c.
const PAGES: [&str; 9] = [
    "__alloc_pages",
    "alloc_pages",
    "__alloc_frozen_pages",
    "alloc_frozen_pages",
    "__get_free_pages",
    "get_free_pages",
    "get_zeroed_page",
    "__folio_alloc",
    "folio_alloc",
];

/// Cuts pieces off pages: mm/page_frag_cache.c.
const PAGE_FRAGMENTS: [&str; 1] = ["__page_frag_alloc"];

/// The functions that find vmalloc and others a place among the kernel's addresses: mm/vmalloc.c.
const AREAS: [&str; 2] = ["alloc_vmap_area", "__get_vm_area_node"];

/// The functions of vmalloc itself, which puts pages there: the same file.
const VMALLOC: [&str; 4] = ["__vmalloc", "vmalloc", "vzalloc", "vm_area_alloc_pages"];

/// The functions that keep contents of files and block devices: mm/filemap.c, mm/readahead.c, fs/buffer.c.
const PAGE_CACHE: [&str; 7] = [
    "filemap_",
    "__filemap_",
    "pagecache_get_page",
    "page_cache_ra_",
    "ractl_alloc_folio",
    "grow_dev_",
    "__getblk_slow",
];

/// The per-CPU allocator's functions: mm/percpu.c.
const PER_CPU: [&str; 3] = ["pcpu_alloc", "__alloc_percpu", "alloc_percpu"];

/// The functions that take pages for another allocator: for slabs and large objects (mm/slub.c), for per-CPU memory
/// (mm/percpu-vm.c).
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

/// How many innermost frames are the tracer's and the allocator's own. One is left, whatever it is.
pub(super) fn own_frames(names: &[&str], source: KernelSource) -> usize {
    let own: &[&[&str]] = match source {
        // An object may be kept in reserve, or cut off a page.
        KernelSource::Slab => &[&SLAB],
        KernelSource::Pages => &[&PAGES, &PAGE_FRAGMENTS, &VMALLOC, &SLAB],
        KernelSource::PerCpu => &[&PER_CPU],
        KernelSource::Vmalloc => &[&AREAS, &VMALLOC, &SLAB],
    };
    frames_up_to_caller(names, own).min(names.len().saturating_sub(1))
}

/// Whether what was allocated is not to be counted, by whoever has called the allocator: pages that were taken for
/// another of the kernel's, whose objects in them are counted themselves (areas of vmalloc where `counts_areas`), or
/// for contents of files; addresses without memory of their own.
pub(super) fn is_left_out(names: &[&str], source: KernelSource, counts_areas: bool) -> bool {
    let is_called_by = |own: &[&str], callers: &[&str]| {
        names.get(frames_up_to_caller(names, &[own])).is_some_and(|name| begins_with(name, callers))
    };
    match source {
        KernelSource::Slab | KernelSource::PerCpu => false,
        KernelSource::Pages => {
            let holders: &[&[&str]] = &[&BACKED, &PAGE_CACHE, if counts_areas { &VMALLOC } else { &[] }];
            holders.iter().any(|holder| is_called_by(&PAGES, holder))
        }
        KernelSource::Vmalloc => !is_called_by(&AREAS, &VMALLOC),
    }
}

/// How many innermost frames are the tracer's, or `own` of the allocator. Such a frame further out is a caller's:
/// programs allocate as well.
fn frames_up_to_caller(names: &[&str], own: &[&[&str]]) -> usize {
    let is_tracers = |name: &&str| is_program(name) || begins_with(name, &TRACER);
    let is_allocators = |name: &&str| own.iter().any(|own| begins_with(name, own));
    let is_known = |name: &&str| is_tracers(name) || is_allocators(name);
    let unlisted = names.iter().take(UNLISTED_FRAMES + 1).position(is_known).unwrap_or(0);
    let rest = names.iter().skip(unlisted);
    let tracers = rest.clone().take_while(|name| is_tracers(name)).count();
    let allocators = rest.skip(tracers).take_while(|name| is_allocators(name) || name.starts_with(TRAMPOLINE)).count();
    unlisted + tracers + allocators
}

fn begins_with(name: &str, one_of: &[&str]) -> bool {
    one_of.iter().any(|beginning| name.starts_with(beginning))
}

/// Whether this is the code of a BPF program: `bpf_prog_`, the sixteen digits of its tag, and its name
/// (kernel/bpf/core.c). The kernel has functions of its own that begin so.
fn is_program(name: &str) -> bool {
    /// In hexadecimal digits.
    const TAG: usize = 16;
    let tag = name.strip_prefix("bpf_prog_").and_then(|rest| rest.as_bytes().get(..TAG));
    tag.is_some_and(|tag| tag.iter().all(u8::is_ascii_hexdigit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_begins_with_whoever_called_the_allocator() {
        let pipe = [
            "bpf_prog_12ab34cd56ef7890_kmem_kmalloc",
            "bpf_trace_run6",
            "__traceiter_kmalloc",
            "__kmalloc_cache_noprof",
        ];
        let names = [&pipe[..], &["alloc_pipe_info", "create_pipe_files"]].concat();
        assert_eq!(own_frames(&names, KernelSource::Slab), 4);
        let unlisted =
            [&["", "bpf_trace_run4"][..], &["alloc_pages_mpol", "alloc_pages_noprof", "pipe_write"]].concat();
        assert_eq!(own_frames(&unlisted, KernelSource::Pages), 4);
        // Reclaim inside of an allocation is somebody's own doing.
        assert_eq!(own_frames(&["kmem_cache_alloc_noprof", "shrink", "kmalloc_x"], KernelSource::Slab), 1);
    }

    #[test]
    fn programs_that_allocate_are_callers_like_others() {
        let kmalloc = ["", "bpf_trace_run6", "__traceiter_kmalloc", "__kmalloc_noprof"];
        let own = |callers: &[&'static str]| own_frames(&[&kmalloc[..], callers].concat(), KernelSource::Slab);
        assert_eq!(own(&["bpf_map_area_alloc", "array_map_alloc", "map_create", "bpf_prog_0123456789abcdef_make"]), 4);
        assert_eq!(own(&["a", "b", "c", "d", "bpf_trampoline_6442518112", "e"]), 4, "at index 8");
        // The kernel's own functions are no programs.
        assert_eq!(own(&["bpf_prog_load", "__sys_bpf"]), 4);
        assert_eq!(own(&["bpf_prog_alloc", "bpf_prog_load", "__sys_bpf"]), 4);
        assert_eq!(own(&["bpf_prog_test_run_syscall", "__sys_bpf"]), 4);
    }

    #[test]
    fn trampolines_between_an_allocator_and_its_caller_are_looked_past() {
        let bulk = ["", "", "kmem_cache_alloc_bulk", "napi_skb_cache_get"];
        assert_eq!(own_frames(&bulk, KernelSource::Slab), 3);
        let traced = ["", "bpf_trace_run6", "__traceiter_kmalloc", "__kmalloc", "bpf_trampoline_1", "alloc_pipe_info"];
        assert_eq!(own_frames(&traced, KernelSource::Slab), 5);
    }

    #[test]
    fn something_is_always_left() {
        assert_eq!(own_frames(&["bpf_trace_run6", "__kmalloc_noprof"], KernelSource::Slab), 1);
        assert_eq!(own_frames(&["", ""], KernelSource::Slab), 0);
        assert_eq!(own_frames(&[], KernelSource::Pages), 0);
    }

    #[test]
    fn pages_of_slabs_and_large_objects_are_told_by_the_page_allocators_caller() {
        let page = ["bpf_trace_run4", "__traceiter_mm_page_alloc", "__alloc_frozen_pages_noprof"];
        let called_by =
            |callers: &[&'static str]| is_left_out(&[&page[..], callers].concat(), KernelSource::Pages, true);
        assert!(called_by(&["alloc_pages_mpol", "allocate_slab", "___slab_alloc", "kmem_cache_alloc_noprof", "do_x"]));
        assert!(called_by(&["alloc_frozen_pages_noprof", "___kmalloc_large_node", "__kmalloc_large_noprof", "do_x"]));
        assert!(called_by(&["pcpu_populate_chunk", "pcpu_balance_workfn"]));
        assert!(!called_by(&["alloc_pages_noprof", "pipe_write"]));
        assert!(called_by(&["allocate_slab", "___slab_alloc", "kmem_cache_alloc_bulk", "bpf_trampoline_1", "do_x"]));
        assert!(called_by(&["bpf_trampoline_1", "alloc_pages_mpol", "allocate_slab", "___slab_alloc"]));
        // A file system that writes while a slab is being found room for.
        assert!(!called_by(&["alloc_pages_noprof", "write_something", "try_to_free_pages", "allocate_slab"]));
        assert!(!is_left_out(&page, KernelSource::Pages, true));
    }

    #[test]
    fn pages_of_files_and_of_block_devices_are_not_the_kernels() {
        let page = ["", "bpf_trace_run4", "__traceiter_mm_page_alloc", "__alloc_pages", "alloc_pages_mpol"];
        let is_left_out =
            |callers: &[&'static str]| is_left_out(&[&page[..], callers].concat(), KernelSource::Pages, true);
        assert!(is_left_out(&["folio_alloc_noprof", "filemap_alloc_folio", "__filemap_get_folio", "bdev_getblk"]));
        assert!(is_left_out(&["folio_alloc", "__filemap_get_folio", "__getblk_slow", "bdev_getblk"]));
        assert!(is_left_out(&["folio_alloc_noprof", "page_cache_ra_unbounded"]));
        // Nodes of the tree that finds them are.
        assert!(!is_left_out(&["do_x", "__filemap_add_folio"]));
    }

    #[test]
    fn areas_count_where_vmalloc_has_taken_them_and_their_pages_do_not() {
        let area = ["", "bpf_trace_run6", "__traceiter_alloc_vmap_area", "alloc_vmap_area", "__get_vm_area_node"];
        let of = |callers: &[&'static str]| [&area[..], callers].concat();
        let stacks = of(&["__vmalloc_node_range_noprof", "__vmalloc_node_noprof", "copy_process"]);
        assert!(!is_left_out(&stacks, KernelSource::Vmalloc, true));
        assert_eq!(own_frames(&stacks, KernelSource::Vmalloc), 7);
        assert!(is_left_out(&of(&["get_vm_area_caller", "vmap"]), KernelSource::Vmalloc, true));
        assert!(is_left_out(&of(&["get_vm_area_caller", "__ioremap_caller"]), KernelSource::Vmalloc, true));
        let pages =
            ["", "bpf_trace_run4", "__traceiter_mm_page_alloc", "alloc_pages_noprof", "__vmalloc_node_range_noprof"];
        let pages = [&pages[..], &["__vmalloc_node_noprof", "kvmalloc_node", "newary"]].concat();
        assert!(is_left_out(&pages, KernelSource::Pages, true));
        assert!(!is_left_out(&pages, KernelSource::Pages, false));
        assert_eq!(own_frames(&pages, KernelSource::Pages), 7);
    }
}
