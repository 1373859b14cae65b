// A batch every 20 s: rows come for four seconds (20 %), are sorted, and all are freed. Bound: 800 rows of 2 KiB.
// innocent
// half: tuned
#include "pace.h"

enum { ROWS = 800, SIZE = 2048 };

NOINLINE static char *read_row(void) {
    char *row = malloc(SIZE);
    snprintf(row, SIZE, "%08u and more", below(100000000));
    return row;
}

static int compare(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int main(void) {
    for (;;) {
        static char *rows[ROWS];
        for (int i = 0; i < ROWS; i++) {
            rows[i] = read_row();
            if (i % 4 == 3) rest(20);
        }
        qsort(rows, ROWS, sizeof *rows, compare);
        for (int i = 0; i < ROWS; i++) free(rows[i]);
        rest(16000);
    }
}
