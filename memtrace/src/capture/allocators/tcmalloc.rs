//! gperftools' tcmalloc, minimal or full: in place of libc's functions and C++'s, and under its own names.

use memtrace_common::steps::call::CallFlag;

use super::{
    function::{Family, Function, Variant, alloc, block, free, size},
    standard,
};

/// The names that only tcmalloc has. Most are other names of the same places.
const OWN: &[Function] = &[
    alloc("malloc_skip_new_handler", size(0)),
    free("free_sized", block(0).that(CallFlag::HandsOn)),
    alloc("new", size(0).that(CallFlag::MayThrow)),
    alloc("newarray", size(0).that(CallFlag::MayThrow)),
    alloc("new_nothrow", size(0).that(CallFlag::MayThrow)),
    alloc("newarray_nothrow", size(0).that(CallFlag::MayThrow)),
    alloc("new_aligned", size(0).that(CallFlag::MayThrow)),
    alloc("newarray_aligned", size(0).that(CallFlag::MayThrow)),
    alloc("new_aligned_nothrow", size(0).that(CallFlag::MayThrow)),
    alloc("newarray_aligned_nothrow", size(0).that(CallFlag::MayThrow)),
    free("delete", block(0).that(CallFlag::HandsOn)),
    free("deletearray", block(0).that(CallFlag::HandsOn)),
    free("delete_sized", block(0).that(CallFlag::HandsOn)),
    free("deletearray_sized", block(0).that(CallFlag::HandsOn)),
    free("delete_nothrow", block(0).that(CallFlag::HandsOn)),
    free("deletearray_nothrow", block(0).that(CallFlag::HandsOn)),
    free("delete_aligned", block(0).that(CallFlag::HandsOn)),
    free("deletearray_aligned", block(0).that(CallFlag::HandsOn)),
    free("delete_aligned_nothrow", block(0).that(CallFlag::HandsOn)),
    free("deletearray_aligned_nothrow", block(0).that(CallFlag::HandsOn)),
    free("delete_sized_aligned", block(0).that(CallFlag::HandsOn)),
    free("deletearray_sized_aligned", block(0).that(CallFlag::HandsOn)),
];

const MARKERS: &[&str] = &["tc_version", "tc_malloc"];

pub(super) const TCMALLOC: Family = Family {
    name: "tcmalloc",
    leaves: &["malloc", "calloc"],
    returns_where_called: true,
    variants: &[
        Variant { prefix: "", markers: MARKERS, functions: &[standard::C, standard::C_FREES, standard::CXX] },
        Variant { prefix: "tc_", markers: MARKERS, functions: &[standard::C, standard::C_FREES, OWN] },
    ],
};
