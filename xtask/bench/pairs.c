// Allocates and frees, as it is told on standard input, a line each, and answers with a line "= NUMBER":
//   pairs KIND DEPTH THREADS MS   pairs of malloc and free, with stacks of DEPTH frames: nanoseconds a pair
//   sites SITES MS                the same, from SITES stacks in turn
//   hold BLOCKS SITES             blocks that stay, from SITES stacks: how many there are now
// KIND is `bare` for code without frame pointers, `fp` for code with them.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "descend.h"

// The frames that a thread's stack has below `descend` at the pair: start_thread, clone3, thread_main.
enum { OUTER_FRAMES = 3, BATCH = 500, MAX_THREADS = 64 };

struct work {
    void (*descend)(unsigned depth, void (*then)(void *), void *with);
    unsigned depth;
    double until;
    unsigned long pairs;
    double seconds;
};

static void *(*volatile call_malloc)(size_t) = malloc;
static void (*volatile call_free)(void *) = free;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

// Its caller is `descend`: together they are the two innermost frames.
static void make_pairs(void *with) {
    struct work *work = with;
    double begun = now();
    do {
        for (unsigned i = 0; i < BATCH; i++)
            call_free(call_malloc(100));
        work->pairs += BATCH;
    } while (now() < work->until);
    work->seconds = now() - begun;
}

static void *thread_main(void *with) {
    struct work *work = with;
    work->descend(work->depth - OUTER_FRAMES - 1, make_pairs, work);
    return NULL;
}

static double pairs(const char *kind, unsigned depth, unsigned threads, unsigned ms) {
    static struct work works[MAX_THREADS];
    pthread_t ids[MAX_THREADS];
    double begun = now();
    for (unsigned i = 0; i < threads; i++) {
        works[i] = (struct work){.descend = strcmp(kind, "fp") ? descend_bare : descend_fp,
                                 .depth = depth,
                                 .until = begun + ms / 1e3};
        pthread_create(&ids[i], NULL, thread_main, &works[i]);
    }
    unsigned long total = 0;
    for (unsigned i = 0; i < threads; i++) {
        pthread_join(ids[i], NULL);
        total += works[i].pairs;
    }
    return (threads == 1 ? works[0].seconds : now() - begun) * 1e9 / total;
}

static void *kept;

static void keep_one(void *with) {
    (void)with;
    void **block = call_malloc(64);
    *block = kept;
    kept = block;
}

static void one_pair(void *with) {
    (void)with;
    call_free(call_malloc(100));
}

// Reaches `then` by one of SITES ways: two calls at each of so many levels.
__attribute__((noipa)) static void by_way(unsigned long way, unsigned levels, void (*then)(void *)) {
    if (levels == 0) {
        then(NULL);
        __asm__ volatile("# here");
    } else if (way & 1) {
        by_way(way >> 1, levels - 1, then);
        __asm__ volatile("# one way");
    } else {
        by_way(way >> 1, levels - 1, then);
        __asm__ volatile("# the other");
    }
}

static unsigned levels_for(unsigned long sites) {
    unsigned levels = 0;
    while (1ul << levels < sites)
        levels++;
    return levels;
}

int main(void) {
    char what[16], kind[16];
    unsigned long a, b;
    unsigned depth, threads, ms;
    setvbuf(stdout, NULL, _IOLBF, 0);
    while (scanf("%15s", what) == 1) {
        double answer = 0;
        if (!strcmp(what, "pairs") && scanf("%15s %u %u %u", kind, &depth, &threads, &ms) == 4) {
            answer = pairs(kind, depth, threads, ms);
        } else if (!strcmp(what, "sites") && scanf("%lu %lu", &a, &b) == 2) {
            unsigned long count = 0;
            // Each site once before: its first call finds a place for it.
            for (unsigned long i = 0; i < a; i++)
                by_way(i, levels_for(a), one_pair);
            double begun = now();
            do {
                for (unsigned i = 0; i < BATCH; i++)
                    by_way(count++ % a, levels_for(a), one_pair);
            } while (now() < begun + b / 1e3);
            answer = (now() - begun) * 1e9 / count;
        } else if (!strcmp(what, "hold") && scanf("%lu %lu", &a, &b) == 2) {
            for (unsigned long i = 0; i < a; i++)
                by_way(i % b, levels_for(b), keep_one);
            answer = a;
        } else {
            return 1;
        }
        printf("= %.1f\n", answer);
    }
}
