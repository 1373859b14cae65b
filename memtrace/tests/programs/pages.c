/* Makes pages resident on purpose, each kind from a function of its own, and knows how many those were: the kernel's
 * page table tells it (proc_pid_pagemap(5)), asked before and after. Waits for a line before it begins, prints its truth
 * as JSON, and waits for another line before it ends. */
#define _GNU_SOURCE
#include <alloca.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define HUGE (512 * PAGE)
#define APART __attribute__((noinline, noclone, noipa))

static int pagemap;

/* How many pages of a range are in the page table. Bit 63 of an entry says so. */
static size_t resident(const volatile void *start, size_t bytes)
{
    uintptr_t first = (uintptr_t)start / PAGE, end = ((uintptr_t)start + bytes + PAGE - 1) / PAGE;
    size_t count = 0;
    for (uintptr_t page = first; page < end; page++) {
        uint64_t entry = 0;
        if (pread(pagemap, &entry, sizeof entry, (off_t)(page * sizeof entry)) != sizeof entry) {
            perror("pagemap");
            exit(1);
        }
        count += entry >> 63;
    }
    return count;
}

static volatile char *map(size_t bytes, int flags, int file)
{
    int protection = file < 0 ? PROT_READ | PROT_WRITE : PROT_READ;
    char *start = mmap(NULL, bytes, protection, flags, file, 0);
    if (start == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return start;
}

/* Each writes, or reads, one byte of each page, and is called for one kind of memory only. */
#define TOUCH(name, how)                                          \
    static APART void name(volatile char *start, size_t bytes)    \
    {                                                             \
        for (size_t at = 0; at < bytes; at += PAGE)               \
            how;                                                  \
    }
static volatile char sink;
TOUCH(warm_up, start[at] = 1)
TOUCH(touch_malloc, start[at] = 1)
TOUCH(touch_mmap, start[at] = 1)
TOUCH(touch_huge, start[at] = 1)
TOUCH(touch_shared, start[at] = 1)
TOUCH(touch_file, sink = start[at])
TOUCH(read_zeros, sink = start[at])
TOUCH(write_over_zeros, start[at] = 1)
TOUCH(touch_before_fork, start[at] = 1)
TOUCH(write_after_fork, start[at] = 1)
TOUCH(write_alone_again, start[at] = 1)
TOUCH(touch_in_threads, start[at] = 1)
TOUCH(touch_again, start[at] = 1)

static APART void grow_stack(int depth)
{
    volatile char page[PAGE];
    page[0] = (char)depth;
    if (depth > 1)
        grow_stack(depth - 1);
    sink = page[0];
}

static int is_first = 1;

static void tell(const char *function, const char *kind, size_t pages)
{
    printf("%s\"%s\": {\"pages\": \"%s\", \"count\": %zu}", is_first ? "{" : ", ", function, kind, pages);
    is_first = 0;
}

/* Touches a range by a function, and tells how many pages that made resident. */
static void measure(const char *name, const char *kind, void (*touch)(volatile char *, size_t), volatile char *start,
                    size_t bytes)
{
    size_t before = resident(start, bytes);
    touch(start, bytes);
    tell(name, kind, resident(start, bytes) - before);
}
#define MEASURE(function, kind, start, bytes) measure(#function, kind, function, start, bytes)

static int some_file(size_t bytes)
{
    FILE *temporary = tmpfile();
    int file = temporary ? fileno(temporary) : -1;
    char page[PAGE];
    memset(page, 7, sizeof page);
    for (size_t at = 0; at < bytes; at += PAGE)
        if (file < 0 || write(file, page, PAGE) != (ssize_t)PAGE) {
            perror("file");
            exit(1);
        }
    return file;
}

#define THREADS 8
#define BYTES_A_THREAD (2000 * PAGE)

static void *in_thread(void *start)
{
    touch_in_threads(start, BYTES_A_THREAD);
    return NULL;
}

static void threads(void)
{
    volatile char *start = map(THREADS * BYTES_A_THREAD, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    madvise((void *)start, THREADS * BYTES_A_THREAD, MADV_NOHUGEPAGE);
    pthread_t thread[THREADS];
    for (size_t i = 0; i < THREADS; i++)
        pthread_create(&thread[i], NULL, in_thread, (void *)(start + i * BYTES_A_THREAD));
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    tell("touch_in_threads", "anonymous", resident(start, THREADS * BYTES_A_THREAD));
}

/* A child writes to what it shares with its parent; then the parent, once it is alone with it. */
static void forks(void)
{
    size_t bytes = 400 * PAGE;
    volatile char *start = map(bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    madvise((void *)start, bytes, MADV_NOHUGEPAGE);
    MEASURE(touch_before_fork, "anonymous", start, bytes);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        write_after_fork(start, bytes);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    write_alone_again(start, bytes);
    tell("write_after_fork", "copied", 400);
    tell("write_alone_again", "copied", 0);
}

static void wait_for_a_line(void)
{
    char line[16];
    if (!fgets(line, sizeof line, stdin))
        exit(1);
}

int main(void)
{
    /* All of the truth is one write. */
    static char buffer[1 << 16];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    pagemap = open("/proc/self/pagemap", O_RDONLY);
    printf("ready\n");
    fflush(stdout);
    wait_for_a_line();

    int anonymous = MAP_PRIVATE | MAP_ANONYMOUS, shared = MAP_SHARED | MAP_ANONYMOUS;
    /* The first change of each kind is no difference to anything. */
    warm_up(map(64 * PAGE, anonymous, -1), 64 * PAGE);
    warm_up(map(64 * PAGE, shared, -1), 64 * PAGE);
    int file = some_file(512 * PAGE);
    read_zeros(map(16 * PAGE, MAP_PRIVATE, file), 16 * PAGE);

    size_t bytes = 1000 * PAGE;
    char *block = malloc(bytes);
    MEASURE(touch_malloc, "anonymous", (volatile char *)block, bytes);
    volatile char *mapped = map(bytes, anonymous, -1);
    madvise((void *)mapped, bytes, MADV_NOHUGEPAGE);
    MEASURE(touch_mmap, "anonymous", mapped, bytes);
    /* Given back and touched once more: resident once, made so twice. */
    madvise((void *)mapped, bytes, MADV_DONTNEED);
    MEASURE(touch_again, "anonymous", mapped, bytes);
    MEASURE(touch_shared, "shared", map(300 * PAGE, shared, -1), 300 * PAGE);
    MEASURE(touch_file, "file", map(512 * PAGE, MAP_PRIVATE, file), 512 * PAGE);

    char *huge = (char *)(((uintptr_t)map(5 * HUGE, anonymous, -1) + HUGE - 1) / HUGE * HUGE);
    madvise(huge, 4 * HUGE, MADV_HUGEPAGE);
    MEASURE(touch_huge, "anonymous", (volatile char *)huge, 4 * HUGE);

    volatile char *zeros = map(200 * PAGE, anonymous, -1);
    madvise((void *)zeros, 200 * PAGE, MADV_NOHUGEPAGE);
    read_zeros(zeros, 200 * PAGE);
    write_over_zeros(zeros, 200 * PAGE);
    tell("write_over_zeros", "anonymous", 200);
    tell("write_over_zeros", "copied", 0);

    /* Below what is in use already. */
    char *stack = (char *)__builtin_frame_address(0) - 1200 * PAGE;
    size_t before = resident(stack, 1200 * PAGE);
    grow_stack(800);
    tell("grow_stack", "anonymous", resident(stack, 1200 * PAGE) - before);

    forks();
    threads();
    printf("}\n");
    fflush(stdout);
    wait_for_a_line();
    return 0;
}
