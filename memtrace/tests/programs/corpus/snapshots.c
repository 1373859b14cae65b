// A snapshot every four seconds, in 50 pieces of 2 KiB; the last three are kept. Bound: four snapshots of 100 KiB.
// innocent
// half: measured
#include "pace.h"

enum { PIECES = 50, KEPT = 3 };

struct snapshot {
    double at;
    char *pieces[PIECES];
};

static struct snapshot *snapshots[KEPT];
static char state[PIECES][2048];

NOINLINE static struct snapshot *take(void) {
    struct snapshot *snapshot = malloc(sizeof *snapshot);
    snapshot->at = now();
    for (int i = 0; i < PIECES; i++) {
        snapshot->pieces[i] = malloc(2048);
        memcpy(snapshot->pieces[i], state[i], 2048);
    }
    return snapshot;
}

NOINLINE static void drop(struct snapshot *snapshot) {
    if (!snapshot) return;
    for (int i = 0; i < PIECES; i++) free(snapshot->pieces[i]);
    free(snapshot);
}

int main(void) {
    for (unsigned number = 0;; number++) {
        struct snapshot *snapshot = take();
        drop(snapshots[number % KEPT]);
        snapshots[number % KEPT] = snapshot;
        for (int i = 0; i < 40; i++) {
            state[below(PIECES)][below(2048)]++;
            rest(100);
        }
    }
}
