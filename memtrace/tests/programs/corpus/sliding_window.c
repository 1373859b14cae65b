// Statistics over the last 30 seconds: 50 measurements a second, each kept until it is older. Bound: 1500 x 96 bytes.
// innocent
// half: measured
#include "pace.h"

struct measurement {
    struct measurement *next;
    double at, value;
    char where[72];
};

static struct measurement *first, **last = &first;
static double sum;

NOINLINE static void measure(void) {
    struct measurement *measurement = malloc(sizeof *measurement);
    *measurement = (struct measurement){.at = now(), .value = below(1000)};
    *last = measurement;
    last = &measurement->next;
    sum += measurement->value;
}

NOINLINE static void forget_old(void) {
    while (first && first->at < now() - 30) {
        struct measurement *old = first;
        first = old->next;
        if (!first) last = &first;
        sum -= old->value;
        free(old);
    }
}

int main(void) {
    for (;;) {
        measure();
        forget_old();
        rest(20);
    }
}
