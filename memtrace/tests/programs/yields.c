// Coroutines over an allocator that yields while a call of it is under way: of one thread, eight calls are pending at
// once, each on a stack of its own. It knows its own truth.
//
// usage: yields ROUNDS [cooperative|migrating|preempted|abandoning]
//   cooperative: every call yields to the next coroutine before it returns;
//   migrating:   the same, and each call returns in another thread than it was entered in;
//   preempted:   a timer's signal switches to the next coroutine at any instruction;
//   abandoning:  every call yields and is never resumed: its coroutine begins anew on the same stack.
// Prints "ready", begins when a line comes, prints its truth and stays. The allocator is the program's malloc or, with
// -DPOOL, no malloc: pool_get and pool_put.
#define _GNU_SOURCE
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#include "counts.h"

enum { COROUTINES = 7, STACK_BYTES = 64 << 10, ROOM = 256 << 20 };

static ucontext_t scheduler, coroutines[COROUTINES];
static volatile int running = -1; // which coroutine runs; -1 for none
static int finished[COROUTINES];
static long rounds, abandoned;
static int yields, preempts, abandons;
static struct counts counts;

static char *room;
static size_t used;

static void yield(void) {
    int self = running;
    if (self < 0)
        return;
    running = -1;
    swapcontext(&coroutines[self], &scheduler);
}

static void *take(size_t size) {
    size_t start = __atomic_fetch_add(&used, (size + 31) & ~(size_t)15, __ATOMIC_RELAXED);
    if (start + size + 32 > ROOM)
        abort();
    if (yields)
        yield();
    return room + start + 16;
}

#define OWN __attribute__((noipa))
#ifdef POOL
OWN void *pool_get(size_t size) { return take(size); }
OWN void pool_put(void *block) { memset(block, 0, 1); }
#else
#define pool_get malloc
#define pool_put free
static void make_room(void) {
    if (!room)
        room = mmap(NULL, ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}
OWN void *malloc(size_t size) {
    make_room();
    return take(size);
}
OWN void free(void *block) { __asm__ volatile("" : : "r"(block)); }
OWN void *calloc(size_t count, size_t size) {
    make_room();
    return take(count * size);
}
#endif

__attribute__((noipa)) static void *work(size_t size) {
    void *block = pool_get(size);
    __asm__ volatile("" : : "r"(block) : "memory"); // no jump to pool_get
    return block;
}

// A call counts once it has returned.
static void body(int self) {
    void *last = NULL;
    for (long round = 0; round < rounds; round++) {
        size_t size = 100 + self + round % 50;
        void *block = work(size);
        __atomic_fetch_add(&counts.alloc_bytes, size, __ATOMIC_RELAXED);
        __atomic_fetch_add(&counts.alloc_objects, 1, __ATOMIC_RELAXED);
        if (round % 3 == 1) {
            size_t last_size = 100 + self + (round - 1) % 50;
            pool_put(last);
            __atomic_fetch_add(&counts.freed_bytes, last_size, __ATOMIC_RELAXED);
            __atomic_fetch_add(&counts.freed_objects, 1, __ATOMIC_RELAXED);
        }
        last = block;
    }
    finished[self] = 1;
    preempts &= ~(1 << self);
    yield();
}

static void make(int i, void *stack) {
    getcontext(&coroutines[i]);
    coroutines[i].uc_stack.ss_sp = stack;
    coroutines[i].uc_stack.ss_size = STACK_BYTES;
    coroutines[i].uc_link = NULL;
    makecontext(&coroutines[i], (void (*)(void))body, 1, i);
}

static void resume(int i) {
    running = i;
    swapcontext(&scheduler, &coroutines[i]);
}

static int is_over(void) {
    for (int i = 0; i < COROUTINES; i++)
        if (!finished[i])
            return 0;
    return 1;
}

static void preempt(int signal) {
    (void)signal;
    if (running >= 0 && preempts & 1 << running)
        yield();
}

// Two threads that take turns: with an odd number of coroutines, each is resumed by the one and the other in turn.
static sem_t turns[2];
static long step;
static void *take_turns(void *which) {
    int self = (int)(long)which;
    for (;;) {
        sem_wait(&turns[self]);
        if (!is_over() && !finished[step % COROUTINES])
            resume((int)(step % COROUTINES));
        step++;
        sem_post(&turns[1 - self]);
        if (is_over())
            return NULL;
    }
}

static void run(const char *mode, char *stacks) {
    if (!strcmp(mode, "migrating")) {
        pthread_t thread;
        sem_init(&turns[0], 0, 1);
        sem_init(&turns[1], 0, 0);
        yields = 0; // the thread's own memory is no coroutine's
        pthread_create(&thread, NULL, take_turns, (void *)1);
        yields = 1;
        take_turns((void *)0);
        sem_post(&turns[1]);
        pthread_join(thread, NULL);
        return;
    }
    if (preempts) {
        // In an emulator, the next signal would come before the last one is done with, and fill the stack.
        const char *scale = getenv("MEMTRACE_TEST_SCALE");
        long period_us = 300 * (scale ? atol(scale) : 1);
        struct itimerval often = {{0, period_us}, {0, period_us}};
        struct sigaction action = {.sa_handler = preempt};
        sigaction(SIGALRM, &action, NULL);
        setitimer(ITIMER_REAL, &often, NULL);
    }
    for (long n = 0; abandons ? n < rounds : !is_over(); n++) {
        int i = (int)(n % COROUTINES);
        if (abandons && n >= COROUTINES) {
            abandoned++;
            make(i, stacks + (size_t)i * STACK_BYTES);
        }
        if (!finished[i])
            resume(i);
    }
    struct itimerval never = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &never, NULL);
}

int main(int argc, char **argv) {
    static char text[1024];
    char line[16];
    const char *mode = argc > 2 ? argv[2] : "cooperative";
    rounds = argc > 1 ? atol(argv[1]) : 1000;
    preempts = strcmp(mode, "preempted") ? 0 : (1 << COROUTINES) - 1;
    abandons = !strcmp(mode, "abandoning");
    if (!room)
        room = mmap(NULL, ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    char *stacks = mmap(NULL, (size_t)STACK_BYTES * COROUTINES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < COROUTINES; i++)
        make(i, stacks + (size_t)i * STACK_BYTES);
    if (write(1, "ready\n", 6) != 6 || read(0, line, sizeof line) <= 0)
        return 2;
    yields = !preempts;
    run(mode, stacks);
    yields = 0;
    size_t used_text = snprintf(text, sizeof text, "{\"abandoned\":%ld,", abandoned);
    used_text += print_counts(text + used_text, sizeof text - used_text, "work", &counts);
    used_text += snprintf(text + used_text, sizeof text - used_text, "}\n");
    if (write(1, text, used_text) != (ssize_t)used_text)
        return 2;
    while (read(0, line, sizeof line) > 0)
        ;
    _exit(0);
}
