// A small server as it might be: it keeps sessions for a while, caches up to a limit, works with
// temporary buffers, and forgets to free one thing on one path.
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SESSIONS = 64, CACHE_ENTRIES = 256, REQUESTS_A_SECOND = 500 };

static char *sessions[SESSIONS];
static char *cache[CACHE_ENTRIES];

// Innocent: every session is replaced, and so freed, after a while.
static void open_session(unsigned request) {
    unsigned slot = request % SESSIONS;
    free(sessions[slot]);
    sessions[slot] = strdup("user=42; theme=dark; last-seen=yesterday");
}

// Innocent: fills up to its limit, then no more.
static void cache_answer(unsigned request) {
    unsigned slot = request % CACHE_ENTRIES;
    if (!cache[slot])
        cache[slot] = calloc(1, 4096);
}

// The leak: an error is described, logged nowhere, and never freed.
static char *describe_error(unsigned request) {
    char *message = malloc(2000);
    memset(message, (int)request, 2000);
    return message;
}

static void handle_request(unsigned request) {
    char *body = malloc(10000);
    body[0] = (char)request;
    open_session(request);
    cache_answer(request);
    if (request % 10 == 0)
        describe_error(request);
    free(body);
}

int main(void) {
    for (unsigned request = 0;; request++) {
        handle_request(request);
        usleep(1000000 / REQUESTS_A_SECOND);
    }
}
