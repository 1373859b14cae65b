// A program that knows what its heap holds. It fills it before anybody looks: small blocks of one size, every third of them freed
// again, blocks of other sizes, and some that are mapped one by one. It prints its truth as usable sizes.
//
// It reads lines from standard input: "more" allocates 5,000 blocks of 1,000 bytes more. Each is answered by a line.
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SMALL = 30000, MEDIUM = 500, LARGE = 20, MORE = 5000 };

static void *small[SMALL], *medium[MEDIUM], *large[LARGE];
static unsigned long objects, bytes;

static void *keep(size_t size) {
    char *block = malloc(size);
    if (!block)
        exit(1);
    memset(block, 1, size);
    objects++;
    bytes += malloc_usable_size(block);
    return block;
}

static void drop(void *block) {
    objects--;
    bytes -= malloc_usable_size(block);
    free(block);
}

int main(void) {
    // Its buffers come before the truth.
    static char out[BUFSIZ], in[BUFSIZ];
    setvbuf(stdout, out, _IOLBF, sizeof out);
    setvbuf(stdin, in, _IOFBF, sizeof in);
    for (int i = 0; i < SMALL; i++)
        small[i] = keep(100);
    for (int i = 0; i < MEDIUM; i++)
        medium[i] = keep(2000);
    for (int i = 0; i < LARGE; i++)
        large[i] = keep(1 << 20);
    for (int i = 0; i < SMALL; i += 3)
        drop(small[i]);
    printf("{\"live_objects\": %lu, \"live_bytes\": %lu, \"small_bytes\": %zu, \"small_objects\": %d, \"large_bytes\": %zu, "
           "\"large_objects\": %d}\n",
           objects, bytes, malloc_usable_size(small[1]), SMALL - (SMALL + 2) / 3, malloc_usable_size(large[0]), LARGE);
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        if (!strcmp(line, "more\n")) {
            for (int i = 0; i < MORE; i++)
                keep(1000);
            printf("{\"live_objects\": %lu, \"live_bytes\": %lu, \"more_bytes\": 1000, \"more_objects\": %d}\n", objects, bytes, MORE);
        }
    }
    return 0;
}
