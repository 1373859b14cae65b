// A program that knows to the byte what it has mapped of files and attached of System V segments: THREADS threads map
// files privately and shared, attach segments, punch holes into them, map over them, attach over them, detach what is left,
// and let calls fail. It prints one JSON object: per site what was mapped and given up. An object is a mapping; it is
// freed with its last page.
//
// usage: segments OPERATIONS wait
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>

#include "counts.h"

// More threads than CPUs, most likely.
enum { THREADS = 8, SEGMENTS = 80, PAGES = 32 };
#define PAGE 4096UL

enum site { SITE_ATTACH, SITE_ATTACH_OVER, SITE_SHARED, SITE_PRIVATE, SITE_OVER, SITES };
static const char *const names[SITES] = {"site_attach", "site_attach_over", "site_shared", "site_private", "site_over"};

struct thread {
    pthread_t handle;
    uint64_t random;
    uint64_t operations;
    struct counts counts[SITES];
};
// A segment that every thread attaches, by its size in pages; its last page is not asked for in full.
struct segment {
    int id;
    unsigned pages;
};

static struct thread threads[THREADS];
static struct segment segments[SEGMENTS];
static int memory_file, own_file;
static pthread_barrier_t begin, end;

static uint64_t next_random(struct thread *self) {
    self->random ^= self->random << 13;
    self->random ^= self->random >> 7;
    self->random ^= self->random << 17;
    return self->random;
}

#define SITE __attribute__((noipa)) static
SITE char *site_attach(int id) { return shmat(id, NULL, 0); }
SITE char *site_attach_over(int id, void *at) { return shmat(id, at, SHM_REMAP); }
SITE char *site_shared(size_t length) {
    return mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, memory_file, 0);
}
SITE char *site_private(size_t length) { return mmap(NULL, length, PROT_READ, MAP_PRIVATE, own_file, 0); }
SITE char *site_over(void *at, size_t length) {
    return mmap(at, length, PROT_READ, MAP_PRIVATE | MAP_FIXED, own_file, 0);
}

static void require(int holds, int status) {
    if (!holds)
        _exit(status);
}

static void born(struct thread *self, enum site site, uint64_t pages) {
    self->counts[site].alloc_bytes += pages * PAGE, self->counts[site].alloc_objects++;
}
static void died(struct thread *self, enum site site, uint64_t pages, int was_last) {
    self->counts[site].freed_bytes += pages * PAGE, self->counts[site].freed_objects += was_last;
}

static struct segment make(unsigned pages, uint64_t less) {
    struct segment made = {shmget(IPC_PRIVATE, pages * PAGE - less, IPC_CREAT | 0600), pages};
    require(made.id >= 0, 2);
    return made;
}

// One that others attach, or one of its own that is gone once nobody has it attached.
static char *attach(struct thread *self, struct segment *segment) {
    int is_own = next_random(self) % 4 == 0;
    *segment = is_own ? make(next_random(self) % PAGES + 4, next_random(self) % PAGE)
                      : segments[next_random(self) % SEGMENTS];
    char *at = site_attach(segment->id);
    require(at != (void *)-1, 3);
    if (is_own)
        require(shmctl(segment->id, IPC_RMID, NULL) == 0, 4);
    born(self, SITE_ATTACH, segment->pages);
    return at;
}

