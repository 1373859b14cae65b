// Two places of the same rate and size: the last 256 readings are in a ring, the alarms among them are kept for ever.
// leak: keep_alarm
// half: measured
#include "pace.h"

enum { RING = 256 };

struct reading {
    double at;
    struct reading *before;
    char wave[500];
};

static struct reading *ring[RING], *alarms;

NOINLINE static void keep_latest(unsigned number) {
    struct reading *reading = calloc(1, sizeof *reading);
    reading->at = now();
    free(ring[number % RING]);
    ring[number % RING] = reading;
}

NOINLINE static void keep_alarm(void) {
    struct reading *reading = calloc(1, sizeof *reading);
    reading->before = alarms;
    reading->wave[0] = (char)below(100);
    alarms = reading;
}

int main(void) {
    for (unsigned number = 0;; number++) {
        keep_latest(number);
        if (below(2)) keep_alarm();
        rest(25);
    }
}
