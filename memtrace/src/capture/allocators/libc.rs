//! The C libraries' own allocators, and those that nobody knows.

use super::{
    function::{Family, Variant},
    standard,
};

/// The GNU C library. (The second marker is for static programs, where it may be all there is of it.)
pub(super) const GLIBC: Family = Family {
    name: "glibc",
    leaves: &["malloc", "calloc"],
    returns_where_called: true,
    variants: &[Variant {
        prefix: "",
        markers: &["gnu_get_libc_version", "__libc_malloc"],
        functions: &[standard::C, standard::C_FREES],
    }],
};

/// musl's: a shared one is its own dynamic linker, of which these are two stages; in static programs, its
/// allocator's parts have names, of the allocator since 1.2.1 and of the older one.
pub(super) const MUSL: Family = Family {
    name: "musl",
    leaves: &["malloc"],
    returns_where_called: true,
    variants: &[Variant {
        prefix: "",
        markers: &["__dls2b", "__dls3", "__libc_malloc_impl", "__malloc_donate", "__expand_heap"],
        functions: &[standard::C, standard::C_FREES],
    }],
};

/// All else that defines libc's functions: a home-grown allocator, or a wrapper around another.
pub(super) const OTHER: Family = Family {
    name: "other",
    leaves: &[],
    returns_where_called: false,
    variants: &[Variant {
        prefix: "",
        markers: &["malloc"],
        functions: &[standard::C, standard::WRAPPERS_FREES, standard::CXX],
    }],
};
