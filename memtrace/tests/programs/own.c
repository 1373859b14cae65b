// With LIBRARY, an allocator that nobody knows: it defines malloc and free, and takes nothing from libc's.
// Without, a program that loads it while it runs, uses it, and maps memory besides.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef LIBRARY
static _Alignas(16) char room[1 << 20];
static size_t used;

__attribute__((visibility("default"))) void *malloc(size_t size) {
    size_t start = used;
    used += (size + 15) / 16 * 16;
    return used <= sizeof room ? room + start : NULL;
}
__attribute__((visibility("default"))) void free(void *block) { (void)block; }
#else
#include "counts.h"

static void *(*get)(size_t);
static void (*put)(void *);
__attribute__((noinline)) static void *site_own(size_t size) { return get(size); }

static void wait_for_a_line(void) {
    char letter = 0;
    while (letter != '\n')
        if (read(0, &letter, 1) <= 0)
            _exit(2);
}

static void say(const char *text) {
    if (write(1, text, strlen(text)) < 0)
        _exit(2);
}

int main(int argc, char **argv) {
    static char text[1024];
    struct counts counts = {0};
    say("running\n");
    wait_for_a_line();
    void *library = argc > 1 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!library)
        return 3;
    get = (void *(*)(size_t))dlsym(library, "malloc");
    put = (void (*)(void *))dlsym(library, "free");
    say("loaded\n");
    wait_for_a_line();
    for (size_t size = 1; size <= 1000; size++) {
        void *block = site_own(size);
        counts.alloc_bytes += size;
        counts.alloc_objects++;
        if (size % 3 == 0) {
            put(block);
            counts.freed_bytes += size;
            counts.freed_objects++;
        }
    }
    size_t mapped = 64 << 20;
    char *besides = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(besides, 1, mapped);
    // memtrace looks at resident memory once a second.
    usleep(2500000);
    size_t length = 0;
    text[length++] = '{';
    length += print_counts(text + length, sizeof text - length, "site_own", &counts);
    strcpy(text + length, "}\n");
    say(text);
    wait_for_a_line();
    return 0;
}
#endif
