// The part that the programs of the corpus share: how they wait, how they end, and what they do at random. To be included first.
#pragma once
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline))

static double started;

static inline double clock_now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

// Nobody has to end what was forgotten.
__attribute__((constructor)) static void begin(void) {
    started = clock_now();
    alarm(200);
}

// Seconds since the program began.
static inline double now(void) {
    return clock_now() - started;
}

// Waits, and ends the program once its standard input is closed. Any thread may.
static inline void rest(int ms) {
    struct pollfd input = {0, POLLIN, 0};
    if (poll(&input, 1, ms) > 0) _exit(0);
}

// A random number from 0 to limit - 1, others in each run.
static inline unsigned below(unsigned limit) {
    static __thread uint64_t state;
    if (state == 0) state = ((uint64_t)getpid() << 32) ^ (uint64_t)(uintptr_t)&state ^ 0x9e3779b97f4a7c15ULL;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)((state >> 32) % limit);
}
