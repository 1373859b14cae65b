// Blocks of known ages. On a line, eight threads allocate OLD blocks each at the site `old`; 40 s later they free a quarter of
// them, and allocate YOUNG each at the site `young`, of which they free half at once.
//
// Prints "ready", and "done" when all that has happened; ends with its input.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { THREADS = 8, OLD = 400, YOUNG = 200, BYTES = 64, WAIT_S = 40 };

static void *(*volatile call_malloc)(size_t) = malloc;
static void *blocks[THREADS][OLD];
static void *more[THREADS][YOUNG];

__attribute__((noipa)) static void *old(void) { return call_malloc(BYTES); }
__attribute__((noipa)) static void *young(void) { return call_malloc(BYTES); }

static void *begin(void *of) {
    void **mine = of;
    for (int i = 0; i < OLD; i++)
        mine[i] = old();
    return NULL;
}

static void *end(void *of) {
    long thread = (long)of;
    for (int i = 0; i < OLD; i += 4)
        free(blocks[thread][i]);
    for (int i = 0; i < YOUNG; i++)
        more[thread][i] = young();
    for (int i = 0; i < YOUNG; i += 2)
        free(more[thread][i]);
    return NULL;
}

static void by_all(void *(*what)(void *), int is_begin) {
    pthread_t threads[THREADS];
    for (long i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, what, is_begin ? (void *)blocks[i] : (void *)i);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

static void say(const char *text) {
    puts(text);
    fflush(stdout);
}

int main(void) {
    char line[16];
    say("ready");
    if (!fgets(line, sizeof line, stdin))
        return 1;
    by_all(begin, 1);
    sleep(WAIT_S);
    by_all(end, 0);
    say("done");
    while (fgets(line, sizeof line, stdin)) {
    }
    return 0;
}
