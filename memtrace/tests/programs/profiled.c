// A program under jemalloc that profiles itself: main > mid > leaf allocate 3,000 blocks of 5,000 B. It writes jemalloc's
// heap profile, with its own mappings in it, to a file.
//
// usage: profiled FILE; prints "ready", begins when a line comes, prints the addresses of leaf, mid and main, and
// stays.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BLOCKS = 3000, SIZE = 5000 };

int mallctl(const char *name, void *old, size_t *old_length, void *new, size_t new_length);

static void *volatile kept[BLOCKS];

__attribute__((noipa)) void leaf(int i) {
    void *block = malloc(SIZE);
    memset(block, 1, SIZE);
    kept[i] = block;
}

__attribute__((noipa)) void mid(int i) {
    leaf(i);
    __asm__ volatile(""); // no jump to leaf
}

int main(int argc, char **argv) {
    static char text[256];
    char line[16];
    const char *file = argc > 1 ? argv[1] : "";
    free(malloc(10));
    if (write(1, "ready\n", 6) != 6 || read(0, line, sizeof line) <= 0)
        return 2;
    for (int i = 0; i < BLOCKS; i++)
        mid(i);
    if (mallctl("prof.dump", NULL, NULL, &file, sizeof file))
        return 3;
    int length = snprintf(text, sizeof text, "[%lu,%lu,%lu]\n", (unsigned long)leaf, (unsigned long)mid,
                          (unsigned long)main);
    if (write(1, text, length) != length)
        return 2;
    while (read(0, line, sizeof line) > 0)
        ;
    _exit(0);
}
