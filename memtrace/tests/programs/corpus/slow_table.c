// A table that takes its time: 900 places, 20 a second, full after 45 seconds; then the oldest are written over in
// place. Bound: 900 x 2 KiB.
// innocent
// half: tuned
#include "pace.h"

enum { PLACES = 900, SIZE = 2048 };

static char *table[PLACES];

NOINLINE static void record(unsigned number, unsigned char what) {
    char **place = &table[number % PLACES];
    if (!*place) *place = malloc(SIZE);
    memset(*place, what, SIZE);
}

NOINLINE static unsigned char measure(void) {
    size_t size = 100 + below(900);
    unsigned char *samples = malloc(size);
    memset(samples, (int)below(256), size);
    unsigned char mean = samples[size / 2];
    free(samples);
    return mean;
}

int main(void) {
    for (unsigned number = 0;; number++) {
        record(number, measure());
        rest(50);
    }
}
