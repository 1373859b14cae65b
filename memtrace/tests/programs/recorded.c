// Does the same to the byte each time it runs, in one thread, so that reports of it can be compared with recorded ones.
//
//   recorded heap       keeps, resizes, copies and frees blocks, each in a function of its own
//   recorded map        maps, cuts and unmaps memory
//   recorded pages      makes pages resident in two functions
//   recorded many       allocates and frees 20,000 blocks, and keeps a part of them
//   recorded on         allocates and frees until a line comes
//   recorded lose       loses blocks, and keeps others until it ends
//   recorded grow       keeps 16 MiB, written to; then it waits for a line, and does what `heap` does
//   recorded pipes      opens 200 pipes
//
// With a further argument it says `ready`, waits for a line on standard input before it begins, says `done`, and waits for
// another before it ends.
#define _GNU_SOURCE
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ONCE __attribute__((noipa))

enum { PAGE = 4096 };

static void *volatile kept[1000];
static int count;
static char *(*volatile duplicate)(const char *) = strdup;

ONCE static void keep(int blocks, size_t bytes) {
    for (int i = 0; i < blocks; i++)
        kept[count++] = malloc(bytes);
}

ONCE static void resize(int blocks) {
    for (int i = 0; i < blocks; i++)
        kept[count++] = realloc(calloc(10, 10), 700);
}

ONCE static void copy(int blocks) {
    for (int i = 0; i < blocks; i++)
        kept[count++] = duplicate("text of 19 letters.");
}

ONCE static void pass(int blocks) {
    for (int i = 0; i < blocks; i++) {
        void *volatile block = malloc(64);
        free(block);
    }
}

// Never holds less than before for long, so that most is held at the end.
static void heap(void) {
    pass(10);
    keep(40, 2500);
    resize(30);
    copy(20);
}

ONCE static char *map_some(size_t pages) {
    char *start = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED)
        exit(1);
    return start;
}

ONCE static void map_and_cut(void) {
    char *start = map_some(100);
    munmap(start + 90 * PAGE, 10 * PAGE);
}

ONCE static void map_and_unmap(void) { munmap(map_some(50), 50 * PAGE); }

static void map(void) {
    map_and_cut();
    map_and_unmap();
}

ONCE static void touch(volatile char *start, size_t pages) {
    for (size_t page = 0; page < pages; page++)
        start[page * PAGE] = 1;
}

ONCE static void touch_many(void) {
    char *start = map_some(700);
    madvise(start, 700 * PAGE, MADV_NOHUGEPAGE);
    touch(start, 700);
}

ONCE static void touch_few(void) {
    char *start = map_some(300);
    madvise(start, 300 * PAGE, MADV_NOHUGEPAGE);
    touch(start, 300);
}

static void pages(void) {
    touch_many();
    touch_few();
}

ONCE static void many(void) {
    for (int i = 0; i < 20000; i++) {
        void *volatile block = malloc(1000);
        if (i % 40 == 0)
            kept[count++] = block;
        else
            free(block);
    }
}

ONCE static void lose(int blocks, size_t bytes) {
    for (int i = 0; i < blocks; i++) {
        char *volatile lost = malloc(bytes);
        lost[0] = 1;
        lost = NULL;
    }
}

ONCE static void lose_known(int blocks, size_t bytes) {
    for (int i = 0; i < blocks; i++) {
        char *volatile lost = malloc(bytes);
        lost[0] = 1;
        lost = NULL;
    }
}

// Nothing of what was on the stack below is left.
ONCE static void wipe(void) {
    volatile char deep[16384];
    memset((void *)deep, 0, sizeof deep);
}

static void lose_some(void) {
    lose(12, 273);
    lose_known(3, 100);
    keep(5, 50);
    wipe();
}

ONCE static void keep_large(void) {
    for (int i = 0; i < 256; i++)
        kept[count++] = memset(malloc(1 << 16), 1, 1 << 16);
}

ONCE static void open_pipes(void) {
    int ends[2];
    for (int i = 0; i < 200; i++)
        if (pipe(ends) != 0)
            exit(1);
}

static void say(const char *word) {
    if (write(STDOUT_FILENO, word, strlen(word)) < 0)
        exit(1);
}

static void wait_for_a_line(void) {
    char byte;
    while (read(STDIN_FILENO, &byte, 1) == 1 && byte != '\n')
        ;
}

// So many that each block lives for longer than from one window to the next.
enum { ROUND = 1 << 20 };
static void *volatile held[ROUND];

ONCE static void replace(size_t from, size_t to) {
    for (size_t i = from; i < to; i++) {
        free(held[i]);
        held[i] = malloc(24);
    }
}

static void go_on(void) {
    struct pollfd line = {.fd = STDIN_FILENO, .events = POLLIN};
    for (size_t at = 0; poll(&line, 1, 0) == 0; at = (at + 512) % ROUND)
        replace(at, at + 512);
    wait_for_a_line();
}

static void grow(void) {
    keep_large();
    say("grown\n");
    wait_for_a_line();
    heap();
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*work)(void);
    } modes[] = {{"heap", heap},       {"map", map},   {"pages", pages},     {"many", many},
                 {"on", go_on},        {"lose", lose_some}, {"grow", grow}, {"pipes", open_pipes}};
    int waits = argc > 2;
    if (waits) {
        say("ready\n");
        wait_for_a_line();
    }
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        if (argc > 1 && strcmp(argv[1], modes[i].name) == 0)
            modes[i].work();
    if (waits) {
        say("done\n");
        wait_for_a_line();
    }
    return 0;
}
