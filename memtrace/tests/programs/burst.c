// A target that is idle, then allocates as fast as it can, and so on, for as long as standard input is open.
//
// usage: burst THREADS IDLE_MS BURST_MS SLOT_MS
// Prints "ready"; begins when a line comes. For each slot of a burst it prints when the slot began, in milliseconds of
// the time of day, and how many blocks were allocated and freed in it.
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static atomic_long pairs;
static atomic_int bursting;
static void *(*volatile call_malloc)(size_t) = malloc;
static void (*volatile call_free)(void *) = free;

static long now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void sleep_ms(long ms) {
    struct timespec time = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&time, NULL);
}

__attribute__((noinline)) static void *allocate(size_t size) {
    void *volatile block = call_malloc(size);
    return block;
}

static void *run(void *unused) {
    for (;;) {
        if (!atomic_load_explicit(&bursting, memory_order_relaxed)) {
            sleep_ms(1);
            continue;
        }
        for (int index = 0; index < 100; index++) call_free(allocate(100));
        atomic_fetch_add_explicit(&pairs, 100, memory_order_relaxed);
    }
    return unused;
}

static void *end_with_input(void *unused) {
    while (getchar() != EOF) {}
    _exit(0);
    return unused;
}

int main(int count, char **arguments) {
    if (count != 5) return 2;
    long idle_ms = atol(arguments[2]), burst_ms = atol(arguments[3]), slot_ms = atol(arguments[4]);
    pthread_t thread;
    for (int index = atoi(arguments[1]); index > 0; index--) pthread_create(&thread, NULL, run, NULL);
    puts("ready");
    fflush(stdout);
    while (getchar() != '\n') {}
    pthread_create(&thread, NULL, end_with_input, NULL);
    for (;;) {
        sleep_ms(idle_ms);
        atomic_store(&bursting, 1);
        for (long begun = now_ms(), slot = begun; slot - begun < burst_ms;) {
            long before = atomic_load(&pairs);
            sleep_ms(slot_ms);
            printf("%ld %ld\n", slot, atomic_load(&pairs) - before);
            slot = now_ms();
        }
        atomic_store(&bursting, 0);
        fflush(stdout);
    }
}
