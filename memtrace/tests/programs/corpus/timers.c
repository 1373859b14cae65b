// Each request arms a timer of an hour. When it is done the timer is marked as cancelled, and lies there for that hour.
// leak: arm_timer
// half: measured
#include "pace.h"

struct timer {
    double due;
    int cancelled;
    char context[300];
};

static struct timer **timers;
static size_t count, room;

NOINLINE static struct timer *arm_timer(double in) {
    if (count == room) timers = realloc(timers, (room = room ? room * 2 : 64) * sizeof *timers);
    struct timer *timer = calloc(1, sizeof *timer);
    timer->due = now() + in;
    timers[count++] = timer;
    return timer;
}

NOINLINE static void run_due(void) {
    while (count > 0 && timers[count - 1]->due < now()) free(timers[--count]);
}

int main(void) {
    for (;;) {
        struct timer *timer = arm_timer(3600);
        char *request = malloc(1 + below(5000));
        request[0] = 1;
        rest(5 + (int)below(20));
        free(request);
        timer->cancelled = 1;
        run_due();
    }
}
