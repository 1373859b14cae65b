// A job that runs every so often: a batch of blocks, of which one in fifty is never freed.
//
// usage: batches PERIOD_MS BLOCKS
// Prints "ready"; begins when a line comes; when another comes, stops after the batch and prints one JSON object: allocated
// and freed bytes and objects at its site. Then it stays until standard input ends.
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "counts.h"

enum { MOST = 20000, KEPT_ONE_IN = 50, SIZE = 1000 };

static void *(*volatile call_malloc)(size_t) = malloc;
static void (*volatile call_free)(void *) = free;
static void *batch[MOST];

// Written to, so that it is resident.
__attribute__((noinline)) static void *import_row(void) {
    void *row = call_malloc(SIZE);
    memset(row, 1, SIZE);
    return row;
}

static void import_batch(int blocks) {
    for (int index = 0; index < blocks; index++) batch[index] = import_row();
    for (int index = 0; index < blocks; index++)
        if (index % KEPT_ONE_IN != 0) call_free(batch[index]);
}

// Whether a line comes meanwhile.
static int wait_ms(int period_ms) {
    struct pollfd input = {.fd = 0, .events = POLLIN};
    return poll(&input, 1, period_ms) != 0;
}

int main(int count, char **arguments) {
    if (count != 3) return 2;
    int period_ms = atoi(arguments[1]), blocks = atoi(arguments[2]);
    if (blocks > MOST) return 2;
    setvbuf(stdin, NULL, _IONBF, 0);
    setvbuf(stdout, NULL, _IONBF, 0);
    puts("ready");
    while (getchar() != '\n') {}
    long batches = 0;
    do {
        import_batch(blocks);
        batches++;
    } while (!wait_ms(period_ms));
    long objects = batches * blocks, freed = objects - objects / KEPT_ONE_IN;
    struct counts counts = {objects * SIZE, objects, freed * SIZE, freed};
    char line[256];
    print_counts(line, sizeof line, "import_row", &counts);
    printf("{%s}\n", line);
    while (getchar() != EOF) {}
    return 0;
}
