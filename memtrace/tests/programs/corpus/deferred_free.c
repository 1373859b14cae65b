// An object that readers may still see is freed later: each update leaves the old version in a queue, which is freed every three
// seconds. Bound: 100 current ones and the updates of three seconds (some 180).
// innocent
// half: measured
#include "pace.h"

enum { KEYS = 100 };

struct version {
    struct version *next_retired;
    unsigned number;
    char data[900];
};

static struct version *current[KEYS], *retired;

NOINLINE static void update(unsigned key, unsigned number) {
    struct version *version = malloc(sizeof *version);
    version->number = number;
    memset(version->data, (int)number, sizeof version->data);
    struct version *old = current[key];
    current[key] = version;
    if (!old) return;
    old->next_retired = retired;
    retired = old;
}

NOINLINE static void after_grace_period(void) {
    for (struct version *next; retired; retired = next) {
        next = retired->next_retired;
        free(retired);
    }
}

int main(void) {
    double freed = now();
    for (unsigned number = 0;; number++) {
        update(below(KEYS), number);
        rest(16);
        if (now() < freed + 3) continue;
        after_grace_period();
        freed = now();
    }
}
