// Each reconnect registers its listeners once more, and nobody unregisters: 4 reconnects a second, 6 listeners each.
// leak: add_listener
// half: tuned
#include "pace.h"

struct listener {
    void (*call)(struct listener *, int);
    struct listener *next;
    char topic[32];
    int seen[64];
};

static struct listener *listeners;

static void count_it(struct listener *listener, int value) {
    listener->seen[value % 64]++;
}

NOINLINE static void add_listener(const char *topic) {
    struct listener *listener = calloc(1, sizeof *listener);
    listener->call = count_it;
    listener->next = listeners;
    snprintf(listener->topic, sizeof listener->topic, "%s", topic);
    listeners = listener;
}

NOINLINE static void reconnect(void) {
    static const char *topics[] = {"orders", "prices", "users", "stock", "alerts", "time"};
    char *handshake = malloc(3000);
    memset(handshake, 1, 3000);
    for (int i = 0; i < 6; i++) add_listener(topics[i]);
    free(handshake);
}

int main(void) {
    for (int value = 0;; value++) {
        reconnect();
        for (struct listener *at = listeners; at; at = at->next) at->call(at, value);
        rest(250);
    }
}
