// A program that knows its own truth to the byte: THREADS threads call every function of the glibc
// family with random sizes, free one another's blocks, let calls fail, resize up and down, and count all
// of it by call site. It prints one JSON object: totals, and per site allocated and freed bytes and objects.
//
// With -DEXTRA='"extra_….h"' it calls an allocator's own functions as well, and also prints the names of all
// that it called. NO_PVALLOC and NO_CFREE leave out what an allocator or a C library does not have.
//
// usage: truth OPERATIONS [wait|run]
//   wait: starts its threads, prints "ready", and begins when a line comes on standard input;
//   run:  begins at once.
// Afterwards it prints its truth. With "wait" it then stays, its threads parked, until standard input
// ends: nothing is allocated or freed by anybody outside the counted sites while it is traced.
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "counts.h"
#ifdef EXTRA
#include EXTRA
#else
#define EXTRA_ALLOCS(X)
#define EXTRA_RESIZES(X)
#define EXTRA_FREES(X)
#endif

enum { THREADS = 8, SLOTS = 4096, MAX_SIZE = 4096 };

#define SITES(X)                                                                                        \
    X(site_malloc) X(site_calloc) X(site_realloc) X(site_reallocarray) X(site_posix_memalign)           \
    X(site_aligned_alloc) X(site_memalign) X(site_valloc) X(site_pvalloc) X(site_deep)
enum site {
#define NAME(name) name##_index,
    SITES(NAME)
#undef NAME
#define NAME(name, ...) site_##name##_index,
    EXTRA_ALLOCS(NAME) EXTRA_RESIZES(NAME)
#undef NAME
    SITE_COUNT
};
static const char *const site_names[] = {
#define NAME(name) #name,
    SITES(NAME)
#undef NAME
#define NAME(name, ...) "site_" #name,
    EXTRA_ALLOCS(NAME) EXTRA_RESIZES(NAME)
#undef NAME
};

// The extra functions, numbered from 0 within their kind.
#define NAME(name, ...) extra_##name,
enum { EXTRA_ALLOCS(NAME) EXTRA_ALLOC_COUNT };
enum { EXTRA_RESIZES(NAME) EXTRA_RESIZE_COUNT };
enum { EXTRA_FREES(NAME) EXTRA_FREE_COUNT };
#undef NAME

struct block {
    void *address;
    uint64_t size;
    enum site site;
};
struct thread {
    pthread_t handle;
    uint64_t random;
    uint64_t operations;
    struct counts counts[SITE_COUNT];
};

static struct thread threads[THREADS];
// Blocks that any thread may take: an exchange, so that a block is freed by whoever takes it.
static struct block slots[SLOTS];
static atomic_flag locks[SLOTS];
static pthread_barrier_t begin, end;

// Through pointers that the compiler cannot see through, so that no call is optimised away.
static void *(*volatile call_malloc)(size_t) = malloc;
static void *(*volatile call_calloc)(size_t, size_t) = calloc;
static void *(*volatile call_realloc)(void *, size_t) = realloc;
static void *(*volatile call_reallocarray)(void *, size_t, size_t) = reallocarray;
static int (*volatile call_posix_memalign)(void **, size_t, size_t) = posix_memalign;
static void *(*volatile call_aligned_alloc)(size_t, size_t) = aligned_alloc;
static void *(*volatile call_memalign)(size_t, size_t) = memalign;
static void *(*volatile call_valloc)(size_t) = valloc;
#ifdef NO_PVALLOC
#define pvalloc valloc
#endif
static void *(*volatile call_pvalloc)(size_t) = pvalloc;
static void (*volatile call_free)(void *) = free;
// Still there for old programs, but no longer to be linked with by its plain name.
#if defined(__GLIBC__) && !defined(NO_CFREE)
__asm__(".symver old_cfree, cfree@GLIBC_2.2.5");
extern void old_cfree(void *);
#else
#define old_cfree call_free
#endif

