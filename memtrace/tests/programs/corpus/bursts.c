// Nothing for ten seconds, then an import whose rows nobody frees: 200 of 4 KiB at once.
// The table of each, which main makes, stays as well.
// leak: import_rows, main
// half: tuned
#include "pace.h"

enum { ROWS = 200 };

struct table {
    struct table *next;
    char *rows[ROWS];
};

static struct table *tables;

NOINLINE static void import_rows(struct table *table) {
    for (int i = 0; i < ROWS; i++) {
        table->rows[i] = malloc(4096);
        memset(table->rows[i], i, 4096);
    }
}

NOINLINE static void answer_queries(int ms) {
    for (; ms > 0; ms -= 20) {
        char *result = malloc(100 + below(2000));
        result[0] = tables ? tables->rows[below(ROWS)][0] : 0;
        rest(20);
        free(result);
    }
}

int main(void) {
    for (;;) {
        answer_queries(10000);
        struct table *table = calloc(1, sizeof *table);
        import_rows(table);
        // The table before should have been dropped here.
        table->next = tables;
        tables = table;
    }
}
