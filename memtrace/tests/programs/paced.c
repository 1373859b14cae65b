// Allocates at a pace, or as fast as it can, and knows its own truth.
//
// usage: paced KEPT (BLOCKS BYTES PAUSE_US)...
// For each phase it allocates so many blocks of half to one and a half times so many bytes, and pauses after every ten of
// them. It keeps one block in KEPT until its end, and frees all others at once. Then it prints what is live and what was
// allocated.
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void *(*volatile call_malloc)(size_t) = malloc;
static void (*volatile call_free)(void *) = free;
static void *volatile kept;

__attribute__((noinline)) static void *allocate(size_t size) {
    void *volatile block = call_malloc(size);
    return block;
}

int main(int count, char **arguments) {
    if (count < 5) return 2;
    unsigned long every = strtoul(arguments[1], NULL, 10), number = 0;
    unsigned long live_bytes = 0, live_objects = 0, alloc_bytes = 0;
    for (int phase = 2; phase + 2 < count; phase += 3) {
        unsigned long blocks = strtoul(arguments[phase], NULL, 10);
        unsigned long bytes = strtoul(arguments[phase + 1], NULL, 10);
        useconds_t pause_us = (useconds_t)strtoul(arguments[phase + 2], NULL, 10);
        for (unsigned long index = 1; index <= blocks; index++, number++) {
            size_t size = bytes / 2 + number * 7919 % bytes;
            void *block = allocate(size);
            if (!block) return 1;
            alloc_bytes += size;
            if (number % every) {
                call_free(block);
            } else {
                kept = block;
                live_bytes += size;
                live_objects++;
            }
            if (pause_us && index % 10 == 0) usleep(pause_us);
        }
    }
    char told[200];
    int length = snprintf(told, sizeof told, "{\"live_bytes\": %lu, \"live_objects\": %lu, \"alloc_bytes\": %lu, \"alloc_objects\": %lu}\n",
                          live_bytes, live_objects, alloc_bytes, number);
    return write(1, told, length) == length ? 0 : 1;
}
