// Keeps blocks that the C library allocates for it, in the first thread and in another, for each line of stdin: the whole stack leads
// through the C library. Says "ready", then "done" for each line.

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ONCE __attribute__((noinline, noclone))

ONCE static char *keep(const char *text) {
    char *kept = strdup(text);
    __asm__ volatile("" ::"r"(kept) : "memory");
    return kept;
}

ONCE static int compare(const void *one, const void *other) {
    keep("compared");
    return *(const int *)one - *(const int *)other;
}

// The stack leads through qsort(), which calls back.
ONCE static void sort(void) {
    int numbers[] = {2, 1};
    qsort(numbers, 2, sizeof numbers[0], compare);
    __asm__ volatile("" ::: "memory");
}

ONCE static void *work(void *unused) {
    keep("in another thread");
    __asm__ volatile("" ::: "memory");
    return unused;
}

int main(void) {
    char line[64];
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        pthread_t thread;
        sort();
        if (pthread_create(&thread, NULL, work, NULL) != 0 || pthread_join(thread, NULL) != 0)
            return 1;
        puts("done");
        fflush(stdout);
    }
    return 0;
}
