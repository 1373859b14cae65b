// Allocates and frees one block at a time, as often and as deep in calls as it is told on standard input
// ("PAIRS DEPTH"), and prints how many nanoseconds a pair took.
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static void *(*volatile call_malloc)(size_t) = malloc;
static void (*volatile call_free)(void *) = free;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e9 + time.tv_nsec;
}

__attribute__((noipa)) static double measure(unsigned long pairs, unsigned depth) {
    if (depth > 0) {
        volatile double of_callee = measure(pairs, depth - 1);
        return of_callee;
    }
    double begun = now();
    for (unsigned long i = 0; i < pairs; i++)
        call_free(call_malloc(100));
    return (now() - begun) / pairs;
}

int main(void) {
    unsigned long pairs;
    unsigned depth;
    setvbuf(stdout, NULL, _IOLBF, 0);
    while (scanf("%lu %u", &pairs, &depth) == 2)
        printf("%.1f\n", measure(pairs, depth));
}
