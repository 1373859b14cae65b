// A queue whose consumer is away for six seconds and then takes all in two: a sawtooth. Bound: 300 jobs of 1 KiB.
// innocent
// half: measured
#include "pace.h"

struct job {
    struct job *next;
    char work[1016];
};

static struct job *queue;
static unsigned length;

NOINLINE static void enqueue(void) {
    struct job *job = calloc(1, sizeof *job);
    job->next = queue;
    queue = job;
    length++;
}

NOINLINE static void dequeue(void) {
    struct job *job = queue;
    if (!job) return;
    queue = job->next;
    length--;
    free(job);
}

int main(void) {
    for (unsigned tick = 0;; tick++) {
        enqueue();
        if (tick % 400 >= 300)
            for (int i = 0; i < 5; i++) dequeue();
        rest(20);
    }
}
