// A cache that fills and then stays: 1000 pages of 1 KiB, 30 a second, so it is full after some 33 seconds. Bound: 1 MiB.
// innocent
// half: measured
#include "pace.h"

enum { PAGES = 1000 };

static char *cached[PAGES];

NOINLINE static char *read_page(unsigned number) {
    char *page = malloc(1024);
    memset(page, (int)number, 1024);
    return page;
}

NOINLINE static int look_at(unsigned number) {
    if (!cached[number]) cached[number] = read_page(number);
    return cached[number][100];
}

int main(void) {
    unsigned long sum = 0;
    for (unsigned next = 0;; next++) {
        sum += (unsigned)look_at(next % PAGES);
        for (int i = 0; i < 10; i++) sum += (unsigned)look_at(below(next < PAGES ? next + 1 : PAGES));
        rest(33);
    }
}