static uint64_t next_random(struct thread *self) {
    self->random ^= self->random << 13;
    self->random ^= self->random >> 7;
    self->random ^= self->random << 17;
    return self->random;
}

static void count_alloc(struct thread *self, enum site site, uint64_t size) {
    self->counts[site].alloc_bytes += size;
    self->counts[site].alloc_objects++;
}
static void count_free(struct thread *self, const struct block *block) {
    self->counts[block->site].freed_bytes += block->size;
    self->counts[block->site].freed_objects++;
}

#define SITE __attribute__((noinline)) static

SITE void *site_malloc(size_t size) { return call_malloc(size); }
SITE void *site_calloc(size_t count, size_t size) { return call_calloc(count, size); }
SITE void *site_realloc(void *old, size_t size) { return call_realloc(old, size); }
SITE void *site_reallocarray(void *old, size_t count, size_t size) { return call_reallocarray(old, count, size); }
SITE int site_posix_memalign(void **out, size_t alignment, size_t size) {
    return call_posix_memalign(out, alignment, size);
}
SITE void *site_aligned_alloc(size_t alignment, size_t size) { return call_aligned_alloc(alignment, size); }
SITE void *site_memalign(size_t alignment, size_t size) { return call_memalign(alignment, size); }
SITE void *site_valloc(size_t size) { return call_valloc(size); }
SITE void *site_pvalloc(size_t size) { return call_pvalloc(size); }
SITE void *site_deep(size_t size, int depth) {
    void *volatile block = depth > 0 ? site_deep(size, depth - 1) : call_malloc(size);
    return block;
}

#define NAME(name, expression, ...)                                                                     \
    SITE void *site_##name(size_t size) { return expression; }
EXTRA_ALLOCS(NAME)
#undef NAME
#define NAME(name, expression, ...)                                                                     \
    SITE void *site_##name(void *old, size_t size) { return expression; }
EXTRA_RESIZES(NAME)
#undef NAME

#ifdef EXTRA
// Whether a block came from a site that returns what `malloc` would.
#define IS_FROM(name) (block.site == site_##name##_index)

