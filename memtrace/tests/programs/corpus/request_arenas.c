// A region a request: chunks are added while it is worked on, for half a second to two, and all go at its end.
// Bound: three at a time, 40 chunks of 4 KiB each.
// innocent
// half: tuned
#include "pace.h"
#include <pthread.h>

struct chunk {
    struct chunk *before;
    char room[4088];
};

NOINLINE static struct chunk *grow(struct chunk *before) {
    struct chunk *chunk = malloc(sizeof *chunk);
    chunk->before = before;
    chunk->room[0] = 1;
    return chunk;
}

NOINLINE static void serve(void) {
    struct chunk *region = NULL;
    unsigned steps = 10 + below(30);
    for (unsigned i = 0; i < steps; i++) {
        region = grow(region);
        rest(50);
    }
    for (struct chunk *before; region; region = before) {
        before = region->before;
        free(region);
    }
}

static void *work(void *nothing) {
    for (;;) serve();
    return nothing;
}

int main(void) {
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) pthread_create(&threads[i], NULL, work, NULL);
    for (;;) rest(1000);
}
