// Grows by memory that no allocator hands out. `grows brk`: its data segment, by STEP bytes each few milliseconds, from before it
// says so. `grows shared` and `grows file FOLDER`: by BYTES that it maps and touches once it is told to.
#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { STEP = 256 << 10, BYTES = 24 << 20, PAGE = 4096 };

static void require(int holds, int status) {
    if (!holds)
        _exit(status);
}

__attribute__((noipa)) static void grow(void) { require(sbrk(STEP) != (void *)-1, 2); }

static void map(int file, int protection, int flags) {
    volatile char *at = mmap(NULL, BYTES, protection, flags, file, 0);
    require(at != MAP_FAILED, 3);
    for (size_t i = 0; i < BYTES; i += PAGE)
        (void)at[i];
}

int main(int argc, char **argv) {
    char line[16];
    static const char piece[BYTES / 24];
    const char *mode = argc > 1 ? argv[1] : "";
    int file = -1;
    if (!strcmp(mode, "file")) {
        require(argc > 2 && (file = open(argv[2], O_TMPFILE | O_RDWR, 0600)) >= 0, 4);
        for (int i = 0; i < 24; i++)
            require(write(file, piece, sizeof piece) == sizeof piece, 5);
    }
    // So that it begins where the data segment of a program that allocates does.
    if (!strcmp(mode, "brk"))
        grow();
    require(write(1, "ready\n", 6) == 6, 6);
    while (!strcmp(mode, "brk")) {
        grow();
        usleep(3000);
    }
    require(read(0, line, sizeof line) > 0, 7);
    if (file >= 0)
        map(file, PROT_READ, MAP_PRIVATE);
    else
        map(-1, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
    require(write(1, "done\n", 5) == 5, 6);
    while (read(0, line, sizeof line) > 0)
        ;
    return 0;
}
