// A cache that was full before, in balance: of 30,000 entries of 1 KiB the oldest 80 a second give way to as many new
// ones. A tracer that comes later sees new ones live for six minutes. Bound: 30,000 entries.
// aged
// innocent
// half: tuned
#include "pace.h"

enum { ENTRIES = 30000, SIZE = 1000 };

NOINLINE static char *load(unsigned number) {
    char *value = malloc(SIZE);
    memset(value, (int)number, SIZE);
    return value;
}

int main(void) {
    static char *entries[ENTRIES];
    for (unsigned number = 0; number < ENTRIES; number++) entries[number] = load(number);
    for (unsigned number = 0;; number++) {
        free(entries[number % ENTRIES]);
        entries[number % ENTRIES] = load(number);
        rest(12);
    }
}
