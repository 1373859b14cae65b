// Every 20 s (0.5 % of the time) a report of 600 lines is made and freed; its summary, 100 lines of 1 KiB, stays in a
// history that nobody reads. 5 KiB/s.
// leak: keep_summary
// half: measured
#include "pace.h"

enum { LINES = 600, OF_SUMMARY = 100 };

struct summary {
    struct summary *before;
    char *lines[OF_SUMMARY];
};

static struct summary *history;

NOINLINE static char *make_line(int number) {
    char *line = malloc(1024);
    snprintf(line, 1024, "%d: %u", number, below(1000));
    return line;
}

NOINLINE static void keep_summary(char **lines) {
    struct summary *summary = malloc(sizeof *summary);
    for (int i = 0; i < OF_SUMMARY; i++) {
        summary->lines[i] = malloc(1024);
        strcpy(summary->lines[i], lines[i]);
    }
    summary->before = history;
    history = summary;
}

int main(void) {
    rest(4000);
    for (;;) {
        char *lines[LINES];
        for (int i = 0; i < LINES; i++) {
            lines[i] = make_line(i);
            if (i % 30 == 0) rest(5);
        }
        keep_summary(lines);
        for (int i = 0; i < LINES; i++) free(lines[i]);
        rest(19900);
    }
}
