// A program with an allocator of its own, of no known name, that takes nothing from malloc. It knows its own
// truth.
//
// usage: pool ROUNDS; prints "ready", begins when a line comes, prints its truth and stays.
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "counts.h"

enum { CELL = 256, CELLS = 4096, KEPT = 512 };
enum site { GET, ARRAY, STORE, RESIZE, SITE_COUNT };
static const char *const names[] = {"site_get", "site_array", "site_store", "site_resize"};

struct pool {
    char *cells;
    unsigned free[CELLS], free_count;
};

__attribute__((noinline)) void *pool_get(struct pool *pool, size_t size) {
    if (size > CELL || pool->free_count == 0)
        return NULL;
    return pool->cells + (size_t)CELL * pool->free[--pool->free_count];
}
__attribute__((noinline)) void *pool_array(struct pool *pool, size_t count, size_t size) {
    return pool_get(pool, count * size);
}
__attribute__((noinline)) int pool_store(void **out, struct pool *pool, size_t size) {
    void *block = pool_get(pool, size);
    if (!block)
        return -1;
    *out = block;
    return 0;
}
__attribute__((noinline)) void *pool_resize(struct pool *pool, void *block, size_t size) {
    (void)pool;
    return size > CELL ? NULL : block;
}
__attribute__((noinline)) void pool_put(struct pool *pool, void *block) {
    pool->free[pool->free_count++] = ((char *)block - pool->cells) / CELL;
}

static struct pool pool;
static struct counts counts[SITE_COUNT];

#define SITE __attribute__((noinline)) static
SITE void *site_get(size_t size) { return pool_get(&pool, size); }
SITE void *site_array(size_t count) { return pool_array(&pool, count, 8); }
SITE void *site_store(size_t size) {
    void *out = NULL;
    return pool_store(&out, &pool, size) ? NULL : out;
}
SITE void *site_resize(void *block, size_t size) { return pool_resize(&pool, block, size); }

static void count_alloc(enum site site, size_t size) {
    counts[site].alloc_bytes += size;
    counts[site].alloc_objects++;
}
static void count_free(enum site site, size_t size) {
    counts[site].freed_bytes += size;
    counts[site].freed_objects++;
}

int main(int argc, char **argv) {
    static struct {
        void *address;
        size_t size;
        enum site site;
    } kept[KEPT];
    static char text[4096];
    char line[16];
    long rounds = argc > 1 ? atol(argv[1]) : 1000;
    pool.cells = mmap(NULL, (size_t)CELL * CELLS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (unsigned i = 0; i < CELLS; i++)
        pool.free[pool.free_count++] = i;
    if (write(1, "ready\n", 6) != 6 || read(0, line, sizeof line) <= 0)
        return 2;
    for (long round = 0; round < rounds; round++) {
        unsigned slot = rand() % KEPT;
        size_t size = rand() % (CELL + 32); // some are refused
        if (kept[slot].address && rand() % 3 == 0) {
            if (site_resize(kept[slot].address, size)) {
                count_free(kept[slot].site, kept[slot].size);
                count_alloc(RESIZE, size);
                kept[slot].site = RESIZE;
                kept[slot].size = size;
            }
            continue;
        }
        if (kept[slot].address) {
            count_free(kept[slot].site, kept[slot].size);
            pool_put(&pool, kept[slot].address);
        }
        switch (rand() % 3) {
        case 0:
            kept[slot].address = site_get(size);
            kept[slot].site = GET;
            break;
        case 1:
            size = size / 8 * 8;
            kept[slot].address = site_array(size / 8);
            kept[slot].site = ARRAY;
            break;
        case 2:
            kept[slot].address = site_store(size);
            kept[slot].site = STORE;
        }
        kept[slot].size = size;
        if (kept[slot].address)
            count_alloc(kept[slot].site, size);
    }
    struct counts total = {0};
    size_t used = 0;
    for (int site = 0; site < SITE_COUNT; site++) {
        add_counts(&total, &counts[site]);
        text[used++] = site ? ',' : '{';
        used += print_counts(text + used, sizeof text - used, names[site], &counts[site]);
    }
    text[used++] = ',';
    used += print_counts(text + used, sizeof text - used, "total", &total);
    used += snprintf(text + used, sizeof text - used, "}\n");
    if (write(1, text, used) != (ssize_t)used)
        return 2;
    while (read(0, line, sizeof line) > 0)
        ;
    _exit(0);
}
