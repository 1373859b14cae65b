// A program that knows to the byte what it has mapped by itself: THREADS threads map, unmap parts, remap, map
// over what they have, move the end of the data segment, and let calls fail. It prints one JSON object: per
// site what was mapped and given up. An object is a mapping; it is freed with its last page.
//
// usage: mappings OPERATIONS wait
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "counts.h"

enum { THREADS = 4, AREAS = 64, PAGES = 32, MAPPINGS = 1 << 18, FAILURES = 10 };
#define PAGE 4096UL
#define FAR (8 * PAGES * PAGE)

enum site { SITE_MAP, SITE_FIXED, SITE_REMAP, SITE_BREAK, SITES };
static const char *const names[SITES] = {"site_map", "site_fixed", "site_remap", "site_break"};

// An area of a thread: a range of addresses, page by page the mapping that it is of (from 1), 0 where none is.
struct area {
    char *start;
    unsigned pages;
    unsigned of[2 * PAGES];
};
struct thread {
    pthread_t handle;
    uint64_t random;
    uint64_t operations;
    struct area areas[AREAS];
    // Mappings by number: their site, and how many pages are left.
    unsigned char site[MAPPINGS];
    unsigned short left[MAPPINGS];
    unsigned mappings;
    struct counts counts[SITES];
};

static void *(*volatile call_malloc)(size_t) = malloc;

static struct thread threads[THREADS];
static pthread_barrier_t begin, end;

static uint64_t next_random(struct thread *self) {
    self->random ^= self->random << 13;
    self->random ^= self->random >> 7;
    self->random ^= self->random << 17;
    return self->random;
}

#define SITE __attribute__((noipa)) static
SITE void *site_map(size_t length) {
    return mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}
