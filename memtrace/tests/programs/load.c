// A load that knows its own truth: more threads than CPUs allocate at several sites, with work in between, until they are
// told to stop.
//
// usage: load WORK
// Prints "ready"; begins when a line comes; when another comes, stops and prints one JSON object: per site and in
// total, allocated and freed bytes and objects. Then it stays until standard input ends.
//
//   site_churn    freed by whoever allocates next but a few;
//   site_kept     one of a hundred, and never freed;
//   site_session  freed some hundred thousand allocations later: about as many are live all the time;
//   site_burst    a hundred at a time, and freed a hundred at a time;
//   site_grown    resized once, then freed.
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "counts.h"

enum { THREADS = 4, CHURN = 16, SESSIONS = 4096, BURST = 100 };
enum site { CHURNED, KEPT, SESSION, BURSTED, GROWN, RESIZED, SITES };
static const char *const site_names[] = {"site_churn", "site_kept", "site_session", "site_burst", "site_grown", "site_resized"};

struct block {
    void *address;
    uint64_t size;
};
struct thread {
    pthread_t handle;
    uint64_t random;
    struct counts counts[SITES];
    struct block churn[CHURN], sessions[SESSIONS], burst[BURST];
};

static struct thread threads[THREADS];
static atomic_int stopped;
static pthread_barrier_t begin, end;
static unsigned long work;

static void *(*volatile call_malloc)(size_t) = malloc;
static void *(*volatile call_realloc)(void *, size_t) = realloc;
static void (*volatile call_free)(void *) = free;

#define SITE __attribute__((noinline)) static
SITE void *site_churn(size_t size) { void *block = call_malloc(size); __asm__(""); return block; }
SITE void *site_kept(size_t size) { void *block = call_malloc(size); __asm__(""); return block; }
SITE void *site_session(size_t size) { void *block = call_malloc(size); __asm__(""); return block; }
SITE void *site_burst(size_t size) { void *block = call_malloc(size); __asm__(""); return block; }
SITE void *site_grown(size_t size) { void *block = call_malloc(size); __asm__(""); return block; }
SITE void *site_resized(void *old, size_t size) { void *block = call_realloc(old, size); __asm__(""); return block; }

static uint64_t next_random(struct thread *self) {
    self->random ^= self->random << 13;
    self->random ^= self->random >> 7;
    self->random ^= self->random << 17;
    return self->random;
}

static struct block make(struct thread *self, enum site site, void *(*at)(size_t)) {
    struct block block = {.size = 16 + next_random(self) % 512};
    block.address = at(block.size);
    self->counts[site].alloc_bytes += block.size;
    self->counts[site].alloc_objects++;
    return block;
}

static void count_end(struct thread *self, enum site site, const struct block *block) {
    self->counts[site].freed_bytes += block->size;
    self->counts[site].freed_objects++;
}

static void end_of(struct thread *self, enum site site, struct block *block) {
    if (!block->address) return;
    call_free(block->address);
    count_end(self, site, block);
    block->address = NULL;
}

static void work_a_while(struct thread *self) {
    volatile uint64_t sum = 0;
    for (unsigned long step = next_random(self) % (2 * work + 1); step > 0; step--) sum += step;
}

static void step(struct thread *self) {
    struct block *churned = &self->churn[next_random(self) % CHURN];
    end_of(self, CHURNED, churned);
    *churned = make(self, CHURNED, site_churn);
    work_a_while(self);
    uint64_t dice = next_random(self) % 1000;
    if (dice < 10) make(self, KEPT, site_kept);
    if (dice < 100) {
        struct block *session = &self->sessions[next_random(self) % SESSIONS];
        end_of(self, SESSION, session);
        *session = make(self, SESSION, site_session);
    }
    if (dice < 100) {
        struct block grown = make(self, GROWN, site_grown), resized = {.size = 600 + next_random(self) % 512};
        work_a_while(self);
        resized.address = site_resized(grown.address, resized.size);
        count_end(self, GROWN, &grown);
        self->counts[RESIZED].alloc_bytes += resized.size;
        self->counts[RESIZED].alloc_objects++;
        end_of(self, RESIZED, &resized);
    }
    if (dice == 0)
        for (int index = 0; index < BURST; index++) end_of(self, BURSTED, &self->burst[index]);
    if (dice == 1)
        for (int index = 0; index < BURST; index++)
            if (!self->burst[index].address) self->burst[index] = make(self, BURSTED, site_burst);
}

static void *run(void *argument) {
    struct thread *self = argument;
    pthread_barrier_wait(&begin);
    while (!atomic_load_explicit(&stopped, memory_order_relaxed)) step(self);
    pthread_barrier_wait(&end);
    pthread_barrier_wait(&end);
    return NULL;
}

static void read_line(void) {
    for (int character = getchar(); character != '\n' && character != EOF; character = getchar()) {}
}

int main(int count, char **arguments) {
    if (count != 2) return 2;
    work = strtoul(arguments[1], NULL, 10);
    pthread_barrier_init(&begin, NULL, THREADS + 1);
    pthread_barrier_init(&end, NULL, THREADS + 1);
    for (int index = 0; index < THREADS; index++) {
        threads[index].random = 0x9e3779b97f4a7c15u * (index + 1);
        pthread_create(&threads[index].handle, NULL, run, &threads[index]);
    }
    setvbuf(stdin, NULL, _IONBF, 0);
    puts("ready");
    fflush(stdout);
    read_line();
    pthread_barrier_wait(&begin);
    read_line();
    atomic_store(&stopped, 1);
    pthread_barrier_wait(&end);
    char text[256];
    putchar('{');
    for (int site = 0; site < SITES; site++) {
        struct counts sum = {0};
        for (int index = 0; index < THREADS; index++)
            add_counts(&sum, &threads[index].counts[site]);
        print_counts(text, sizeof text, site_names[site], &sum);
        printf("%s%s", site ? "," : "", text);
    }
    puts("}");
    fflush(stdout);
    read_line();
    return 0;
}
