// A process whose first thread is not the one that matters: another one does what the arguments say, in their order, and
// then ends the process.
//
//   leave         the first thread ends, and is waited for
//   wait          says "ready", and waits for a line
//   work          allocates and frees at one site, and tells the truth of that so far
//   load          loads the library LIBRARY and does the same with its mi_malloc and mi_free
//   churn         makes 200 threads one after the other, each of which allocates and frees blocks of all sizes
//   touch         makes 16 MiB resident, and says "touched"
//   lose          loses twenty blocks of 123 bytes
//   exec CMD …    runs another program in the same process
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "counts.h"

enum { BLOCKS = 1000, TOUCHED = 16 << 20 };

// Through pointers that the compiler cannot see through, so that no call is optimised away.
static void *(*volatile call_malloc)(size_t) = malloc;
static void (*volatile call_free)(void *) = free;

static char **arguments;
static sem_t leaves;
static struct counts of_work, of_loaded;
static void *kept[BLOCKS], *kept_of_loaded[BLOCKS];

static void say(const char *text) {
    if (write(1, text, strlen(text)) < 0) _exit(2);
}

// The state of the first thread, as proc_pid_stat(5) has it.
static char state(void) {
    char name[64], text[512] = {0};
    snprintf(name, sizeof name, "/proc/%d/stat", getpid());
    FILE *file = fopen(name, "r");
    if (!file || !fgets(text, sizeof text, file)) _exit(3);
    fclose(file);
    return strrchr(text, ')')[2];
}

static void leave(void) {
    sem_post(&leaves);
    while (state() != 'Z') nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static void count(struct counts *counts, size_t size, int is_freed) {
    counts->alloc_bytes += size;
    counts->alloc_objects++;
    if (is_freed) {
        counts->freed_bytes += size;
        counts->freed_objects++;
    }
}

static void tell(const char *name, const struct counts *counts) {
    char text[512] = "{";
    size_t used = 1 + print_counts(text + 1, sizeof text - 4, name, counts);
    strcpy(text + used, "}\n");
    say(text);
}

__attribute__((noinline)) static void work(void) {
    for (int i = 0; i < BLOCKS; i++) {
        char *block = call_malloc(i % 500 + 1);
        block[0] = 1;
        count(&of_work, i % 500 + 1, i % 10);
        if (i % 10) call_free(block);
        else kept[i] = block;
    }
}

__attribute__((noinline)) static void work_of_loaded(void *(*of_malloc)(size_t), void (*of_free)(void *)) {
    for (int i = 0; i < BLOCKS; i++) {
        char *block = of_malloc(i % 500 + 1);
        block[0] = 1;
        count(&of_loaded, i % 500 + 1, i % 10);
        if (i % 10) of_free(block);
        else kept_of_loaded[i] = block;
    }
}

static void load(void) {
    char line[16];
    void *library = dlopen(getenv("LIBRARY"), RTLD_NOW);
    if (!library) _exit(4);
    // A tracer has the time to hook the library.
    say("loaded\n");
    if (read(0, line, sizeof line) <= 0) _exit(2);
    work_of_loaded((void *(*)(size_t))dlsym(library, "mi_malloc"), (void (*)(void *))dlsym(library, "mi_free"));
    tell("work_of_loaded", &of_loaded);
}

__attribute__((noinline)) static void touch(void) {
    char *memory = mmap(NULL, TOUCHED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(memory, 1, TOUCHED);
    say("touched\n");
}

__attribute__((noinline)) static void lose(void) {
    for (int i = 0; i < 20; i++) {
        char *volatile block = call_malloc(123);
        block[0] = 1;
        block = NULL;
    }
}

static void *of_all_sizes(void *unused) {
    void *blocks[100];
    for (int i = 0; i < 100; i++) blocks[i] = call_malloc(i * 10 + 1);
    for (int i = 0; i < 100; i++) call_free(blocks[i]);
    return unused;
}

static void churn(void) {
    for (int i = 0; i < 200; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, of_all_sizes, NULL)) _exit(6);
        pthread_join(thread, NULL);
    }
}

// Overwrites old pointers on the stack below.
__attribute__((noinline)) static void wipe(void) {
    volatile char deep[16384];
    memset((void *)deep, 0, sizeof deep);
}

static void *run(void *unused) {
    char line[16];
    for (char **next = arguments; *next; next++) {
        if (!strcmp(*next, "leave")) leave();
        if (!strcmp(*next, "wait")) {
            say("ready\n");
            if (read(0, line, sizeof line) <= 0) _exit(2);
        }
        if (!strcmp(*next, "work")) {
            work();
            tell("work", &of_work);
        }
        if (!strcmp(*next, "load")) load();
        if (!strcmp(*next, "touch")) touch();
        if (!strcmp(*next, "lose")) lose();
        if (!strcmp(*next, "churn")) churn();
        if (!strcmp(*next, "exec")) {
            execv(next[1], next + 1);
            _exit(5);
        }
    }
    wipe();
    exit(0);
    return unused;
}

int main(int argc, char **argv) {
    pthread_t thread;
    arguments = argv + 1;
    sem_init(&leaves, 0, 0);
    if (argc < 2 || pthread_create(&thread, NULL, run, NULL)) return 2;
    sem_wait(&leaves);
    pthread_exit(NULL);
}
