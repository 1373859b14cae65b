//! The functions of the C library and of C++ that allocators define in their place.

use memtrace_common::steps::call::{CallFlag, Role};

use super::function::{Function, alloc, array, block, free, resize, size};

/// The functions that C programs call to allocate, wherever they are defined.
pub(super) const C: &[Function] = &[
    alloc("malloc", size(0)),
    alloc("calloc", array(0)),
    resize("realloc", size(1).with(Role::Block, 0)),
    resize("reallocarray", array(1).with(Role::Block, 0)),
    alloc("posix_memalign", size(2).with(Role::Output, 0)),
    alloc("aligned_alloc", size(1)),
    alloc("memalign", size(1)),
    alloc("valloc", size(0)),
    alloc("pvalloc", size(0)),
];

/// Those that free, of an allocator that stands on no other.
pub(super) const C_FREES: &[Function] = &[free("free", block(0)), free("cfree", block(0).that(CallFlag::HandsOn))];

/// Those that free, of one that may wrap another.
pub(super) const WRAPPERS_FREES: &[Function] = &[
    free("free", block(0).that(CallFlag::HandsOnWithHeader)),
    free("cfree", block(0).that(CallFlag::HandsOnWithHeader)),
];

/// C++'s `operator new` and `operator delete` in all their forms, for allocators that define them
/// themselves. (Others leave them to the C++ library, which calls `malloc` and `free`.)
///
/// The `nothrow` forms are no exception to [`CallFlag::MayThrow`]: the program's new-handler may throw, and
/// where the allocator is written in C its exception passes through.
pub(super) const CXX: &[Function] = &[
    alloc("_Znwm", size(0).that(CallFlag::MayThrow)),
    alloc("_Znam", size(0).that(CallFlag::MayThrow)),
    alloc("_ZnwmRKSt9nothrow_t", size(0).that(CallFlag::MayThrow)),
    alloc("_ZnamRKSt9nothrow_t", size(0).that(CallFlag::MayThrow)),
    alloc("_ZnwmSt11align_val_t", size(0).that(CallFlag::MayThrow)),
    alloc("_ZnamSt11align_val_t", size(0).that(CallFlag::MayThrow)),
    alloc("_ZnwmSt11align_val_tRKSt9nothrow_t", size(0).that(CallFlag::MayThrow)),
    alloc("_ZnamSt11align_val_tRKSt9nothrow_t", size(0).that(CallFlag::MayThrow)),
    free("_ZdlPv", block(0).that(CallFlag::HandsOn)),
    free("_ZdaPv", block(0).that(CallFlag::HandsOn)),
    free("_ZdlPvRKSt9nothrow_t", block(0).that(CallFlag::HandsOn)),
    free("_ZdaPvRKSt9nothrow_t", block(0).that(CallFlag::HandsOn)),
    free("_ZdlPvm", block(0).that(CallFlag::HandsOn)),
    free("_ZdaPvm", block(0).that(CallFlag::HandsOn)),
    free("_ZdlPvSt11align_val_t", block(0).that(CallFlag::HandsOn)),
    free("_ZdaPvSt11align_val_t", block(0).that(CallFlag::HandsOn)),
    free("_ZdlPvSt11align_val_tRKSt9nothrow_t", block(0).that(CallFlag::HandsOn)),
    free("_ZdaPvSt11align_val_tRKSt9nothrow_t", block(0).that(CallFlag::HandsOn)),
    free("_ZdlPvmSt11align_val_t", block(0).that(CallFlag::HandsOn)),
    free("_ZdaPvmSt11align_val_t", block(0).that(CallFlag::HandsOn)),
];
