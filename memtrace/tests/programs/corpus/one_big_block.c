// One block of 64 MiB, twelve seconds after the start, and then only work within it. Bound: that block.
// innocent
// half: measured
#include "pace.h"

enum { BYTES = 64 << 20 };

NOINLINE static char *reserve(void) {
    char *memory = malloc(BYTES);
    memory[0] = 1;
    return memory;
}

int main(void) {
    rest(12000);
    char *memory = reserve();
    for (;;) {
        // Its pages become resident bit by bit, but it was allocated once.
        memory[below(BYTES)]++;
        rest(20);
    }
}
