// With LIBRARY, an allocator that wraps the C library's, and keeps HEADER bytes before each block. Without, a program
// that makes 100 blocks, and when a line comes frees them, allocates, resizes and frees, and prints what it has allocated
// and freed at its site since.
#define _GNU_SOURCE
#include <stddef.h>
#include <string.h>

#ifdef LIBRARY
extern void *__libc_malloc(size_t);
extern void *__libc_realloc(void *, size_t);
extern void __libc_free(void *);

static void *behind_header(char *block) { return block ? block + HEADER : NULL; }
static char *whole(void *block) { return block ? (char *)block - HEADER : NULL; }

void *malloc(size_t size) { return behind_header(__libc_malloc(size + HEADER)); }
void *realloc(void *block, size_t size) { return behind_header(__libc_realloc(whole(block), size + HEADER)); }
void free(void *block) { __libc_free(whole(block)); }
void *calloc(size_t count, size_t size) {
    // Not `malloc`: with `memset`, the compiler would call `calloc` in its place.
    void *block = behind_header(__libc_malloc(count * size + HEADER));
    return block ? memset(block, 0, count * size) : NULL;
}
#else
#include <stdio.h>
#include <stdlib.h>

#include "counts.h"

enum { ROUNDS = 1000, KEPT = 50, FIRST = 60, RESIZED = 200, BEFORE = 100 };
static void *volatile kept[ROUNDS];
static void *before[BEFORE];

__attribute__((noinline)) static void site_wrapped(struct counts *counts) {
    for (int round = 0; round < ROUNDS; round++) {
        kept[round] = malloc(KEPT);
        void *volatile block = calloc(3, FIRST / 3);
        block = realloc(block, RESIZED);
        free(block);
        counts->alloc_bytes += KEPT + FIRST + RESIZED, counts->alloc_objects += 3;
        counts->freed_bytes += FIRST + RESIZED, counts->freed_objects += 2;
    }
}

int main(void) {
    static char in[16], out[256];
    struct counts counts = {0};
    setvbuf(stdin, in, _IOFBF, sizeof in);
    setvbuf(stdout, NULL, _IONBF, 0);
    for (int index = 0; index < BEFORE; index++) before[index] = malloc(32);
    puts("ready");
    while (getchar() != '\n') {}
    // Neighbours, one after the other downwards.
    for (int index = BEFORE; index > 0; index--) free(before[index - 1]);
    site_wrapped(&counts);
    print_counts(out, sizeof out, "site_wrapped", &counts);
    printf("{%s}\n", out);
    while (getchar() != EOF) {}
    return 0;
}
#endif
