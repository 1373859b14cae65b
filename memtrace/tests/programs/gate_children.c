// Children that are forked, allocate for themselves and lose some of it: each by a size of its own, so that a report shows
// whose blocks are lost. The parent keeps all that it has.
//
//   gate_children lose HOW N    one child loses N blocks of 311 bytes (lose_in_child), and ends by HOW: exit, _exit, raw, exec
//   gate_children many N        eight children at once lose N blocks each
//   gate_children threads N     the parent has threads with blocks of their own; a child loses N blocks
//   gate_children freeing N     a child frees what its parent has allocated, before it loses N blocks
//   gate_children ring N        a child loses N blocks that point to one another (lose_ring_in_child)
//   gate_children held          a child keeps blocks in every way, in its parent's blocks as well; nothing is lost
//   gate_children grandchild N  a child's child loses N blocks
//   gate_children crowd N       N children that lose nothing, one after the other, after one that loses a block
//   gate_children killed        a child is killed by a signal while it holds a block
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define ONCE __attribute__((noinline, noclone))

// A large one is a mapping of its own; the others lie in the heap, among blocks that are free when the child begins.
enum { KEPT = 64, LARGE = 1 << 20 };

static void **volatile kept[KEPT];
static void *volatile global;
static __thread void *volatile thread_local_block;
static pthread_barrier_t ready;

ONCE static void *block(size_t size) {
    void *made = malloc(size);
    memset(made, 0, size);
    return made;
}

ONCE void lose_in_child(int count) {
    for (int i = 0; i < count; i++) {
        char *volatile lost = malloc(311);
        *(volatile char *)lost = 1;
        lost = NULL;
    }
}

ONCE void lose_ring_in_child(int count) {
    void **volatile first = block(96);
    void **volatile last = first;
    for (int i = 1; i < count; i++) {
        *last = block(96);
        last = *last;
    }
    *last = first;
    first = last = NULL;
}

// Overwrites old pointers on the stack below.
ONCE static void wipe(void) {
    volatile char deep[32768];
    for (size_t i = 0; i < sizeof deep; i++) deep[i] = 0;
}

// Free memory is full of zeros, not of pointers to what will lie there: children's heaps are looked through as they were.
ONCE static void prepare(void) {
    void *freed[KEPT];
    for (int i = 0; i < KEPT; i++) {
        kept[i] = block(i == 0 ? LARGE : 200);
        freed[i] = block(200);
    }
    for (int i = 0; i < KEPT; i++) free(freed[i]);
    memset(freed, 0, sizeof freed);
    __asm__ volatile("" : : "r"(freed) : "memory");
}

ONCE static void keep_in_child(void) {
    global = block(320);
    thread_local_block = block(330);
    // In blocks that are the parent's: in the heap, in a mapping, in the middle.
    kept[1][5] = block(340);
    kept[0][LARGE / 16] = block(350);
    void **first = block(360);
    first[7] = (char *)block(370) + 100;
    kept[2][3] = first;
    void **mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mapped[9] = block(380);
    // One of the parent's blocks is resized, and is the child's from then on.
    kept[3] = realloc((void *)kept[3], 5000);
    kept[3][600] = block(390);
}

static void *waiting(void *unused) {
    void *volatile here = block(400);
    thread_local_block = block(410);
    pthread_barrier_wait(&ready);
    pause();
    return (void *)here ? unused : NULL;
}

ONCE static void start_threads(void) {
    pthread_barrier_init(&ready, NULL, 2);
    for (int i = 0; i < 4; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, waiting, NULL);
        pthread_barrier_wait(&ready);
    }
}

ONCE static void free_what_is_inherited(void) {
    for (int i = 0; i < KEPT; i++) {
        free((void *)kept[i]);
        kept[i] = NULL;
    }
}

static void end(const char *how) {
    int is_plain = !strcmp(how, "_exit"), is_raw = !strcmp(how, "raw"), is_exec = !strcmp(how, "exec");
    wipe();
    if (is_plain) _exit(0);
    if (is_raw) syscall(SYS_exit_group, 0);
    if (is_exec) execl("/bin/true", "true", NULL);
    exit(0);
}

static void wait_for_all(void) {
    while (wait(NULL) > 0) continue;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "held";
    const char *how = argc > 3 ? argv[2] : "exit";
    int number = argc > 2 ? atoi(argv[argc - 1]) : 1;
    prepare();
    if (!strcmp(what, "threads")) start_threads();
    int children = !strcmp(what, "many") ? 8 : 1;
    for (int i = 0; i < children; i++) {
        if (fork() != 0) continue;
        if (!strcmp(what, "grandchild")) {
            if (fork() == 0) {
                lose_in_child(number);
                end("exit");
            }
            wait_for_all();
            end("exit");
        }
        if (!strcmp(what, "freeing")) free_what_is_inherited();
        if (!strcmp(what, "held")) keep_in_child();
        else if (!strcmp(what, "ring")) lose_ring_in_child(number);
        else if (!strcmp(what, "crowd")) lose_in_child(1);
        else if (!strcmp(what, "killed")) global = block(320);
        else lose_in_child(number);
        if (!strcmp(what, "killed")) raise(SIGTERM);
        end(how);
    }
    wait_for_all();
    for (int i = 0; !strcmp(what, "crowd") && i < number; i++) {
        if (fork() != 0) {
            wait_for_all();
            continue;
        }
        // More than the first: they are not left out for having allocated least.
        for (int round = 0; round < 20; round++) free(block(100000));
        end("exit");
    }
    return 0;
}
