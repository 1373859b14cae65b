// tcmalloc's own functions, for truth.c. Those that are only other names of C's and C++'s are called as well.
#include <errno.h>
#include <gperftools/tcmalloc.h>

#include "extra_cxx.h"

extern void *tc_newarray_aligned(size_t, size_t);

#define EXTRA_ALLOCS(X)                                                                                 \
    X(tc_malloc, tc_malloc(size), size)                                                                 \
    X(tc_malloc_skip_new_handler, tc_malloc_skip_new_handler(size), size)                               \
    X(tc_calloc, tc_calloc(size / 16, 16), size / 16 * 16)                                              \
    X(tc_memalign, tc_memalign(64, size), size)                                                         \
    X(tc_posix_memalign, ({ void *out = NULL; tc_posix_memalign(&out, 64, size) ? NULL : out; }), size) \
    X(tc_valloc, tc_valloc(size), size)                                                                 \
    X(tc_pvalloc, tc_pvalloc(size), size)                                                               \
    CXX_ALLOCS(X)
#define EXTRA_RESIZES(X) X(tc_realloc, tc_realloc(old, size), size, KEEPS)
#define EXTRA_FREES(X)                                                                                  \
    X(tc_free, tc_free(block.address), 1)                                                               \
    X(tc_cfree, tc_cfree(block.address), 1)                                                             \
    X(tc_free_sized, tc_free_sized(block.address, block.size), IS_FROM(malloc))                         \
    CXX_FREES(X)
