// A pool that grows to its working set in steps, as the load does at 6, 12, 18 and 25 seconds. Bound: 25 slabs of 16
// KiB.
// innocent
// half: tuned
#include "pace.h"

enum { SIZE = 512, IN_SLAB = 32, MOST = 800 };

struct object {
    struct object *next;
};

static struct object *spare;

NOINLINE static void add_slab(void) {
    char *slab = malloc((size_t)SIZE * IN_SLAB);
    for (int i = 0; i < IN_SLAB; i++) {
        struct object *object = (struct object *)(slab + i * SIZE);
        object->next = spare;
        spare = object;
    }
}

NOINLINE static struct object *get(void) {
    if (!spare) add_slab();
    struct object *object = spare;
    spare = object->next;
    return object;
}

int main(void) {
    static struct object *used[MOST];
    for (;;) {
        double at = now();
        unsigned load = at < 6 ? 100 : at < 12 ? 250 : at < 18 ? 400 : at < 25 ? 600 : MOST;
        for (unsigned i = 0; i < load; i++) memset(used[i] = get(), 0, SIZE);
        rest(100);
        for (unsigned i = 0; i < load; i++) {
            used[i]->next = spare;
            spare = used[i];
        }
    }
}
