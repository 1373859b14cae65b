// The last 1500 lines of a log, 100 a second: after 15 seconds each new line takes an old one's place. Bound: 1500
// lines.
// innocent
// half: measured
#include "pace.h"

enum { LINES = 1500 };

static char *lines[LINES];
static unsigned next;

NOINLINE static void log_line(const char *level, unsigned number) {
    char text[400];
    int length = snprintf(text, sizeof text, "%s: number %u, ", level, number);
    unsigned dots = below(200);
    memset(text + length, '.', dots);
    text[(unsigned)length + dots] = 0;
    free(lines[next]);
    lines[next] = strdup(text);
    next = (next + 1) % LINES;
}

int main(void) {
    for (unsigned number = 0;; number++) {
        log_line(below(10) ? "info" : "warning", number);
        rest(10);
    }
}
