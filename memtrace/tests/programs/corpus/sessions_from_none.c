// A session table that begins empty and is in its steady state after 25 seconds: 15 logins a second, each for 5 to 25
// seconds, a struct and two strings for each. Bound: some 230 sessions.
// innocent
// half: measured
#include "pace.h"

struct session {
    struct session *next;
    char *user, *agent;
    double until;
};

static struct session *sessions;

NOINLINE static char *text_of(const char *what, unsigned number, size_t size) {
    char *text = calloc(1, size);
    snprintf(text, size, "%s %u", what, number);
    return text;
}

NOINLINE static void log_in(unsigned number) {
    struct session *session = malloc(sizeof *session);
    session->user = text_of("user", number, 64);
    session->agent = text_of("agent", number % 7, 200 + below(300));
    session->until = now() + 5 + below(2000) / 100.0;
    session->next = sessions;
    sessions = session;
}

NOINLINE static void expire(void) {
    for (struct session **at = &sessions; *at;) {
        struct session *session = *at;
        if (session->until > now()) {
            at = &session->next;
            continue;
        }
        *at = session->next;
        free(session->user);
        free(session->agent);
        free(session);
    }
}

int main(void) {
    for (unsigned number = 0;; number++) {
        log_in(number);
        if (number % 10 == 0) expire();
        rest(66);
    }
}
