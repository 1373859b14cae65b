// mimalloc's own functions, for truth.c.
#include <mimalloc.h>
#include <stdlib.h>

#include "extra_cxx.h"

extern void *reallocf(void *, size_t);
extern void vfree(void *);

#define HEAP mi_heap_get_default()
#define EXTRA_ALLOCS(X)                                                                                 \
    X(mi_malloc, mi_malloc(size), size)                                                                 \
    X(mi_malloc_small, mi_malloc_small(size % 1024), size % 1024)                                       \
    X(mi_zalloc, mi_zalloc(size), size)                                                                 \
    X(mi_zalloc_small, mi_zalloc_small(size % 1024), size % 1024)                                       \
    X(mi_calloc, mi_calloc(size / 16, 16), size / 16 * 16)                                              \
    X(mi_mallocn, mi_mallocn(size / 16, 16), size / 16 * 16)                                            \
    X(mi_malloc_aligned, mi_malloc_aligned(size, 64), size)                                             \
    X(mi_malloc_aligned_at, mi_malloc_aligned_at(size + 64, 64, 8), size + 64)                          \
    X(mi_zalloc_aligned, mi_zalloc_aligned(size, 64), size)                                             \
    X(mi_zalloc_aligned_at, mi_zalloc_aligned_at(size + 64, 64, 8), size + 64)                          \
    X(mi_calloc_aligned, mi_calloc_aligned(size / 16, 16, 64), size / 16 * 16)                          \
    X(mi_calloc_aligned_at, mi_calloc_aligned_at(size / 16 + 4, 16, 64, 8), (size / 16 + 4) * 16)       \
    X(mi_memalign, mi_memalign(64, size), size)                                                         \
    X(mi_aligned_alloc, mi_aligned_alloc(64, size / 64 * 64), size / 64 * 64)                           \
    X(mi_posix_memalign, ({ void *out = NULL; mi_posix_memalign(&out, 64, size) ? NULL : out; }), size) \
    X(mi_valloc, mi_valloc(size), size)                                                                 \
    X(mi_pvalloc, mi_pvalloc(size), size)                                                               \
    X(mi_new, mi_new(size), size)                                                                       \
    X(mi_new_n, mi_new_n(size / 16, 16), size / 16 * 16)                                                \
    X(mi_new_nothrow, mi_new_nothrow(size), size)                                                       \
    X(mi_new_aligned, mi_new_aligned(size, 64), size)                                                   \
    X(mi_new_aligned_nothrow, mi_new_aligned_nothrow(size, 64), size)                                   \
    X(mi_heap_malloc, mi_heap_malloc(HEAP, size), size)                                                 \
    X(mi_heap_malloc_small, mi_heap_malloc_small(HEAP, size % 1024), size % 1024)                       \
    X(mi_heap_zalloc, mi_heap_zalloc(HEAP, size), size)                                                 \
    X(mi_heap_calloc, mi_heap_calloc(HEAP, size / 16, 16), size / 16 * 16)                              \
    X(mi_heap_mallocn, mi_heap_mallocn(HEAP, size / 16, 16), size / 16 * 16)                            \
    X(mi_heap_malloc_aligned, mi_heap_malloc_aligned(HEAP, size, 64), size)                             \
    X(mi_heap_malloc_aligned_at, mi_heap_malloc_aligned_at(HEAP, size + 64, 64, 8), size + 64)          \
    X(mi_heap_zalloc_aligned, mi_heap_zalloc_aligned(HEAP, size, 64), size)                             \
    X(mi_heap_zalloc_aligned_at, mi_heap_zalloc_aligned_at(HEAP, size + 64, 64, 8), size + 64)          \
    X(mi_heap_calloc_aligned, mi_heap_calloc_aligned(HEAP, size / 16, 16, 64), size / 16 * 16)          \
    X(mi_heap_calloc_aligned_at, mi_heap_calloc_aligned_at(HEAP, size / 16 + 4, 16, 64, 8),             \
      (size / 16 + 4) * 16)                                                                             \
    X(mi_heap_alloc_new, mi_heap_alloc_new(HEAP, size), size)                                           \
    X(mi_heap_alloc_new_n, mi_heap_alloc_new_n(HEAP, size / 16, 16), size / 16 * 16)                    \
    CXX_ALLOCS(X)
