// Compiled twice, with frame pointers and without.
#include "descend.h"

__attribute__((noipa)) void DESCEND(unsigned frames, void (*then)(void *), void *with) {
    if (frames > 1)
        DESCEND(frames - 1, then, with);
    else
        then(with);
    __asm__ volatile("");
}
