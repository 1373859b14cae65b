// A backlog: for 15 seconds more comes in than goes out, then less does, and after 45 seconds it is worked off.
// Bound: 600 tasks of 800 bytes.
// innocent
// half: tuned
#include "pace.h"

enum { MOST = 1000 };

static char *tasks[MOST];
static unsigned first, count;

NOINLINE static void add_task(void) {
    char *task = malloc(800);
    memset(task, (int)count, 800);
    tasks[(first + count++) % MOST] = task;
}

NOINLINE static void do_task(void) {
    free(tasks[first]);
    first = (first + 1) % MOST;
    count--;
}

int main(void) {
    for (;;) {
        unsigned coming = now() < 15 ? 14 : 8;
        for (unsigned i = 0; i < coming && count < MOST; i++) add_task();
        for (int i = 0; i < 10 && count > 0; i++) do_task();
        rest(100);
    }
}
