// The counts of a program of its own allocations at one site, and how it tells.
#include <stdint.h>
#include <stdio.h>

struct counts {
    uint64_t alloc_bytes, alloc_objects, freed_bytes, freed_objects;
};

static inline void add_counts(struct counts *sum, const struct counts *c) {
    sum->alloc_bytes += c->alloc_bytes, sum->alloc_objects += c->alloc_objects;
    sum->freed_bytes += c->freed_bytes, sum->freed_objects += c->freed_objects;
}

static size_t print_counts(char *out, size_t room, const char *name, const struct counts *c) {
    return snprintf(out, room,
                    "\"%s\":{\"alloc_bytes\":%lu,\"alloc_objects\":%lu,\"freed_bytes\":%lu,\"freed_objects\":%lu,"
                    "\"live_bytes\":%lu,\"live_objects\":%lu}",
                    name, c->alloc_bytes, c->alloc_objects, c->freed_bytes, c->freed_objects,
                    c->alloc_bytes - c->freed_bytes, c->alloc_objects - c->freed_objects);
}
