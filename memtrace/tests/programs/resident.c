/* Changes its resident memory when told to, in ways that no allocation tells of: lets go of what it has had from the start,
 * copies it on write beside a child, and leaves room for others to write to. Answers each line with its resident memory in
 * pages, counted page by page by the kernel (smaps_rollup in proc(5)).
 *
 * `resident write PID ADDRESS BYTES` is such an other: it writes to another process's memory. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define OLD_BYTES (16384 * PAGE)
#define ROOM_BYTES (8192 * PAGE)

static _Noreturn void fail(const char *what)
{
    perror(what);
    exit(1);
}

static size_t resident_pages(void)
{
    char line[256];
    size_t kib = 0;
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    if (!file)
        fail("smaps_rollup");
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "Rss: %zu kB", &kib) == 1)
            break;
    fclose(file);
    return kib / 4;
}

/* One page at a time, so that the first change of its kind, which tells where counting begins, is no more. */
static volatile char *map(size_t bytes)
{
    char *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED || madvise(start, bytes, MADV_NOHUGEPAGE))
        fail("mmap");
    return start;
}

static void touch(volatile char *start, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += PAGE)
        start[at]++;
}

/* As a server does that writes a snapshot: the child has all as it was, the parent goes on writing. */
static void copy(volatile char *start, size_t bytes)
{
    int ends[2];
    if (pipe(ends))
        fail("pipe");
    pid_t child = fork();
    if (child == 0) {
        char byte;
        close(ends[1]);
        _exit(read(ends[0], &byte, 1) != 0);
    }
    close(ends[0]);
    touch(start, bytes);
    close(ends[1]);
    waitpid(child, NULL, 0);
}

static int write_to_other(pid_t pid, uintptr_t address, size_t bytes)
{
    char *zeros = calloc(1, bytes);
    struct iovec from = {zeros, bytes}, to = {(void *)address, bytes};
    if (process_vm_writev(pid, &from, 1, &to, 1, 0) != (ssize_t)bytes)
        fail("process_vm_writev");
    return 0;
}

int main(int count, char **words)
{
    if (count == 5 && !strcmp(words[1], "write"))
        return write_to_other(atoi(words[2]), strtoul(words[3], NULL, 10), strtoul(words[4], NULL, 10));
    volatile char *old = map(OLD_BYTES), *room = map(ROOM_BYTES);
    touch(old, OLD_BYTES);
    printf("%zu %zu\n", (size_t)room, ROOM_BYTES);
    fflush(stdout);
    char line[16];
    while (fgets(line, sizeof line, stdin)) {
        if (!strcmp(line, "begin\n"))
            touch(map(PAGE), PAGE);
        else if (!strcmp(line, "copy\n"))
            copy(old, OLD_BYTES);
        else if (!strcmp(line, "drop\n"))
            madvise((void *)old, OLD_BYTES, MADV_DONTNEED);
        printf("%zu\n", resident_pages());
        fflush(stdout);
    }
    return 0;
}
