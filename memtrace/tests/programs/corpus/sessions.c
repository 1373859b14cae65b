// A session table in its steady state: 20 logins a second, each for 10 to 30 seconds. A tracer that comes later sees it
// rise for 30 seconds, since it does not know those that were there. Bound: some 400 sessions of 1.5 KiB.
// innocent
// half: tuned
#include "pace.h"

enum { MOST = 1000 };

struct session {
    double until;
    char state[1500];
};

static struct session *sessions[MOST];

NOINLINE static void log_in(double least, double most) {
    for (int i = 0; i < MOST; i++) {
        if (sessions[i]) continue;
        sessions[i] = malloc(sizeof *sessions[i]);
        sessions[i]->until = now() + least + (most - least) * below(1000) / 1000;
        memset(sessions[i]->state, i, sizeof sessions[i]->state);
        return;
    }
}

NOINLINE static void log_out_expired(void) {
    for (int i = 0; i < MOST; i++) {
        if (!sessions[i] || sessions[i]->until > now()) continue;
        free(sessions[i]);
        sessions[i] = NULL;
    }
}

int main(void) {
    // Those that came before: as many, with as much left, as there would be.
    for (int i = 0; i < 200; i++) log_in(0, 10);
    for (int i = 0; i < 200; i++) log_in(i % 2 ? 10 : 0, i % 2 ? 20 : 10);
    for (;;) {
        log_in(10, 30);
        log_out_expired();
        rest(50);
    }
}
