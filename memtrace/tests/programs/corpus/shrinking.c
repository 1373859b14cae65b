// A program that shrinks: 8 MiB until 16 seconds after its start, and then a little is given back all the time, to
// none.
// innocent
// half: tuned
#include "pace.h"

enum { BLOCKS = 4000 };

static char *blocks[BLOCKS];

NOINLINE static void load(int i) {
    blocks[i] = malloc(2048);
    memset(blocks[i], i, 2048);
}

int main(void) {
    for (int i = 0; i < BLOCKS; i++) {
        load(i);
        if (i % 5 == 4) rest(20);
    }
    for (int i = 0;; i++) {
        if (i < BLOCKS) free(blocks[i]);
        // Work goes on in short-lived memory.
        char *work = malloc(100 + below(400));
        work[0] = 1;
        rest(10);
        free(work);
    }
}
