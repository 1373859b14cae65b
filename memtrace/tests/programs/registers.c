// Threads that keep known values in registers while they are in the kernel, or run. An argument each is what some threads do:
//
//   sleep N   N threads sleep in read, futex, epoll_wait and nanosleep, one after the other; a call that returns aborts
//   spin N    N threads run without a system call
//   churn N   N threads make and join threads, one after the other
//   fade N    N threads end, one after the other, a millisecond each, once the first line was read
//
// It says "ready" once all of them have been made. Each line that it reads is answered by "alive". The values of a thread begin with
// VALUE, and have its index and the number of the register behind that. The first thread waits for lines.
#define _GNU_SOURCE
#include <linux/futex.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { STACK_BYTES = 64 << 10 };

static const uint64_t VALUE = 0x5EED000000000000;

static int pipe_ends[2], epoll;
static uint32_t word;

static uint64_t value_of(long index) { return VALUE + ((uint64_t)index << 8); }

// A system call with values in all registers that functions leave as they were, but for the frame pointer.
static long call_with(uint64_t value, long number, long a, long b, long c, long d) {
    long result;
    __asm__ volatile(
        "mov %[value], %%rbx\n"
        "lea 1(%%rbx), %%r12\n"
        "lea 2(%%rbx), %%r13\n"
        "lea 3(%%rbx), %%r14\n"
        "lea 4(%%rbx), %%r15\n"
        "mov %[d], %%r10\n"
        "syscall\n"
        : "=a"(result)
        : "a"(number), "D"(a), "S"(b), "d"(c), [d] "r"(d), [value] "r"(value)
        : "rbx", "r12", "r13", "r14", "r15", "r10", "rcx", "r11", "memory");
    return result;
}

static void *sleeps(void *argument) {
    static const struct timespec LONG = {.tv_sec = 1000000};
    static char byte;
    static struct epoll_event event;
    long index = (long)argument;
    uint64_t value = value_of(index);
    switch (index % 4) {
        case 0: call_with(value, SYS_read, pipe_ends[0], (long)&byte, 1, 0); break;
        case 1: call_with(value, SYS_futex, (long)&word, FUTEX_WAIT_PRIVATE, 0, 0); break;
        case 2: call_with(value, SYS_epoll_wait, epoll, (long)&event, 1, -1); break;
        default: call_with(value, SYS_nanosleep, (long)&LONG, 0, 0, 0); break;
    }
    // Nothing wakes it: the call was broken off.
    abort();
}

// Runs with values in the registers that functions leave as they were, in one that a system call overwrites, and in vectors.
static void *spins(void *argument) {
    uint64_t value = value_of((long)argument);
    __asm__ volatile(
        "mov %[value], %%rbx\n"
        "lea 1(%%rbx), %%r12\n"
        "lea 2(%%rbx), %%r13\n"
        "lea 3(%%rbx), %%r14\n"
        "lea 4(%%rbx), %%r15\n"
        "lea 5(%%rbx), %%rcx\n"
        "lea 6(%%rbx), %%rdx\n"
        "movq %%rdx, %%xmm7\n"
        "lea 7(%%rbx), %%rdx\n"
        "movq %%rdx, %%xmm8\n"
        "punpcklqdq %%xmm8, %%xmm7\n"
        "xor %%edx, %%edx\n"
        "pxor %%xmm8, %%xmm8\n"
        "1: pause\n"
        "jmp 1b\n"
        :
        : [value] "r"(value)
        : "rbx", "r12", "r13", "r14", "r15", "rcx", "rdx", "xmm7", "xmm8", "memory");
    return argument;
}

static void *ends(void *unused) { return unused; }

static pthread_attr_t small;

static void make(void *(*does)(void *), long argument) {
    pthread_t thread;
    if (pthread_create(&thread, &small, does, (void *)argument)) _exit(2);
}

static void *churns(void *unused) {
    for (;;) {
        pthread_t threads[4];
        for (int i = 0; i < 4; i++)
            if (pthread_create(&threads[i], &small, ends, NULL)) _exit(3);
        for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    }
    return unused;
}

static uint32_t fades;

static void *fades_away(void *argument) {
    long index = (long)argument;
    while (!__atomic_load_n(&fades, __ATOMIC_SEQ_CST)) syscall(SYS_futex, &fades, FUTEX_WAIT_PRIVATE, 0, NULL);
    nanosleep(&(struct timespec){.tv_sec = index / 1000, .tv_nsec = index % 1000 * 1000000}, NULL);
    return NULL;
}

static void *(*by_name(const char *name))(void *) {
    if (!strcmp(name, "sleep")) return sleeps;
    if (!strcmp(name, "spin")) return spins;
    if (!strcmp(name, "churn")) return churns;
    if (!strcmp(name, "fade")) return fades_away;
    _exit(4);
}

int main(int argc, char **argv) {
    char line[16];
    long index = 0;
    epoll = epoll_create1(0);
    if (epoll < 0 || pipe(pipe_ends) || pthread_attr_init(&small)) return 2;
    pthread_attr_setstacksize(&small, STACK_BYTES);
    for (int i = 1; i + 1 < argc; i += 2) {
        void *(*does)(void *) = by_name(argv[i]);
        for (long end = index + atol(argv[i + 1]); index < end; index++) make(does, index);
    }
    printf("ready\n");
    fflush(stdout);
    while (read(0, line, sizeof line) > 0) {
        __atomic_store_n(&fades, 1, __ATOMIC_SEQ_CST);
        syscall(SYS_futex, &fades, FUTEX_WAKE_PRIVATE, 1 << 30);
        printf("alive\n");
        fflush(stdout);
    }
    return 0;
}
