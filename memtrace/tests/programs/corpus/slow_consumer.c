// A queue without bound between two threads: 120 a second come in, at most 100 go out. It is longer each second.
// leak: produce
// half: tuned
#include "pace.h"
#include <pthread.h>

struct job {
    struct job *next;
    char input[700];
};

static struct job *first, **last = &first;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

NOINLINE static void produce(void) {
    struct job *job = calloc(1, sizeof *job);
    job->input[0] = (char)below(100);
    pthread_mutex_lock(&lock);
    *last = job;
    last = &job->next;
    pthread_mutex_unlock(&lock);
}

static void *consume(void *nothing) {
    for (;;) {
        rest(10);
        pthread_mutex_lock(&lock);
        struct job *job = first;
        if (job && !(first = job->next)) last = &first;
        pthread_mutex_unlock(&lock);
        free(job);
    }
    return nothing;
}

int main(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, consume, NULL);
    for (;;) {
        for (int i = 0; i < 12; i++) produce();
        rest(100);
    }
}
