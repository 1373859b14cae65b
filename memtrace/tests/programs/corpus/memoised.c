// Results are kept by arguments, of which there are 800: nearly all are there after 30 seconds. Bound: 800 x 520 bytes.
// innocent
// half: tuned
#include "pace.h"

static double *results[40][20];

NOINLINE static double *compute(unsigned x, unsigned y) {
    double *result = malloc(65 * sizeof *result);
    result[0] = 1;
    for (int i = 1; i < 65; i++) result[i] = result[i - 1] * x / (y + 1);
    return result;
}

NOINLINE static double memoised(unsigned x, unsigned y) {
    if (!results[x][y]) results[x][y] = compute(x, y);
    return results[x][y][64];
}

int main(void) {
    double sum = 0;
    for (;;) {
        for (int i = 0; i < 2; i++) sum += memoised(below(40), below(20));
        rest(sum < 0 ? 1 : 20);
    }
}
