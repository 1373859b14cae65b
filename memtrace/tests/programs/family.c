// A family of processes, each of which knows its own truth: what it has itself allocated and freed at the
// site `work`. A process prints one JSON object about itself: {"pid":…, "role":…, "inherited":…, "work":{…}},
// where "inherited" is how many blocks it has freed that it had from its parent by fork.
//
// usage: family CHILDREN [wait]   forks that many children, of three kinds in turn: those that go on as they
//                                 are (with threads, and a child of their own), those that call exec after
//                                 fork, and those that do so after vfork. With "wait" it begins when a line
//                                 comes on standard input, and stays until that ends.
//        family again             two children, one after the other, of the same pid
//        family program           only itself
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "counts.h"

enum { INHERITED = 100, BLOCKS = 500, THREADS = 3 };

static void *(*volatile call_malloc)(size_t) = malloc;
static void (*volatile call_free)(void *) = free;

static void *inherited[INHERITED];
static struct counts counts;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *self;

__attribute__((noipa)) static void *work(size_t size) { return call_malloc(size); }

static void count_alloc(size_t size) { counts.alloc_bytes += size, counts.alloc_objects++; }
static void count_free(size_t size) { counts.freed_bytes += size, counts.freed_objects++; }

// Allocates BLOCKS blocks whose sizes depend on the process, and frees every third.
static void *toil(void *unused) {
    for (size_t i = 0; i < BLOCKS; i++) {
        size_t size = (getpid() * 31 + i * 7) % 2000 + 1;
        void *block = work(size);
        pthread_mutex_lock(&lock);
        count_alloc(size);
        if (i % 3 == 0)
            count_free(size);
        pthread_mutex_unlock(&lock);
        if (i % 3 == 0)
            call_free(block);
    }
    return unused;
}

static void tell(const char *role, int freed_of_parent) {
    char text[512];
    int length = snprintf(text, sizeof text, "{\"pid\":%d,\"role\":\"%s\",\"inherited\":%d,", getpid(), role,
                          freed_of_parent);
    length += print_counts(text + length, sizeof text - length, "work", &counts);
    length += snprintf(text + length, sizeof text - length, "}\n");
    if (write(1, text, length) != length)
        _exit(3);
}

// The child's book begins empty: what it has from its parent is the parent's.
static void child(const char *role) {
    memset(&counts, 0, sizeof counts);
    for (int i = 0; i < 10; i++)
        call_free(inherited[i]);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, toil, NULL);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    if (!strcmp(role, "child")) {
        pid_t grandchild = fork();
        if (grandchild == 0) {
            memset(&counts, 0, sizeof counts);
            toil(NULL);
            tell("grandchild", 0);
            _exit(0);
        }
        waitpid(grandchild, NULL, 0);
    }
    toil(NULL);
    tell(role, 10);
    _exit(0);
}

static void another_program(void) {
    execl(self, self, "program", NULL);
    _exit(4);
}

static void again(void) {
    char text[32];
    pid_t first = fork();
    if (first == 0)
        child("first");
    waitpid(first, NULL, 0);
    int file = open("/proc/sys/kernel/ns_last_pid", O_WRONLY);
    int length = snprintf(text, sizeof text, "%d", first - 1);
    if (file < 0 || write(file, text, length) != length)
        _exit(5);
    pid_t second = fork();
    if (second == 0)
        child("second");
    waitpid(second, NULL, 0);
    tell(first == second ? "parent" : "other pid", 0);
}

int main(int argc, char **argv) {
    char line[16];
    int waits = argc > 2 && !strcmp(argv[2], "wait");
    self = argv[0];
    if (argc > 1 && !strcmp(argv[1], "program")) {
        toil(NULL);
        tell("program", 0);
        return 0;
    }
    if (waits && (write(1, "ready\n", 6) != 6 || read(0, line, sizeof line) < 1))
        return 2;
    for (int i = 0; i < INHERITED; i++) {
        inherited[i] = work(100);
        count_alloc(100);
    }
    if (argc > 1 && !strcmp(argv[1], "again")) {
        again();
        return 0;
    }
    int children = argc > 1 ? atoi(argv[1]) : 3;
    for (int i = 0; i < children; i++) {
        pid_t pid = i % 3 == 2 ? vfork() : fork();
        if (pid == 0 && i % 3 == 0)
            child("child");
        if (pid == 0)
            another_program();
    }
    toil(NULL);
    while (wait(NULL) > 0)
        ;
    tell("parent", 0);
    while (waits && read(0, line, sizeof line) > 0)
        ;
    return 0;
}
