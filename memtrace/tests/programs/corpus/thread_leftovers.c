// Threads come and go, five a second; each leaves its context of 8 KiB, since the key has no destructor.
// leak: context
// half: measured
#include "pace.h"
#include <pthread.h>

struct context {
    char scratch[8192];
    unsigned uses;
};

static pthread_key_t key;

NOINLINE static struct context *context(void) {
    struct context *mine = pthread_getspecific(key);
    if (!mine) {
        mine = calloc(1, sizeof *mine);
        pthread_setspecific(key, mine);
    }
    mine->uses++;
    return mine;
}

static void *job(void *argument) {
    unsigned steps = *(unsigned *)argument;
    free(argument);
    for (unsigned i = 0; i < steps; i++) {
        snprintf(context()->scratch, 100, "step %u of %u", i, steps);
        rest(20);
    }
    return NULL;
}

int main(void) {
    pthread_key_create(&key, NULL);
    for (;;) {
        unsigned *steps = malloc(sizeof *steps);
        *steps = 5 + below(40);
        pthread_t thread;
        pthread_create(&thread, NULL, job, steps);
        pthread_detach(thread);
        rest(200);
    }
}
