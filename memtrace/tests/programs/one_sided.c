// A program that brings an allocator with well-known names and calls it without end, a thousand times a tenth of a second: `both`
// through its functions; `frees` through a copy of what allocates that has no name, as inlining makes one; `allocations`
// through such a copy of what frees.
#include <stddef.h>
#include <string.h>
#include <unistd.h>

enum { BLOCKS = 4096, BYTES = 64, HELD = 100 };

static _Alignas(64) char memory[BLOCKS][BYTES];
// The blocks that are free, last in first out.
static char *unused[BLOCKS];
static size_t count;

static inline __attribute__((always_inline)) void *get(void) { return count ? unused[--count] : NULL; }
static inline __attribute__((always_inline)) void put(void *block) { unused[count++] = block; }

__attribute__((noipa)) void *mi_malloc(size_t bytes) { return bytes <= BYTES ? get() : NULL; }
__attribute__((noipa)) void mi_free(void *block) {
    if (block)
        put(block);
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    int allocates = strcmp(mode, "frees"), frees = strcmp(mode, "allocations");
    void *held[HELD];
    for (int i = 0; i < BLOCKS; i++)
        unused[count++] = memory[i];
    if (write(1, "ready\n", 6) != 6)
        return 1;
    for (;;) {
        for (int round = 0; round < 10; round++) {
            for (int i = 0; i < HELD; i++)
                held[i] = allocates ? mi_malloc(BYTES) : get();
            for (int i = 0; i < HELD; i++)
                if (frees)
                    mi_free(held[i]);
                else
                    put(held[i]);
        }
        usleep(100000);
    }
}
