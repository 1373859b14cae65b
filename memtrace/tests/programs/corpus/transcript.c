// One buffer to which everything that is said is appended, and which nobody ever empties: 30 KiB/s, by realloc.
// leak: append
// half: tuned
#include "pace.h"

static char *transcript;
static size_t used, room;

NOINLINE static void append(const char *line, size_t length) {
    if (used + length > room) {
        room += 16384;
        transcript = realloc(transcript, room);
    }
    memcpy(transcript + used, line, length);
    used += length;
}

NOINLINE static char *hear(size_t *length) {
    *length = 200 + below(800);
    char *line = malloc(*length);
    memset(line, 'a' + (int)below(26), *length);
    return line;
}

int main(void) {
    for (;;) {
        size_t length;
        char *line = hear(&length);
        append(line, length);
        free(line);
        rest(20);
    }
}
