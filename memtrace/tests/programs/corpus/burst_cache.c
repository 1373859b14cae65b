// A spike every second, for 20 ms (2 %): 60 queries, whose results go to a cache by their keys of 700. It is full after
// some 30 s; then each result takes the place of one before. Bound: 700 results of 600 bytes.
// innocent
// half: measured
#include "pace.h"

enum { KEYS = 700 };

static char *cache[KEYS];

NOINLINE static char *run_query(unsigned key) {
    char *result = malloc(600);
    snprintf(result, 600, "%u: %u", key, below(1000));
    return result;
}

int main(void) {
    for (;;) {
        for (int i = 0; i < 60; i++) {
            unsigned key = below(KEYS);
            free(cache[key]);
            cache[key] = run_query(key);
            if (i % 15 == 14) rest(5);
        }
        rest(980);
    }
}