// Sizes are rounded to the 16 bytes of an element where there is a count.
#define TO_16 (size / 16 * 16)
#define EXTRA_RESIZES(X)                                                                                \
    X(reallocf, reallocf(old, size), size, FREES)                                                       \
    X(mi_realloc, mi_realloc(old, size), size, KEEPS)                                                   \
    X(mi_reallocn, mi_reallocn(old, size / 16, 16), TO_16, KEEPS)                                       \
    X(mi_reallocarray, mi_reallocarray(old, size / 16, 16), TO_16, KEEPS)                               \
    X(mi_reallocf, mi_reallocf(old, size), size, FREES)                                                 \
    X(mi_rezalloc, mi_rezalloc(old, size), size, KEEPS)                                                 \
    X(mi_recalloc, mi_recalloc(old, size / 16, 16), TO_16, KEEPS)                                       \
    X(mi_expand, mi_expand(old, size), size, KEEPS)                                                     \
    X(mi_realloc_aligned, mi_realloc_aligned(old, size, 64), size, KEEPS)                               \
    X(mi_realloc_aligned_at, mi_realloc_aligned_at(old, size, 64, 0), size, KEEPS)                      \
    X(mi_rezalloc_aligned, mi_rezalloc_aligned(old, size, 64), size, KEEPS)                             \
    X(mi_rezalloc_aligned_at, mi_rezalloc_aligned_at(old, size, 64, 0), size, KEEPS)                    \
    X(mi_recalloc_aligned, mi_recalloc_aligned(old, size / 16, 16, 64), TO_16, KEEPS)                   \
    X(mi_recalloc_aligned_at, mi_recalloc_aligned_at(old, size / 16, 16, 64, 0), TO_16, KEEPS)          \
    X(mi_heap_realloc, mi_heap_realloc(HEAP, old, size), size, KEEPS)                                   \
    X(mi_heap_reallocn, mi_heap_reallocn(HEAP, old, size / 16, 16), TO_16, KEEPS)                       \
    X(mi_heap_reallocf, mi_heap_reallocf(HEAP, old, size), size, FREES)                                 \
    X(mi_heap_rezalloc, mi_heap_rezalloc(HEAP, old, size), size, KEEPS)                                 \
    X(mi_heap_recalloc, mi_heap_recalloc(HEAP, old, size / 16, 16), TO_16, KEEPS)                       \
    X(mi_heap_realloc_aligned, mi_heap_realloc_aligned(HEAP, old, size, 64), size, KEEPS)               \
    X(mi_heap_realloc_aligned_at, mi_heap_realloc_aligned_at(HEAP, old, size, 64, 0), size, KEEPS)      \
    X(mi_heap_rezalloc_aligned, mi_heap_rezalloc_aligned(HEAP, old, size, 64), size, KEEPS)             \
    X(mi_heap_rezalloc_aligned_at, mi_heap_rezalloc_aligned_at(HEAP, old, size, 64, 0), size, KEEPS)    \
    X(mi_heap_recalloc_aligned, mi_heap_recalloc_aligned(HEAP, old, size / 16, 16, 64), TO_16, KEEPS)   \
    X(mi_heap_recalloc_aligned_at, mi_heap_recalloc_aligned_at(HEAP, old, size / 16, 16, 64, 0), TO_16, \
      KEEPS)
#define EXTRA_FREES(X)                                                                                  \
    X(vfree, vfree(block.address), 1)                                                                   \
    X(mi_free, mi_free(block.address), 1)                                                               \
    X(mi_cfree, mi_cfree(block.address), 1)                                                             \
    X(mi_free_size, mi_free_size(block.address, block.size), IS_FROM(malloc))                           \
    X(mi_free_size_aligned, mi_free_size_aligned(block.address, block.size, 64), IS_ALIGNED)            \
    X(mi_free_aligned, mi_free_aligned(block.address, 64), IS_ALIGNED)                                  \
    CXX_FREES(X)
