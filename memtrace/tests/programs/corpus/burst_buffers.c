// Twenty ticks a second that take half of it: a frame is made in parts, from an arena that is reset at the end of the
// tick, into the hidden one of two buffers, of another size each time. Bound: an arena of 64 KiB and two frames.
// innocent
// half: tuned
#include "pace.h"

enum { PARTS = 60, ARENA = 32 };

static void *arena[ARENA];
static unsigned in_arena;

NOINLINE static void *arena_take(size_t size) {
    if (in_arena == ARENA) return NULL;
    return arena[in_arena++] = malloc(size);
}

NOINLINE static void arena_reset(void) {
    while (in_arena > 0) free(arena[--in_arena]);
}

NOINLINE static char *make_frame(void) {
    size_t size = 60000 + below(60000);
    char *frame = malloc(size);
    for (int part = 0; part < PARTS; part++) {
        char *scratch = arena_take(500 + below(1500));
        if (scratch) scratch[0] = (char)part;
        frame[below((unsigned)size)] = (char)part;
        if (part % 12 == 11) rest(5);
    }
    return frame;
}

int main(void) {
    char *shown = make_frame();
    for (;;) {
        char *hidden = make_frame();
        arena_reset();
        char *before = shown;
        shown = hidden;
        free(before);
        rest(25);
    }
}