static void step(struct thread *self) {
    struct segment segment;
    size_t pages = next_random(self) % PAGES + 2;
    char *at;
    switch (next_random(self) % 8) {
    case 0: // of a file in memory, and given up in two parts
        require((at = site_shared(pages * PAGE - next_random(self) % PAGE)) != MAP_FAILED, 5);
        born(self, SITE_SHARED, pages);
        require(munmap(at, PAGE) == 0 && munmap(at + PAGE, (pages - 1) * PAGE) == 0, 6);
        died(self, SITE_SHARED, pages, 1);
        break;
    case 1: // of a file
        require((at = site_private(pages * PAGE)) != MAP_FAILED, 7);
        born(self, SITE_PRIVATE, pages);
        require(munmap(at, pages * PAGE) == 0, 6);
        died(self, SITE_PRIVATE, pages, 1);
        break;
    case 2: // a hole in the middle; the rest goes at once
        at = attach(self, &segment);
        require(munmap(at + PAGE, 2 * PAGE) == 0, 6);
        require(shmdt(at) == 0, 8);
        died(self, SITE_ATTACH, segment.pages, 1);
        break;
    case 3: // something else at its start, which stays
        at = attach(self, &segment);
        require(site_over(at, PAGE) == at, 9);
        born(self, SITE_OVER, 1);
        require(shmdt(at) == 0, 8);
        died(self, SITE_ATTACH, segment.pages, 1);
        require(munmap(at, PAGE) == 0, 6);
        died(self, SITE_OVER, 1, 1);
        break;
    case 4: // the same over itself
        segment = segments[next_random(self) % SEGMENTS];
        require((at = site_attach(segment.id)) != (void *)-1, 3);
        born(self, SITE_ATTACH, segment.pages);
        require(site_attach_over(segment.id, at) == at, 10);
        died(self, SITE_ATTACH, segment.pages, 1);
        born(self, SITE_ATTACH_OVER, segment.pages);
        require(shmdt(at) == 0, 8);
        died(self, SITE_ATTACH_OVER, segment.pages, 1);
        break;
    case 5: // not where it was attached, nor what there is; then given up like any memory
        at = attach(self, &segment);
        require(shmdt(at + PAGE) == -1 && errno == EINVAL, 11);
        require(shmat(-1, NULL, 0) == (void *)-1 && errno == EINVAL, 12);
        require(munmap(at, segment.pages * PAGE) == 0, 6);
        died(self, SITE_ATTACH, segment.pages, 1);
        break;
    default:
        at = attach(self, &segment);
        require(shmdt(at) == 0, 8);
        died(self, SITE_ATTACH, segment.pages, 1);
    }
}

static void *work(void *argument) {
    struct thread *self = argument;
    pthread_barrier_wait(&begin);
    for (uint64_t i = 0; i < self->operations; i++)
        step(self);
    // Each site has something left.
    struct segment *segment = &segments[self - threads];
    char *at = site_attach(segment->id);
    require(at != (void *)-1 && site_attach_over(segment->id, at) == at, 3);
    born(self, SITE_ATTACH, segment->pages), died(self, SITE_ATTACH, segment->pages, 1);
    born(self, SITE_ATTACH_OVER, segment->pages);
    require(attach(self, &(struct segment){0}) != NULL && site_private(3 * PAGE) != MAP_FAILED, 7);
    born(self, SITE_PRIVATE, 3);
    require((at = site_shared(5 * PAGE)) != MAP_FAILED && site_over(at + PAGE, PAGE) != MAP_FAILED, 5);
    born(self, SITE_SHARED, 5), died(self, SITE_SHARED, 1, 0), born(self, SITE_OVER, 1);
    pthread_barrier_wait(&end);
    for (;;)
        pause();
    return NULL;
}

int main(int argc, char **argv) {
    char line[16], text[4096];
    uint64_t operations = argc > 1 ? strtoull(argv[1], NULL, 10) : 10000;
    memory_file = memfd_create("segments", 0), own_file = open("/proc/self/exe", O_RDONLY);
    require(memory_file >= 0 && own_file >= 0 && ftruncate(memory_file, 2 * PAGES * PAGE) == 0, 2);
    // So many that the kernel's tree of them has two levels.
    for (int i = 0; i < SEGMENTS; i++) {
        segments[i] = make(i % PAGES + 4, i);
        // It goes with this process, however that ends.
        require(shmat(segments[i].id, NULL, 0) != (void *)-1 && shmctl(segments[i].id, IPC_RMID, NULL) == 0, 4);
    }
    pthread_barrier_init(&begin, NULL, THREADS + 1);
    pthread_barrier_init(&end, NULL, THREADS + 1);
    for (int i = 0; i < THREADS; i++) {
        threads[i].random = 88172645463325252ull + i * 7919;
        threads[i].operations = operations / THREADS;
        pthread_create(&threads[i].handle, NULL, work, &threads[i]);
    }
    require(write(1, "ready\n", 6) == 6 && read(0, line, sizeof line) > 0, 2);
    pthread_barrier_wait(&begin);
    pthread_barrier_wait(&end);
    struct counts sums[SITES] = {0};
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
