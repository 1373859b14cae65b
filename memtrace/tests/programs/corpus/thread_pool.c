// A pool of threads that warms up, one more every three seconds to eight, each with 64 KiB to work in; then jobs for
// ever. Bound: 8 x 64 KiB after 21 seconds.
// innocent
// half: tuned
#include "pace.h"
#include <pthread.h>

enum { MOST = 8 };

NOINLINE static char *scratch(void) {
    char *room = malloc(65536);
    memset(room, 0, 4096);
    return room;
}

NOINLINE static void run_job(char *room) {
    size_t size = 100 + below(1900);
    char *input = malloc(size);
    memset(input, 5, size);
    memcpy(room, input, size);
    free(input);
}

static void *worker(void *nothing) {
    char *room = scratch();
    for (;;) {
        run_job(room);
        rest(10 + (int)below(20));
    }
    return nothing;
}

int main(void) {
    for (int count = 0;; count++) {
        pthread_t thread;
        if (count < MOST) pthread_create(&thread, NULL, worker, NULL);
        rest(3000);
    }
}
