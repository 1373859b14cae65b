// C++'s operators under their mangled names (Itanium C++ ABI, 5.1.4.2), for truth.c: for allocators that
// define them.
#include <stddef.h>

extern void *_Znwm(size_t), *_Znam(size_t);
extern void *_ZnwmRKSt9nothrow_t(size_t, const void *), *_ZnamRKSt9nothrow_t(size_t, const void *);
extern void *_ZnwmSt11align_val_t(size_t, size_t), *_ZnamSt11align_val_t(size_t, size_t);
extern void *_ZnwmSt11align_val_tRKSt9nothrow_t(size_t, size_t, const void *);
extern void *_ZnamSt11align_val_tRKSt9nothrow_t(size_t, size_t, const void *);
extern void _ZdlPv(void *), _ZdaPv(void *), _ZdlPvm(void *, size_t), _ZdaPvm(void *, size_t);
extern void _ZdlPvRKSt9nothrow_t(void *, const void *), _ZdaPvRKSt9nothrow_t(void *, const void *);
extern void _ZdlPvSt11align_val_t(void *, size_t), _ZdaPvSt11align_val_t(void *, size_t);
extern void _ZdlPvSt11align_val_tRKSt9nothrow_t(void *, size_t, const void *);
extern void _ZdaPvSt11align_val_tRKSt9nothrow_t(void *, size_t, const void *);
extern void _ZdlPvmSt11align_val_t(void *, size_t, size_t), _ZdaPvmSt11align_val_t(void *, size_t, size_t);

#define CXX_ALLOCS(X)                                                                                   \
    X(_Znwm, _Znwm(size), size)                                                                         \
    X(_Znam, _Znam(size), size)                                                                         \
    X(_ZnwmRKSt9nothrow_t, _ZnwmRKSt9nothrow_t(size, ""), size)                                         \
    X(_ZnamRKSt9nothrow_t, _ZnamRKSt9nothrow_t(size, ""), size)                                         \
    X(_ZnwmSt11align_val_t, _ZnwmSt11align_val_t(size, 64), size)                                       \
    X(_ZnamSt11align_val_t, _ZnamSt11align_val_t(size, 64), size)                                       \
    X(_ZnwmSt11align_val_tRKSt9nothrow_t, _ZnwmSt11align_val_tRKSt9nothrow_t(size, 64, ""), size)       \
    X(_ZnamSt11align_val_tRKSt9nothrow_t, _ZnamSt11align_val_tRKSt9nothrow_t(size, 64, ""), size)

#define IS_ALIGNED (IS_FROM(_ZnwmSt11align_val_t) || IS_FROM(_ZnamSt11align_val_t))
#define IS_SIZED (IS_FROM(malloc) || IS_FROM(_Znwm) || IS_FROM(_Znam))

#define CXX_FREES(X)                                                                                    \
    X(_ZdlPv, _ZdlPv(block.address), 1)                                                                 \
    X(_ZdaPv, _ZdaPv(block.address), 1)                                                                 \
    X(_ZdlPvRKSt9nothrow_t, _ZdlPvRKSt9nothrow_t(block.address, ""), 1)                                 \
    X(_ZdaPvRKSt9nothrow_t, _ZdaPvRKSt9nothrow_t(block.address, ""), 1)                                 \
    X(_ZdlPvSt11align_val_t, _ZdlPvSt11align_val_t(block.address, 64), IS_ALIGNED)                      \
    X(_ZdaPvSt11align_val_t, _ZdaPvSt11align_val_t(block.address, 64), IS_ALIGNED)                      \
    X(_ZdlPvSt11align_val_tRKSt9nothrow_t, _ZdlPvSt11align_val_tRKSt9nothrow_t(block.address, 64, ""),  \
      IS_ALIGNED)                                                                                       \
    X(_ZdaPvSt11align_val_tRKSt9nothrow_t, _ZdaPvSt11align_val_tRKSt9nothrow_t(block.address, 64, ""),  \
      IS_ALIGNED)                                                                                       \
    X(_ZdlPvm, _ZdlPvm(block.address, block.size), IS_SIZED)                                            \
    X(_ZdaPvm, _ZdaPvm(block.address, block.size), IS_SIZED)                                            \
    X(_ZdlPvmSt11align_val_t, _ZdlPvmSt11align_val_t(block.address, block.size, 64), IS_ALIGNED)        \
    X(_ZdaPvmSt11align_val_t, _ZdaPvmSt11align_val_t(block.address, block.size, 64), IS_ALIGNED)
