// Allocates without end in several threads, and is attached to in the middle. It tells the truth about
// what it does after "go" comes on standard input, which is after the attach: blocks of the sites named
// after_… are allocated only then. Blocks of site `kept` are all older than the attach. Blocks of site
// `churned` come and go all the time, also while memtrace attaches; in the end none of them lives.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "counts.h"

enum { THREADS = 6, HELD = 2000, KEPT = 500, ROUNDS = 30000 };

static void *(*volatile call_malloc)(size_t) = malloc;
static void *(*volatile call_realloc)(void *, size_t) = realloc;
static void (*volatile call_free)(void *) = free;

static atomic_int phase;
static struct counts mallocs[THREADS], reallocs[THREADS];
static pthread_barrier_t running, end;

__attribute__((noipa)) static void *kept(size_t size) { return call_malloc(size); }
__attribute__((noipa)) static void *churned(size_t size) { return call_malloc(size); }
__attribute__((noipa)) static void *after_malloc(size_t size) { return call_malloc(size); }
__attribute__((noipa)) static void *after_realloc(void *old, size_t size) { return call_realloc(old, size); }

static void *work(void *argument) {
    size_t self = (size_t)argument;
    static __thread void *held[HELD], *old[KEPT];
    struct counts *m = &mallocs[self], *r = &reallocs[self];
    unsigned at = 0;
    for (unsigned i = 0; i < KEPT; i++)
        old[i] = kept(100);
    pthread_barrier_wait(&running);
    // Churn: blocks are born and die all the time while memtrace attaches.
    while (!phase) {
        call_free(held[at % HELD]);
        held[at % HELD] = churned(at % 700 + 1);
        at++;
    }
    // From here on everything is counted.
    for (unsigned i = 0; i < ROUNDS; i++) {
        size_t size = i % 1000 + 1;
        void *block = after_malloc(size);
        m->alloc_bytes += size, m->alloc_objects++;
        if (i % 3 == 0) {
            block = after_realloc(block, size * 2);
            m->freed_bytes += size, m->freed_objects++;
            r->alloc_bytes += size * 2, r->alloc_objects++;
            if (i % 2 == 0) {
                call_free(block);
                r->freed_bytes += size * 2, r->freed_objects++;
            }
        } else if (i % 2 == 0) {
            call_free(block);
            m->freed_bytes += size, m->freed_objects++;
        }
    }
    for (unsigned i = 0; i < HELD; i++)
        call_free(held[i]);
    // A block that is older than the attach is freed or resized: both are unmatched.
    for (unsigned i = 0; i < KEPT; i++) {
        if (i % 2 == 0) {
            call_free(old[i]);
        } else {
            old[i] = after_realloc(old[i], 10);
            r->alloc_bytes += 10, r->alloc_objects++;
        }
    }
    pthread_barrier_wait(&end);
    for (;;)
        pause();
    return NULL;
}

static void sum(struct counts *to, const struct counts *from) {
    for (int i = 0; i < THREADS; i++)
        add_counts(to, &from[i]);
}

int main(void) {
    static char text[4096], line[16];
    pthread_t handle;
    pthread_barrier_init(&running, NULL, THREADS + 1);
    pthread_barrier_init(&end, NULL, THREADS + 1);
    for (size_t i = 0; i < THREADS; i++)
        if (pthread_create(&handle, NULL, work, (void *)i))
            return 2;
    pthread_barrier_wait(&running);
    usleep(100000);
    if (write(1, "running\n", 8) != 8 || read(0, line, sizeof line) <= 0)
        return 2;
    phase = 1;
    pthread_barrier_wait(&end);
    struct counts m = {0}, r = {0};
    sum(&m, mallocs);
    sum(&r, reallocs);
    size_t used = snprintf(text, sizeof text, "{\"unmatched\":%d,\"after\":{", THREADS * KEPT);
    used += print_counts(text + used, sizeof text - used, "after_malloc", &m);
    used += snprintf(text + used, sizeof text - used, ",");
    used += print_counts(text + used, sizeof text - used, "after_realloc", &r);
    used += snprintf(text + used, sizeof text - used, "}}\n");
    if (write(1, text, used) != (ssize_t)used)
        return 2;
    while (read(0, line, sizeof line) > 0)
        ;
    _exit(0);
}
