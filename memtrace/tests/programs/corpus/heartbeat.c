// A slow leak: eight heartbeats a second, of each a note of 128 bytes is lost: 1 KiB/s, beside work that frees all.
// leak: note_heartbeat
// half: tuned
#include "pace.h"

struct note {
    double at;
    unsigned sequence;
    char from[112];
};

static struct note *last;

NOINLINE static void note_heartbeat(unsigned sequence) {
    // The block that `last` pointed to before is still allocated.
    last = malloc(sizeof *last);
    last->at = now();
    last->sequence = sequence;
    snprintf(last->from, sizeof last->from, "node-%u", sequence % 5);
}

NOINLINE static unsigned work(void) {
    unsigned sum = 0;
    char *pieces[20];
    for (int i = 0; i < 20; i++) {
        size_t size = 50 + below(900);
        pieces[i] = malloc(size);
        memset(pieces[i], i, size);
    }
    for (int i = 0; i < 20; i++) {
        sum += (unsigned)pieces[i][10];
        free(pieces[i]);
    }
    return sum;
}

int main(void) {
    for (unsigned sequence = 0;; sequence++) {
        if (work() != 0) note_heartbeat(sequence);
        rest(125);
    }
}
