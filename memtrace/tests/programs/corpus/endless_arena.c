// An arena whose owner means to reset it when it is idle, which it never is: a chunk of 16 KiB now and then, 40 KiB/s.
// leak: add_chunk
// half: tuned
#include "pace.h"

struct chunk {
    struct chunk *before;
    size_t used;
    char room[16000];
};

static struct chunk *chunks;
static unsigned busy;

NOINLINE static void add_chunk(void) {
    struct chunk *chunk = malloc(sizeof *chunk);
    chunk->before = chunks;
    chunk->used = 0;
    chunks = chunk;
}

static void *carve(size_t size) {
    if (!chunks || chunks->used + size > sizeof chunks->room) add_chunk();
    void *piece = chunks->room + chunks->used;
    chunks->used += size;
    return piece;
}

static void reset(void) {
    for (struct chunk *before; chunks; chunks = before) {
        before = chunks->before;
        free(chunks);
    }
}

int main(void) {
    busy = 1;
    for (;;) {
        // The next one always begins before this one is over.
        busy++;
        memset(carve(400), 1, 400);
        rest(10);
        if (--busy == 0) reset();
    }
}
