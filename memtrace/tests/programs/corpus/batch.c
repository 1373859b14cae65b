// A batch job with a period of 12 seconds: rows are read for ten, sorted, written, and all are freed. Bound: 1000 rows.
// innocent
// half: measured
#include "pace.h"

enum { ROWS = 1000 };

static char *rows[ROWS];

NOINLINE static char *read_row(void) {
    char *row = malloc(600);
    snprintf(row, 600, "%08u and more", below(100000000));
    return row;
}

static int compare(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int main(void) {
    for (;;) {
        for (int i = 0; i < ROWS; i++) {
            rows[i] = read_row();
            if (i % 10 == 9) rest(100);
        }
        qsort(rows, ROWS, sizeof *rows, compare);
        for (int i = 0; i < ROWS; i++) free(rows[i]);
        rest(2000);
    }
}
