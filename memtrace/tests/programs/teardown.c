// Grows for so many seconds, ends in one of several ways, and tells on stdout what it held at most: `teardown WAY SECONDS`. It
// begins once its standard input says something, or is closed.
//
//   main       frees all in main, and returns
//   atexit     frees all in a function of atexit
//   destructor frees all in a destructor of the program
//   slowly     the same as atexit: three quarters at once, the rest over half a minute
//   stays      frees nothing
//   early      frees all in main, and goes on for a quarter as long
//   rounds     frees all every eight seconds, at the end as well
//   phases     grows for a quarter of the time only, and frees all in main
//   pools      maps pools, and unmaps all of them in main
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { POOL = 64 << 10 };

struct node {
    struct node *next;
    char data[1000];
};

static struct node *head;
static unsigned count, most;
static int frees_late, pause_ms;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void add(struct node *node) {
    memset(node->data, 1, sizeof node->data);
    node->next = head;
    head = node;
    if (++count > most) most = count;
}

__attribute__((noinline)) static void keep(void) {
    struct node *node = malloc(sizeof *node);
    if (!node) abort();
    add(node);
}

__attribute__((noinline)) static void keep_pool(void) {
    struct node *pool = mmap(NULL, POOL, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pool == MAP_FAILED) abort();
    add(pool);
}

__attribute__((noinline)) static void release(void (*give_up)(struct node *)) {
    unsigned slow_from = count / 4, every = count / 400 + 1;
    for (; head; count--) {
        struct node *next = head->next;
        give_up(head);
        head = next;
        if (pause_ms && count < slow_from && count % every == 0) usleep((unsigned)pause_ms * 1000);
    }
}

static void free_node(struct node *node) {
    free(node);
}

static void unmap_pool(struct node *node) {
    munmap(node, POOL);
}

static void release_late(void) {
    release(free_node);
}

__attribute__((destructor)) static void destroy(void) {
    if (frees_late) release(free_node);
}

// Grows until then.
static void grow(double until, void (*more)(void), unsigned every_ms) {
    for (; now() < until; usleep(every_ms * 1000)) more();
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    const char *way = argv[1];
    char word;
    if (read(0, &word, 1) < 0) return 2;
    double seconds = atof(argv[2]), end = now() + seconds;
    int pools = strcmp(way, "pools") == 0;
    if (strcmp(way, "atexit") == 0 || strcmp(way, "slowly") == 0) atexit(release_late);
    if (strcmp(way, "slowly") == 0) pause_ms = 300;
    frees_late = strcmp(way, "destructor") == 0;
    if (strcmp(way, "rounds") == 0) {
        for (double round = now() + 8; round < end; round += 8) {
            grow(round, keep, 5);
            release(free_node);
        }
    }
    grow(strcmp(way, "phases") == 0 ? end - seconds * 3 / 4 : end, pools ? keep_pool : keep, pools ? 50 : 5);
    while (now() < end) usleep(100000);
    printf("{\"live_objects\": %u, \"live_bytes\": %zu}\n", most, most * (pools ? (size_t)POOL : sizeof *head));
    fflush(stdout);
    if (strcmp(way, "main") == 0 || strcmp(way, "phases") == 0 || strcmp(way, "rounds") == 0) release(free_node);
    if (pools) release(unmap_pool);
    if (strcmp(way, "early") == 0) {
        release(free_node);
        usleep((unsigned)(seconds / 4 * 1e6));
    }
    return 0;
}
