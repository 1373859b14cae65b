// Twelve threads at the same work, through a stack of some depth; each loses one result in 16: 10 KiB/s together.
// leak: compute
// half: measured
#include "pace.h"
#include <pthread.h>

struct result {
    double value;
    char digits[1016];
};

NOINLINE static struct result *compute(unsigned input) {
    struct result *result = malloc(sizeof *result);
    result->value = input * 1.5;
    snprintf(result->digits, sizeof result->digits, "%f", result->value);
    return result;
}

NOINLINE static double stage(unsigned level, unsigned input) {
    if (level > 0) return stage(level - 1, input + level) + 1;
    struct result *result = compute(input);
    double value = result->value;
    // Zero is taken for "no result".
    if (input % 16 != 0) free(result);
    return value;
}

static void *work(void *nothing) {
    for (unsigned input = below(1000);; input++) {
        if (stage(9, input) < 0) break;
        rest(60 + (int)below(60));
    }
    return nothing;
}

int main(void) {
    pthread_t threads[12];
    for (int i = 0; i < 12; i++) pthread_create(&threads[i], NULL, work, NULL);
    for (;;) rest(1000);
}
