//! jemalloc 5: in place of libc's functions, as redis and others link it, or under a prefix, as Rust
//! programs do.

use memtrace_common::steps::call::{CallFlag, Role};

use super::{
    function::{Family, Function, Variant, alloc, block, free, resize, size},
    standard,
};

/// Its own interface: the last argument holds flags, none of which matters here.
const EXTENDED: &[Function] = &[
    alloc("mallocx", size(0)),
    resize("rallocx", size(1).with(Role::Block, 0)),
    resize("xallocx", size(1).with(Role::Block, 0).that(CallFlag::InPlace)),
    free("sdallocx", block(0)),
    free("dallocx", block(0)),
];

pub(super) const JEMALLOC: Family = Family {
    name: "jemalloc",
    leaves: &["malloc", "calloc"],
    returns_where_called: true,
    variants: &[
        Variant {
            prefix: "",
            markers: &["mallctl"],
            functions: &[standard::C, standard::C_FREES, EXTENDED, standard::CXX],
        },
        Variant { prefix: "je_", markers: &["je_mallctl"], functions: &[standard::C, standard::C_FREES, EXTENDED] },
        Variant {
            prefix: "_rjem_",
            markers: &["_rjem_mallctl"],
            functions: &[standard::C, standard::C_FREES, EXTENDED],
        },
        Variant {
            prefix: "_rjem_je_",
            markers: &["_rjem_je_mallctl"],
            functions: &[standard::C, standard::C_FREES, EXTENDED],
        },
    ],
};
