// jemalloc's own functions, for truth.c. PREFIX is what their names begin with.
#include "extra_cxx.h"

#ifndef PREFIX
#define PREFIX
#endif
#define PASTE(a, b) a##b
#define PASTED(a, b) PASTE(a, b)
#define JE(name) PASTED(PREFIX, name)
extern void *JE(mallocx)(size_t, int), *JE(rallocx)(void *, size_t, int);
extern size_t JE(xallocx)(void *, size_t, size_t, int);
extern void JE(sdallocx)(void *, size_t, int), JE(dallocx)(void *, int);

#define EXTRA_ALLOCS(X) X(mallocx, JE(mallocx)(size + 1, 0), size + 1) CXX_ALLOCS(X)
#define EXTRA_RESIZES(X)                                                                                \
    X(rallocx, JE(rallocx)(old, size, 0), size, KEEPS)                                                  \
    X(xallocx, JE(xallocx)(old, size, 0, 0) >= size ? old : NULL, size, KEEPS)
#define EXTRA_FREES(X)                                                                                  \
    X(dallocx, JE(dallocx)(block.address, 0), 1)                                                        \
    X(sdallocx, JE(sdallocx)(block.address, block.size, 0), IS_FROM(malloc) || IS_FROM(mallocx))        \
    CXX_FREES(X)
