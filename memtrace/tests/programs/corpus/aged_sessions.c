// Sessions of two to four minutes in balance: 15 logins a second, as many that leave. A tracer that comes later sees none
// of the new ones leave before two minutes have gone. Bound: some 2,700 sessions of 3 KiB.
// aged
// innocent
// half: measured
#include "pace.h"

enum { MOST = 4000, BALANCE = 2700 };

static struct session {
    double until;
    char state[3000];
} *sessions[MOST];

NOINLINE static void log_in(double lasts) {
    for (int i = 0; i < MOST; i++) {
        if (sessions[i]) continue;
        sessions[i] = malloc(sizeof *sessions[i]);
        sessions[i]->until = now() + lasts;
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

// The rest of a session that one meets in balance: all are there for two minutes, then fewer and fewer for two more.
static double rest_of_session(void) {
    for (;;) {
        double rest = below(24000) / 100.0;
        if (rest < 120 || below(12000) / 100.0 < 240 - rest) return rest;
    }
}

int main(void) {
    for (int i = 0; i < BALANCE; i++) log_in(rest_of_session());
    for (;;) {
        log_in(120 + below(12000) / 100.0);
        log_out_expired();
        rest(66);
    }
}
