// A log of which three files are kept in memory: for 50 ms of each half a second (10 %) lines are written; a file is full
// after 5 s, and the oldest is freed with all of its lines. Bound: three files of 1000 lines.
// innocent
// half: measured
#include "pace.h"

enum { LINES = 1000, FILES = 3 };

struct file {
    unsigned count;
    char *lines[LINES];
};

static struct file *files[FILES];

NOINLINE static void rotate(void) {
    struct file *oldest = files[FILES - 1];
    memmove(files + 1, files, (FILES - 1) * sizeof *files);
    files[0] = calloc(1, sizeof *files[0]);
    if (!oldest) return;
    for (unsigned i = 0; i < oldest->count; i++) free(oldest->lines[i]);
    free(oldest);
}

NOINLINE static void write_line(void) {
    if (!files[0] || files[0]->count == LINES) rotate();
    char *line = malloc(150 + below(100));
    snprintf(line, 150, "%f", now());
    files[0]->lines[files[0]->count++] = line;
}

int main(void) {
    for (;;) {
        for (int i = 0; i < 100; i++) {
            write_line();
            if (i % 20 == 19) rest(10);
        }
        rest(450);
    }
}
