// A leak that hides: of 1500 events a second, all made in one place and of one size, one in 150 is dropped without a
// free.
// leak: make_event
// half: measured
#include "pace.h"

struct event {
    unsigned kind;
    double at;
    char payload[480];
};

NOINLINE static struct event *make_event(void) {
    struct event *event = malloc(sizeof *event);
    event->kind = below(150);
    event->at = now();
    memset(event->payload, (int)event->kind, sizeof event->payload);
    return event;
}

NOINLINE static void dispatch(struct event *event) {
    // Kind 7 is an old one that no handler wants.
    if (event->kind == 7) return;
    event->payload[0]++;
    free(event);
}

int main(void) {
    struct event *waiting[15];
    for (;;) {
        for (int i = 0; i < 15; i++) waiting[i] = make_event();
        rest(10);
        for (int i = 0; i < 15; i++) dispatch(waiting[i]);
    }
}
