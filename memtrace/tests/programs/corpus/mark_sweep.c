// A heap with mark and sweep: objects are made all the time, what cannot be reached goes every seven seconds.
// Bound: 600 that can be reached, and the garbage of seven seconds (some 1400 objects).
// innocent
// half: measured
#include "pace.h"

enum { ROOTS = 300 };

struct object {
    struct object *all, *refers;
    int marked;
    char fields[120];
};

static struct object *all, *roots[ROOTS];

NOINLINE static struct object *make_object(struct object *refers) {
    struct object *object = calloc(1, sizeof *object);
    object->all = all;
    object->refers = refers;
    all = object;
    return object;
}

NOINLINE static void collect(void) {
    for (int i = 0; i < ROOTS; i++)
        for (struct object *object = roots[i]; object && !object->marked; object = object->refers) object->marked = 1;
    for (struct object **at = &all; *at;) {
        struct object *object = *at;
        if (object->marked) {
            object->marked = 0;
            at = &object->all;
        } else {
            *at = object->all;
            free(object);
        }
    }
}

int main(void) {
    double collected = now();
    for (;;) {
        for (int i = 0; i < 4; i++) {
            unsigned root = below(ROOTS);
            struct object *old = roots[root];
            roots[root] = make_object(old && !old->refers ? old : NULL);
        }
        rest(20);
        if (now() > collected + 7) {
            collect();
            collected = now();
        }
    }
}
