//! mimalloc 2: in place of libc's functions and C++'s, and under its own names.
//!
//! Not here, because no argument tells a size: `mi_strdup` and kin. Nor is what `mi_heap_destroy` frees.

use memtrace_common::steps::call::{CallFlag, CallRoles, Role};

use super::{
    function::{Family, Function, Variant, alloc, array, block, free, resize, size},
    standard,
};

/// Under the plain names, beside libc's functions.
const PLAIN: &[Function] = &[
    resize("reallocf", size(1).with(Role::Block, 0).that(CallFlag::FreesOnFailure)),
    free("vfree", block(0).that(CallFlag::HandsOn)),
];

const RESIZE: CallRoles = size(1).with(Role::Block, 0);
const RESIZE_ARRAY: CallRoles = array(1).with(Role::Block, 0);
const HEAP_RESIZE: CallRoles = size(2).with(Role::Block, 1);
const HEAP_RESIZE_ARRAY: CallRoles = array(2).with(Role::Block, 1);

/// Under its prefix, beside libc's functions.
const OWN: &[Function] = &[
    alloc("malloc_small", size(0)),
    alloc("zalloc", size(0)),
    alloc("zalloc_small", size(0)),
    alloc("mallocn", array(0)),
    alloc("malloc_aligned", size(0)),
    alloc("malloc_aligned_at", size(0)),
    alloc("zalloc_aligned", size(0)),
    alloc("zalloc_aligned_at", size(0)),
    alloc("calloc_aligned", array(0)),
    alloc("calloc_aligned_at", array(0)),
    alloc("new", size(0).that(CallFlag::MayThrow)),
    alloc("new_n", array(0).that(CallFlag::MayThrow)),
    alloc("new_nothrow", size(0).that(CallFlag::MayThrow)),
    alloc("new_aligned", size(0).that(CallFlag::MayThrow)),
    alloc("new_aligned_nothrow", size(0).that(CallFlag::MayThrow)),
    resize("reallocn", RESIZE_ARRAY),
    resize("reallocf", RESIZE.that(CallFlag::FreesOnFailure)),
    resize("rezalloc", RESIZE),
    resize("recalloc", RESIZE_ARRAY),
    resize("expand", RESIZE),
    resize("realloc_aligned", RESIZE),
    resize("realloc_aligned_at", RESIZE),
    resize("rezalloc_aligned", RESIZE),
    resize("rezalloc_aligned_at", RESIZE),
    resize("recalloc_aligned", RESIZE_ARRAY),
    resize("recalloc_aligned_at", RESIZE_ARRAY),
    free("free_size", block(0).that(CallFlag::HandsOn)),
    free("free_size_aligned", block(0).that(CallFlag::HandsOn)),
    free("free_aligned", block(0).that(CallFlag::HandsOn)),
];

/// The same in a heap of the program's, which is the first argument.
const HEAP: &[Function] = &[
    alloc("malloc", size(1)),
    alloc("malloc_small", size(1)),
    alloc("zalloc", size(1)),
    alloc("calloc", array(1)),
    alloc("mallocn", array(1)),
    alloc("malloc_aligned", size(1)),
    alloc("malloc_aligned_at", size(1)),
    alloc("zalloc_aligned", size(1)),
    alloc("zalloc_aligned_at", size(1)),
    alloc("calloc_aligned", array(1)),
    alloc("calloc_aligned_at", array(1)),
    alloc("alloc_new", size(1).that(CallFlag::MayThrow)),
    alloc("alloc_new_n", array(1).that(CallFlag::MayThrow)),
    resize("realloc", HEAP_RESIZE),
    resize("reallocn", HEAP_RESIZE_ARRAY),
    resize("reallocf", HEAP_RESIZE.that(CallFlag::FreesOnFailure)),
    resize("rezalloc", HEAP_RESIZE),
    resize("recalloc", HEAP_RESIZE_ARRAY),
    resize("realloc_aligned", HEAP_RESIZE),
    resize("realloc_aligned_at", HEAP_RESIZE),
    resize("rezalloc_aligned", HEAP_RESIZE),
    resize("rezalloc_aligned_at", HEAP_RESIZE),
    resize("recalloc_aligned", HEAP_RESIZE_ARRAY),
    resize("recalloc_aligned_at", HEAP_RESIZE_ARRAY),
];

const MARKERS: &[&str] = &["mi_version", "mi_malloc"];

pub(super) const MIMALLOC: Family = Family {
    name: "mimalloc",
    leaves: &[],
    returns_where_called: true,
    variants: &[
        Variant { prefix: "", markers: MARKERS, functions: &[standard::C, standard::C_FREES, PLAIN, standard::CXX] },
        Variant { prefix: "mi_", markers: MARKERS, functions: &[standard::C, standard::C_FREES, OWN] },
        Variant { prefix: "mi_heap_", markers: MARKERS, functions: &[HEAP] },
    ],
};