// Frees by one of the allocator's own functions, where there is one that may free such a block.
static _Bool was_called[EXTRA_FREE_COUNT];
static _Bool free_extra(struct block block, uint64_t choice) {
#define NAME(name, expression, condition)                                                               \
    if (choice % (EXTRA_FREE_COUNT + 1) == extra_##name && (condition)) {           \
        was_called[extra_##name] = 1;                                                                   \
        expression;                                                                                     \
        return 1;                                                                                       \
    }
    EXTRA_FREES(NAME)
#undef NAME
    return 0;
}
#endif

static struct block exchange(struct thread *self, struct block block) {
    size_t slot = next_random(self) % SLOTS;
    while (atomic_flag_test_and_set_explicit(&locks[slot], memory_order_acquire))
        ;
    struct block taken = slots[slot];
    slots[slot] = block;
    atomic_flag_clear_explicit(&locks[slot], memory_order_release);
    return taken;
}

static void release(struct thread *self, struct block block) {
    if (block.address) {
        count_free(self, &block);
        uint64_t choice = next_random(self);
#ifdef EXTRA
        if (free_extra(block, choice / 16))
            return;
#endif
        if (choice % 16 == 0)
            old_cfree(block.address);
        else
            call_free(block.address);
    } else if (next_random(self) % 64 == 0) {
        call_free(NULL);
    }
}

static struct block allocate(struct thread *self) {
    struct block new = {0};
    size_t size = next_random(self) % MAX_SIZE;
    void *out = NULL;
    switch (next_random(self) % (10 + EXTRA_ALLOC_COUNT)) {
#define NAME(name, expression, asked)                                                                   \
    case 10 + extra_##name:                                                                             \
        new = (struct block){site_##name(size), asked, site_##name##_index};                            \
        break;
        EXTRA_ALLOCS(NAME)
#undef NAME
    case 0:
    case 1:
        new = (struct block){site_malloc(size), size, site_malloc_index};
        break;
    case 2:
        new = (struct block){site_calloc(size / 16, 16), size / 16 * 16, site_calloc_index};
        break;
    case 3:
        if (site_posix_memalign(&out, 64, size) == 0)
            new = (struct block){out, size, site_posix_memalign_index};
        break;
    case 4:
        size = size / 64 * 64;
        new = (struct block){site_aligned_alloc(64, size), size, site_aligned_alloc_index};
        break;
    case 5:
        new = (struct block){site_memalign(256, size), size, site_memalign_index};
        break;
    case 6:
        new = (struct block){site_valloc(size), size, site_valloc_index};
        break;
    case 7:
        new = (struct block){site_pvalloc(size), size, site_pvalloc_index};
        break;
    case 8:
        new = (struct block){site_deep(size, 20), size, site_deep_index};
        break;
    case 9:
        new = (struct block){site_reallocarray(NULL, size / 8, 8), size / 8 * 8, site_reallocarray_index};
        break;
    }
    if (!new.address)
        _exit(3); // out of memory: the truth would not be what was meant
    count_alloc(self, new.site, new.size);
    return new;
}

#ifdef EXTRA
// The fate of a block whose resize returns nothing.
enum { KEEPS, FREES };

// Resizes a block by one of the allocator's own functions; now and then to too much.
static struct block resize_extra(struct thread *self, struct block old, uint64_t choice) {
    size_t size = choice / EXTRA_RESIZE_COUNT % 8 ? next_random(self) % MAX_SIZE + 1 : SIZE_MAX / 2;
    struct block new = {0};
    _Bool frees = 0;
    switch (choice % EXTRA_RESIZE_COUNT) {
#define NAME(name, expression, asked, on_failure)                                                       \
    case extra_##name:                                                                                  \
        new = (struct block){site_##name(old.address, size), asked, site_##name##_index};               \
        frees = on_failure == FREES;                                                                    \
        break;
        EXTRA_RESIZES(NAME)
#undef NAME
    }
    if (new.address || frees)
        count_free(self, &old);
    if (new.address)
        count_alloc(self, new.site, new.size);
    return new.address || frees ? new : old;
}
#endif

// Resizes a block that was taken: up, down, to nothing, to too much.
static struct block resize(struct thread *self, struct block old) {
    size_t size = next_random(self) % MAX_SIZE + 1;
    struct block new = old;
#ifdef EXTRA
    uint64_t choice = next_random(self);
    if (choice % 4)
        return resize_extra(self, old, choice / 4);
#endif
    switch (next_random(self) % 8) {
    case 0: // freed, by some allocators for a block of no bytes
        if (!old.address)
            _exit(5); // never called with nothing: realloc(NULL, 0) allocates
        new = (struct block){site_realloc(old.address, 0), 0, site_realloc_index};
        count_free(self, &old);
        if (!new.address)
            return (struct block){0};
        count_alloc(self, new.site, 0);
        return new;
    case 1: // fails, and leaves the block as it was
        if (site_realloc(old.address, SIZE_MAX / 2))
            _exit(6);
        return old;
    case 2: // overflows, and leaves the block as it was
        if (site_reallocarray(old.address, SIZE_MAX / 2, 4))
            _exit(7);
        return old;
    case 3:
        new = (struct block){site_reallocarray(old.address, size / 8 + 1, 8), (size / 8 + 1) * 8,
                             site_reallocarray_index};
        break;
    default:
        new = (struct block){site_realloc(old.address, size), size, site_realloc_index};
    }
    if (!new.address)
        _exit(3);
    count_free(self, &old);
    count_alloc(self, new.site, new.size);
    return new;
}

// Calls that fail without a block: they must leave no trace.
static void fail(struct thread *self) {
    void *out = (void *)0x1234;
    switch (next_random(self) % 4) {
    case 0:
        if (site_malloc(SIZE_MAX / 2))
            _exit(8);
        break;
    case 1:
        if (site_calloc(SIZE_MAX / 2, 4))
            _exit(9);
        break;
    case 2: // not a power of two: refused, and `out` stays what it was
        if (site_posix_memalign(&out, 24, 100) != EINVAL || out != (void *)0x1234)
            _exit(10);
        break;
    case 3:
        if (site_memalign(64, SIZE_MAX / 2))
            _exit(11);
        break;
    }
}

static void *work(void *argument) {
    struct thread *self = argument;
    pthread_barrier_wait(&begin);
    for (uint64_t operation = 0; operation < self->operations; operation++) {
        uint64_t kind = next_random(self) % 32;
        if (kind == 0) {
            fail(self);
        } else if (kind < 10) {
            struct block taken = exchange(self, (struct block){0});
            if (taken.address)
                release(self, exchange(self, resize(self, taken)));
        } else if (kind < 21) {
            release(self, exchange(self, allocate(self)));
        } else {
            release(self, exchange(self, (struct block){0}));
        }
    }
    pthread_barrier_wait(&end);
    for (;;)
        pause();
    return NULL;
}

int main(int argc, char **argv) {
    uint64_t operations = argc > 1 ? strtoull(argv[1], NULL, 10) : 100000;
    int waits = argc > 2 && strcmp(argv[2], "wait") == 0;
    static char text[65536];
    char line[16];
    pthread_barrier_init(&begin, NULL, THREADS + 1);
    pthread_barrier_init(&end, NULL, THREADS + 1);
    for (int i = 0; i < THREADS; i++) {
        threads[i].random = 0x9e3779b97f4a7c15u * (i + 1) + getpid();
        threads[i].operations = operations / THREADS;
        if (pthread_create(&threads[i].handle, NULL, work, &threads[i]))
            return 2;
    }
    if (waits) {
        if (write(1, "ready\n", 6) != 6 || read(0, line, sizeof line) <= 0)
            return 2;
    }
    pthread_barrier_wait(&begin);
    pthread_barrier_wait(&end);

    struct counts total = {0}, by_site[SITE_COUNT] = {{0}};
    for (int i = 0; i < THREADS; i++)
        for (int site = 0; site < SITE_COUNT; site++) {
            struct counts *from = &threads[i].counts[site];
            struct counts *both[] = {&total, &by_site[site]};
            for (int j = 0; j < 2; j++) {
                both[j]->alloc_bytes += from->alloc_bytes;
                both[j]->alloc_objects += from->alloc_objects;
                both[j]->freed_bytes += from->freed_bytes;
                both[j]->freed_objects += from->freed_objects;
            }
        }
    size_t used = snprintf(text, sizeof text, "{");
    used += print_counts(text + used, sizeof text - used, "total", &total);
    for (int site = 0; site < SITE_COUNT; site++) {
        used += snprintf(text + used, sizeof text - used, ",");
        used += print_counts(text + used, sizeof text - used, site_names[site], &by_site[site]);
    }
#ifdef EXTRA
    used += snprintf(text + used, sizeof text - used, ",\"called\":[\"free\",\"cfree\"");
    for (int site = 0; site < SITE_COUNT; site++)
        if (by_site[site].alloc_objects)
            used += snprintf(text + used, sizeof text - used, ",\"%s\"", site_names[site] + strlen("site_"));
#define NAME(name, ...)                                                                                 \
    if (was_called[extra_##name])                                                                       \
        used += snprintf(text + used, sizeof text - used, ",\"" #name "\"");
    EXTRA_FREES(NAME)
#undef NAME
    used += snprintf(text + used, sizeof text - used, "]");
#endif
    used += snprintf(text + used, sizeof text - used, "}\n");
    if (write(1, text, used) != (ssize_t)used)
        return 2;
    if (waits)
        while (read(0, line, sizeof line) > 0)
            ;
    _exit(0);
}
