// A plug-in of one function, whose name is MAKE.
#include <stdlib.h>

__attribute__((noinline)) void *MAKE(unsigned bytes) {
    void *volatile block = malloc(bytes);
    return block;
}

void *make(unsigned bytes) {
    void *volatile block = MAKE(bytes);
    return block;
}
