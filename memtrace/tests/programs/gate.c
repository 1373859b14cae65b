// Leaves blocks behind when it ends: some that nothing points to, some that can be reached in every way there is.
//
//   gate held           what can be reached, in every way; nothing else
//   gate leak N         N blocks of 273 bytes that nothing points to (lose), and what `held` has
//   gate leak-more N    the same, and one more elsewhere (lose_elsewhere)
//   gate list N         a ring of N blocks that point to one another, and nobody to them
//   gate thread N       N blocks that a thread loses, which has an arena of its own
//   gate large N        N blocks of a MiB, each of which is a mapping of its own
//   gate exec N         loses N blocks, and becomes `gate held`
//   gate raw-exec N     the same, by the system call itself
//   gate exit S         loses a block, and ends with status S
//   gate kill, abort    loses a block, and ends by a signal
//   gate raw            loses a block, and ends by the system call itself
//   gate vfork          has a child in its memory that ends, and then loses a block
//   gate heap N         N blocks of a KiB in a tree that can be reached
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

void *volatile global;
void *volatile interior;
void **volatile mapped;
void *volatile of_large;
static __thread void *volatile thread_local_block;
static pthread_key_t key;
static pthread_barrier_t ready;
static volatile int runs;

// Blocks have the address of their first byte nowhere else once these return.
ONCE static void *block(size_t size) {
    void *made = malloc(size);
    memset(made, 0, size);
    return made;
}

ONCE void lose(int count) {
    for (int i = 0; i < count; i++) {
        char *volatile lost = malloc(273);
        lost[0] = 1;
        lost = NULL;
    }
}

ONCE void lose_elsewhere(void) {
    char *volatile lost = malloc(64);
    lost[0] = 1;
    lost = NULL;
}

ONCE void lose_large(int count) {
    for (int i = 0; i < count; i++) {
        char *volatile lost = malloc(1 << 20);
        lost[0] = 1;
        lost = NULL;
    }
}

struct node {
    struct node *next;
    char rest[40];
};

ONCE void lose_ring(int count) {
    struct node *volatile first = malloc(sizeof *first);
    struct node *volatile last = first;
    for (int i = 1; i < count; i++) {
        last->next = malloc(sizeof *last);
        last = last->next;
    }
    last->next = first;
    last = first = NULL;
}

// The words on the stack below are of no account.
ONCE static void wipe(void) {
    volatile char deep[16384];
    memset((void *)deep, 0, sizeof deep);
}

ONCE static void keep_in_globals(void) { global = block(100); }
ONCE static void keep_by_the_middle(void) { interior = (char *)block(200) + 120; }
ONCE static void keep_thread_local(void) { thread_local_block = block(300); }
ONCE static void keep_thread_specific(void) { pthread_setspecific(key, block(400)); }
volatile uintptr_t tagged;
ONCE static void keep_under_a_tag(void) {
    tagged = (uintptr_t)block(450) | (uintptr_t)0xabcd << 48;
}
ONCE static void keep_in_a_chain(void) {
    void **first = block(500);
    first[10] = block(500);
    *(void **)first[10] = first;
    void **before = global;
    before[3] = first;
}
ONCE static void keep_in_a_mapping(void) {
    mapped = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mapped[77] = block(600);
}
ONCE static void keep_in_what_is_read_only(void) {
    void **page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *page = block(700);
    mprotect(page, 4096, PROT_READ);
}
ONCE static void keep_a_large_one(void) {
    // Next to a mapping of the program's own, so that to the kernel both are one.
    void **page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    void **large = block(1 << 20);
    *page = block(900);
    large[1000] = block(900);
    of_large = large;
}

static void *on_a_stack(void *unused) {
    void *volatile here = block(800);
    void *lost = block(273);
    free(lost);
    thread_local_block = block(300);
    pthread_barrier_wait(&ready);
    pause();
    return (void *)here ? unused : NULL;
}

// The block's address is in a register and nowhere else, once the thread says that it runs there for ever.
#define SPIN_WITH(instructions, clobbered)                                                                             \
    __asm__ volatile(instructions "movl $1, %1\n1: pause\n jmp 1b" : "+r"(made), "=m"(runs) : : clobbered)

static void *in_a_register(void *unused) {
    uintptr_t made = (uintptr_t)block(801);
    wipe();
    pthread_barrier_wait(&ready);
    SPIN_WITH("", "memory");
    return unused;
}

static void *in_a_vector_register(void *unused) {
    uintptr_t made = (uintptr_t)block(802);
    wipe();
    pthread_barrier_wait(&ready);
    SPIN_WITH("movq %0, %%xmm9\nxor %0, %0\n", "xmm9");
    return unused;
}

static void *losing(void *count) {
    lose((int)(intptr_t)count);
    wipe();
    pthread_barrier_wait(&ready);
    pause();
    return NULL;
}

static void start(void *(*run)(void *), void *argument) {
    pthread_t thread;
    pthread_barrier_init(&ready, NULL, 2);
    pthread_create(&thread, NULL, run, argument);
    pthread_barrier_wait(&ready);
}

ONCE static void keep(void) {
    pthread_key_create(&key, NULL);
    keep_in_globals();
    keep_by_the_middle();
    keep_thread_local();
    keep_thread_specific();
    keep_under_a_tag();
    keep_in_a_chain();
    keep_in_a_mapping();
    keep_in_what_is_read_only();
    keep_a_large_one();
}

ONCE static void keep_with_threads(void) {
    start(on_a_stack, NULL);
    start(in_a_register, NULL);
#ifndef NO_VECTORS
    start(in_a_vector_register, NULL);
#endif
}

ONCE void grow_tree(int count) {
    void ***all = calloc(1 + count / 100, sizeof(void **));
    for (int i = 0; i < count; i++) {
        if (i % 100 == 0) all[i / 100] = calloc(100, sizeof(void *));
        all[i / 100][i % 100] = block(1024);
    }
    global = all;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "held";
    int number = argc > 2 ? atoi(argv[2]) : 1;
    if (!strcmp(what, "heap")) {
        grow_tree(number);
        return 0;
    }
    keep();
    // Threads begin with the registers of who makes them, so before anything is lost.
    if (strcmp(what, "exec") && strcmp(what, "raw-exec")) keep_with_threads();
    void *volatile local = block(900);
    if (!strcmp(what, "leak") || !strcmp(what, "leak-more")) lose(number);
    if (!strcmp(what, "leak-more")) lose_elsewhere();
    if (!strcmp(what, "list")) lose_ring(number);
    if (!strcmp(what, "large")) lose_large(number);
    if (!strcmp(what, "thread")) start(losing, (void *)(intptr_t)number);
    if (!strcmp(what, "exec")) {
        lose(number);
        execl("/proc/self/exe", argv[0], "held", NULL);
    }
    if (!strcmp(what, "raw-exec")) {
        char *arguments[] = {argv[0], "held", NULL}, *environment[] = {NULL};
        lose(number);
        syscall(SYS_execve, "/proc/self/exe", arguments, environment);
    }
    if (!strcmp(what, "vfork")) {
        pid_t child = vfork();
        if (child == 0) _exit(0);
        waitpid(child, NULL, 0);
        lose(1);
    }
    if (!strcmp(what, "kill") || !strcmp(what, "abort") || !strcmp(what, "raw") || !strcmp(what, "exit")) lose(1);
    if (!strcmp(what, "kill")) kill(getpid(), SIGKILL);
    if (!strcmp(what, "abort")) abort();
    if (!strcmp(what, "raw")) syscall(SYS_exit_group, 0);
    wipe();
    exit(!strcmp(what, "exit") ? number : local == NULL);
}
