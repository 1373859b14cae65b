// Fast and nothing else: 50,000 blocks a second of all sizes, none of which lives for longer than some milliseconds.
// innocent
// half: measured
#include "pace.h"

enum { SOME = 250 };

NOINLINE static void *take(size_t size) {
    char *block = malloc(size);
    block[0] = 1;
    return block;
}

int main(void) {
    void *blocks[SOME];
    for (;;) {
        for (int i = 0; i < SOME; i++) blocks[i] = take(8 + below(2000));
        for (int i = 0; i < SOME; i++) free(blocks[i]);
        rest(5);
    }
}