SITE void *site_fixed(void *at, size_t length) {
    return mmap(at, length, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}
SITE void *site_remap(void *old, size_t old_length, size_t length) {
    return mremap(old, old_length, length, MREMAP_MAYMOVE);
}
SITE void *site_break(intptr_t by) { return sbrk(by); }

static void require(int holds, int status) {
    if (!holds)
        _exit(status);
}

static void born(struct thread *self, struct area *area, unsigned from, unsigned pages, enum site site) {
    unsigned mapping = ++self->mappings;
    require(mapping < MAPPINGS, 10);
    self->site[mapping] = site, self->left[mapping] = pages;
    for (unsigned i = from; i < from + pages; i++)
        area->of[i] = mapping;
    self->counts[site].alloc_bytes += pages * PAGE, self->counts[site].alloc_objects++;
}
static void died(struct thread *self, struct area *area, unsigned from, unsigned pages) {
    for (unsigned i = from; i < from + pages; i++) {
        unsigned mapping = area->of[i];
        area->of[i] = 0;
        if (!mapping)
            continue;
        struct counts *counts = &self->counts[self->site[mapping]];
        counts->freed_bytes += PAGE;
        if (--self->left[mapping] == 0)
            counts->freed_objects++;
    }
}

static void fail(struct thread *self, struct area *area) {
    switch (next_random(self) % 4) {
    case 0: // not at a page's start; it names what is other threads', too
        require(munmap(area->start + 1, FAR) == -1 && errno == EINVAL, 3);
        break;
    case 1: // of no length
        require(mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED, 4);
        break;
    case 2: // something is there
        require(mmap(area->start, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) ==
                    MAP_FAILED, 5);
        break;
    case 3: // likewise, and not to be moved
        require(mremap(area->start + 1, FAR, 2 * FAR, 0) == MAP_FAILED, 6);
        break;
    }
}

static void step(struct thread *self) {
    struct area *area = &self->areas[next_random(self) % AREAS];
    if (!area->start) {
        area->pages = next_random(self) % PAGES + 2;
        // A length that is not a whole number of pages is rounded up.
        area->start = site_map(area->pages * PAGE - next_random(self) % PAGE);
        require(area->start != MAP_FAILED, 2);
        born(self, area, 0, area->pages, SITE_MAP);
        return;
    }
    unsigned from = next_random(self) % area->pages, pages = next_random(self) % (area->pages - from) + 1;
    switch (next_random(self) % 8) {
    case 0: // all of it
        require(munmap(area->start, area->pages * PAGE) == 0, 7);
        died(self, area, 0, area->pages);
        area->start = NULL;
        break;
    case 1: // over whatever is there, or a hole
    case 2:
        require(site_fixed(area->start + from * PAGE, pages * PAGE) != MAP_FAILED, 8);
        died(self, area, from, pages);
        born(self, area, from, pages, SITE_FIXED);
        break;
    case 3: { // grown or shrunk, and moved if need be: only what is one mapping to the kernel
        unsigned wanted = next_random(self) % PAGES + 2;
        // As it is: one range without holes.
        require(site_fixed(area->start, area->pages * PAGE) != MAP_FAILED, 8);
        died(self, area, 0, area->pages);
        born(self, area, 0, area->pages, SITE_FIXED);
        char *moved = site_remap(area->start, area->pages * PAGE, wanted * PAGE);
        require(moved != MAP_FAILED, 9);
        died(self, area, 0, area->pages);
        area->start = moved, area->pages = wanted;
        born(self, area, 0, wanted, SITE_REMAP);
        break;
    }
    case 4:
        // Often: other threads map and unmap meanwhile what these name.
        for (int i = 0; i < FAILURES && area->of[0]; i++)
            fail(self, area);
        break;
    default: // a part: a hole in the middle, the head, the tail. The first page stays, so that nobody else is
             // handed the start of the area.
        if (from > 0) {
            require(munmap(area->start + from * PAGE, pages * PAGE) == 0, 7);
            died(self, area, from, pages);
            // A thread that is handed these addresses now must not be mapped over.
            area->pages = from;
            for (unsigned i = from + pages; i < 2 * PAGES; i++)
                if (area->of[i]) {
                    require(munmap(area->start + i * PAGE, PAGE) == 0, 7);
                    died(self, area, i, 1);
                }
        }
    }
}

static void *work(void *argument) {
    struct thread *self = argument;
    pthread_barrier_wait(&begin);
    for (uint64_t i = 0; i < self->operations; i++)
        step(self);
    pthread_barrier_wait(&end);
    for (;;)
        pause();
    return NULL;
}

int main(int argc, char **argv) {
    char line[16], text[4096];
    uint64_t operations = argc > 1 ? strtoull(argv[1], NULL, 10) : 10000;
    pthread_barrier_init(&begin, NULL, THREADS + 1);
    pthread_barrier_init(&end, NULL, THREADS + 1);
    for (int i = 0; i < THREADS; i++) {
        threads[i].random = 88172645463325252ull + i * 7919;
        threads[i].operations = operations / THREADS;
        pthread_create(&threads[i].handle, NULL, work, &threads[i]);
    }
    require(write(1, "ready\n", 6) == 6 && read(0, line, sizeof line) > 0, 2);
    struct counts data = {0};
    // The allocator's own ranges are not the program's: large blocks, each a mapping of its own.
    void *blocks[8];
    for (int i = 0; i < 8; i++)
        blocks[i] = call_malloc(1 << 20);
    pthread_barrier_wait(&begin);
    for (int i = 0; i < 50; i++) {
        require(site_break(10000) != (void *)-1, 11);
        data.alloc_bytes += 10000, data.alloc_objects++;
    }
    // Half of the last piece, then two more and the rest of it.
    require(site_break(-5000) != (void *)-1 && site_break(-25000) != (void *)-1, 12);
    data.freed_bytes += 30000, data.freed_objects += 3;
    pthread_barrier_wait(&end);
    for (int i = 0; i < 8; i++)
        free(blocks[i]);
    struct counts sums[SITES] = {0};
    sums[SITE_BREAK] = data;
    for (int t = 0; t < THREADS; t++)
        for (int s = 0; s < SITES; s++)
            add_counts(&sums[s], &threads[t].counts[s]);
    size_t at = snprintf(text, sizeof text, "{");
    for (int s = 0; s < SITES; s++) {
        at += snprintf(text + at, sizeof text - at, "%s", s ? "," : "");
        at += print_counts(text + at, sizeof text - at, names[s], &sums[s]);
    }
    at += snprintf(text + at, sizeof text - at, "}\n");
    require(write(1, text, at) == (ssize_t)at, 13);
    while (read(0, line, sizeof line) > 0)
        ;
    return 0;
}
