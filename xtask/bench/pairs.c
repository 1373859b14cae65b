// Allocates and frees one block at a time, as often as it is told on standard input, and prints how
// many nanoseconds a pair took.
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

int main(void) {
    unsigned long pairs;
    setvbuf(stdout, NULL, _IOLBF, 0);
    while (scanf("%lu", &pairs) == 1) {
        double begun = now();
        for (unsigned long i = 0; i < pairs; i++)
            call_free(call_malloc(100));
        printf("%.1f\n", (now() - begun) / pairs);
    }
}
