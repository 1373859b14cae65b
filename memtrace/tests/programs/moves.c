// Moves the code of its allocator to anonymous memory in place, as some programs do to have it in huge pages (ClickHouse,
// HHVM, BOLT's runtime), and then allocates. Linked statically: nobody else's code moves.
//
// usage: moves [run]; prints "ready" once the code is moved, allocates 100 blocks of 100 bytes when a line comes, says "done"
// and stays. With "run" it waits for nothing and ends.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

// Nothing of the C library may run while its code moves.
static long call(long number, long a, long b, long c, long d, long e, long f) {
    long result;
    register long fourth __asm__("r10") = d;
    register long fifth __asm__("r8") = e;
    register long sixth __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth), "r"(fifth), "r"(sixth)
                     : "rcx", "r11", "memory");
    return result;
}

__attribute__((noipa)) static void move(unsigned long start, unsigned long end) {
    long size = end - start;
    char *copy = (char *)call(SYS_mmap, 0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (long i = 0; i < size; i += sizeof(long))
        *(volatile long *)(copy + i) = *(volatile long *)(start + i);
    call(SYS_mprotect, (long)copy, size, PROT_READ | PROT_EXEC, 0, 0, 0);
    call(SYS_mremap, (long)copy, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, start, 0);
}

__attribute__((noipa)) static void *allocate(void) { return malloc(100); }

int main(int argc, char **argv) {
    int waits = argc < 2 || strcmp(argv[1], "run");
    static char maps[1 << 16];
    char line[16];
    unsigned long start = 0, end = 0;
    int file = open("/proc/self/maps", O_RDONLY);
    size_t length = 0;
    for (ssize_t count; (count = read(file, maps + length, sizeof maps - 1 - length)) > 0;)
        length += count;
    close(file);
    for (char *at = maps; at && *at && !start; at = strchr(at, '\n') ? strchr(at, '\n') + 1 : NULL) {
        unsigned long from, until;
        if (sscanf(at, "%lx-%lx r-xp", &from, &until) == 2 && from <= (unsigned long)malloc && (unsigned long)malloc < until)
            start = from, end = until;
    }
    if (!start)
        return 3;
    move(start, end);
    if (write(1, "ready\n", 6) != 6 || (waits && read(0, line, sizeof line) <= 0))
        return 2;
    for (int i = 0; i < 100; i++)
        if (!allocate())
            return 4;
    if (write(1, "done\n", 5) != 5)
        return 2;
    while (waits && read(0, line, sizeof line) > 0)
        ;
    _exit(0);
}
