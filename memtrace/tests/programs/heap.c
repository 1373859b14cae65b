// A program whose live blocks are known at every moment: THREADS threads allocate blocks of random sizes and exchange them,
// so that a block is freed by whoever takes it. A shared page (the file of the first argument) has its counters, which any
// other process can read at any moment.
//
// usage: heap COUNTERS BLOCKS MAX_SIZE LARGE [BRK_MIB]
//   COUNTERS: a file; the page described below is made in it
//   BLOCKS:   how many live blocks it grows to, about
//   MAX_SIZE: bytes of a block, at most; most are much smaller
//   LARGE:    of how many allocations one is of 140 to 340 KB; 0 for none
//   BRK_MIB:  after so many MiB the heap cannot grow by brk any more
// It reads words from standard input: "run" lets all threads go, "idle" stops them and prints "idle", "free" frees four of
// five blocks, "trim" calls malloc_trim. Each is answered by a line. It ends with its input.
#define _GNU_SOURCE
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { THREADS = 8 };

// Each thread counts alone: sums over all of them are the truth.
struct counters {
    _Atomic uint64_t alloc_objects, alloc_bytes, freed_objects, freed_bytes;
    uint64_t unused[4];
};
static struct counters *counters;

struct slot {
    _Atomic(void *) block;
};
static struct slot *slots;
static size_t slot_count, max_size, large;
static atomic_bool is_running;
static pthread_barrier_t pause_begins, pause_ends;

static uint64_t next_random(uint64_t *random) {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return *random;
}

static size_t size_for(uint64_t *random) {
    uint64_t choice = next_random(random);
    if (large && choice % large == 0)
        return 140000 + next_random(random) % 200000;
    size_t limit = choice % 16 ? max_size / 8 + 1 : max_size;
    return next_random(random) % limit + 1;
}

static void count_free(struct counters *own, void *block) {
    atomic_fetch_add_explicit(&own->freed_objects, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&own->freed_bytes, malloc_usable_size(block), memory_order_relaxed);
}

static void put(struct counters *own, uint64_t *random, size_t slot) {
    void *block = NULL;
    if (next_random(random) % 32) {
        size_t size = size_for(random);
        block = malloc(size);
        if (!block)
            _exit(3);
        memset(block, (int)size | 1, size < 256 ? size : 256);
        atomic_fetch_add_explicit(&own->alloc_objects, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&own->alloc_bytes, malloc_usable_size(block), memory_order_relaxed);
    }
    void *old = atomic_exchange(&slots[slot].block, block);
    if (old) {
        count_free(own, old);
        free(old);
    }
}

static void *work(void *argument) {
    size_t index = (size_t)argument;
    struct counters *own = &counters[index];
    uint64_t random = 0x9e3779b97f4a7c15u * (index + 1);
    // Each fills its part; from then on any slot is anybody's.
    for (size_t slot = index; slot < slot_count; slot += THREADS)
        put(own, &random, slot);
    for (;;) {
        pthread_barrier_wait(&pause_begins);
        pthread_barrier_wait(&pause_ends);
        while (atomic_load_explicit(&is_running, memory_order_relaxed))
            put(own, &random, next_random(&random) % slot_count);
    }
    return NULL;
}

static void say(const char *line) {
    if (write(1, line, strlen(line)) < 0)
        _exit(2);
}

int main(int argc, char **argv) {
    if (argc < 5)
        return 2;
    int file = open(argv[1], O_RDWR | O_CREAT, 0600);
    if (file < 0 || ftruncate(file, 4096))
        return 2;
    counters = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    slot_count = strtoull(argv[2], NULL, 10);
    max_size = strtoull(argv[3], NULL, 10);
    large = strtoull(argv[4], NULL, 10);
    // Not from malloc.
    slots = mmap(NULL, slot_count * sizeof *slots, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (counters == MAP_FAILED || slots == MAP_FAILED)
        return 2;
    if (argc > 5) {
        // A page in the way of the heap's growth.
        char *at = (char *)(((uintptr_t)sbrk(0) + 4095) & ~4095ul) + (strtoull(argv[5], NULL, 10) << 20);
        if (mmap(at, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != (void *)at)
            return 2;
    }
    pthread_barrier_init(&pause_begins, NULL, THREADS + 1);
    pthread_barrier_init(&pause_ends, NULL, THREADS + 1);
    for (size_t i = 0; i < THREADS; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, (void *)i))
            return 2;
    }
    pthread_barrier_wait(&pause_begins);
    say("idle\n");
    char word[32];
    for (;;) {
        ssize_t length = read(0, word, sizeof word - 1);
        if (length <= 0)
            _exit(0);
        word[length] = 0;
        if (strncmp(word, "run", 3) == 0 && !atomic_load(&is_running)) {
            atomic_store(&is_running, 1);
            pthread_barrier_wait(&pause_ends);
            say("running\n");
        } else if (strncmp(word, "idle", 4) == 0 && atomic_load(&is_running)) {
            atomic_store(&is_running, 0);
            pthread_barrier_wait(&pause_begins);
            say("idle\n");
        } else if (strncmp(word, "free", 4) == 0) {
            for (size_t slot = 0; slot < slot_count; slot++) {
                void *block = slot % 5 ? atomic_exchange(&slots[slot].block, NULL) : NULL;
                if (block) {
                    count_free(&counters[THREADS], block);
                    free(block);
                }
            }
            say("freed\n");
        } else if (strncmp(word, "trim", 4) == 0) {
            malloc_trim(0);
            say("trimmed\n");
        } else {
            _exit(4);
        }
    }
}
