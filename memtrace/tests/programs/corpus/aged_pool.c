// A pool that was filled before: 4000 buffers of 4 KiB. One in ten that come back has worn out, and a new one takes its
// place: 8 a second. Bound: 4000 buffers.
// aged
// innocent
// half: measured
#include "pace.h"

enum { BUFFERS = 4000, SIZE = 4096 };

static char *pool[BUFFERS];

NOINLINE static char *make_buffer(void) {
    char *buffer = malloc(SIZE);
    memset(buffer, 1, SIZE);
    return buffer;
}

NOINLINE static void use(unsigned number) {
    pool[number][below(SIZE)]++;
    if (below(10) != 0) return;
    free(pool[number]);
    pool[number] = make_buffer();
}

int main(void) {
    for (int i = 0; i < BUFFERS; i++) pool[i] = make_buffer();
    for (;;) {
        use(below(BUFFERS));
        rest(12);
    }
}
