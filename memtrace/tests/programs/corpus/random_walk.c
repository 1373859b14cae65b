// A queue whose length goes at random, between none and 400: 20 steps a second of up to 30 jobs. Bound: 400 x 1 KiB.
// innocent
// half: measured
#include "pace.h"

enum { MOST = 400 };

static char *queue[MOST];
static int length;

NOINLINE static void push(void) {
    char *job = malloc(1024);
    memset(job, length, 1024);
    queue[length++] = job;
}

int main(void) {
    for (;;) {
        int wanted = length + (int)below(61) - 30;
        while (length < wanted && length < MOST) push();
        while (length > wanted && length > 0) free(queue[--length]);
        rest(50);
    }
}
